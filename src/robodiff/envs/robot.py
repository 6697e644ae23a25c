"""A simulated environment as a robot: it is observed and acted on while its time goes on as fast as ours."""

import math
import time
from collections.abc import Callable, Collection

import numpy as np

from robodiff.envs.pool import EnvPool, Observation, Step
from robodiff.envs.spec import EnvSpec

LONGEST_HOLD = 1.0
"""Seconds without a new action after which the world stands still, as a robot's driver should see to."""


class EnvRobot:
    """What ``robodiff.deploy.robot.Robot`` describes: the last action holds until the next one comes.

    Args:
        spec: the environment.
        keys: what is observed.
        seed: of the first episode; the others follow.
        now: seconds, a clock that only goes on.
    """

    def __init__(
        self, spec: EnvSpec, keys: Collection[str], seed: int = 0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._fps, self._now = EnvPool(spec, keys, [0]), spec.fps, now
        self.next_seed = seed
        self._observation: Observation = {}
        self.ended = self.success = False

    def reset(self) -> None:
        """Begin an episode, with the next seed; time starts with its first action."""
        self._observation = self._pool.reset({0: self.next_seed})[0]
        self.next_seed += 1
        self._action: np.ndarray | None = None
        self._began, self._taken, self._acted = 0.0, 0, 0.0  # seconds; steps taken since; seconds
        self.ended = self.success = False

    def observe(self) -> Observation:
        """Return what is observed now, after the steps of the environment that were due meanwhile."""
        if self._action is not None:
            until = min(self._now(), self._acted + LONGEST_HOLD)
            for _ in range(max(0, math.floor((until - self._began) * self._fps + 0.5) - self._taken)):
                self._step(self._action)
        return self._observation

    def execute(self, action: np.ndarray) -> None:
        """Have an action hold from now on."""
        now = self._now()
        if self._action is None:
            self._began = now
        self._began += max(0.0, now - max(self._acted, self._began) - LONGEST_HOLD)  # for so long the world stood still
        self._action, self._acted = action, now

    def close(self) -> None:
        """Close the environment."""
        self._pool.close()

    def _step(self, action: np.ndarray) -> None:
        self._taken += 1
        if not self.ended:
            step: Step = self._pool.step({0: action})[0]
            self._observation, self.ended = step.observation, step.ended
            self.success = self.success or step.success
