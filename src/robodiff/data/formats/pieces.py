"""Arrays of single episodes, and how they become the arrays of a recording.

Whatever a file is, its arrays are listed as ``Piece``s: what one is, and how its frames are read. That an array is in
every episode, of one shape and as long as the others, is checked here for all formats.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.data.arrays import CHANNELS, Gap, as_images, episode_numbers, unwritten
from robodiff.data.cache import Part, memory_free
from robodiff.data.episodes import ACTION, Episodes, Feature, Finding, RecordingError, Unit
from robodiff.data.images import assembled_images, target_size
from robodiff.data.naming import usual_names
from robodiff.data.recordings import DataConfig
from robodiff.data.stored import Recording, Stored
from robodiff.errors import RobodiffError
from robodiff.files import with_home
from robodiff.text import counted, listed

BLOCK = 2**25
"""Bytes of frames in memory at once, by each thread."""
Kind = Literal["image", "vector"] | None


@dataclass(frozen=True)
class Piece:
    """One array of one file or episode."""

    source: Path
    """The file, or folder of pictures, that it is in."""
    place: str
    """Its name there."""
    frames: int
    shape: tuple[int, ...]
    """Of one frame, as the file has it: pictures are (H, W, 3)."""
    dtype: str
    kind: Kind
    """None where it is neither numbers nor pictures."""
    blocks: Callable[[], Iterator[np.ndarray]]
    """Yield the frames in order, in blocks (n, *shape)."""
    names: tuple[str, ...] | None = None
    """What each dimension is."""
    unit: Unit = None
    recipe: str = ""
    """What else its pictures depend on, beside the file."""
    fault: str = ""
    """Why it cannot be read, as far as it is known before it is."""
    unwritten: Sequence[Gap] = ()
    """Frames that were never written and read as what the file fills gaps with."""

    def until(self, frames: int) -> "Piece":
        """Return the first frames alone."""

        def blocks() -> Iterator[np.ndarray]:
            left = frames
            for block in self.blocks():
                yield block[:left]
                left -= len(block)
                if left <= 0:
                    return

        gaps = [(first, min(end, frames)) for first, end in self.unwritten if first < frames]
        return replace(self, frames=frames, blocks=blocks, unwritten=gaps)

    def read(self) -> np.ndarray:
        """Return all frames (L, ...).

        Raises:
            RobodiffError: they take more than memory has room for, which is found out before any is taken.
        """
        if self.fault:
            raise RobodiffError(f"{self.source}: {self.place} {self.fault}")
        check_room(f"{self.source}: {self.place}", (self.frames, *self.shape), self.dtype)
        return np.concatenate([*self.blocks(), np.zeros((0, *self.shape), self.dtype)])

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, (self.frames, *self.shape)))})"


def names_of(*episodes: Mapping[str, Piece]) -> dict[str, str | None]:
    """Return what arrays are called here by their own names alone."""
    return usual_names({key: piece.kind for episode in episodes for key, piece in episode.items()})


def without_last(episode: Mapping[str, Piece], action: str) -> dict[str, Piece]:
    """Drop the observation after the last action, which some recorders keep.

    Args:
        episode: its arrays.
        action: how the names of the actions begin.
    """
    frames = next((piece.frames for key, piece in episode.items() if key.startswith(action)), -1)
    return {key: piece.until(frames) if piece.frames == frames + 1 else piece for key, piece in episode.items()}


def by_number(name: str | Path) -> list[tuple[str, int]]:
    """Sort names by the numbers in them: ``demo_2`` comes before ``demo_10``."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", str(name))]


def control_frequency(environment: Any) -> float | None:
    """Return the rate at which a simulated environment was stepped; None where its description does not tell."""
    while isinstance(environment, dict):
        rate = environment.get("control_freq")
        if isinstance(rate, int | float) and 0 < rate < math.inf:
            return float(rate)
        environment = environment.get("env_kwargs", environment.get("sim_config"))
    return None


def files_of(root: Path, suffixes: tuple[str, ...], is_one: Callable[[Path], bool] = lambda path: False) -> list[Path]:
    """Return a file itself, or the files of a folder whose names end so, or which are by their content, by number."""
    if not root.is_dir():
        return [root]
    files = (path for path in root.iterdir() if path.is_file() and (path.suffix.lower() in suffixes or is_one(path)))
    return sorted(files, key=lambda path: by_number(path.name))


def episode_files(
    config: DataConfig, suffixes: tuple[str, ...], is_one: Callable[[Path], bool] = lambda path: False
) -> tuple[list[int], list[Path]]:
    """Return the chosen episodes, one in each file of a folder or in the one file that is given.

    Raises:
        RobodiffError: no such files, or they lead out of the folder.
    """
    root = Path(with_home(config.source))
    files = files_of(root, suffixes, is_one)
    if not files:
        raise RobodiffError(f"{root}: no {' or '.join(suffixes)} files found; expected one for each episode")
    numbers = episode_numbers(config.source, config.episodes, len(files))
    return numbers, [inside(root, files[number]) for number in numbers]


def column_values(path: Path, name: str, column: Any) -> np.ndarray | None:
    """Return a column of a pyarrow table as numbers (rows, ...), NaN where there is no value; None for other columns.

    Raises:
        RobodiffError: lists of unequal lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = [len(column)]
    column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    while (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        lengths = pc.call_function("list_value_length", [column]).to_numpy(zero_copy_only=False)
        if (bad := np.flatnonzero(lengths != lengths[:1])).size:
            row = int(bad[0]) * shape[0] // len(column)
            counts = f"{counted(lengths[bad[0]], 'value')} in row {row}, and {lengths[0]:g} in row 0"
            raise RobodiffError(f"{path}: {name} has {counts}")
        shape.append(int(lengths[0]) if len(lengths) else 0)
        column = column.flatten()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        return None
    values = column.to_numpy(zero_copy_only=False)
    return None if values.dtype.hasobject else values.reshape(shape)


def inside(folder: Path, path: Path) -> Path:
    """Return ``path``, which is within a folder.

    Raises:
        RobodiffError: it is not there, or leads out of the folder.
    """
    real = os.path.realpath  # unlike Path.resolve, at peace with links in a circle
    if not Path(real(path)).is_relative_to(real(folder)):
        raise RobodiffError(f"{path}: leads out of the recording {folder}; copy the file there")
    if not path.exists():
        raise RobodiffError(f"{path}: not found; copy the recording again")
    return path


def check_room(what: str, shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
    """Refuse what takes more than memory has room for, by its declared shape, before any is taken."""
    if (size := math.prod(shape) * np.dtype(dtype).itemsize) > memory_free() / 3:
        raise RobodiffError(f"{what} takes {size / 1e9:.1f} GB, more than memory has room for")


def steps(frames: int, shape: tuple[int, ...], dtype: np.dtype, chunk: int = 1) -> Iterator[slice]:
    """Return slices over all frames, of whole chunks and of about ``BLOCK`` bytes."""
    step = chunk * max(1, BLOCK // max(1, chunk * math.prod(shape) * dtype.itemsize))
    return (slice(start, min(start + step, frames)) for start in range(0, frames, step))


@dataclass(frozen=True)
class Gathered:
    """The episodes that a format found, from which a ``Recording`` is made."""

    source: str
    episodes: Sequence[Mapping[str, Piece]]
    """Per episode its arrays, by the names in the file."""
    labels: Sequence[str] = ("the recording",)
    """What messages call each episode."""
    names: Mapping[str, str | None] = field(default_factory=dict)
    """By the names in the file, what arrays are called here; those without a name are read only by a key map."""
    fps: float | None = None
    table: Mapping[str, list[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    ends: np.ndarray | None = None
    """Where there is one piece for all episodes: the frame after each one's last."""

    def recording(self, config: DataConfig) -> Recording:
        """Join the pieces: an array must be in every episode, of one shape, and as long as the actions."""
        keys = list(dict.fromkeys(key for episode in self.episodes for key in episode))
        named = [key for key in keys if self.names.get(key)]
        if not named:
            raise RobodiffError(f"{self.source}: no observations or actions found among {listed(keys)}")
        clock = next((key for key in named if str(self.names[key]).rpartition(".")[2] == ACTION), named[0])
        lengths = [episode[clock].frames if clock in episode else 0 for episode in self.episodes]
        ends = np.cumsum(lengths) if self.ends is None else self.ends
        if self.ends is not None:
            clock, lengths = "the last of episode_ends", [int(ends[-1])]
        arrays = {key: self._stored(key, clock, lengths, config) for key in keys}
        names = self.labels if self.ends is None else ()
        return Recording(self.source, arrays, ends, self.fps, names, self.table, self.attributes)

    def _stored(self, key: str, clock: str, lengths: list[int], config: DataConfig) -> Stored:
        row = [episode.get(key) for episode in self.episodes]
        sample = min(filter(None, row), key=lambda piece: bool(piece.fault))  # a sound one, if there is any
        what, name, kind = f"{self.source}: {key}", self.names.get(key), sample.kind
        faults = [*self._faults(key, row, sample, clock, lengths)]
        if kind is None:
            return Stored(sample.shape, sample.dtype, None, name, faults=faults if sample.fault else ())
        gaps = self._unwritten(key, row, lengths)
        labelled = [(label, piece) for label, piece in zip(self.labels, row, strict=True) if piece]
        if kind == "vector":
            feature = Feature("vector", (math.prod(sample.shape),), "float32", sample.names, sample.unit)
            return Stored(sample.shape, sample.dtype, partial(_numbers, what, labelled), name, feature, faults, gaps)
        height, width, channels = hwc(sample.shape)
        size = target_size(config.resize_shape, height, width) or (height, width)
        parts = [
            Part(piece.source, piece.frames, f"{piece.place} {piece.recipe}", partial(_decode, key, episode, piece))
            for episode, piece in enumerate(row)
            if piece
        ]
        shape = (channels, height, width)
        read = partial(assembled_images, what, parts, shape, config.resize_shape, config.cache_dir)
        return Stored(
            sample.shape, sample.dtype, read, name, Feature("image", (channels, *size), "uint8"), faults, gaps
        )

    def _unwritten(self, key: str, row: list[Piece | None], lengths: list[int]) -> list[Finding]:
        """Return where frames of an array were never written."""
        starts = np.cumsum([0, *lengths])
        pairs = zip(starts.tolist(), row, strict=False)
        gaps = [(start + first, start + end) for start, piece in pairs if piece for first, end in piece.unwritten]
        ends = starts[1:] if self.ends is None else self.ends
        names = self.labels if self.ends is None else ()
        return unwritten(key, gaps, ends, self.table.get("episode_index", ()), names) if gaps else []

    def _faults(
        self, key: str, row: list[Piece | None], sample: Piece, clock: str, lengths: list[int]
    ) -> Iterator[Finding]:
        advice = "leave it out with data.episodes, or record it again"
        rows = [*enumerate(zip(self.labels, row, lengths, strict=True))]
        broken = [each for each in rows if each[1][1] and each[1][1].fault]  # told first: others follow from it
        for episode, (label, piece, length) in broken or rows:
            fault = partial(Finding, "fatal", advice=advice, key=key, episode=episode)
            if piece is None:
                yield fault("keys", f"{label} has no {key}, which others have")
            elif piece.fault:
                yield fault("form", f"{key} of {label} {piece.fault}")
            elif piece.frames == 0:
                yield fault("ends", f"{key} of {label} has no frames")
            elif (piece.shape, piece.kind) != (sample.shape, sample.kind):
                yield fault("form", f"{key} of {label} is {piece}; expected {sample.dtype} {sample.shape} a frame")
            elif length and piece.frames != length:
                yield fault(
                    "unequal", f"{key} of {label} has {counted(piece.frames, 'frame')}, but {clock} says {length}"
                )


def hwc(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return height, width and channels, as ``as_images`` has them, of images as a file has them."""
    if len(shape) == 2:
        return (*shape, 1)
    height, width, channels = (*shape[1:], shape[0]) if shape[0] in CHANNELS else shape
    return height, width, min(channels, 3)


def _numbers(what: str, pieces: list[tuple[str, Piece]]) -> np.ndarray:
    """Return (N, ...) of all episodes."""
    sample = pieces[0][1]
    check_room(what, (sum(piece.frames for _, piece in pieces), *sample.shape), sample.dtype)
    return np.concatenate([piece.read() for _, piece in pieces])


def _decode(key: str, episode: int, piece: Piece) -> Iterator[np.ndarray]:
    """Images of one episode in blocks (n, C, H, W)."""
    frames, fault = 0, partial(Finding, "fatal", "images", key=key, episode=episode)
    advice = "or leave the episode out with data.episodes"
    try:
        for block in piece.blocks():
            yield as_images(str(piece.source), key, block)
            frames += len(block)
    except RecordingError:
        raise
    except RobodiffError as error:
        raise RecordingError(str(piece.source), [fault(f"{error} ({key} of episode {episode})", advice)]) from None
    if frames != piece.frames:
        count = f"{frames} of {counted(piece.frames, 'frame')}"
        message = f"{piece.source}: only {count} of {key} of episode {episode} can be decoded"
        raise RecordingError(str(piece.source), [fault(message, advice)])


def episode_rows(
    episodes: Episodes, columns: Mapping[str, list[Any]], on_episode: Callable[[int], None] | None
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Yield for a writer the arrays of each episode, and what these columns say of it; tell when each is done."""
    for number in range(len(episodes)):
        frames = episodes.slice(number)
        arrays = {key: np.asarray(array[frames]) for key, array in episodes.arrays.items()}
        row = {name: column[number] for name, column in columns.items()}
        yield arrays, {name: value for name, value in row.items() if value is not None}
        if on_episode is not None:
            on_episode(number + 1)
