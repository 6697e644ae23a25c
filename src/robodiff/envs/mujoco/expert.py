"""The scripted expert: it plays the moves of a task's script, all arms in step, and says what could not be planned."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from robodiff.envs.mujoco.world import Arm, Array, Pose, World
from robodiff.errors import UsageError

UNREACHABLE = "unreachable"
"""No joint angles were found for the end of a move."""
COLLISION = "collision"
"""A link met something during a move."""
REACHED = 2e-3  # m or rad: more than this left over by the inverse kinematics is a failure of planning
SETTLED, SETTLE_STEPS = 2e-3, 3  # m; at the end of a move tools are waited for, so many steps at most
GRIP_SECONDS = 0.3  # for the fingers to close or to open
TURNING = 2.0  # rad/s, how fast a tool turns at most
QUIET = 0.3  # share of the noise near objects: in slow moves and while gripping


@dataclass(frozen=True)
class Move:
    """Tools of some arms go to poses on straight lines, together; the other arms stay as they are."""

    to: Mapping[int, Pose]
    pace: float = 1.0
    """Share of the arms' usual speed."""


@dataclass(frozen=True)
class Grip:
    """Grippers open (1) or close (0)."""

    openings: Mapping[int, float]


Script = Iterator[Move | Grip]


def grasp(arm: Arm, pose: Pose, closing: str = "x") -> Pose:
    """Return the tool's pose that grasps an object from above, its fingers closing along the object's x or y axis.

    Of the two ways to turn the gripper it is the one nearer to home.
    """
    y = pose.matrix[:, "xy".index(closing)] * [1, 1, 0]
    y /= np.linalg.norm(y)
    if y @ arm.home_tool.matrix[:, 1] < 0:
        y = -y
    return Pose.of_axes(pose.pos, y, np.array([0, 0, -1.0]))


def pick(world: World, grasps: Mapping[int, Pose], lift: float | None = None) -> Script:
    """Grasp from above with some arms, together, and lift by so much, m; by the arms' clearance when None."""
    height = {arm: world.arms[arm].model.clearance for arm in grasps}
    yield Move({arm: pose.raised(height[arm]) for arm, pose in grasps.items()})
    yield Move(grasps, 0.6)
    yield Grip(dict.fromkeys(grasps, 0.0))
    yield Move({arm: pose.raised(lift or height[arm]) for arm, pose in grasps.items()}, 0.6)


def place(world: World, arm: int, item: str, pos: Array) -> Script:
    """Bring the object that an arm holds to ``pos`` (3,) of its origin, from above, let go and move up."""
    clearance = world.arms[arm].model.clearance
    yield Move({arm: _held_over(world, arm, item, pos).raised(clearance)})
    target = _held_over(world, arm, item, pos)  # again: on the way it may have slipped by millimetres
    yield Move({arm: target}, 0.5)
    yield Grip({arm: 1.0})
    yield Move({arm: target.raised(clearance)})


def go_home(world: World, *arms: int) -> Script:
    """Move tools to where they were at the start."""
    yield Move({arm: world.arms[arm].home_tool for arm in arms})


def _held_over(world: World, arm: int, item: str, pos: Array) -> Pose:
    """Return the tool's pose that brings what it holds, as it holds it, to ``pos``."""
    tool = world.arms[arm].tool
    return tool.at(pos + tool.pos - world.pose(item).pos)


def play(world: World, script: Script, step: Callable[[Array, float], None]) -> str | None:
    """Play a script from the world's present state; return why it ended early, or None.

    Args:
        world: what moves.
        script: looks at the world between its moves.
        step: takes a command, and the share of the noise that may disturb it.
    """
    command = world.home.copy()
    tools = {arm.index: arm.home_tool for arm in world.arms}  # where they are commanded to be
    for move in script:
        if unknown := set(move.openings if isinstance(move, Grip) else move.to).difference(tools):
            raise UsageError(f"the expert's script moves arm {min(unknown)}; there is {', '.join(map(str, tools))}")
        if isinstance(move, Grip):
            for arm, opening in move.openings.items():
                command[world.arms[arm].slice.stop - 1] = opening
            for _ in range(max(2, round(GRIP_SECONDS * world.fps))):
                step(command, QUIET)
            continue
        for arm, pose in move.to.items():
            if world.arms[arm].inverse(pose, command[world.arms[arm].slice][:-1])[1] > REACHED:
                return UNREACHABLE
        seconds = max(_seconds(world.arms[arm], tools[arm], pose) for arm, pose in move.to.items()) / move.pace
        steps = max(2, round(seconds * world.fps))
        for number in range(1, steps + SETTLE_STEPS + 1):
            share = min(1.0, number / steps)
            share = share * share * (3 - 2 * share)  # starts and ends at rest
            for arm, pose in move.to.items():
                angles = command[world.arms[arm].slice][:-1]
                angles[:] = world.arms[arm].inverse(tools[arm].between(pose, share), angles, 8)[0]
            step(command, 1.0 if move.pace == 1 else QUIET)
            if world.has_collision:
                return COLLISION
            off = [np.linalg.norm(world.arms[arm].tool.pos - pose.pos) for arm, pose in move.to.items()]
            if number >= steps and max(off) < SETTLED:
                break
        tools |= move.to
    return None


def _seconds(arm: Arm, start: Pose, end: Pose) -> float:
    """Return the time for a move at the arm's usual speed."""
    way, turn = start.change(end)
    return max(float(np.linalg.norm(way)) / arm.model.speed, float(np.linalg.norm(turn)) / TURNING)
