"""The table under a pointer: a tool hovers over the place that it points to; objects can be taken and put elsewhere."""

from typing import Any

import numpy as np

from robodiff.envs.mujoco.actions import POSE, REACH
from robodiff.envs.mujoco.env import TableEnv
from robodiff.envs.mujoco.scene import PICTURE
from robodiff.envs.mujoco.world import Arm, Array, Pose, World, up
from robodiff.envs.touch import Hand, Mover, Place, Touch

NOTCH, STROKE = 0.01, np.pi / 24
"""By how much a notch lifts the tool, m, and a stroke turns it, rad."""
LOWEST, HIGHEST = 0.005, 0.6
"""Heights of a tool above the table, m."""
BRISK = 1.5
"""How much faster than the expert a hand may move the tool."""
NEAR = 0.06
"""How far beside an object's origin it is still meant, m."""


def _act(env: TableEnv, hand: Hand) -> Array:
    """Lead one arm's tool, which looks as it does at home but for its turn, over where the pointer is on the table."""
    world = env.world
    command = np.concatenate([each.command for each in world.arms])
    arm = world.arms[hand.agent]
    own, tool = command[arm.slice], arm.forward(arm.command[:-1])
    height = float(np.clip(tool.pos[2] + NOTCH * hand.lift, LOWEST, HIGHEST))
    target = _on_plane(world, env.task.view.name, hand, 0.0)
    way = (tool.pos if target is None else target) - tool.pos
    way[2] = height - tool.pos[2]
    way /= max(1.0, np.linalg.norm(way) * world.fps / (BRISK * arm.model.speed))
    turned = Pose(tool.pos, arm.home_tool.quat).moved(way, up(_yaw(arm, tool) + STROKE * hand.turn))
    own[:-1] = arm.inverse(turned, own[:-1], 20)[0]
    if hand.grip:
        own[-1] = 0.0 if own[-1] > 0.5 else 1.0
    return env.encode(command)


def _yaw(arm: Arm, tool: Pose) -> float:
    """Return by how much a tool is turned about the vertical since home, rad."""
    (ax, ay), (bx, by) = arm.home_tool.matrix[:2, 1], tool.matrix[:2, 1]
    return float(np.arctan2(ax * by - ay * bx, ax * bx + ay * by))


def _where(env: TableEnv, agent: int) -> Place:
    arm = env.world.arms[agent]
    ((x, y),) = _seen(env.world, env.task.view.name, arm.forward(arm.command[:-1]).pos[None] * [1, 1, 0])
    return float(x), float(y)


def _grab(env: TableEnv, x: float, y: float) -> Mover | None:
    """Take the object that is nearest to the line of sight, and move it over the table at its height."""
    world, view = env.world, env.task.view.name
    (places, _), (eye, ray) = world.object_poses, _sight(world, view, x, y)
    off = np.linalg.norm(np.cross(places - eye, ray), axis=1)
    if off.min() > NEAR:
        return None
    name = env.task.objects[int(off.argmin())].name
    start = world.pose(name)
    taken = _on_plane(world, view, Hand(x, y), start.pos[2])

    def move(x: float, y: float, turn: float) -> dict[str, Any]:
        to = _on_plane(world, view, Hand(x, y), start.pos[2])
        if to is not None and taken is not None:
            world.put(name, start.moved(to - taken, up(-turn)))
        return env.observe()

    return move


def _trace(env: TableEnv, agent: int, actions: Array) -> Array:
    """Return where an arm's actions lead its tool, (n, 2)."""
    arm, space = env.world.arms[agent], env.space
    if space.pose is None:
        places = np.stack([arm.forward(space.decode(arm, each)[:-1]).pos for each in actions])
    elif space.pose == POSE:
        places = actions[:, :3]
    else:
        places = arm.tool_pos + np.cumsum(REACH * actions[:, :3], axis=0)
    return _seen(env.world, env.task.view.name, places)


def _plumb(env: TableEnv, agent: int) -> Array:
    """Return the ends of the line from a tool to the table below it, (2, 2)."""
    tool = env.world.arms[agent].tool_pos
    return _seen(env.world, env.task.view.name, np.stack([tool, tool * [1, 1, 0]]))


def _camera(world: World, name: str) -> tuple[Array, Array, float]:
    """Return where a camera is (3,), its axes (3, 3), and the picture's half height at a distance of 1."""
    data, model = world.data.camera(name), world.model.camera(name)
    return data.xpos, data.xmat.reshape(3, 3), float(np.tan(np.radians(model.fovy[0]) / 2))


def _sight(world: World, camera: str, x: float, y: float) -> tuple[Array, Array]:
    """Return the line of sight through a place in the picture: where it begins and its direction, of length 1."""
    eye, axes, half = _camera(world, camera)
    height, width = PICTURE
    ray = axes @ [(2 * x - 1) * half * width / height, (1 - 2 * y) * half, -1.0]
    return eye, ray / np.linalg.norm(ray)


def _on_plane(world: World, camera: str, hand: Hand, height: float) -> Array | None:
    """Return the point (3,) at a height that the pointer is on; None where it is above the horizon."""
    eye, ray = _sight(world, camera, hand.x, hand.y)
    if ray[2] > -0.05:
        return None
    return eye + ray * (height - eye[2]) / ray[2]


def _seen(world: World, camera: str, points: Array) -> Array:
    """Return where points (n, 3) are in the picture, (n, 2)."""
    eye, axes, half = _camera(world, camera)
    height, width = PICTURE
    x, y, away = ((points - eye) @ axes).T
    scale = 2 * half * np.maximum(-away, 1e-3)
    return np.stack([0.5 + x / scale * height / width, 0.5 - y / scale], axis=1)


TOUCH = Touch(act=_act, where=_where, keys=("lift", "turn", "grip"), grab=_grab, trace=_trace, plumb=_plumb)
