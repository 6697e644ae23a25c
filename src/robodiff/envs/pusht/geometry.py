"""The geometry of Push-T's block, which the recorded states and the simulation both give as a pose."""

import numpy as np

BODY_CORNERS = np.array(
    # The bar of the T, then its stem, each as in gym-pusht's `get_keypoints`: (8, 2) in the frame of the block.
    [[-60, 0], [60, 0], [60, 30], [-60, 30], [-15, 30], [15, 30], [15, 120], [-15, 120]],
    dtype=np.float64,
)
XY = ("x", "y")
CORNERS = tuple(f"{axis}{corner}" for corner in range(len(BODY_CORNERS)) for axis in XY)
"""Names of the numbers of a position, and of those of all corners."""


def corners_from_pose(pose: np.ndarray) -> np.ndarray:
    """Return the corners of blocks: pose (N, 3) as x, y px and angle rad -> (N, 16) px, x0, y0, x1, y1, ..."""
    pose = np.asarray(pose, dtype=np.float64)
    cos, sin = np.cos(pose[:, 2:]), np.sin(pose[:, 2:])
    x = pose[:, :1] + cos * BODY_CORNERS[:, 0] - sin * BODY_CORNERS[:, 1]  # (N, 8)
    y = pose[:, 1:2] + sin * BODY_CORNERS[:, 0] + cos * BODY_CORNERS[:, 1]
    return np.stack([x, y], axis=-1).reshape(len(pose), 16)


def pose_from_corners(corners: np.ndarray) -> np.ndarray:
    """Return the poses of corners: corners (N, 16) px -> pose (N, 3) as x, y px and angle rad, in -pi..pi."""
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 8, 2)
    origin = (corners[:, 0] + corners[:, 1]) / 2  # the first two are the ends of the bar's outer edge
    along = corners[:, 1] - corners[:, 0]
    return np.column_stack([origin, np.arctan2(along[:, 1], along[:, 0])])
