"""The scripted expert: it plays the moves of a task's script, all arms in step, and says what could not be planned."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from robodiff.envs.mujoco.world import Arm, Array, Pose, World
from robodiff.errors import UsageError

UNREACHABLE = "unreachable"
"""No joint angles were found for the end of a move."""
COLLISION = "collision"
"""A link met something during a move."""
HELD_WRONGLY = "held wrongly"
"""A script that began while something was held cannot go on before arms have let go."""
REACHED = 2e-3  # m or rad: more than this left over by the inverse kinematics is a failure of planning
SETTLED, SETTLE_STEPS = 2e-3, 3  # m; at the end of a move tools are waited for, so many steps at most
GRIP_SECONDS = 0.3  # for the fingers to close or to open
TURNING = 2.0  # rad/s, how fast a tool turns at most
QUIET = 0.3  # share of the noise near objects: in slow moves and while gripping
RETREATING = 1.0  # rad/s, how fast the fastest joint of a retreat turns
BLOCKED = 0.03  # of its opening: a gripper that is open by so much more than it is told holds something
OPEN = 0.9  # of its opening, from which on a gripper need not be opened
NEAR, ALIGNED = 0.015, 0.95  # m, and cosine between the fingers' axes: a hold is the grasp that was planned


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


@dataclass(frozen=True)
class LetGo:
    """What is held is not held as the script needs it: it ends here, and may begin anew when nothing is held."""


Script = Iterator[Move | Grip | LetGo]
Commands = Generator[tuple[Array, float], None, str | None]
"""Commands, each with the share of the noise that may disturb it; at the end why it came early, or None."""


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
    """Grasp from above with some arms, together, and lift by so much, m; by the arms' clearance when None.

    What they all hold already, as it is to be grasped, is only lifted.
    """
    height = {arm: world.arms[arm].model.clearance for arm in grasps}
    if not all(_is_grasped(world.arms[arm], pose) for arm, pose in grasps.items()):
        if any(is_holding(world.arms[arm]) for arm in grasps):
            yield LetGo()
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


def is_holding(arm: Arm) -> bool:
    """Tell whether something keeps an arm's fingers from closing as far as they are told."""
    return bool(arm.state[-1] > arm.command[-1] + BLOCKED)


def _is_grasped(arm: Arm, pose: Pose) -> bool:
    """Tell whether an arm holds something at the tool's pose that would grasp it."""
    aligned = arm.tool_rotation[:, 1] @ pose.matrix[:, 1]
    return bool(is_holding(arm) and np.linalg.norm(arm.tool_pos - pose.pos) < NEAR and aligned > ALIGNED)


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
    commands = commands_of(world, script)
    while True:
        try:
            command = next(commands)
        except StopIteration as end:
            return end.value
        step(*command)


def commands_of(world: World, script: Script) -> Commands:
    """Yield the commands of a script from the world's present state; each is executed before the next is asked for."""
    command = _present_command(world)
    tools = {arm.index: arm.forward(arm.state[:-1]) for arm in world.arms}  # where they are commanded to be
    for move in script:
        if isinstance(move, LetGo):
            return HELD_WRONGLY
        if unknown := set(move.openings if isinstance(move, Grip) else move.to).difference(tools):
            raise UsageError(f"the expert's script moves arm {min(unknown)}; there is {', '.join(map(str, tools))}")
        if isinstance(move, Grip):
            for arm, opening in move.openings.items():
                command[world.arms[arm].slice.stop - 1] = opening
            for _ in range(_grip_steps(world)):
                yield command, QUIET
            continue
        for arm, pose in move.to.items():
            if world.arms[arm].inverse(pose, command[world.arms[arm].slice][:-1])[1] > REACHED:
                return UNREACHABLE
        seconds = max(_seconds(world.arms[arm], tools[arm], pose) for arm, pose in move.to.items()) / move.pace
        steps = max(2, round(seconds * world.fps))
        for number in range(1, steps + SETTLE_STEPS + 1):
            share = _eased(number / steps)
            for arm, pose in move.to.items():
                angles = command[world.arms[arm].slice][:-1]
                angles[:] = world.arms[arm].inverse(tools[arm].between(pose, share), angles, 8)[0]
            yield command, 1.0 if move.pace == 1 else QUIET
            if world.has_collision:
                return COLLISION
            off = [np.linalg.norm(world.arms[arm].tool.pos - pose.pos) for arm, pose in move.to.items()]
            if number >= steps and max(off) < SETTLED:
                break
        tools |= move.to
    return None


def open_grippers(world: World) -> Commands:
    """Yield commands by which grippers open that are closed and hold nothing."""
    command = _present_command(world)
    closed = [arm for arm in world.arms if arm.command[-1] < OPEN and not is_holding(arm)]
    for arm in closed:
        command[arm.slice.stop - 1] = 1.0
    for _ in range(_grip_steps(world) if closed else 0):
        yield command, 0.0
    return None


def retreat(world: World) -> Commands:
    """Yield commands by which all arms let go, rise, and go home joint by joint, whatever they touch on the way."""
    command = _present_command(world)
    raised = world.home.copy()
    for arm in world.arms:
        command[arm.slice.stop - 1] = 1.0
        angles, error = arm.inverse(arm.tool.raised(arm.model.clearance), arm.state[:-1])
        raised[arm.slice][:-1] = angles if error < REACHED else arm.state[:-1]
    for _ in range(_grip_steps(world)):
        yield command, 0.0
    for start, end in ((command, raised), (raised, world.home)):
        steps = max(2, round(np.abs(end - start).max() / RETREATING * world.fps))
        for number in range(1, steps + 1):
            yield start + _eased(number / steps) * (end - start), 0.0
    return None


def _present_command(world: World) -> Array:
    """Return the command that leaves every arm where it is, its gripper as it is told."""
    return np.concatenate([[*arm.state[:-1], arm.command[-1]] for arm in world.arms])


def _grip_steps(world: World) -> int:
    """Return the control steps that fingers need to close or to open."""
    return max(2, round(GRIP_SECONDS * world.fps))


def _eased(share: float) -> float:
    """Return the share of a way after a share of its time: it starts and ends at rest."""
    share = min(1.0, share)
    return share * share * (3 - 2 * share)


def _seconds(arm: Arm, start: Pose, end: Pose) -> float:
    """Return the time for a move at the arm's usual speed."""
    way, turn = start.change(end)
    return max(float(np.linalg.norm(way)) / arm.model.speed, float(np.linalg.norm(turn)) / TURNING)
