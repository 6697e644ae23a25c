"""Collecting scripted demonstrations, on several processes, in the order of their seeds."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any

import numpy as np

from robodiff.envs.spec import Expert, get_env_spec
from robodiff.errors import RobodiffError, UsageError

Demonstration = dict[str, Any]
_Attempts = Generator[tuple[int, Demonstration | None], None, None]

_MAX_FAILURES_IN_A_ROW = 100
"""An expert that fails this often is broken: better an error than a search without end."""


def collect(
    env_name: str,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    *,
    corrections: float = 0.0,
    images: bool = False,
) -> Iterator[Demonstration]:
    """Yield ``episodes`` successful demonstrations for the seeds ``seed``, ``seed + 1``, ... in that order.

    Each is ``{"state": (L, S) float32, "action": (L, A) float32, "seed": int, "success": True, "failures": int}``, with
    ``images`` also ``"img"`` (L, 3, H, W) uint8. On Push-T a state is the agent's x, y, the block's x, y (px) and its
    angle (rad). ``failures`` counts the seeds since the episode before that gave no success and were skipped. A
    collection that was cut off goes on with the seed after its last: a demonstration depends on its own seed, on
    ``corrections`` (the share of them that start near the goal) and on nothing else, the number of ``workers``
    included.

    Raises UsageError for what cannot be collected, RobodiffError when the expert fails on 100 seeds in a row.
    """
    spec = get_env_spec(env_name)
    if spec.expert is None:
        raise UsageError(f"nobody demonstrates on {env_name}: it has no scripted expert")
    if images and spec.render_state is None:
        raise UsageError(f"{env_name} cannot draw images of recorded states")
    for what, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise UsageError(f"{what} must be at least {least}, found {value}")
    if not 0.0 <= corrections <= 1.0:
        raise UsageError(f"corrections must be a share from 0 to 1, found {corrections}")
    return _successes(_attempts(env_name, seed, workers, corrections, images), episodes)


def _successes(attempts: _Attempts, episodes: int) -> Iterator[Demonstration]:
    failures = 0
    try:
        for seed, demonstration in attempts:
            if demonstration is None:
                failures += 1
                if failures >= _MAX_FAILURES_IN_A_ROW:
                    raise RobodiffError(f"the scripted expert failed on {failures} seeds in a row, up to {seed}")
                continue
            yield {**demonstration, "seed": seed, "success": True, "failures": failures}
            failures = 0
            episodes -= 1
            if episodes == 0:
                return
    finally:
        attempts.close()  # stops the workers


def _attempts(env_name: str, seed: int, workers: int, corrections: float, images: bool) -> _Attempts:
    """Yield every seed with its demonstration, or None where the expert failed, without end."""
    if workers == 1:
        while True:
            yield seed, _demonstrate(env_name, corrections, images, seed)
            seed += 1
    # Spawned, not forked: a fork of a process that has started threads (torch's, CUDA's) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    pending: deque[tuple[int, Future[Demonstration | None]]] = deque()
    try:
        while True:
            while len(pending) < 4 * workers:  # enough that a slow seed does not leave the others idle
                pending.append((seed, pool.submit(_demonstrate, env_name, corrections, images, seed)))
                seed += 1
            first, future = pending.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise RobodiffError(f"a process that collects demonstrations on {env_name} died: {error}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the main process, which then lets the workers finish the seed that they are at.

    And end when it has been killed: a worker would wait for the next seed for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _demonstrate(env_name: str, corrections: float, images: bool, seed: int) -> Demonstration | None:
    demonstration = _expert(env_name, corrections).demonstrate(seed)
    render_state = get_env_spec(env_name).render_state
    if demonstration is None or not images or render_state is None:
        return demonstration
    return {**demonstration, "img": np.stack([render_state(state) for state in demonstration["state"]])}


@lru_cache(maxsize=1)
def _expert(env_name: str, corrections: float) -> Expert:
    expert = get_env_spec(env_name).expert
    assert expert is not None  # checked before any work is handed out
    return expert(corrections)
