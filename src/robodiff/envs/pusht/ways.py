"""Ways for Push-T's agent around the block, which stays where it is: a visibility graph in the frame of the block."""

import numpy as np
from numpy.typing import NDArray

from robodiff.envs.pusht.env import AGENT_RADIUS, TABLE

Array = NDArray[np.floating]

CLEARANCE = 10.0
"""px between the agent's rim and the block on the way around it."""
REACH = AGENT_RADIUS + CLEARANCE
"""px between the agent's centre and the block on the way around it."""

_BOXES = np.array([[[-60.0, 0.0], [60.0, 30.0]], [[-15.0, 30.0], [15.0, 120.0]]])  # (2 boxes, low and high, 2)
_BLOCKED = _BOXES + np.array([[-1.0], [1.0]]) * (REACH - 1.0)  # where the agent's centre does not pass, (2, 2, 2)
_NODES = np.array([[-60, 0], [60, 0], [60, 30], [-60, 30], [15, 120], [-15, 120]]) + REACH * np.array(
    [[-1, -1], [1, -1], [1, 1], [-1, 1], [1, 1], [-1, 1]]
)  # the turning points, (6, 2)
_NOOKS = np.array([[15 + REACH, 30 + REACH], [-15 - REACH, 30 + REACH]])  # the ways out of the inner corners


class Ways:
    """Shortest ways for the agent around a block that stays where it is."""

    def __init__(self, agent: Array, pose: Array) -> None:
        self.pose = pose
        self.agent = to_body(agent[None], pose)[0]
        self.exit = self._find_exit()
        on_table = to_table(_NODES, pose)
        usable = ((on_table > 4.0) & (on_table < TABLE - 4.0)).all(axis=-1)
        self.between = _leg_lengths(_NODES, _NODES)
        self.between[~usable] = np.inf
        self.between[:, ~usable] = np.inf
        self.via = np.full((6, 6), -1)
        for middle in range(6):  # Floyd and Warshall
            through = self.between[:, middle, None] + self.between[None, middle]
            shorter = through < self.between - 1e-9
            self.between[shorter] = through[shorter]
            self.via[shorter] = middle
        self.to_first = np.where(usable, _leg_lengths(self.exit[None], _NODES)[0], np.inf)

    def _find_exit(self) -> Array:
        """Return the nearest point with clearance: where the agent is, unless it is close to the block."""
        if not _inside(self.agent[None])[0]:
            return self.agent
        options = np.repeat(self.agent[None], 8, axis=0)
        sides = _BOXES + np.array([[-1.0], [1.0]]) * REACH
        options[np.arange(8), np.tile([0, 1], 4)] = sides.ravel()  # by box, end and axis
        options = np.concatenate([options, _NOOKS])
        away = np.linalg.norm(options - self.agent, axis=-1)
        away[_inside(options)] = np.inf
        return options[np.argmin(away)]

    def lengths(self, goals: Array) -> Array:
        """Lengths (C,) px of the ways to goals (C, 2) in the block's frame; infinite where there is none."""
        lengths, _, _ = self._search(goals)
        on_table = to_table(goals, self.pose)
        lengths[((on_table < 2.0) | (on_table > TABLE - 2.0)).any(axis=-1)] = np.inf
        return lengths

    def _search(self, goals: Array) -> tuple[Array, Array, Array]:
        direct = _leg_lengths(self.exit[None], goals)[0]
        around = self.to_first[:, None, None] + self.between[:, :, None] + _leg_lengths(_NODES, goals)[None]
        around = around.reshape(36, len(goals))
        best = np.argmin(around, axis=0)
        shortest = around[best, np.arange(len(goals))]
        straight = direct <= shortest
        total = np.where(straight, direct, shortest) + np.linalg.norm(self.exit - self.agent)
        return total, straight, best

    def path(self, goal: Array) -> Array:
        """Way points (K, 2) on the table from the agent to ``goal`` (2,) on the table."""
        goal_body = to_body(goal[None], self.pose)
        _, straight, best = self._search(goal_body)
        points = [self.agent] if np.array_equal(self.exit, self.agent) else [self.agent, self.exit]
        if not straight[0]:
            points += [_NODES[node] for node in self._unfold(*divmod(int(best[0]), 6))]
        return to_table(np.array([*points, goal_body[0]]), self.pose)

    def _unfold(self, one: int, other: int) -> list[int]:
        middle = int(self.via[one, other])
        if one == other:
            return [one]
        if middle < 0:
            return [one, other]
        return self._unfold(one, middle)[:-1] + self._unfold(middle, other)


def is_free(agent: Array, pose: Array) -> bool:
    """Tell whether an agent at (2,) on the table touches neither the block nor a wall."""
    margin = AGENT_RADIUS + 1.0
    blocked = _BOXES + np.array([[-1.0], [1.0]]) * margin
    x = to_body(agent[None], pose)
    on_block = ((x > blocked[:, 0]) & (x < blocked[:, 1])).all(axis=-1).any()
    return bool(not on_block and (agent > margin).all() and (agent < TABLE - margin).all())


def _inside(points: Array) -> NDArray[np.bool_]:
    """Tell whether points (N, 2) of the block's frame are too close to the block: (N,)."""
    inside = (points[:, None] > _BLOCKED[:, 0]) & (points[:, None] < _BLOCKED[:, 1])  # (N, box, axis)
    return np.any(inside.all(axis=-1), axis=-1)


def _leg_lengths(starts: Array, ends: Array) -> Array:
    """Lengths (S, E) of straight legs, infinite where a leg comes too close to the block (slab test, box by box)."""
    leg = ends[None] - starts[:, None]  # (S, E, 2)
    lengths = np.linalg.norm(leg, axis=-1)
    safe = np.where(np.abs(leg) < 1e-9, 1e-9, leg)
    for low, high in _BLOCKED:
        one, other = (low - starts[:, None]) / safe, (high - starts[:, None]) / safe
        enter = np.minimum(one, other).max(axis=-1).clip(0.0)
        leave = np.maximum(one, other).min(axis=-1).clip(max=1.0)
        lengths[enter < leave - 1e-9] = np.inf
    return lengths


def to_table(points: Array, pose: Array) -> Array:
    """Points (N, 2) of the block's frame, on the table; pose: (3,)."""
    return rotate(points, pose[2]) + pose[:2]


def to_body(points: Array, pose: Array) -> Array:
    """Points (N, 2) of the table, in the block's frame; pose: (3,)."""
    return rotate(points - pose[:2], -pose[2])


def rotate(vectors: Array, angle: float) -> Array:
    """Vectors (..., 2) turned by an angle in rad, from x towards y."""
    cos, sin = np.cos(angle), np.sin(angle)
    return vectors @ np.array([[cos, sin], [-sin, cos]])
