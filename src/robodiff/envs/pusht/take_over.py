"""The expert takes Push-T over from a policy that gets nowhere, or that pushes away what almost fitted."""

from collections.abc import Generator

import numpy as np

from robodiff.envs.pusht.env import MAX_STEPS, PushTEnv
from robodiff.envs.pusht.expert import PushTController
from robodiff.envs.pusht.planner import Array, distance_to_goal
from robodiff.envs.spec import STALLED

PATIENCE = 60
"""Steps without progress after which a policy has stalled; a way around the block takes the expert about 40."""
PROGRESS = 2.0
"""px by which the block has to come nearer to its goal than ever before, for progress."""
LOST = 40.0
"""px by which the block may be farther from its goal than it was at best; more is lost again."""
REGRESSED, OUT_OF_REACH = "regressed", "out of reach"


class PushTTakeOver:
    """Watch how near the block comes to its goal; go on in closed loop from wherever agent and block are."""

    def __init__(self) -> None:
        self._nearest, self._waited = np.inf, 0

    def needs_help(self, env: PushTEnv) -> str | None:
        """Return ``stalled`` or ``regressed``; None while the block gets nearer to its goal now and then."""
        distance = float(distance_to_goal(env.state[None, 2:5])[0])
        self._waited = 0 if distance < self._nearest - PROGRESS else self._waited + 1
        if self._waited == 0:
            self._nearest = distance
        if distance > self._nearest + LOST:
            return REGRESSED
        return STALLED if self._waited > PATIENCE else None

    def actions(self, env: PushTEnv) -> Generator[Array, None, str | None]:
        """Yield targets (2,) px for as many steps as an episode has at most; see ``TakeOver``."""
        controller = PushTController()
        for _ in range(MAX_STEPS):
            target = controller.act(env.state, env.coverage)
            if target is None:
                return None if env.coverage > 0.95 else OUT_OF_REACH
            yield target
        return None
