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

from robodiff.data.arrays import check_ends, episode_numbers
from robodiff.data.episodes import ACTION
from robodiff.data.formats import hdf5, pictures, sources, table
from robodiff.data.formats.pieces import Gathered, Piece, by_number, inside, without_last
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import Above, Document, typed
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.files import reading
from robodiff.yaml_text import read_yaml

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
        arrays = {name: {"source": each} if isinstance(each, str) else each for name, each in self.arrays.items()}
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
        path = self.place
        file = path / NAME if path.is_dir() else path
        try:
            description = typed(Description, read_yaml(file), "")
        except UsageError as error:
            raise UsageError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None
        reader = _Reader(file.parent)
        every, ends = reader.episodes(description.episodes), None
        for divided in ("episode_ends", "episode_numbers"):
            if source := getattr(description, divided):
                piece = reader.piece(f"{file}: {divided}", every[0], ArraySource(source=source))
                if piece.unwritten:
                    raise RobodiffError(f"{file}: {divided}: was never written from row {piece.unwritten[0][0]} on")
                values = piece.read().reshape(-1)
                ends = _ends(f"{file}: {divided}", values) if divided == "episode_numbers" else values
                ends = check_ends(f"{file}: {divided}", ends)
        numbers = episode_numbers(self.path, self.episodes if ends is None else None, len(every))
        episodes = [
            {
                name: reader.piece(f"{file}: arrays.{name}", every[number], source)
                for name, source in description.arrays.items()
            }
            for number in numbers
        ]
        return Gathered(
            self.path,
            [without_last(episode, ACTION) for episode in episodes],
            [str(every[number]) for number in numbers],
            {name: name for name in description.arrays},
            description.fps or min(reader.rates, default=None),
            {"episode_index": numbers} if ends is None else {},
            ends=ends,
        ).recording(self)


def _ends(what: str, numbers: np.ndarray) -> np.ndarray:
    """Return the frame after each episode's last, of which numbers say for each frame in which episode it is."""
    starts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    if len(np.unique(numbers)) <= len(starts):
        raise RobodiffError(f"{what}: frames of one episode do not follow one another; sort them")
    return np.append(starts, len(numbers))


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
        with reading(self.folder / NAME, "a description of a recording"):
            visible = [path for path in self.folder.glob(name.rstrip("/")) if not path.name.startswith(".")]
        paths = [inside(self.folder, path) for path in visible if path.name != NAME]
        places = [_Place(path, group) for path in paths for group in (_groups(path, groups) if groups else [""])]
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
                return sources.picture_files(place.path, name)
            path = inside(self.folder, place.path / name)
        if path.suffix.lower() in pictures.VIDEOS:
            piece, rate = pictures.video_piece(path)
            self.rates |= {rate} if rate else set()
            return piece
        if source.columns:
            rows = table.read_table(path)
            wanted, known = source.columns, rows.column_names
        else:
            arrays = self.listed[path] = self.listed.get(path) or sources.arrays_of(path)
            wanted, known = [array or (next(iter(arrays)) if len(arrays) == 1 else "")], [*arrays]
        if unknown := [name for name in wanted if name not in known]:
            advice = f"it has {', '.join(known[:12])}.{nearest(unknown[0], known)}"
            raise RobodiffError(f"{what}: {path} has no {unknown[0]!r}; {advice}")
        piece = next(iter(table.pieces(path, rows, wanted).values())) if source.columns else arrays[wanted[0]]
        if piece.kind is None:
            raise RobodiffError(f"{what}: is {piece} in {path}; expected numbers (L, D) or pictures (L, H, W, C)")
        return replace(piece, unit=source.unit)


def _groups(path: Path, pattern: str) -> list[str]:
    """Return the groups of an HDF5 file that a pattern names, such as data/demo_*."""
    with hdf5.opened(path) as file:
        parent, _, last = pattern.rpartition("/")
        names = [name for name in file.get(parent or "/") or () if fnmatchcase(name, last)]
    return [f"{parent}/{name}" if parent else name for name in names]


def _recognise(path: Path) -> bool:
    file = path / NAME if path.is_dir() else path
    if not file.is_file() or file.suffix.lower() not in (".yaml", ".yml"):
        return False
    content = None if file.name == NAME else read_yaml(file)
    return file.name == NAME or (isinstance(content, dict) and "arrays" in content)


FORMAT = Format(f"a folder with {NAME}", MappedConfig, _recognise)
