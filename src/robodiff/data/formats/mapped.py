"""A recording in files of one's own, as its ``recording.yaml`` describes them.

    episodes: runs/*                    # every match is one episode: a folder, a file, or file.h5:group_*
    fps: 30
    arrays:
      observation.images.front: front/*.jpg
      observation.state: {source: log.csv, columns: [j0, j1, j2], unit: rad}
      action: {source: log.csv, columns: [a0, a1, a2]}

A source is a file of the episode, or ``file:array``, or the array alone where the episode is a file or a group in one.
Where one file holds all episodes end to end, ``episode_ends`` or ``episode_numbers`` names the array that divides it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from robodiff.data.episodes import ACTION, check_ends, episode_numbers
from robodiff.data.formats import hdf5, pictures, sources, table
from robodiff.data.formats.pieces import Gathered, Piece, by_number, inside
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import Above, Document, read_yaml, typed
from robodiff.errors import RobodiffError, UsageError, nearest

NAME = "recording.yaml"


@dataclass(frozen=True, kw_only=True)
class ArraySource(Document):
    """Where one array is."""

    source: str = ""
    """The file in each episode, or file:array, or a pattern of pictures such as front/*.png."""
    columns: list[str] | None = None
    """Of a table: the columns that are its dimensions, in order."""
    unit: str | None = None
    """Of its numbers, such as rad."""


@dataclass(frozen=True, kw_only=True)
class Description(Document):
    """What recording.yaml says."""

    arrays: dict[str, Any]
    """By the name here, such as observation.state, the source: a text, or source, columns and unit."""
    fps: Annotated[float, Above(0)] | None = None
    """Frames per second."""
    episodes: str | None = None
    """A pattern of files, folders or groups in an HDF5 file, each of which is one episode."""
    episode_ends: str | None = None
    """In place of episodes: the array that says after which frame each one ends."""
    episode_numbers: str | None = None
    """In place of episodes: the array, or column of a table, that says of each frame in which episode it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        arrays = {
            name: {"source": source} if isinstance(source, str) else source for name, source in self.arrays.items()
        }
        arrays = {name: typed(ArraySource, source, f"arrays.{name}") for name, source in arrays.items()}
        object.__setattr__(self, "arrays", arrays)
        if sum(each is not None for each in (self.episodes, self.episode_ends, self.episode_numbers)) > 1:
            raise UsageError("episodes, episode_ends and episode_numbers all divide the recording; give one of them")


@dataclass(frozen=True, kw_only=True)
class MappedConfig(DataConfig):
    """Demonstrations in files of one's own, which a recording.yaml describes."""

    path: str
    """The folder with recording.yaml, or that file under another name."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        path = Path(self.path).expanduser()
        file = path / NAME if path.is_dir() else path
        try:
            description = typed(Description, read_yaml(file), "")
        except UsageError as error:
            raise UsageError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None
        reader = _Reader(file.parent)
        every = reader.episodes(description.episodes)
        divided = description.episode_ends or description.episode_numbers
        numbers = None if divided else episode_numbers(self.path, self.episodes, len(every))
        chosen = [every[number] for number in numbers or [0]]
        episodes = [
            {name: reader.piece(f"{file}: arrays.{name}", place, source) for name, source in description.arrays.items()}
            for place in chosen
        ]
        return Gathered(
            self.path,
            [_cut(episode) for episode in episodes],
            [str(place) for place in chosen],
            {name: name for name in description.arrays},
            description.fps or (min(reader.rates) if reader.rates else None),
            {} if numbers is None else {"episode_index": numbers},
            ends=self._ends(file, reader, description) if divided else None,
        ).recording(self)

    def _ends(self, file: Path, reader: "_Reader", description: Description) -> np.ndarray:
        is_ends, whole = description.episode_ends is not None, _Place(reader.folder)
        name, source = ("episode_ends", description.episode_ends) if is_ends else (
            "episode_numbers", description.episode_numbers)  # fmt: skip
        values = reader.piece(f"{file}: {name}", whole, ArraySource(source=source or "")).read().reshape(-1)
        if not is_ends:
            values = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
        return check_ends(f"{file}: {name}", values)


def _cut(episode: dict[str, Piece]) -> dict[str, Piece]:
    """Drop the observation after the last action, which some recorders keep."""
    if ACTION not in episode:
        return episode
    frames = episode[ACTION].frames
    return {name: piece.until(frames) if piece.frames == frames + 1 else piece for name, piece in episode.items()}


@dataclass(frozen=True)
class _Place:
    """Where an episode is: a folder, a file, or a group in a file."""

    path: Path
    group: str = ""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.group}" if self.group else self.path.name


@dataclass
class _Reader:
    """Finds episodes and arrays in the folder of a recording; what a file holds is listed once."""

    folder: Path
    rates: set[float] = field(default_factory=set)
    """Frames per second of the videos."""
    listed: dict[Path, dict[str, Piece]] = field(default_factory=dict)

    def episodes(self, pattern: str | None) -> list[_Place]:
        """Return the matches of a pattern in the order of their numbers; the whole folder where there is none."""
        if pattern is None:
            return [_Place(self.folder)]
        name, _, groups = pattern.partition(":")
        matches = [path for path in self._glob(self.folder, name.rstrip("/")) if path.name != NAME]
        if groups:
            places = [_Place(path, group) for path in matches for group in _groups(path, groups)]
        else:
            places = [_Place(path) for path in matches]
        if not places:
            raise RobodiffError(f"{self.folder}: nothing is called {pattern}, which {NAME} says the episodes are")
        return sorted(places, key=lambda place: by_number(f"{place.path.relative_to(self.folder)}:{place.group}"))

    def piece(self, what: str, place: _Place, source: ArraySource) -> Piece:
        """Return the array that a source names in an episode.

        Raises:
            RobodiffError: it is not there; the message begins with ``what``.
        """
        if place.path.is_file() or sources.is_zarr(place.path):
            path, array = place.path, "/".join(filter(None, (place.group, source.source)))
        else:
            name, _, array = source.source.partition(":")
            if "*" in name:
                return self._pictures(place.path, name)
            path = inside(self.folder, place.path / name)
        if path.suffix.lower() in pictures.VIDEOS:
            piece, rate = pictures.video_piece(path)
            self.rates |= {rate} if rate else set()
        elif source.columns:
            rows = table.read_table(path)
            if unknown := [column for column in source.columns if column not in rows.column_names]:
                raise RobodiffError(f"{what}: {path} has no column {unknown[0]!r}."
                                    f"{nearest(unknown[0], rows.column_names)}")  # fmt: skip
            (piece,) = table.pieces(path, rows, source.columns).values()
        else:
            arrays = self._arrays(path)
            array = next(iter(arrays)) if len(arrays) == 1 and not array else array
            if array not in arrays:
                raise RobodiffError(f"{what}: {path} has no array {array!r}; it has {', '.join([*arrays][:12])}."
                                    f"{nearest(array, arrays)}")  # fmt: skip
            piece = arrays[array]
        if piece.kind is None:
            raise RobodiffError(f"{what}: is {piece} in {path}; expected numbers (L, D) or pictures (L, H, W, C)")
        return replace(piece, unit=source.unit)

    def _arrays(self, path: Path) -> dict[str, Piece]:
        if path not in self.listed:
            self.listed[path] = sources.arrays_of(path)
        return self.listed[path]

    def _pictures(self, folder: Path, pattern: str) -> Piece:
        self._glob(folder, pattern)
        return sources.picture_files(folder, pattern)

    def _glob(self, folder: Path, pattern: str) -> list[Path]:
        if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise RobodiffError(f"{self.folder / NAME}: {pattern!r} is not a pattern within the folder; expected one "
                                "such as runs/*")  # fmt: skip
        return [inside(self.folder, path) for path in folder.glob(pattern) if not path.name.startswith(".")]


def _groups(path: Path, pattern: str) -> list[str]:
    """Return the groups of an HDF5 file that a pattern names, such as data/demo_*."""
    with hdf5.opened(path) as file:
        parent, _, last = pattern.rpartition("/")
        group = file.get(parent or "/")
        names = [name for name in group or () if fnmatchcase(name, last)]
    return [f"{parent}/{name}" if parent else name for name in names]


def _recognise(path: Path) -> bool:
    file = path / NAME if path.is_dir() else path
    if not file.is_file() or file.suffix.lower() not in (".yaml", ".yml"):
        return False
    if file.name == NAME:
        return True
    content = read_yaml(file)
    return isinstance(content, dict) and "arrays" in content


FORMAT = Format(f"a folder with {NAME}", MappedConfig, _recognise)
