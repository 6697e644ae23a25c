"""Work beside the loop: chunks are computed in a thread, another one watches the loop, and signals ask it to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""SIGHUP comes when a terminal is closed, or a connection over ssh breaks."""


class Background:
    """One thread that does tasks in their order. It does not keep the process alive."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="robodiff policy").start()

    def submit(self, task: Callable[[], Any]) -> Future:
        """Have a task done; return where its result will be."""
        future: Future = Future()
        self._tasks.put((task, future))
        return future

    def _work(self) -> None:
        while True:
            task, future = self._tasks.get()
            try:
                future.set_result(task())
            except BaseException as error:  # whoever asks for the result is told
                future.set_exception(error)


class Watchdog:
    """Act once, from a thread of its own, when it has not been fed for some time.

    Args:
        seconds: from one feeding to the next at most.
        act: what to do.
    """

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._seconds, self._act = seconds, act
        self._fed, self._is_closed = threading.Event(), False
        threading.Thread(target=self._watch, daemon=True, name="robodiff watchdog").start()

    def feed(self) -> None:
        """Tell that all is well."""
        self._fed.set()

    def close(self) -> None:
        """Watch no longer."""
        self._is_closed = True
        self._fed.set()

    def _watch(self) -> None:
        while self._fed.wait(self._seconds):
            self._fed.clear()
            if self._is_closed:
                return
        self._act()


@contextmanager
def on_signals(ask_to_end: Callable[[str], None]) -> Iterator[None]:
    """Within, let Ctrl-C and requests to terminate call ``ask_to_end`` with the signal's name.

    In another thread than the main one, which alone can have signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        ask_to_end(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_main() -> None:
    """Send Ctrl-C to the main thread, which ends what it waits for, if Python waits there."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
