"""Read the topics of a rosbag2 recording.

Messages are decoded by our own definitions; those in a bag are ignored.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.formats.pictures import decode_picture, is_picture, picture_shape
from robodiff.data.formats.pieces import inside
from robodiff.data.ros import image_shape, joint_positions, message_types, pixels, seconds
from robodiff.errors import RobodiffError, UsageError
from robodiff.files import reading

_COMMANDS = re.compile(r"command|cmd|action|target|desired|goal|leader", re.IGNORECASE)


@dataclass
class Topic:
    """One topic of a bag, with the numbers in its messages."""

    name: str
    kind: str
    """The type of its messages, such as ``sensor_msgs/msg/Image``."""
    times: list[float] = field(default_factory=list)
    """Seconds at which each message was recorded; for a trajectory, when each point becomes the current target."""
    values: list[np.ndarray] = field(default_factory=list)
    """Of joints and numbers, (D,) at each of these times."""
    joints: tuple[str, ...] = ()
    """Names of the dimensions, if they are joints."""
    shape: tuple[int, ...] = ()
    """Of pictures, (H, W, C)."""
    unread: str = ""
    """Why it is not read: what else its messages hold, or that there are none."""
    fault: str = ""
    """What is wrong with it, if it is to be read."""

    @property
    def is_image(self) -> bool:
        """Whether it is a camera's."""
        return self.kind.endswith("Image")

    @property
    def is_command(self) -> bool:
        """Whether it carries commands."""
        told = self.kind.endswith(("JointTrajectory", "Float64MultiArray")) or _COMMANDS.search(self.name)
        return bool(told) and not self.is_image

    def add(self, time: float, values: np.ndarray) -> None:
        """Add values from a time on; drop what an earlier message scheduled after that time.

        Raises:
            RobodiffError: the number of values has changed.
        """
        while self.times and self.times[-1] >= time:
            self.times.pop()
            self.values.pop()
        if self.values and self.values[0].shape != values.shape:
            raise RobodiffError(f"has {len(values)} numbers in a message, and {len(self.values[0])} in the first")
        self.times.append(time)
        self.values.append(values)

    def add_joints(self, time: float, names: Sequence[str], positions: Sequence[float], wanted: Sequence[str]) -> None:
        """Add joint positions from a time on: the joints of the first message, or those of ``wanted`` that it has."""
        joints = self.joints or tuple(joint for joint in wanted or names if joint in names)
        if not joints or not len(positions):
            self.unread = "" if self.values else "no positions of joints that are asked for"
            return
        chosen = joint_positions(f"in message {len(self.times)}", names, positions, joints)
        self.add(time, np.array([*chosen.values()]))
        self.joints = joints


def _image(topic: Topic, time: float, message: Any, joints: Sequence[str]) -> None:
    topic.shape = image_shape(message) or ()
    topic.unread = "" if topic.shape else message.encoding


def _compressed(topic: Topic, time: float, message: Any, joints: Sequence[str]) -> None:
    picture = message.data.tobytes()
    topic.shape = (picture_shape(picture) if is_picture(picture) else None) or ()
    topic.unread = "" if topic.shape else message.format


def _joint_state(topic: Topic, time: float, message: Any, joints: Sequence[str]) -> None:
    topic.add_joints(time, message.name, message.position, joints)


def _trajectory(topic: Topic, time: float, message: Any, joints: Sequence[str]) -> None:
    start = time
    for point in message.points:
        topic.add_joints(start, message.joint_names, point.positions, joints)
        start = time + seconds(point.time_from_start)  # when this one is reached, and the next one is gone to


def _numbers(topic: Topic, time: float, message: Any, joints: Sequence[str]) -> None:
    topic.add(time, np.asarray(message.data, float))


_READERS: dict[str, Callable[[Topic, float, Any, Sequence[str]], None]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed,
    "sensor_msgs/msg/JointState": _joint_state,
    "trajectory_msgs/msg/JointTrajectory": _trajectory,
    "std_msgs/msg/Float64MultiArray": _numbers,
}
"""By message type, the function that adds a message to its topic."""


def read_topics(path: Path, joints: Sequence[str]) -> dict[str, Topic]:
    """Return the topics of a bag by name; images are inspected, but not decoded.

    Args:
        path: the folder, or the file.
        joints: which are read, in this order; all when empty.

    Raises:
        RobodiffError: it is not a bag, or broken.
    """
    with _messages(path) as (connections, messages):
        topics = {each.topic: Topic(each.topic, each.msgtype, unread="no messages") for each in connections}
        for connection, time, data in messages:
            topic = topics[connection.topic]
            if topic.fault or (topic.is_image and topic.times and not topic.shape):
                continue
            if topic.times and topic.is_image and time < topic.times[-1]:
                topic.fault = f"has a clock that runs back at message {len(topic.times)}"
            elif not (topic.times and topic.is_image):  # of a camera the first message alone: others are like it
                topic.unread = ""
                try:
                    _READERS[topic.kind](topic, time, _decoded(data, topic), joints)
                except RobodiffError as error:
                    topic.fault = str(error)
            if topic.is_image:
                topic.times.append(time)
    for topic in topics.values():
        topic.unread = topic.unread if topic.kind in _READERS else topic.kind
    return topics


def read_images(path: Path, topic: Topic, counts: Mapping[int, int]) -> Iterator[np.ndarray]:
    """Yield the pictures of some messages, (1, H, W, C), each so many times, by the number of the message."""
    with _messages(path, topic.name) as (_, messages):
        for number, (_, _, data) in enumerate(messages):
            if not (count := counts.get(number, 0)):
                continue
            message, where = _decoded(data, topic), f"{topic.name}, message {number}"
            if topic.kind.endswith("CompressedImage"):
                image = decode_picture(where, message.data.tobytes(), topic.shape)
            else:
                image = pixels(where, message)
            if image.shape != topic.shape:
                raise RobodiffError(f"{where}: expected {topic.shape}, as the first is; found {image.shape}")
            for _ in range(count):
                yield image[None]


@contextmanager
def _messages(path: Path, topic: str | None = None) -> Iterator[tuple[Any, Iterator[tuple[Any, float, Any]]]]:
    """Open a bag; yield its connections, and the connection, seconds and bytes of each supported message."""
    try:
        from rosbags.rosbag2 import Reader
    except ImportError:
        raise UsageError(f"{path}: needs the extra ros2: pip install 'robodiff[ros2]'") from None
    with reading(path, "a rosbag2 recording"):
        for file in path.iterdir() if path.is_dir() else ():
            inside(path, file)
        with Reader(path) as reader:
            connections = [*reader.connections]
            wanted = [each for each in connections if each.msgtype in _READERS and topic in (None, each.topic)]
            messages = reader.messages(wanted) if wanted else ()
            yield connections, ((connection, time * 1e-9, data) for connection, time, data in messages)


def _decoded(data: Any, topic: Topic) -> Any:
    return message_types().deserialize_cdr(data, topic.kind)
