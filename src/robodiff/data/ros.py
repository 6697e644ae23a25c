"""What messages of ROS 2 say, as arrays; those of rosbags, of DDS and of rclpy have the same fields."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from robodiff.errors import RobodiffError
from robodiff.text import listed

ENCODINGS: dict[str, Sequence[int]] = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2, 3),
    "bgra8": (2, 1, 0, 3),
    "mono8": (0,),
}
"""By the encoding of an image, where in a pixel red, green, blue and alpha are, or the grey value. Others say no
colours: depth (16UC1, 32FC1), raw sensors (bayer), or planes whose order is nowhere written (8UC3)."""


@cache
def message_types() -> Any:
    """Return the definitions of messages as ROS 2 Humble has them, which is how later ones have those read here."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)


def image_shape(message: Any) -> tuple[int, int, int] | None:
    """Return (H, W, C) of a ``sensor_msgs/Image``, alpha left out; None where it holds no colours or grey values."""
    channels = len(ENCODINGS.get(message.encoding, ()))
    return (message.height, message.width, min(channels, 3)) if channels else None


def pixels(where: str, message: Any) -> np.ndarray:
    """Return (H, W, C) uint8 of a ``sensor_msgs/Image``, in the order red, green, blue.

    Args:
        where: what messages call it.
        message: of which rows may be longer than the image is wide, as ``step`` says.

    Raises:
        RobodiffError: another encoding, or not as many bytes as it says.
    """
    order, height, width, step = ENCODINGS.get(message.encoding, ()), message.height, message.width, message.step
    if not order:
        raise RobodiffError(f"{where}: expected an encoding of {', '.join(ENCODINGS)}; found {message.encoding!r}")
    data = message.data if isinstance(message.data, np.ndarray) else np.frombuffer(bytes(message.data), np.uint8)
    row = width * len(order)
    if not row or not height or step < row or data.size != height * step:
        found = f"found {data.size} bytes in rows of {step}"
        raise RobodiffError(f"{where}: expected {height}x{width} {message.encoding} pixels (height x width); {found}")
    image = data.reshape(height, step)[:, :row].reshape(height, width, len(order))
    return image[..., order[:3]]


def joint_positions(
    where: str, names: Sequence[str], positions: Sequence[float], joints: Sequence[str] = ()
) -> dict[str, float]:
    """Return where joints are or are to be, by their names: these, or all that a message has.

    Args:
        where: what messages call it.
        names: of a ``sensor_msgs/JointState`` its ``name``, of a ``trajectory_msgs/JointTrajectory`` its
            ``joint_names``.
        positions: of a JointState, or of one point of a trajectory.
        joints: which, in this order; all when empty.

    Raises:
        RobodiffError: there is no position of one.
    """
    every = dict(zip(names, map(float, positions), strict=False))
    if missing := [joint for joint in joints if joint not in every]:
        known = listed(every) or "none"
        raise RobodiffError(f"{where}: says no position of {listed(missing)}; it has those of {known}")
    return {joint: every[joint] for joint in joints or every}


def seconds(stamp: Any) -> float:
    """Return a ``builtin_interfaces/Time`` or ``Duration`` in seconds; 0 where none was written."""
    return stamp.sec + stamp.nanosec * 1e-9
