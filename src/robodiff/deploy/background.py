"""Work alongside the loop: one thread computes chunks, another watches the loop, and signals end it."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""SIGHUP arrives when a terminal is closed, or an ssh connection breaks."""


class Background:
    """A thread that runs tasks in order. It does not keep the process alive."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="robodiff policy").start()

    def submit(self, task: Callable[[], Any]) -> Future:
        """Queue a task; return the future of its result."""
        future: Future = Future()
        self._tasks.put((task, future))
        return future

    def _work(self) -> None:
        while True:
            task, future = self._tasks.get()
            try:
                future.set_result(task())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)


class Watchdog:
    """Act once, from a thread of its own, if it is not fed in time.

    Args:
        seconds: longest time between two feedings.
        act: what to do.
    """

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._seconds, self._act = seconds, act
        self._fed, self._is_closed = threading.Event(), False
        threading.Thread(target=self._watch, daemon=True, name="robodiff watchdog").start()

    def feed(self) -> None:
        """Restart the countdown."""
        self._fed.set()

    def close(self) -> None:
        """Stop watching."""
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
    """Make Ctrl-C and termination signals call ``ask_to_end`` with the signal's name, within the context.

    Outside the main thread, the only one that can handle signals, do nothing.
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
    """Send Ctrl-C to the main thread, which interrupts a wait in Python code."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
