"""The expert takes a task over: it goes on as things are; where that fails it lets go, retreats, tries again."""

from collections import deque
from collections.abc import Generator

import numpy as np

from robodiff.envs.mujoco.env import TableEnv
from robodiff.envs.mujoco.expert import Commands, commands_of, open_grippers, retreat
from robodiff.envs.mujoco.world import Array, World
from robodiff.envs.spec import STALLED

PATIENCE = 2.0
"""Seconds in which neither a tool nor an object has moved, after which a policy has stalled."""
STILL = 0.01
"""How far what has not moved may have gone, m."""
ATTEMPTS = 4
"""How often the script is begun at most: something may slip, or be met on the way."""


class TableTakeOver:
    """Watch whether anything moves; carry the task on from wherever arms and objects are."""

    def __init__(self) -> None:
        self._places: deque[Array] = deque()

    def needs_help(self, env: TableEnv) -> str | None:
        """Return ``stalled`` where nothing has moved for some time, else None."""
        now, latest = _places(env.world), round(PATIENCE * env.world.fps)
        self._places.append(now)
        if len(self._places) <= latest:
            return None
        self._places.popleft()
        return STALLED if np.linalg.norm(np.stack(self._places) - now, axis=-1).max() < STILL else None

    def actions(self, env: TableEnv) -> Generator[Array, None, str | None]:
        """Yield actions until the task is done or cannot be; see ``TakeOver``."""
        commands = _commands(env)
        while True:
            try:
                command, _ = next(commands)
            except StopIteration as end:
                return end.value
            yield env.encode(command)


def _commands(env: TableEnv) -> Commands:
    """Yield commands that play the script from where things are and, where that fails, anew after a retreat."""
    world, word = env.world, None
    for attempt in range(ATTEMPTS):
        yield from retreat(world) if attempt else open_grippers(world)
        word = yield from commands_of(world, env.task.script(world))
        if env.task.success(world):
            return None
    return word


def _places(world: World) -> Array:
    """Return where tools and objects are, (n, 3) m."""
    return np.concatenate([[arm.tool_pos for arm in world.arms], world.object_poses[0]])
