"""A robot on ROS 2: translate its messages to and from the units of a recording.

The DDS peer (``dds.py``) and the ROS node (the folder ``ros2/``) share these computations. On the wire angles are in
radians, as is ROS's convention. In recordings they are in degrees or radians, as the policy's features say, and a
gripper's opening is a number between one for closed and one for open.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature, same_unit
from robodiff.data.images import resized
from robodiff.data.ros import joint_positions, pixels, seconds
from robodiff.deploy.ros2_config import Ros2Config, read_config
from robodiff.errors import RobodiffError, UsageError
from robodiff.text import listed

if TYPE_CHECKING:
    from robodiff.deploy.dds import Ros2Robot

STATE = "observation.state"
PER_RADIAN = {"rad": 1.0, "m": 1.0, "deg": 180 / np.pi}
"""Recorded units per unit on the wire, by the unit of the recording."""
OPENINGS = {"percent": (0.0, 100.0), "share": (0.0, 1.0)}
"""By the unit of a recorded gripper, closed and open."""


def open_robot(text: str, features: Mapping[str, Feature], period: float | None = None) -> "Ros2Robot":
    """Connect to the robot that a YAML file with the fields of ``Ros2Config`` describes, by default a myCobot.

    Args:
        text: the path of the file; empty for the defaults.
        features: of the policy.
        period: seconds from one of its actions to the next.

    Raises:
        UsageError: the file is invalid, the policy needs what the robot does not have, or units are unknown or
            contradict each other.
        RobodiffError: the robot does not respond.
    """
    try:
        from robodiff.deploy.dds import Ros2Robot
    except ImportError:
        raise UsageError("a robot on ROS 2 needs the extra ros2: pip install 'robodiff[ros2]'") from None

    config = read_config(text)
    rate = config.inference_rate
    robot = Ros2Robot(Translation(config, features), 1 / rate if rate else period or 0.1)
    robot.connect()
    return robot


@dataclass(frozen=True)
class Joints:
    """The joints of a vector's dimensions, and their units: wire = offset + scale * recorded."""

    names: tuple[str, ...]
    scale: np.ndarray
    """(D,)"""
    offset: np.ndarray
    """(D,)"""
    bounds: np.ndarray
    """(2, D), on the wire: those of the gripper, so that it does not press against its stops; infinite for the arm."""

    def recorded(self, where: str, names: Any, positions: Any) -> np.ndarray:
        """Convert the positions in a message to the recording's units, (D,) float32."""
        wire = np.array([*joint_positions(where, names, positions, self.names).values()])
        return ((wire - self.offset) / self.scale).astype(np.float32)

    def on_the_wire(self, values: np.ndarray) -> dict[str, float]:
        """Convert recorded values (D,) to positions on the wire, by joint."""
        wire = (self.offset + self.scale * np.asarray(values, np.float64)).clip(*self.bounds)
        return dict(zip(self.names, wire.tolist(), strict=True))


class Translation:
    """Translate between a robot's messages and a policy's observations and actions.

    Args:
        config: of the robot.
        features: of the policy.

    Raises:
        UsageError: as ``open_robot``.
    """

    def __init__(self, config: Ros2Config, features: Mapping[str, Feature]) -> None:
        self.config, self.features = config, features
        self.action = _joints(config, ACTION, features[ACTION])
        self.state = _joints(config, STATE, features[STATE]) if STATE in features else None
        images = [key for key, feature in features.items() if feature.kind == "image"]
        vectors = [key for key in features if key not in (ACTION, STATE, PAST_ACTION, *images)]
        if missing := [key for key in vectors if key not in config.vectors]:
            raise UsageError(f"the policy observes {listed(missing)}; name the topic of each under vectors")
        if config.cameras is None and len(images) > 1:
            raise UsageError(f"the policy has several cameras; name the topic of each ({listed(images)}) under cameras")
        usual = dict.fromkeys(images, "/camera_head/color/image_raw")
        known = usual if config.cameras is None else config.cameras
        if missing := [key for key in images if key not in known]:
            raise UsageError(f"the policy observes {listed(missing)}; name the topic under cameras")
        self.cameras = {key: known[key] for key in images}
        """By the policy's keys, topics of images."""
        self.vectors = {key: config.vectors[key] for key in vectors}
        """By the policy's keys, topics of other numbers."""

    @property
    def commands(self) -> dict[str, list[str]]:
        """By topic, the joints of the trajectories that are sent."""
        gripper = self.config.gripper_command
        topics = [
            gripper if name == self.config.gripper_joint and gripper else self.config.command
            for name in self.action.names
        ]
        return {topic: [n for n, t in zip(self.action.names, topics, strict=True) if t == topic] for topic in topics}

    def observation(self, messages: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return what the policy observes, from one message by topic."""
        observation = {key: self._image(key, topic, messages[topic]) for key, topic in self.cameras.items()}
        observation |= {key: np.array(messages[topic].data, np.float32) for key, topic in self.vectors.items()}
        if self.state is not None:
            topic, message = self.config.joint_states, messages[self.config.joint_states]
            observation[STATE] = self.state.recorded(topic, message.name, message.position)
        return observation

    def targets(self, action: np.ndarray) -> dict[str, dict[str, float]]:
        """Return the target of each joint, by topic, for an action (Da,)."""
        return self._by_topic(self.action.on_the_wire(action))

    def hold(self, message: Any, last: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Return targets, by topic and joint, that hold the arm at its measured position.

        The gripper keeps its last target: at its measured position it would let go of what it holds.

        Args:
            message: the newest JointState.
            last: the last target of each joint.
        """
        measured = joint_positions(self.config.joint_states, message.name, message.position)
        gripper = self.config.gripper_joint
        return self._by_topic(measured | ({gripper: last[gripper]} if gripper in last else {}))

    def _by_topic(self, positions: Mapping[str, float]) -> dict[str, dict[str, float]]:
        chosen = {topic: {j: positions[j] for j in joints if j in positions} for topic, joints in self.commands.items()}
        return {topic: targets for topic, targets in chosen.items() if targets}

    def _image(self, key: str, topic: str, message: Any) -> np.ndarray:
        """Return (C, H, W) uint8. A larger image of the same aspect ratio is averaged down, as ``resize_shape`` did for
        training; another aspect ratio would distort the image, and is refused."""
        image = pixels(topic, message).transpose(2, 0, 1)  # HWC -> CHW
        channels, height, width = self.features[key].shape
        skew = abs(image.shape[1] * width - image.shape[2] * height)  # of a whole pixel's rounding at most
        if image.shape[0] != channels or image.shape[1] < height or skew > max(image.shape[1:]):
            expected = (
                f"{channels} channels of {height}x{width} pixels (height x width), or larger with the same aspect ratio"
            )
            found = f"{image.shape[0]} of {image.shape[1]}x{image.shape[2]}"
            raise RobodiffError(f"{topic}: for {key} expected {expected}; found {found}; set the camera's size")
        size = None if image.shape[1:] == (height, width) else (height, width)
        return np.ascontiguousarray(resized(image[None], size)[0])


def _joints(config: Ros2Config, key: str, feature: Feature) -> Joints:
    """Return the joints and units of a vector's dimensions."""
    (size,) = feature.shape
    names, gripper = feature.names or (), config.gripper_joint
    if not {*config.joints} <= {*names}:  # they are called otherwise: they are in the configuration's order
        names = (*config.joints, gripper)[:size]
        if size not in (len(config.joints), len(config.joints) + 1):
            expected = f"{len(config.joints)} joints, and perhaps a gripper"
            raise UsageError(f"{key} has {size} dimensions; expected {expected} (joints says which)")
    is_one = isinstance(feature.unit, str)  # for all: it may have been meant of the joints alone
    lines = [
        _gripper(config, key, "" if is_one else unit)
        if name == gripper
        else (_per_radian(config, key, name, unit), 0.0)
        for name, unit in zip(names, feature.units, strict=True)
    ]
    scale, offset = np.array(lines).T
    bounds = np.array([[-np.inf, np.inf]] * size).T
    if gripper in names:
        bounds[:, names.index(gripper)] = sorted((config.gripper_closed, config.gripper_open))
    return Joints(names, scale, offset, bounds)


def _per_radian(config: Ros2Config, key: str, joint: str, unit: str) -> float:
    """Return how many of the wire's units one of the recording is, for a joint."""
    if unit and config.unit and not same_unit(unit, config.unit):
        raise UsageError(f"{key} was recorded in {unit}, and the robot's file says unit: {config.unit}; leave it out")
    known = next((each for each in PER_RADIAN if same_unit(each, unit or config.unit or "?")), None)
    if known is None:
        what = f"in {unit}" if unit else "in a unit that is not known"
        raise UsageError(f"{key}: {joint} was recorded {what}; write unit: deg or unit: rad into the robot's file")
    return 1 / PER_RADIAN[known]


def _gripper(config: Ros2Config, key: str, unit: str) -> tuple[float, float]:
    """Return scale and offset of the gripper."""
    usual = next((ends for name, ends in OPENINGS.items() if unit and same_unit(name, unit)), None)
    if config.recorded_closed is not None and config.recorded_open is not None:
        ends = config.recorded_closed, config.recorded_open
        if usual and {*ends} != {*usual}:
            raise UsageError(
                f"{key}: the gripper was recorded in {unit}, which goes from {usual[0]:g} to {usual[1]:g}; "
                f"found recorded_closed {ends[0]:g} and recorded_open {ends[1]:g} in the robot's file"
            )
    elif usual:
        ends = usual
    elif unit in PER_RADIAN:  # recorded as it is on the wire
        return 1 / PER_RADIAN[unit], 0.0
    else:
        raise UsageError(
            f"{key} does not say in what the gripper was recorded; write recorded_closed and recorded_open, "
            "such as 0 and 100, into the robot's file"
        )
    scale = (config.gripper_open - config.gripper_closed) / (ends[1] - ends[0])
    return scale, config.gripper_closed - scale * ends[0]


def why_stale(config: Ros2Config, message: Any, arrived: float, clock: float | None) -> str:
    """Return why a message is too old to act on; an empty string if it is not.

    Args:
        config: of the robot.
        message: with or without a header, whose stamp may be zero.
        arrived: time of arrival, by ``time.monotonic``.
        clock: time of ROS's clock, seconds; None if unknown.
    """
    header = getattr(message, "header", None)
    age, stamp = time.monotonic() - arrived, seconds(header.stamp) if header else 0.0
    if age > config.timeout:
        return f"the last message came {age:.2f} s ago"
    if config.check_stamps and stamp and clock is not None and abs(clock - stamp) > config.timeout:
        when = f"{abs(clock - stamp):.4g} s {'ago' if clock > stamp else 'ahead'}"
        advice = "synchronise the clocks, set use_sim_time as in the simulation, or set check_stamps: false"
        return f"the last message is stamped {when} though it came {age:.2f} s ago; {advice}"
    return ""


def domain_id() -> int:
    """Return the DDS domain that ROS_DOMAIN_ID names; 0 without it.

    Raises:
        UsageError: it is not a domain.
    """
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not text.isdecimal() or int(text) > 232:
        raise UsageError(f"ROS_DOMAIN_ID: expected a whole number from 0 to 232; found {text!r}")
    return int(text)
