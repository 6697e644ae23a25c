"""Push-T under a pointer: the agent follows it; block and agent can be taken and put elsewhere."""

from typing import Any

import numpy as np

from robodiff.envs.pusht.env import AGENT_RADIUS, GOAL_POSE, TABLE, PushTEnv
from robodiff.envs.pusht.planner import Array
from robodiff.envs.touch import Body, Hand, Mover, Place, Touch

_OUTLINE = np.array([[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]])
"""Corners of the block in its frame, px, all the way round."""
_SKETCHED: list[Place] = [(float(x), float(y)) for x, y in _OUTLINE / TABLE]
"""The same in a sketch."""
_PARTS = (((-60, 0), (60, 30)), ((-15, 30), (15, 120)))
"""The bar and the stem of the block in its frame, each from corner to corner, px."""
_REACH = 8.0
"""px beside a thing at which it is still meant."""


def _act(env: PushTEnv, hand: Hand) -> Array:
    return (TABLE * np.array([hand.x, hand.y])).clip(0, TABLE).astype(np.float32)


def _where(env: PushTEnv, agent: int) -> Place:
    x, y = env.state[:2] / TABLE
    return float(x), float(y)


def _grab(env: PushTEnv, x: float, y: float) -> Mover | None:
    """Take the agent or the block; what is dragged is at rest."""
    start, point = env.state[:5], TABLE * np.array([x, y])
    if np.linalg.norm(point - start[:2]) <= AGENT_RADIUS + _REACH:
        held = slice(0, 2)
        offset = start[:2] - point
    elif _is_on_block(_turned(point - start[2:4], -start[4])):
        held = slice(2, 4)
        offset = start[2:4] - point
    else:
        return None

    def move(x: float, y: float, turn: float) -> dict[str, Any]:
        state = env.state[:5]
        state[held] = (TABLE * np.array([x, y])).clip(0, TABLE) + _turned(offset, turn if held.start else 0.0)
        state[4] = start[4] + turn if held.start else state[4]
        env.set_state(state)
        return env.observe()

    return move


def _is_on_block(point: Array) -> bool:
    return any(((np.array(low) - _REACH <= point) & (point <= np.array(high) + _REACH)).all() for low, high in _PARTS)


def _turned(point: Array, angle: float) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]])


def _sketch(env: PushTEnv) -> list[Body]:
    x, y, *pose = env.state[:5].tolist()

    def block(name: str, color: str, x: float, y: float, angle: float) -> Body:
        return Body(name, x / TABLE, y / TABLE, color, angle, _SKETCHED)

    return [
        block("goal", "#8fdc8f", *map(float, GOAL_POSE)),
        block("block", "#6f8093", *pose),
        Body("agent", x / TABLE, y / TABLE, "#3d67e0", radius=AGENT_RADIUS / TABLE),
    ]


TOUCH = Touch(
    act=_act, where=_where, grab=_grab, trace=lambda env, agent, actions: actions[:, :2] / TABLE, sketch=_sketch
)
