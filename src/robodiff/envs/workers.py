"""Work that several processes share, whose results come in order; every process makes for itself what it works with."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from robodiff import registry
from robodiff.errors import RobodiffError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, doing: str, ahead: int = 4
) -> Generator[tuple[Item, Result], None, None]:
    """Yield each item with what ``work`` makes of it, in their order; closing the generator stops the processes.

    Args:
        work: is sent to each process once, which knows the plugins of this one.
        items: may be without end.
        workers: processes; with 1 the work is done in this one.
        doing: what the processes do, for the error that one of them died.
        ahead: items in work for each process, enough that a slow one leaves no other idle; some are done in vain.

    Raises:
        RobodiffError: a process died; whatever else ``work`` raises.
    """
    if workers == 1:
        for item in items:
            yield item, work(item)
        return
    # Spawned, not forked: a fork of a process that has started threads (torch's, CUDA's) may hang.
    context, initial, left = multiprocessing.get_context("spawn"), (work, registry.plugins()), iter(items)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=initial)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        while True:
            for item in islice(left, ahead * workers - len(pending)):
                pending.append((item, pool.submit(_work_in_worker, item)))
            if not pending:
                return
            first, future = pending.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise RobodiffError(f"a process that {doing} died: {error}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_in_worker: Callable[[Any], Any] | None = None


def _begin_worker(work: Callable[[Any], Any], plugins: list[str]) -> None:
    """Leave Ctrl-C to the main process, which then lets the workers finish what they are at.

    And end when it has been killed: a worker would wait for the next item for ever.
    """
    global _in_worker
    _in_worker = partial(_with_plugins, work, plugins)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _with_plugins(work: Callable[[Any], Any], plugins: list[str], item: Any) -> Any:
    for plugin in plugins:  # here, not when the process begins: what that raises would only be told as its death
        registry.load_plugin(plugin)
    return work(item)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work_in_worker(item: Any) -> Any:
    assert _in_worker is not None
    return _in_worker(item)
