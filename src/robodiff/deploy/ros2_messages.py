"""ROS 2's messages as DDS carries them: the types that a robot's topics have, without an installation of ROS.

Names, fields and their order are those of ROS 2's interface packages. Types are ``@final``: extensible ones are encoded
as XCDR2, which ROS 2 does not read.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.annotations import final
from cyclonedds.idl.types import float64, int32, uint8, uint32

from robodiff.data.ros import message_types

if TYPE_CHECKING:
    from collections.abc import Sequence as sequence
else:
    from cyclonedds.idl.types import sequence


@final
@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    """A time, or where ``sec`` and ``nanosec`` are zero none."""

    sec: int32 = 0
    nanosec: uint32 = 0


@final
@dataclass
class Duration(IdlStruct, typename="builtin_interfaces::msg::dds_::Duration_"):
    """A length of time."""

    sec: int32 = 0
    nanosec: uint32 = 0


@final
@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    """When something was measured, and in which frame."""

    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@final
@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    """What a camera saw, row after row; ``data`` is an array (n,) uint8 where it was received.

    rosbags reads and writes it: cyclonedds makes a list of a million numbers of it, in a hundred times as long.
    """

    header: Header = field(default_factory=Header)
    height: uint32 = 0
    width: uint32 = 0
    encoding: str = ""
    is_bigendian: uint8 = 0
    step: uint32 = 0
    data: sequence[uint8] = ()

    def serialize(self, buffer: Any = None, endianness: Any = None, use_version_2: bool | None = None) -> bytes:
        """Return the image as CDR."""
        image = replace(self, data=np.frombuffer(bytes(self.data), np.uint8))  # pyright: ignore[reportArgumentType]
        return bytes(message_types().serialize_cdr(image, "sensor_msgs/msg/Image"))

    @classmethod
    def deserialize(cls, data: bytes, has_header: bool = True, use_version_2: bool | None = None) -> "Image":
        """Return the image of CDR, whose pixels are not copied."""
        image = message_types().deserialize_cdr(data, "sensor_msgs/msg/Image")
        values = image.height, image.width, image.encoding, image.is_bigendian, image.step, image.data
        return cls(image.header, *values)


@final
@dataclass
class JointState(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
    """Where joints are, rad or m."""

    header: Header = field(default_factory=Header)
    name: sequence[str] = ()
    position: sequence[float64] = ()
    velocity: sequence[float64] = ()
    effort: sequence[float64] = ()


@final
@dataclass
class JointTrajectoryPoint(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectoryPoint_"):
    """Where joints are to be so long after a trajectory begins."""

    positions: sequence[float64] = ()
    velocities: sequence[float64] = ()
    accelerations: sequence[float64] = ()
    effort: sequence[float64] = ()
    time_from_start: Duration = field(default_factory=Duration)


@final
@dataclass
class JointTrajectory(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectory_"):
    """Where joints are to go; a stamp of zero means from now on."""

    header: Header = field(default_factory=Header)
    joint_names: sequence[str] = ()
    points: sequence[JointTrajectoryPoint] = ()


@final
@dataclass
class MultiArrayDimension(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayDimension_"):
    """One dimension of an array."""

    label: str = ""
    size: uint32 = 0
    stride: uint32 = 0


@final
@dataclass
class MultiArrayLayout(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayLayout_"):
    """How an array is laid out; empty for a vector."""

    dim: sequence[MultiArrayDimension] = ()
    data_offset: uint32 = 0


@final
@dataclass
class Float64MultiArray(IdlStruct, typename="std_msgs::msg::dds_::Float64MultiArray_"):
    """Any numbers."""

    layout: MultiArrayLayout = field(default_factory=MultiArrayLayout)
    data: sequence[float64] = ()


@final
@dataclass
class Clock(IdlStruct, typename="rosgraph_msgs::msg::dds_::Clock_"):
    """What time it is in a simulation."""

    clock: Time = field(default_factory=Time)
