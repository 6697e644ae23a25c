"""What an action says to an arm: joint targets, or a pose of its tool, absolute or as a change."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robodiff.data.episodes import Unit
from robodiff.envs.mujoco.world import Arm, Array, Pose, from_rotation_vector

REACH, TURN = 0.05, 0.5
"""What 1 stands for in a change, m and rad, as in robosuite's OSC_POSE."""
TRACKING = 10
"""Iterations of inverse kinematics a step."""


@dataclass(frozen=True)
class ActionSpace:
    """How an action of one arm becomes a command (joint angles in rad, opening 0 to 1), and back."""

    decode: Callable[[Arm, Array], Array]
    """From an arm and an action (D,) to the command (n + 1,), which depends on the world's state alone."""
    encode: Callable[[Arm, Array], Array]
    """From an arm and a command to the action that leads to it from the arm's state."""
    bounds: Callable[[Arm], tuple[Array, Array]]
    """The smallest and the largest action."""
    pose: tuple[str, ...] | None = None
    """What its dimensions are called, the gripper aside; None for joints."""
    units: tuple[str, str] | None = None
    """Of a joint, and of the gripper's opening."""

    def names(self, joints: int) -> tuple[str, ...]:
        """Return the names of the dimensions for an arm with so many joints."""
        return (*(self.pose or joint_names(joints)), "gripper")

    def unit(self, joints: int) -> Unit:
        """Return the unit of each dimension for an arm with so many joints; none of a pose."""
        return self.units and (self.units[0],) * joints + self.units[1:]


def joint_names(joints: int) -> tuple[str, ...]:
    """Return what an arm's joints are called."""
    return tuple(f"joint{number}" for number in range(1, joints + 1))


def in_degrees(values: Array) -> Array:
    """Return joint angles and opening (..., n + 1) in degrees and per cent."""
    return np.concatenate([np.degrees(values[..., :-1]), 100 * values[..., -1:]], axis=-1)


def _from_degrees(arm: Arm, action: Array) -> Array:
    return np.append(np.radians(action[:-1]), action[-1] / 100)


def _to_pose(arm: Arm, action: Array) -> Array:
    return _reach(arm, Pose(action[:3], from_rotation_vector(action[3:6])), action[6])


def _from_pose(arm: Arm, command: Array) -> Array:
    pose = arm.forward(command[:-1])
    turn = pose.rotation_vector  # by at most pi, which a tool that points down is at: it would jump to the other sign
    if turn @ arm.home_tool.rotation_vector < 0:
        turn *= 1 - 2 * np.pi / np.linalg.norm(turn)  # the same rotation, the other way round
    return np.array([*pose.pos, *turn, 1 - 2 * command[-1]])


def _to_change(arm: Arm, action: Array) -> Array:
    return _reach(arm, arm.tool.moved(REACH * action[:3], TURN * action[3:6]), action[6])


def _from_change(arm: Arm, command: Array) -> Array:
    way, turn = arm.tool.change(arm.forward(command[:-1]))
    return np.array([*way / REACH, *turn / TURN, 1 - 2 * command[-1]])


def _reach(arm: Arm, pose: Pose, gripper: float) -> Array:
    return np.append(arm.inverse(pose, arm.command[:-1], TRACKING)[0], (1 - gripper) / 2)


def _joint_bounds(arm: Arm) -> tuple[Array, Array]:
    low, high = arm.range.T
    return np.append(low, 0.0), np.append(high, 1.0)


def _degree_bounds(arm: Arm) -> tuple[Array, Array]:
    low, high = _joint_bounds(arm)
    return in_degrees(low), in_degrees(high)


def _pose_bounds(arm: Arm) -> tuple[Array, Array]:
    edge = np.array([10.0] * 3 + [2 * np.pi] * 3 + [1.0])  # of what means something at all
    return -edge, edge


def _change_bounds(arm: Arm) -> tuple[Array, Array]:
    return -np.ones(7), np.ones(7)


SHARE = "share"
"""The unit of an opening from 0 to 1."""
POSE = ("x", "y", "z", "rx", "ry", "rz")
SPACES = {
    "joints": ActionSpace(
        lambda arm, action: action, lambda arm, command: command, _joint_bounds, units=("rad", SHARE)
    ),
    "degrees": ActionSpace(
        _from_degrees, lambda arm, command: in_degrees(command), _degree_bounds, units=("deg", "percent")
    ),
    "eef": ActionSpace(_to_pose, _from_pose, _pose_bounds, POSE),
    "eef_delta": ActionSpace(_to_change, _from_change, _change_bounds, tuple(f"d{name}" for name in POSE)),
}
"""Absolute joint targets in rad with the opening from 0 (closed) to 1; the same in degrees and per cent; and the seven
numbers of robosuite: position in m and rotation as an axis times an angle in the world's frame, or their changes, of
which 1 is 0.05 m and 0.5 rad, with the gripper from -1 (open) to 1 (closed)."""
