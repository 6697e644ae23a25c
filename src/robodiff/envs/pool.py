"""Several environments at once, in this process or, where drawing takes the time, in several."""

import math
import multiprocessing
import signal
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.errors import RobodiffError
from robodiff.machine import cores

Observation = dict[str, np.ndarray]


class Step(NamedTuple):
    """What one environment gave for one action."""

    observation: Observation
    reward: float
    ended: bool
    """Terminated or truncated."""
    success: bool


def useful_workers(spec: EnvSpec, keys: Collection[str], rows: int) -> int:
    """How many processes are faster than this one alone: one a core where images are drawn, else none."""
    draws = any(spec.features[key].kind == "image" for key in keys if key in spec.features)
    return min(cores(), rows) if draws and rows > 1 else 0


class EnvPool:
    """Environments addressed by row; what happens in a row does not depend on how many processes there are.

    Args:
        spec: the environment; with workers it must be one of the registry.
        keys: what is observed.
        rows: the numbers of the environments.
        workers: processes that share them; 0 keeps them in this one.
    """

    def __init__(self, spec: EnvSpec, keys: Collection[str], rows: Collection[int], workers: int = 0) -> None:
        self._workers: list[tuple[Any, Connection, list[int]]] = []
        self._local = _Rows(spec, keys, rows) if workers == 0 else None
        # Spawned, not forked: a fork of a process that has started threads (torch's, CUDA's) may hang.
        context = multiprocessing.get_context("spawn")
        for worker in range(workers):
            ours, theirs = context.Pipe()
            share = [row for place, row in enumerate(rows) if place % workers == worker]
            process = context.Process(target=_serve, args=(theirs, spec.name, list(keys), share), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours, share))

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Observation]:
        """Start an episode in each row that is named, from its seed.

        Raises:
            RobodiffError: an environment failed, with its seed; or a process died.
        """
        return self._call("reset", seeds)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """Take one action in each row that is named.

        Raises:
            RobodiffError: an environment failed, with its seed and step; or a process died.
        """
        return self._call("step", actions)

    def close(self) -> None:
        """Close the environments and end the processes."""
        if self._local is not None:
            self._local.close()
        for process, connection, _ in self._workers:
            connection.close()  # ends its loop
            process.join()

    def _call(self, method: str, values: Mapping[int, Any]) -> dict[int, Any]:
        if self._local is not None:
            return getattr(self._local, method)(values)
        answers: dict[int, Any] = {}
        try:
            asked = []
            for _, connection, share in self._workers:
                if mine := {row: values[row] for row in share if row in values}:
                    connection.send((method, mine))
                    asked.append(connection)
            received = [connection.recv() for connection in asked]
        except (EOFError, OSError):
            raise RobodiffError("a process that steps environments died; was it out of memory?") from None
        for answer in received:
            if isinstance(answer, Exception):
                raise answer
            answers |= answer
        return {row: answers[row] for row in values}


class _Rows:
    """The environments of one process."""

    def __init__(self, spec: EnvSpec, keys: Collection[str], rows: Collection[int]) -> None:
        self.name = spec.name
        with _told(f"the environment {self.name} cannot be made"):
            self.environments = {row: spec.make(keys) for row in rows}
        self._episodes: dict[int, tuple[int, int]] = {}  # by row: seed, steps taken

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Observation]:
        observations = {}
        for row, seed in seeds.items():
            with _told(f"the environment {self.name} cannot begin the episode of seed {seed}"):
                observations[row] = self.environments[row].reset(seed=seed)[0]
            self._episodes[row] = seed, 0
        return observations

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        steps = {}
        for row, action in actions.items():
            seed, taken = self._episodes[row]
            with _told(f"the environment {self.name} failed at step {taken} of the episode of seed {seed}"):
                observation, reward, terminated, truncated, info = self.environments[row].step(action)
                if not math.isfinite(reward):
                    raise ValueError(f"its reward is {reward}")
                steps[row] = Step(observation, float(reward), terminated or truncated, bool(info["is_success"]))
            self._episodes[row] = seed, taken + 1
        return steps

    def close(self) -> None:
        for environment in self.environments.values():
            environment.close()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Make of anything that an environment raises a line, which can be sent from one process to another."""
    try:
        yield
    except (RobodiffError, ModuleNotFoundError):  # they say enough
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())[:200]
        raise RobodiffError(
            f"{what}: {type(error).__name__}: {said} ({Path(place.filename).name}, line {place.lineno})"
        ) from error


def _serve(connection: Connection, name: str, keys: list[str], rows: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then closes the connection
    local: _Rows | None = None
    while True:
        try:
            method, values = connection.recv()
        except EOFError:
            break
        try:
            local = local or _Rows(get_env_spec(name), keys, rows)
            answer = getattr(local, method)(values)
        except (RobodiffError, ModuleNotFoundError) as error:
            answer = error
        connection.send(answer)
    if local is not None:
        local.close()
