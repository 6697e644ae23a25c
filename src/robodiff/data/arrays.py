"""What files hold, on its way into ``Episodes``: checked, and converted into the vectors and images that they have."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np

from robodiff.data.episodes import LARGEST, SMALLEST_RANGE, Finding, RecordingError, raise_faults
from robodiff.errors import UsageError
from robodiff.machine import memory_free
from robodiff.text import counted

CHANNELS = (1, 3, 4)
"""How many an image of a file may have: grey, or colours, or colours and how opaque they are."""
LONGEST_ROW = 512
LARGEST_MATRIX = 16
"""A row of more bytes is an encoded image, a matrix of more rows or columns a depth map or a mask."""
ROUNDED = 1e-3
"""A share of the range of a dimension by which float32 may be off."""
Gap = tuple[int, int]
"""Frames that were never written: the first, and the one after the last."""


def check_ends(source: str, episode_ends: np.ndarray) -> np.ndarray:
    """Return the frame after each episode's last, (E,) int64.

    Raises:
        RecordingError: they are no whole numbers, or do not increase; without them nothing can be said of the rest.
    """
    fault = partial(Finding, "fatal", "ends", key="episode_ends", advice="write the frame after each episode's last")
    if episode_ends.ndim != 1 or len(episode_ends) == 0 or not np.issubdtype(episode_ends.dtype, np.integer):
        raise RecordingError(source, [fault("episode_ends must be a list of whole numbers, one for each episode")])
    ends = episode_ends.astype(np.int64)
    rule = "episode_ends must increase from above 0"
    falling = np.flatnonzero(np.diff(ends, prepend=0) <= 0).tolist()
    raise_faults(source, [fault(f"{rule}; episode {e} ends at frame {ends[e]}", episode=e) for e in falling])
    return ends


def unequal(key: str, frames: int, episode_ends: np.ndarray) -> list[Finding]:
    """Return what is wrong where an array of so many frames belongs to episodes that end at these."""
    if not len(episode_ends) or frames == episode_ends[-1]:
        return []
    message = f"{key} has {counted(frames, 'frame')}, but the last episode ends at {episode_ends[-1]}"
    return [Finding("fatal", "unequal", message, "every array must be as long as the last episode_ends says", key)]


def unwritten(
    key: str, gaps: Iterable[Gap], episode_ends: np.ndarray, numbers: Sequence[int] = (), names: Sequence[str] = ()
) -> list[Finding]:
    """Return in which episodes an array lacks frames.

    Args:
        key: the array.
        gaps: of all episodes, rising.
        episode_ends: (E,) the frame after each episode's last.
        numbers: of each episode in its source; their places when empty.
        names: what the file calls each episode, if it does.
    """
    starts = np.concatenate([[0], episode_ends]).tolist()
    missing: dict[int, Gap] = {}
    for first, end in gaps:
        places = np.searchsorted(episode_ends, [first, end - 1], side="right").tolist()
        for place in range(places[0], min(places[1] + 1, len(episode_ends))):
            own = max(first, starts[place]), min(end, starts[place + 1])
            missing[place] = (missing.get(place, own)[0], own[1])
    advice = "copy or record it again, or leave the episode out; if zeros are right there: data.accept_unwritten true"
    findings = []
    for place, (first, end) in missing.items():
        number, start = numbers[place] if len(numbers) else place, starts[place]
        frames = f"frame {first - start}" if end == first + 1 else f"frames {first - start} to {end - 1 - start}"
        message = f"{key} was never written at {frames} of {names[place] if names else f'episode {number}'}"
        findings.append(Finding("fatal", "unwritten", message, advice, key, number, first))
    return findings


def episode_numbers(source: str, numbers: list[int] | None, count: int) -> list[int]:
    """Return which of ``count`` episodes are chosen by ``data.episodes``, rising; all when None.

    Raises:
        UsageError: numbers that no episode has, or the same twice.
    """
    if numbers is None:
        return list(range(count))
    rule = f"data.episodes must be different numbers from 0 to {count - 1}"
    if not numbers or not set(numbers) <= set(range(count)) or len(set(numbers)) != len(numbers):
        raise UsageError(f"{source}: {rule}; found {numbers[:8]}")
    return sorted(numbers)


def check_finite(
    source: str, arrays: Mapping[str, np.ndarray], episode_ends: np.ndarray, names: Sequence[str] = ()
) -> None:
    """Check what a file holds, under the file's own names, before anything is made of it.

    Args:
        source: the file, for messages.
        arrays: per key (N, ...).
        episode_ends: (E,) the frame after each episode's last.
        names: what the file calls each episode, if it does.

    Raises:
        RecordingError: values that are not finite as float32; it holds all episodes with some, and its message names
            the file, the key and the first bad frame.
    """
    faults = []
    starts = np.concatenate([[0], episode_ends])
    for key, array in arrays.items():
        bad = _not_finite(array)
        places, first = np.unique(np.searchsorted(episode_ends, bad, side="right"), return_index=True)
        for place, frame in zip(places.tolist(), bad[first].tolist(), strict=True):
            name = names[place] if names else f"episode {place}"
            message = f"{key} is not finite at frame {frame - starts[place]} of {name}"
            faults.append(Finding("fatal", "finite", message, "mend or drop it", key, place, frame))
    raise_faults(source, faults)


def kind_of(shape: Sequence[int], dtype: np.dtype) -> Literal["image", "vector"] | None:
    """Return what frames of this shape and type are: images, numbers, or neither.

    Planes of bytes are grey images, other planes, and one channel that is not uint8, depth or masks; long rows of bytes
    are encoded images.
    """
    if 0 in shape or dtype.kind not in "biuf" or max(shape, default=1) > LARGEST:
        return None
    if len(shape) == 2 and dtype == np.uint8 and min(shape) > LARGEST_MATRIX // 2:
        return "image"
    if len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS) and min(shape[1], max(shape[::2])) > 1:
        is_colour = 3 in (shape[0], shape[2]) and sorted(shape)[1] > 4  # else poses, such as two rotations
        return "image" if dtype == np.uint8 or is_colour else None
    if dtype == np.uint8 and (len(shape) > 1 or math.prod(shape) > LONGEST_ROW):
        return None
    if len(shape) == 2 and max(shape) > LARGEST_MATRIX:
        return None
    return "vector" if len(shape) < 3 and math.prod(shape) <= LARGEST else None


def wrong_form(key: str, expected: str, frame: int | None = None) -> Finding:
    """Return that an array is not what its key needs."""
    return Finding("fatal", "form", f"{key} must be {expected}", "convert it, or leave it out", key, frame=frame)


def as_vectors(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return (N,), (N, D) or (N, ...) numbers as float32 (N, D), trailing dimensions flattened; see ``rounded``."""
    if array.ndim < 1 or array.ndim > 3 or kind_of(array.shape[1:], array.dtype) != "vector":
        raise RecordingError(source, [wrong_form(key, f"numbers (frames, D); found {array.dtype} {array.shape}")])
    return np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float32)


def rounded(key: str, array: np.ndarray, converted: np.ndarray) -> list[Finding]:
    """Return where float32 (N, D) does not hold what numbers (N, ...) say: whole ones above 2^24, or moves that are
    small beside the numbers, as those of a clock that counts from 1970 are."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize < 4 or array.dtype == np.float32:
        return []
    exact = array.reshape(len(array), -1)
    for start in range(0, exact.shape[1], 64):
        values, kept = exact[:, start : start + 64], converted[:, start : start + 64]
        if array.dtype.kind in "iu":
            with np.errstate(invalid="ignore"):  # 2^64 - 1 becomes a float that no integer holds
                off = kept.astype(array.dtype) != values
        else:
            moves = np.ptp(values, axis=0) if len(values) else np.zeros(values.shape[1])
            off = np.abs(kept - values) > ROUNDED * np.where(moves >= SMALLEST_RANGE, moves, np.inf)
        if off.any():
            frame, dimension = np.argwhere(off)[0].tolist()
            message = (
                f"{key}[{start + dimension}] is {values[frame, dimension]} at frame {frame}, which float32 rounds to"
            )
            message += f" {kept[frame, dimension]:.17g}"
            return [Finding("warning", "rounded", message, "subtract what is constant from it, or leave it out", key)]
    return []


def as_images(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W), (N, H, W, C) or (N, H, W) as uint8 (N, 1 or 3, H, W); floats must be whole, 0 to 255.

    The fourth of four channels, which says how opaque a pixel is, is left out.

    From contiguous images windows are gathered several times as fast: they become so where memory has ample room. A
    memory-mapped array of uint8 stays one.
    """
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or not {array.shape[1], array.shape[3]} & {*CHANNELS}:
        raise RecordingError(source, [wrong_form(key, f"images of 1, 3 or 4 channels; found shape {array.shape}")])
    if array.shape[1] not in CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    array = array[:, :3] if array.shape[1] > 3 else array
    if array.dtype == np.uint8:
        fits = not isinstance(array, np.memmap) and array.nbytes <= memory_free() / 2
        return np.ascontiguousarray(array) if fits else array
    converted = np.empty(array.shape, np.uint8)
    for frame, image in enumerate(array):  # frame by frame: a float copy of a whole recording may not fit in memory
        converted[frame] = image
        if not np.array_equal(converted[frame], image):
            raise RecordingError(source, [wrong_form(key, f"whole numbers from 0 to 255, unlike frame {frame}", frame)])
    return converted


def blocks(array: np.ndarray, size: int = 2**25) -> Iterator[tuple[int, np.ndarray]]:
    """Yield an array (N, ...) in blocks of about ``size`` bytes, each with its first frame."""
    rows = max(1, size // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _not_finite(array: np.ndarray) -> np.ndarray:
    """Return the frames with a value that is not finite in the type that training uses."""
    if not np.issubdtype(array.dtype, np.floating):
        return np.zeros(0, np.int64)
    bad = [np.zeros(0, np.int64)]
    for start, block in blocks(array):
        with np.errstate(over="ignore"):
            finite = np.isfinite(block.reshape(len(block), -1).astype(np.float32, copy=False))
        bad.append(start + np.flatnonzero(~finite.all(axis=1)))
    return np.concatenate(bad)
