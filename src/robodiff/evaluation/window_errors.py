"""The errors of a policy window by window, kept so that two policies can be compared in pairs."""

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from robodiff.errors import RobodiffError, first_line
from robodiff.evaluation.results import OfflineResult
from robodiff.files import replacing


@dataclass(frozen=True)
class WindowErrors:
    """Absolute errors of the executed steps at each window; NaN where nothing was recorded, beyond an episode's end."""

    file: ClassVar[str] = "windows.npz"

    frames: np.ndarray
    """(W,) the frame of the recording that is now."""
    episodes: np.ndarray
    """(W,) the number of the episode in which it lies."""
    policy: np.ndarray
    """(W, Ta, E) by dimension of the action, or rotation, as in ``OfflineResult.dimensions``."""
    hold: np.ndarray
    """(W, Ta, E) of holding the last action."""


def write_windows(folder: Path, errors: WindowErrors) -> None:
    """Write the errors, whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, **vars(errors))
    with replacing(folder / errors.file) as temporary:
        temporary.write_bytes(content.getvalue())


def read_windows(folder: Path, result: OfflineResult) -> WindowErrors:
    """Read the errors that belong to the result in the same folder.

    Raises:
        RobodiffError: they are missing, broken, or those of another evaluation.
    """
    path, advice = folder / WindowErrors.file, "measure again with robodiff eval to compare"
    if not path.is_file():
        raise RobodiffError(f"{path}: is missing, as where an earlier version measured; {advice}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            errors = WindowErrors(**{each.name: arrays[each.name] for each in fields(WindowErrors)})
        windows, dimensions = len(errors.frames), [each.mae for each in result.dimensions]
        steps = sum(step.executed for step in result.steps)
        shapes = [array.shape for array in (errors.episodes, errors.policy, errors.hold)]
        fits = shapes == [(windows,), *[(result.evaluated.windows, steps, len(dimensions))] * 2]
        fits = fits and np.allclose(np.nanmean(errors.policy, (0, 1)), dimensions, rtol=1e-3)
    except Exception as error:  # NumPy and zlib raise anything for a damaged file
        raise RobodiffError(f"{path}: cannot be read: {first_line(error)}; {advice}") from None
    if not fits:
        raise RobodiffError(f"{path}: is not of the evaluation in {OfflineResult.file} beside it; {advice}")
    return errors
