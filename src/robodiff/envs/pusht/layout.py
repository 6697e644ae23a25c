"""Push-T in zarr files of diffusion_policy, and the demonstrations inside the package. Needs no simulator."""

from pathlib import Path

import numpy as np

from robodiff.data.episodes import Finding, RecordingError, as_vectors
from robodiff.data.recordings import LayoutKey
from robodiff.envs.pusht.geometry import corners_from_pose

DEMONSTRATIONS = Path(__file__).with_name("demonstrations.zarr.zip")


def _position(source: str, key: str, array: np.ndarray) -> np.ndarray:
    return _state(source, key, array)[:, :2].copy()


def _corners(source: str, key: str, array: np.ndarray) -> np.ndarray:
    return corners_from_pose(_state(source, key, array)[:, 2:]).astype(np.float32)


def _state(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return (N, 5): the agent's x, y and the block's x, y and angle."""
    if array.ndim != 2 or array.shape[1] != 5:
        message = f"{key} must have 5 numbers a frame; found shape {array.shape}"
        raise RecordingError(source, [Finding("fatal", "form", message, "choose another layout or a key map", key)])
    return as_vectors(source, key, array)


LAYOUT = {
    "observation.state": LayoutKey("state", _position, "px"),
    "observation.environment_state": LayoutKey("state", _corners, "px"),
    "observation.image": LayoutKey("img", optional=True),
    "action": LayoutKey("action", unit="px"),
}
