"""Push-T in zarr files of diffusion_policy, and the demonstrations inside the package. Needs no simulator."""

from functools import partial
from pathlib import Path

import numpy as np

from robodiff.data.arrays import as_vectors, wrong_form
from robodiff.data.episodes import RecordingError
from robodiff.data.naming import LayoutKey
from robodiff.envs.pusht.geometry import CORNERS, XY, corners_from_pose

DEMONSTRATIONS = Path(__file__).with_name("demonstrations.zarr.zip")


def _position(source: str, key: str, array: np.ndarray) -> np.ndarray:
    return _of_width(5, source, key, array)[:, :2].copy()  # of x, y of the agent; x, y and angle of the block


def _corners(source: str, key: str, array: np.ndarray) -> np.ndarray:
    return corners_from_pose(_of_width(5, source, key, array)[:, 2:]).astype(np.float32)


def _of_width(width: int, source: str, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.shape[1] != width:
        raise RecordingError(source, [wrong_form(key, f"{width} numbers a frame; found shape {array.shape}")])
    return as_vectors(source, key, array)


LAYOUT = {
    "observation.state": LayoutKey("state", _position, "px", names=XY),
    "observation.environment_state": LayoutKey("state", _corners, "px", names=CORNERS),
    "observation.image": LayoutKey("img", optional=True),
    "action": LayoutKey("action", partial(_of_width, 2), "px", names=XY),
}
