"""``Feature`` and ``Episodes``: the one form that every recorded format is read into."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from robodiff.errors import RobodiffError, UsageError

ACTION = "action"
LARGEST = 10**6
"""The most that one dimension of a feature can have."""


@dataclass(frozen=True)
class Feature:
    """What one key holds at one time step; encoders and normalizer choose by ``kind``."""

    kind: Literal["image", "vector"]
    """``image``: uint8 (C, H, W). ``vector``: float32 (D,)."""
    shape: tuple[int, ...]
    """The shape of one time step."""
    dtype: str
    """NumPy's name of the element type."""
    names: tuple[str, ...] | None = None
    """What each dimension of a vector is."""
    unit: str | None = None
    """The unit of a vector, such as ``px`` or ``rad``."""

    def __post_init__(self) -> None:
        dimensions = {"image": 3, "vector": 1}.get(self.kind)
        if dimensions is None:
            raise UsageError(f"a feature's kind must be image or vector; found {self.kind!r}")
        if len(self.shape) != dimensions or any(type(n) is not int or not 0 < n <= LARGEST for n in self.shape):
            raise UsageError(f"a feature of kind {self.kind} must have {dimensions} dimensions of 1 to {LARGEST} each; "
                             f"found {str(list(self.shape))[:80]}")  # fmt: skip

    @classmethod
    def of(cls, array: np.ndarray, unit: str | None = None, names: tuple[str, ...] | None = None) -> "Feature":
        """The feature that an array over all frames (N, ...) holds: four dimensions are images, two are vectors."""
        return cls("image" if array.ndim == 4 else "vector", array.shape[1:], str(array.dtype), names, unit)


@dataclass(frozen=True)
class Episodes:
    """Recorded demonstrations: per key one array over all frames, episode after episode."""

    source: str
    """Where they come from, for messages."""
    arrays: Mapping[str, np.ndarray]
    """Per key (N, C, H, W) uint8 or (N, D) float32; in memory or memory-mapped."""
    episode_ends: np.ndarray
    """(E,) int64: the frame after each episode's last."""
    fps: float
    """Frames per second, the same for all keys."""
    features: Mapping[str, Feature]
    """Per key of ``arrays``, what one frame holds."""
    table: Mapping[str, list[Any]] = field(default_factory=dict)
    """What the source says of each episode (``task``, ``success``, ``seed``): per column a list of E values."""

    @property
    def lengths(self) -> np.ndarray:
        """(E,) frames in each episode."""
        return np.diff(self.episode_ends, prepend=0)

    def __len__(self) -> int:
        return len(self.episode_ends)

    def slice(self, episode: int) -> slice:
        """The frames of one episode."""
        start = 0 if episode == 0 else int(self.episode_ends[episode - 1])
        return slice(start, int(self.episode_ends[episode]))

    def require(self, keys: list[str]) -> None:
        """Raise ``RobodiffError`` unless every one of ``keys`` was recorded."""
        for key in keys:
            if key not in self.arrays:
                raise RobodiffError(f"{self.source}: has no {key!r}; it has {', '.join(self.arrays)}")


def check_lengths(source: str, lengths: Mapping[str, int], episode_ends: np.ndarray) -> None:
    """Check where episodes end, and how many frames each key has: all that can be known before anything is decoded.

    Raises:
        RobodiffError: episode ends that do not increase or do not end at the last frame, or keys of unequal lengths.
    """
    if episode_ends.ndim != 1 or len(episode_ends) == 0 or not np.issubdtype(episode_ends.dtype, np.integer):
        raise RobodiffError(
            f"{source}: episode_ends must be a list of whole numbers, one an episode; "
            f"found {episode_ends.dtype} of shape {episode_ends.shape}"
        )
    steps = np.diff(episode_ends.astype(np.int64), prepend=0)
    if (bad := np.flatnonzero(steps <= 0)).size:
        raise RobodiffError(
            f"{source}: episode_ends must increase from above 0; episode {bad[0]} ends at frame "
            f"{episode_ends[bad[0]]} with {steps[bad[0]]} frames"
        )
    for key, length in lengths.items():
        if length != episode_ends[-1]:
            raise RobodiffError(
                f"{source}: {key} has {length} frames, but the last episode ends at {episode_ends[-1]}; "
                "every array must be as long as the last episode_ends says"
            )


def check_finite(source: str, arrays: Mapping[str, np.ndarray], episode_ends: np.ndarray) -> None:
    """Check what a file holds, under the file's own names, before anything is made of it.

    Raises:
        RobodiffError: a value that is not finite as float32; the message names the file, the key and the first bad
            frame.
    """
    for key, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and (bad := _not_finite(array)) is not None:
            episode = int(np.searchsorted(episode_ends, bad, side="right"))
            raise RobodiffError(f"{source}: {key} is not finite at frame {bad} (episode {episode}); mend or drop it")


def as_vectors(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """(N, D) or (N, ...) numbers as float32 (N, D), trailing dimensions flattened."""
    if array.ndim < 2 or array.dtype.kind not in "biuf":  # not complex: its imaginary part would be lost
        raise RobodiffError(f"{source}: {key} must be numbers of shape (frames, D); found {array.dtype} {array.shape}")
    return np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float32)


def as_images(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) or (N, H, W, C) images as uint8 (N, C, H, W); float images must be whole numbers from 0 to 255."""
    channels = (1, 3, 4)
    if array.ndim != 4 or (array.shape[1] not in channels and array.shape[3] not in channels):
        raise RobodiffError(f"{source}: {key} must be images (frames, C, H, W) or (frames, H, W, C), C 1, 3 or 4; "
                            f"found shape {array.shape}")  # fmt: skip
    if array.shape[1] not in channels:
        array = array.transpose(0, 3, 1, 2)
    if array.dtype == np.uint8:
        return array
    converted = np.empty(array.shape, np.uint8)
    for frame, image in enumerate(array):  # frame by frame: a float copy of a whole recording may not fit in memory
        converted[frame] = image
        if not np.array_equal(converted[frame], image):
            raise RobodiffError(f"{source}: {key} must hold whole numbers from 0 to 255; frame {frame} does not")
    return converted


def _not_finite(array: np.ndarray, block: int = 65536) -> int | None:
    """The first frame with a value that is not finite, looked for block by block."""
    for start in range(0, len(array), block):
        with np.errstate(over="ignore"):  # a float64 may be beyond float32, which training uses
            values = array[start : start + block].astype(np.float32, copy=False)
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            return start + int(np.argmin(finite))
    return None
