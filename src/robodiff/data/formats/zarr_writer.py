"""Write zarr recordings, episode by episode, and pack them."""

import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from robodiff.data.episodes import Episodes, Feature, left_out
from robodiff.data.formats.pieces import episode_rows
from robodiff.data.formats.zarr_reader import ATTRIBUTE, written_ends
from robodiff.errors import RobodiffError
from robodiff.files import LOCK_FILE, replacing

FRAMES_PER_CHUNK = 1024
_UNFINISHED = ".partial"  # how zarr names a file until it is whole


class ZarrWriter:
    """Append episodes to a zarr folder; each is durable when ``append`` returns, and a stopped writer goes on.

    Args:
        path: the folder; an existing recording with the same attributes is continued after its last whole episode.
        fps: frames per second.
        layout: what the keys of the file are called here; None where they are robodiff's own names.
        recipe: how the episodes are made; a recording is continued only by the recipe that began it.
        zarr_format: 2 or 3.
        features: of the keys, whose names and units are written beside the arrays.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        layout: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        zarr_format: int = 3,
        features: Mapping[str, Feature] | None = None,
    ) -> None:
        attributes = {"layout": layout, "fps": fps, "recipe": dict(recipe or {}), "complete": False}
        _check_ours(path)
        for unfinished in path.rglob(f"*{_UNFINISHED}"):  # left by a writer that was killed
            unfinished.unlink()
        self.group: Any = zarr.open_group(path, mode="a", zarr_format=zarr_format)  # pyright: ignore
        existing = self.group.attrs.get(ATTRIBUTE, attributes)
        if {**existing, "complete": False} != attributes:
            raise RobodiffError(f"{path}: holds another recording ({existing}); choose another path")
        self._unfinished, self._features = attributes, features or {}
        if ATTRIBUTE not in self.group.attrs:
            self.group.attrs[ATTRIBUTE] = attributes
        self._data, self._meta = self.group.require_group("data"), self.group.require_group("meta")
        ends = written_ends(self._meta["episode_ends"][:]) if "episode_ends" in self._meta else np.zeros(0, np.int64)
        self.episodes, self.frames = len(ends), int(ends[-1]) if len(ends) else 0

    @property
    def complete(self) -> bool:
        """Whether it was closed, and not appended to since."""
        return self.group.attrs[ATTRIBUTE]["complete"]

    def column(self, name: str) -> np.ndarray:
        """Return what the episodes so far have in one column of the table; empty when there are none."""
        return np.asarray(self._meta[name][: self.episodes]) if name in self._meta else np.zeros(0)

    def append(self, arrays: Mapping[str, np.ndarray], **row: Any) -> None:
        """Add one episode: per key of the file (L, ...), and its row of the table."""
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1:
            raise RobodiffError(f"an episode's arrays must be equally long; found {sorted(lengths)} frames")
        if self.group.attrs[ATTRIBUTE] != self._unfinished:
            self.group.attrs[ATTRIBUTE] = self._unfinished
        for key, array in arrays.items():
            self._extend(self._data, key, self.frames, array)
        for key, value in row.items():
            self._extend(self._meta, key, self.episodes, np.asarray([value]))
        self.frames += lengths.pop()
        self._extend(self._meta, "episode_ends", self.episodes, np.asarray([self.frames]))  # last: it makes it count
        self.episodes += 1

    def close(self) -> None:
        """Mark the recording as whole."""
        self.group.attrs[ATTRIBUTE] = {**self.group.attrs[ATTRIBUTE], "complete": True}

    def _extend(self, group: Any, key: str, start: int, values: np.ndarray) -> None:
        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk that is absent was never written
            self._write(group, key, start, values)

    def _write(self, group: Any, key: str, start: int, values: np.ndarray) -> None:
        if key not in group:
            chunks = (FRAMES_PER_CHUNK if values.ndim < 3 else 64, *values.shape[1:])
            codec: dict[str, Any] = {}
            if self.group.metadata.zarr_format == 3:
                level = 5 if values.ndim == 4 else 9  # of images, 9 saves a third and takes twenty times as long
                codec = {"compressors": BloscCodec(cname="zstd", clevel=level, shuffle="bitshuffle")}
            feature = self._features.get(key) if group is self._data else None
            described = {"names": feature.names, "unit": feature.unit} if feature else {}
            shape = (start, *values.shape[1:])
            group.create_array(key, shape=shape, chunks=chunks, dtype=values.dtype, attributes=described, **codec)
        array = group[key]
        array.resize((start, *values.shape[1:]))  # drops what a stopped writer left behind
        array.append(values)


def write_zarr(episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None) -> list[str]:
    """Write a recording to a .zarr folder or a .zip, whole or not at all; its arrays come back to the bit.

    Args:
        episodes: the recording.
        path: where nothing is yet.
        on_episode: called with the number of episodes done.

    Returns:
        What of it a zarr group has no place for.
    """
    columns = {name: column for name, column in episodes.columns(bool, int, float).items() if None not in column}
    with replacing(path) as temporary:
        folder = path.with_name(f".{path.name}.zarr.{os.getpid()}.tmp") if path.suffix == ".zip" else temporary
        writer = ZarrWriter(folder, episodes.fps, features=episodes.features)
        for arrays, row in episode_rows(episodes, columns, on_episode):
            writer.append(arrays, **row)
        writer.close()
        if folder != temporary:
            pack_zip(folder, temporary)
    return left_out(episodes, [*columns], names_kept=True)


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
        is_ours = ATTRIBUTE in zarr.open_group(path, mode="r").attrs
    if not is_ours:
        raise RobodiffError(f"{path}: holds something that robodiff did not write; choose another path")


def _left_out(path: Path) -> bool:
    return path.suffix == _UNFINISHED or path.name == LOCK_FILE
