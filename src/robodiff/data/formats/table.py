"""Tables, CSV or Parquet: a row a frame, in one file with a column of episode numbers, or in a file for each episode.

Columns whose names end in numbers (``state_0``, ``state_1``) or that share a name before a dot
(``observation.state.x``) are one vector together. Columns of JPEG or PNG bytes, or of paths, are cameras.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.arrays import episode_numbers, kind_of
from robodiff.data.formats.parquet import read_parquet
from robodiff.data.formats.pictures import SUFFIXES as PICTURES
from robodiff.data.formats.pictures import cells_piece, files_piece
from robodiff.data.formats.pieces import (
    Gathered,
    Piece,
    check_room,
    column_values,
    episode_files,
    files_of,
    inside,
    names_of,
)
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.data.resample import CLOCK, Rate, rate_of
from robodiff.errors import RobodiffError, notice
from robodiff.files import reading
from robodiff.text import brief

SUFFIXES = (".csv", ".parquet")
WHAT = "a table (CSV or Parquet)"
EPISODE = re.compile(r"(episode|traj|trajectory|demo|demonstration|run)([_ ]?(index|id|idx|number|nr))?", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)[._\[ ]?(\d+)\]?")
_NAMED = re.compile(r"(observation\.\w+|action|actions|state|qpos|qvel)[._](.+)")


@dataclass(frozen=True, kw_only=True)
class TableConfig(DataConfig):
    """Demonstrations as CSV or Parquet, a row a frame."""

    path: str
    """The file, which has a column of episode numbers unless it is one episode; or a folder with one file an
    episode."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        root = self.place
        files = files_of(root, SUFFIXES)
        if len(files) == 1:
            table = read_table(files[0])
            rows = episode_rows(files[0], table)
            numbers = episode_numbers(self.path, self.episodes, len(rows))
            chosen = [[*rows.items()][number] for number in numbers]
            tables = {label: (files[0], table.slice(part.start, part.stop - part.start)) for label, part in chosen}
        else:
            numbers, files = episode_files(self, SUFFIXES)
            tables = {path.name: (path, read_table(path)) for path in files}
            for path, table in tables.values():
                if len(episodes := episode_rows(path, table)) > 1:
                    advice = "write one file for each, or one for all"
                    raise RobodiffError(f"{path}: holds {len(episodes)} episodes, such as {min(episodes)}; {advice}")
        episodes = [pieces(path, table) for path, table in tables.values()]
        names = {
            key: None if EPISODE.fullmatch(key) or CLOCK.fullmatch(key) else name
            for key, name in names_of(*episodes).items()
        }
        clock, rate = _clock(self.path, episodes)
        columns = {"episode_index": numbers, **_texts([table for _, table in tables.values()])}
        fps = rate.fps if rate else None
        recording = Gathered(self.path, episodes, [*tables], names, fps, columns).recording(self)
        return replace(recording, times=lambda: np.concatenate(clock) / rate.unit) if rate else recording


def read_table(path: Path) -> Any:
    """Return a ``pyarrow.Table``.

    Raises:
        RobodiffError: no table there, a broken one, or one that takes more than memory has room for.
    """
    import pyarrow.csv

    with reading(path, WHAT):
        if path.suffix.lower() == ".csv":
            check_room(str(path), (4 * path.stat().st_size,))
            table = pyarrow.csv.read_csv(path)
        else:
            table = read_parquet(path)
        if len({*table.column_names}) != len(table.column_names) or not len(table):
            raise RobodiffError(f"{path}: has no rows, or two columns of one name; expected a row for each frame")
        return table


def pieces(path: Path, table: Any, columns: Sequence[str] | None = None) -> dict[str, Piece]:
    """Return the arrays of one episode: vectors of several columns, single columns, cameras.

    Args:
        path: the file, beside which pictures lie.
        table: its rows.
        columns: gather these into one array, called by the first.

    Raises:
        RobodiffError: frames without a value, or pictures that lead out of the folder.
    """
    groups = _groups(table) if columns is None else {columns[0]: list(columns)}
    return {name: _piece(path, name, members, table) for name, members in groups.items()}


def episode_rows(path: Path, table: Any) -> dict[str, slice]:
    """Return the rows of each episode, by what it is called: as a column says, else all rows are one.

    Raises:
        RobodiffError: rows of one episode do not follow one another.
    """
    column = next((name for name in table.column_names if EPISODE.fullmatch(name)), None)
    if column is None:
        return {path.name: slice(0, len(table))}
    values = table[column].to_numpy()
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(table)]
    rows = {f"{column} {values[start]}": slice(start, end) for start, end in pairwise(edges)}
    if len(rows) < len(edges) - 1:
        twin = next(label for label, part in rows.items() if part.start != edges[[*rows].index(label)])
        raise RobodiffError(f"{path}: rows of {twin} do not follow one another; sort them by {column}")
    return rows


def _groups(table: Any) -> dict[str, list[str]]:
    """Return the columns of each array."""
    import pyarrow as pa

    groups: dict[str, list[str]] = {}
    for column in table.column_names:
        match = _NAMED.fullmatch(column) or _NUMBERED.fullmatch(column)
        is_own = not match or not match[1] or EPISODE.fullmatch(column) or pa.types.is_string(table[column].type)
        groups.setdefault(column if is_own or match is None else match[1], []).append(column)
    return {
        members[0] if len(members) == 1 and not _NAMED.fullmatch(members[0]) else name: members
        for name, members in groups.items()
    }


def _piece(path: Path, name: str, members: list[str], table: Any) -> Piece:
    """Return numbers of columns side by side, or the pictures that one holds or names, or what is neither."""
    if pictures := _pictures(path, name, table[members[0]]):
        return pictures
    dtype, frames = str(table[members[0]].type), len(table)
    try:
        arrays = [column_values(path, member, table[member]) for member in members]
    except RobodiffError as error:  # told where it is to be read, and no reason not to read the others
        fault = str(error).removeprefix(f"{path}: ").removeprefix(f"{name} ")
        return Piece(path, name, frames, (), dtype, "vector", lambda: iter(()), fault=fault)
    numbers = [array for array in arrays if array is not None]
    if len(numbers) < len(members):
        return Piece(path, name, frames, (), dtype, None, lambda: iter(()))
    if len({array.dtype for array in numbers}) > 1:
        _tell_rounded(path, dict(zip(members, numbers, strict=True)))
    flat = [array.reshape(frames, -1) for array in numbers]
    values = numbers[0] if len(numbers) == 1 else np.concatenate(flat, axis=1)
    names = tuple(members) if 1 < len(members) == values.shape[1] else None
    kind = kind_of(values.shape[1:], values.dtype)
    return Piece(path, name, frames, values.shape[1:], str(values.dtype), kind, lambda: iter([values]), names)


def _tell_rounded(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Tell which columns have whole numbers that do not survive among floats, which float32 holds them as."""
    for name, values in columns.items():
        if values.dtype.kind in "iu" and (values.astype(np.float32).astype(values.dtype) != values).any():
            notice(f"{path}: {name} holds whole numbers above 2^24, which are rounded: float32 does not hold them")


def _pictures(path: Path, name: str, column: Any) -> Piece | None:
    """Return the pictures that a column holds, as bytes, or names, relative to the table; None where it has neither."""
    import pyarrow as pa

    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (is_list and kind.value_type == pa.uint8()):
        return cells_piece(path, name, column)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return cells_piece(path, name, column)
    return _cameras(path, name, column) if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _cameras(path: Path, name: str, column: Any) -> Piece | None:
    """Return the pictures that a column names, relative to the table; None where it has other texts."""
    values = column.to_pylist()
    if not str(values[0]).lower().endswith(PICTURES):
        return None
    for row, value in enumerate(values):
        if not str(value).lower().endswith(PICTURES) or Path(value).is_absolute() or ".." in Path(value).parts:
            raise RobodiffError(f"{path}: {name} names {brief(value)} in row {row}; expected a picture in this folder")
    return files_piece(name, [inside(path.parent, path.parent / value) for value in values])


def _clock(source: str, episodes: Sequence[Mapping[str, Piece]]) -> tuple[list[np.ndarray], Rate | None]:
    """Return the first column of times that tells a rate, per episode, and what it tells."""
    for key, sample in episodes[0].items():
        if CLOCK.fullmatch(key) and sample.kind == "vector" and not sample.shape and all(key in e for e in episodes):
            times = [episode[key].read().astype(np.float64) for episode in episodes]
            if rate := rate_of(times, key):
                return times, rate
            notice(f"{source}: {key} is no clock: it stands still, runs back, or lacks values; not used")
    return [], None


def _texts(tables: Sequence[Any]) -> dict[str, list[str]]:
    """Return columns of texts that are the same in all rows of an episode, such as the task."""
    import pyarrow as pa

    columns: dict[str, list[str]] = {}
    for name in tables[0].column_names:
        if pa.types.is_string(tables[0][name].type) and not EPISODE.fullmatch(name):
            values = [table[name].unique().to_pylist() if name in table.column_names else [] for table in tables]
            if all(len(value) == 1 and isinstance(value[0], str) for value in values):
                columns[name] = [value[0] for value in values]
    return {name: values for name, values in columns.items() if not values[0].lower().endswith(PICTURES)}


def _recognise(path: Path) -> bool:
    """Tell by the columns: there must be an action, else nobody knows what the columns are."""
    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        return False
    files = files_of(path, SUFFIXES)
    return bool(files) and any(re.match(r"actions?([._\[ ]|$)", name) for name in _columns(files[0]))


def _columns(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    with reading(path, WHAT):
        if path.suffix.lower() != ".csv":
            return pq.read_schema(path).names
        with path.open("rb") as file:
            return pyarrow.csv.read_csv(pa.BufferReader(file.readline(100_000))).column_names


FORMAT = Format("a table (CSV or Parquet)", TableConfig, _recognise)
