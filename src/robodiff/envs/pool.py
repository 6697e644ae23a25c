"""Several environments at once, in this process or, where drawing takes the time, in several."""

import math
import multiprocessing
import signal
from collections.abc import Collection, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from robodiff import registry
from robodiff.envs.spec import EnvSpec, get_env_spec, raise_for_env
from robodiff.envs.touch import Body
from robodiff.errors import RobodiffError
from robodiff.machine import cores

SECONDS_TO_END = 5.0
"""What a process may take for its last step when the pool is closed."""

Observation = dict[str, np.ndarray]


class Step(NamedTuple):
    """What one environment gave for one action."""

    observation: Observation
    reward: float
    ended: bool
    """Terminated or truncated."""
    success: bool
    extra: Mapping[str, float]
    """Further figures of the episode so far."""


def useful_workers(spec: EnvSpec, keys: Collection[str], rows: int) -> int:
    """Return how many processes are faster than this one alone: one a core where images are drawn, else none."""
    draws = any(spec.features[key].kind == "image" for key in keys if key in spec.features)
    return min(cores(), rows) if draws and rows > 1 and spec.is_portable else 0


class EnvPool:
    """Environments addressed by row; what happens in a row does not depend on how many processes there are.

    Args:
        spec: the environment; with workers it must be portable.
        keys: what is observed.
        rows: the numbers of the environments.
        workers: processes that share them; 0 keeps them in this one.
    """

    def __init__(self, spec: EnvSpec, keys: Collection[str], rows: Collection[int], workers: int = 0) -> None:
        self._workers: list[tuple[Any, Connection, list[int]]] = []
        self._local = Rows(spec, keys, rows) if workers == 0 else None
        # Spawned, not forked: a fork of a process that has started threads (torch's, CUDA's) may hang.
        context = multiprocessing.get_context("spawn")
        for worker in range(workers):
            connection, remote = context.Pipe()
            share = [row for place, row in enumerate(rows) if place % workers == worker]
            arguments = remote, registry.plugins(), spec.name, list(keys), share
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            remote.close()
            self._workers.append((process, connection, share))

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

    def draw(self, sizes: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Draw the scene in each row that is named, its longer side at most so many pixels: (H, W, 3) uint8 each.

        Raises:
            RobodiffError: an environment cannot be drawn here; or a process died.
        """
        return self._call("draw", sizes)

    def sketch(self, rows: Collection[int]) -> dict[int, list[Body]]:
        """Return the bodies of the scene in each row that is named, where the environment has a ``Touch.sketch``.

        Raises:
            RobodiffError: an environment cannot be sketched here; or a process died.
        """
        return self._call("sketch", dict.fromkeys(rows))

    def close(self) -> None:
        """Close the environments and end the processes."""
        if self._local is not None:
            self._local.close()
        for _, connection, _ in self._workers:
            connection.close()  # ends its loop
        for process, _, _ in self._workers:
            process.join(SECONDS_TO_END)
            process.kill()  # one that is still within a step, after another has died
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


class Rows:
    """The environments of one process, addressed as those of an ``EnvPool``."""

    def __init__(self, spec: EnvSpec, keys: Collection[str], rows: Collection[int]) -> None:
        self.spec = spec
        with raise_for_env(f"the environment {spec.name} cannot be made"):
            self.environments = {row: spec.make(keys) for row in rows}
        self._episodes: dict[int, tuple[int, int]] = {}  # by row: seed, steps taken

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Observation]:
        """Start an episode in each row that is named; see ``EnvPool``."""
        observations = {}
        for row, seed in seeds.items():
            with raise_for_env(f"the environment {self.spec.name} cannot begin the episode of seed {seed}"):
                observations[row] = self.environments[row].reset(seed=seed)[0]
            self._episodes[row] = seed, 0
        return observations

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """Take one action in each row that is named; see ``EnvPool``."""
        steps = {}
        for row, action in actions.items():
            seed, taken = self._episodes[row]
            failure = f"the environment {self.spec.name} failed at step {taken} of the episode of seed {seed}"
            with raise_for_env(failure):
                observation, reward, terminated, truncated, info = self.environments[row].step(action)
                extra = {name: float(value) for name, value in info.get("extra", {}).items()}
                for name, value in [("reward", reward), *extra.items()]:
                    if not math.isfinite(value):
                        raise ValueError(f"its {name} is {value}")
                ended = bool(terminated or truncated or taken + 1 == self.spec.max_steps)
                steps[row] = Step(observation, float(reward), ended, bool(info["is_success"]), extra)
            self._episodes[row] = seed, taken + 1
        return steps

    def draw(self, sizes: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Draw the scene in each row that is named; see ``EnvPool``."""
        pictures = {}
        for row, size in sizes.items():
            with raise_for_env(f"{self.spec.name} cannot be drawn"):
                pictures[row] = self._glance(self.environments[row], size)
        return pictures

    def _glance(self, environment: Any, longest: int) -> np.ndarray:
        drawn = environment.render() if self.spec.glance is None else self.spec.glance(environment, longest)
        return _shrunk(np.asarray(drawn), longest)

    def sketch(self, rows: Collection[int]) -> dict[int, list[Body]]:
        """Return the bodies of the scene in each row that is named; see ``EnvPool``."""
        assert self.spec.touch is not None
        assert self.spec.touch.sketch is not None
        with raise_for_env(f"{self.spec.name} cannot be drawn"):
            return {row: self.spec.touch.sketch(self.environments[row]) for row in rows}

    def close(self) -> None:
        """Close the environments."""
        for environment in self.environments.values():
            environment.close()


def _shrunk(picture: np.ndarray, longest: int) -> np.ndarray:
    """Return the means of squares of pixels, of the smallest squares that make the longer side short enough."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).convert("RGB").reduce(math.ceil(max(picture.shape[:2]) / longest)))


def _serve(connection: Connection, plugins: list[str], name: str, keys: list[str], rows: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then closes the connection
    local: Rows | None = None
    while True:
        try:
            method, values = connection.recv()
        except (EOFError, OSError):
            break
        try:
            if local is None:
                for plugin in plugins:
                    registry.load_plugin(plugin)
                local = Rows(get_env_spec(name), keys, rows)
            answer = getattr(local, method)(values)
        except (RobodiffError, ModuleNotFoundError) as error:
            answer = error
        try:
            connection.send(answer)
        except OSError:  # the main process has given up
            break
    if local is not None:
        local.close()
