"""The configuration of a robot on ROS 2: topics, joints, units and timeouts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from robodiff.documents import Between, Document, Matching, NotEmpty, typed
from robodiff.errors import UsageError
from robodiff.files import with_home
from robodiff.text import listed
from robodiff.yaml_text import read_yaml

Number = Annotated[float, Between(-1e6, 1e6)]
_WORD = "[A-Za-z_][A-Za-z0-9_]*"
Topic = Annotated[str, Matching(f"^/?{_WORD}(/{_WORD})*$", "the name of a topic, such as /joint_states")]


@dataclass(frozen=True, kw_only=True)
class Ros2Config(Document):
    """A robot's topics and conventions. The defaults are those of a myCobot 280 in ROS 2's simulation of it."""

    cameras: dict[str, Topic] | None = None
    """By the policy's keys, topics of sensor_msgs/Image; when null, its only camera is /camera_head/color/image_raw."""
    vectors: dict[str, Topic] = field(default_factory=dict)
    """By the policy's keys, topics of std_msgs/Float64MultiArray for its other observations, in recorded units."""
    joint_states: Topic = "/joint_states"
    """The topic of sensor_msgs/JointState."""
    command: Topic = "/arm_controller/joint_trajectory"
    """The topic of trajectory_msgs/JointTrajectory to which the arm's controller listens."""
    joints: Annotated[list[str], NotEmpty()] = field(
        default_factory=lambda: [
            *("link1_to_link2", "link2_to_link3", "link3_to_link4", "link4_to_link5", "link5_to_link6"),
            "link6_to_link6_flange",
        ]
    )
    """The arm's joints in the policy's order; a policy whose dimensions have these names may have another order."""
    unit: Literal["deg", "rad"] | None = None
    """Unit of the joints in the recording; the one in the policy's features when null."""
    gripper_joint: str = "gripper_controller"
    """The gripper's joint: the policy's dimension after those of the arm, if it has one more."""
    gripper_command: Topic | None = "/gripper_controller/joint_trajectory"
    """The topic of trajectory_msgs/JointTrajectory to which the gripper's controller listens; when null, the gripper is
    one more joint of the arm's trajectory."""
    gripper_closed: Number = -0.7
    """The gripper's joint on the wire when it is closed, rad or m."""
    gripper_open: Number = 0.0
    """The gripper's joint on the wire when it is open, rad or m."""
    recorded_closed: Number | None = None
    """The number for closed in the recording. When null, it follows from the features' unit: percent goes from 0,
    closed, to 100, open; share from 0 to 1."""
    recorded_open: Number | None = None
    """The number for open in the recording."""
    inference_rate: Annotated[float, Between(0.1, 1000)] | None = None
    """Hz; the robot is to reach the target of an action within one period of it. The policy's own rate when null."""
    timeout: Annotated[float, Between(0.01, 60)] = 0.5
    """Age in seconds at which a message is too old to act on."""
    wait: Annotated[float, Between(0, 3600)] = 10.0
    """Seconds to wait for the robot at the start."""
    use_sim_time: bool = False
    """Whether stamps are from a simulation's clock, which is on the topic /clock."""
    check_stamps: bool = True
    """Whether to check the age of messages by their stamps, which needs synchronised clocks, and not only by their
    arrival."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        if (self.recorded_closed is None) != (self.recorded_open is None):
            yield "recorded_closed and recorded_open go together"
        if self.gripper_closed == self.gripper_open:
            yield "gripper_closed and gripper_open are the same"
        if self.recorded_closed is not None and self.recorded_closed == self.recorded_open:
            yield "recorded_closed and recorded_open are the same"
        joints = [*self.joints, self.gripper_joint]
        if twice := {joint for joint in joints if joints.count(joint) > 1}:
            yield f"joints and gripper_joint name {listed(sorted(twice))} twice"
        by_type = [{self.joint_states}, {*self.vectors.values()}, {*(self.cameras or {}).values()},
                   {self.command, self.gripper_command or self.command}]  # fmt: skip
        every = [topic for topics in by_type for topic in topics]
        if twice := {topic for topic in every if every.count(topic) > 1}:
            yield f"{listed(sorted(twice))}: a topic has messages of one type; found it named for two"


def read_config(text: str) -> Ros2Config:
    """Return the configuration in a YAML file; the defaults where none is named."""
    if not text:
        return Ros2Config()
    path = Path(with_home(text))
    if not path.is_file():
        raise UsageError(
            f"--robot ros2:{text}: no such file; write ros2: alone for the defaults, those of a myCobot 280"
        )
    values = read_yaml(path)
    try:
        return typed(Ros2Config, {} if values is None else values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
