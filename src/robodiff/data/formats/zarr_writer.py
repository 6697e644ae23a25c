"""Write zarr recordings, episode by episode, and pack them."""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from robodiff.data.episodes import Episodes, Feature, left_out
from robodiff.data.formats.pieces import steps
from robodiff.data.formats.zarr import LAYOUTS
from robodiff.data.formats.zarr_reader import ATTRIBUTE, written_ends
from robodiff.errors import RobodiffError
from robodiff.files import LOCK_FILE, replacing
from robodiff.text import listed

_CODEC = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
"""Level 9 makes numbers 1 % and images a third smaller, and takes more than twenty times as long."""
_COMPRESSED = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
_AS_IT_IS = Blosc(clevel=0)
_HEAD = 16
"""Bytes before the rows in a chunk of Blosc's that is not compressed."""
_ROOM = 16
"""Blanks after the JSON that says how many rows an array has, so that it is written in place when they grow."""
_UNFINISHED = ".partial"  # how zarr names a file until it is whole


class ZarrWriter:
    """Append episodes to a zarr folder; each is durable when ``append`` returns, and a stopped writer goes on.

    Rows are written in place, behind those that count already, and then count: a chunk is compressed when it is full,
    and when the recording is closed. zarr itself writes the last chunk and the metadata of every array anew for each
    episode.

    Args:
        path: the folder; an existing recording with the same attributes is continued after its last whole episode.
        fps: frames per second.
        layout: what the keys of the file are called here; None where they are robodiff's own names.
        recipe: how the episodes are made; a recording is continued only by the recipe that began it.
        features: of the keys, whose names and units are written beside the arrays.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        layout: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        features: Mapping[str, Feature] | None = None,
    ) -> None:
        attributes = {"layout": layout, "fps": fps, "recipe": dict(recipe or {}), "complete": False}
        _check_ours(path)
        for unfinished in path.rglob(f"*{_UNFINISHED}"):  # left by a writer that was killed
            unfinished.unlink()
        self.group: Any = zarr.open_group(path, mode="a", zarr_format=3)
        existing = self.group.attrs.get(ATTRIBUTE, attributes)
        if {**existing, "complete": False} != attributes:
            raise RobodiffError(f"{path}: holds another recording ({existing}); choose another path")
        self._path, self._unfinished, self._features = path, attributes, features or {}
        if ATTRIBUTE not in self.group.attrs:
            self.group.attrs[ATTRIBUTE] = attributes
        self._meta = self.group.require_groups("data", "meta")[1]
        ends = written_ends(self._meta["episode_ends"][:]) if "episode_ends" in self._meta else np.zeros(0, np.int64)
        self.episodes, self.frames = len(ends), int(ends[-1]) if len(ends) else 0

    @property
    def complete(self) -> bool:
        """Whether it was closed, and not appended to since."""
        return self.group.attrs[ATTRIBUTE]["complete"]

    def table(self) -> dict[str, np.ndarray]:
        """Return what the table says of the episodes so far."""
        return {
            name: np.asarray(column[: self.episodes]) for name, column in self._meta.arrays() if name != "episode_ends"
        }

    def append(self, arrays: Mapping[str, np.ndarray], **row: Any) -> None:
        """Add one episode: per key of the file (L, ...), and its row of the table.

        The table may get new columns at any time; where one says nothing of an episode, it is 0.

        Raises:
            RobodiffError: the arrays are not those of the episodes before, equally long; nothing is written.
        """
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise RobodiffError(f"an episode's arrays must be equally long; found {sorted(lengths)} frames")
        self.check_alike(arrays)
        if self.group.attrs[ATTRIBUTE] != self._unfinished:
            self.group.attrs[ATTRIBUTE] = self._unfinished
        for key, array in arrays.items():
            self._extend(f"data/{key}", self.frames, array)
        for name, value in {**dict.fromkeys(self._names("meta"), 0), **row}.items():
            if name != "episode_ends":
                self._extend(f"meta/{name}", self.episodes, np.asarray([value]))
        end = self.frames + lengths.pop()
        self._extend("meta/episode_ends", self.episodes, np.asarray([end]))  # last: it makes it count
        self.frames, self.episodes = end, self.episodes + 1

    def close(self) -> None:
        """Compress the last chunks, and mark the recording as whole."""
        for kind, rows in (("data", self.frames), ("meta", self.episodes)):
            for name in self._names(kind):
                array = _Array(self._path / kind / name)
                array.write(rows, np.zeros((0, *array.row), array.dtype))  # what was begun after the last episode ends
                if rows % array.size:
                    array.compress(rows - rows % array.size, rows)
                _put(array.metadata, json.dumps(array.about, indent=2).encode())
        self.group.attrs[ATTRIBUTE] = {**self.group.attrs[ATTRIBUTE], "complete": True}

    def check_alike(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise ``RobodiffError`` for arrays that are not those of the episodes before; they may be without frames."""
        stored = {name: _Array(self._path / "data" / name) for name in self._names("data")}
        if self.episodes and (others := stored.keys() ^ arrays.keys()):
            problem = f"{listed(sorted(others))}: not in every episode; record it in all, or choose another path"
            raise RobodiffError(f"{self._path}: {problem}")
        for key in stored.keys() & arrays.keys():
            array, (dtype, row) = arrays[key], (stored[key].dtype, stored[key].row)
            if [*array.shape[1:]] != row or not np.can_cast(array.dtype, dtype, "same_kind"):
                found = (
                    f"expected {dtype} {tuple(row)} a frame; found {array.dtype} {array.shape[1:]}; choose another path"
                )
                raise RobodiffError(f"{self._path}: {key} is not as in the episodes before: {found}")

    def _names(self, kind: str) -> list[str]:
        """Return the names of the arrays of a kind, ``data`` or ``meta``."""
        return [folder.name for folder in (self._path / kind).iterdir() if (folder / "zarr.json").exists()]

    def _extend(self, place: str, start: int, values: np.ndarray) -> None:
        """Write rows of an array from ``start`` on; those that a stopped writer left behind do not count."""
        if not (self._path / place / "zarr.json").exists():
            _create(self.group, place, values, _about(self._features.get(place.removeprefix("data/"))))
        _Array(self._path / place).write(start, values)


class _Array:
    """An array in zarr's format 3, of chunks of whole rows in Blosc, to which rows are added."""

    def __init__(self, folder: Path) -> None:
        self.metadata = folder / "zarr.json"
        text = self.metadata.read_bytes()
        self.about, self._room = json.loads(text), len(text) if text.endswith(b" ") else 0
        self.size, *self.row = self.about["chunk_grid"]["configuration"]["chunk_shape"]
        self.dtype = np.dtype(self.about["data_type"])

    def write(self, start: int, values: np.ndarray) -> None:
        """Write rows from ``start`` on, behind rows of 0 where there are fewer; what was after them is gone."""
        if (missing := start - self.about["shape"][0]) > 0:
            start, values = start - missing, np.concatenate([np.zeros((missing, *self.row), self.dtype), values])
        end = start + len(values)
        for first in range(start - start % self.size, end, self.size):
            file, rows = self._chunk(first), values[max(first - start, 0) : first + self.size - start]
            if first >= start:
                _put(file, _AS_IT_IS.encode(np.zeros((self.size, *self.row), self.dtype)))
            elif file.stat().st_size != _HEAD + self.size * self.dtype.itemsize * math.prod(self.row):
                _put(file, _AS_IT_IS.encode(self._rows(first)))
            with file.open("r+b") as chunk:
                chunk.seek(_HEAD + max(start - first, 0) * self.dtype.itemsize * math.prod(self.row))
                chunk.write(np.ascontiguousarray(rows, self.dtype).data)
            if end >= first + self.size:
                self.compress(first, end)
        self.about["shape"][0] = end
        text = json.dumps(self.about, indent=2).encode()
        if len(text) >= self._room:
            _put(self.metadata, text + b" " * _ROOM)
        else:
            with self.metadata.open("r+b") as file:  # fewer bytes than a page: whole, or not written
                file.write(text.ljust(self._room))

    def compress(self, first: int, end: int) -> None:
        """Compress a chunk, of whose rows those before ``end`` count."""
        rows = self._rows(first)
        rows[end - first :] = 0
        _put(self._chunk(first), _COMPRESSED.encode(rows))

    def _rows(self, first: int) -> np.ndarray:
        rows = np.frombuffer(_COMPRESSED.decode(self._chunk(first).read_bytes()), self.dtype)
        return rows.reshape(self.size, *self.row).copy()

    def _chunk(self, first: int) -> Path:
        return self.metadata.parent.joinpath("c", str(first // self.size), *["0"] * len(self.row))


def _create(group: Any, place: str, like: np.ndarray, attributes: Mapping[str, Any], rows: int = 0) -> Any:
    """Make an array for rows like these; of zarr 2 as RoboFactory does."""
    shape, is_2 = like.shape[1:], group.metadata.zarr_format == 2
    return group.create_array(
        place,
        shape=(rows, *shape),
        chunks=(1024 if like.ndim < 3 else 64, *shape),
        dtype=like.dtype,
        attributes=dict(attributes),
        compressors=Blosc(cname="zstd", clevel=3) if is_2 else _CODEC,
        config={"write_empty_chunks": True},  # a chunk that is absent was never written
    )


def _about(feature: Feature | None) -> dict[str, Any]:
    """Return what is written beside an array of the dimensions of its rows."""
    return {"names": feature.names, "unit": feature.unit} if feature else {}


def _put(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}{_UNFINISHED}")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def write_zarr(
    episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None, layout: str | None = None
) -> list[str]:
    """Write a recording to a .zarr folder or a .zip, whole or not at all; its arrays come back to the bit.

    Args:
        episodes: the recording.
        path: where nothing is yet.
        on_episode: called with the number of episodes done.
        layout: ``robofactory`` or ``img``: the keys are called as there, in zarr format 2; else by robodiff's names.

    Returns:
        What of it a zarr group has no place for.
    """
    columns = {name: column for name, column in episodes.columns(bool, int, float).items() if None not in column}
    table = {**columns, "episode_ends": episodes.episode_ends}
    file_keys = _file_keys(episodes, layout)
    done, total = 0, sum(array.nbytes for array in episodes.arrays.values())
    with replacing(path) as temporary:
        folder = path.with_name(f".{path.name}.zarr.{os.getpid()}.tmp") if path.suffix == ".zip" else temporary
        group: Any = zarr.open_group(folder, mode="w", zarr_format=2 if layout else 3)
        group.attrs[ATTRIBUTE] = {"layout": None, "fps": episodes.fps, "recipe": {}, "complete": True}
        for name, column in table.items():
            _create(group, f"meta/{name}", np.asarray(column), {}, len(episodes))[:] = np.asarray(column)
        for key, array in episodes.arrays.items():
            name, own = file_keys[key], episodes.team_names.get(key, key)
            about = _about(episodes.features[key]) | ({"name": own} if own != name else {})
            stored = _create(group, f"data/{name}", array, about, len(array))
            for rows in steps(len(array), array.shape[1:], array.dtype, stored.chunks[0]):
                stored[rows] = array[rows]
                done += array[rows].nbytes
                if on_episode is not None:
                    on_episode(len(episodes) * done // total)
        if folder != temporary:
            pack_zip(folder, temporary)
    return left_out(episodes, [*columns], names_kept=True)


def _file_keys(episodes: Episodes, layout: str | None) -> dict[str, str]:
    """Return what a file calls each key: the camera of a layout is that of its name, else of a head, else the first."""
    names = {key: key for key in episodes.arrays}
    cameras = sorted((key for key, each in episodes.features.items() if each.kind == "image"), key=_by_head)
    for name, place in LAYOUTS[layout].items() if layout else ():
        key = name if name in names or not name.startswith("observation.image") else next(iter(cameras), name)
        names |= {key: place.file_key} if key in names else {}
    return names


def _by_head(camera: str) -> bool:
    return "head" not in camera


def pack_zip(folder: Path, target: Path) -> None:
    """Pack a zarr folder into one .zip, byte for byte the same for the same content, and remove the folder."""
    # The chunks are compressed already.
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and not _left_out(path)):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, file.read_bytes())
    shutil.rmtree(folder)


def building(target: Path) -> Path:
    """Return the folder in which a .zip is made, beside it, until it is whole."""
    return target.with_name(f".{target.name}.building")


def _check_ours(path: Path) -> None:
    """Refuse a folder that holds anything but a recording that robodiff writes: nothing of others is touched."""
    names = {file.name for file in path.iterdir() if not _left_out(file)} if path.is_dir() else set()
    if names <= {"zarr.json", ".zgroup", ".zattrs"}:  # nothing, or a group in which nothing was written yet
        return
    is_ours = False
    with suppress(OSError, ValueError, KeyError, TypeError):
        group = zarr.open_group(path, mode="r")
        is_ours = ATTRIBUTE in group.attrs and group.metadata.zarr_format == 3
    if not is_ours:
        raise RobodiffError(f"{path}: holds something that robodiff did not record; choose another path")


def _left_out(path: Path) -> bool:
    return path.suffix == _UNFINISHED or path.name == LOCK_FILE
