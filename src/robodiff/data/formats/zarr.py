"""Zarr recordings, formats 2 and 3, as a folder or a .zip: ``data/<key>`` over all frames, ``meta/episode_ends``.

A layout says what the file's keys are called here. robodiff's own files name it in their attributes; for those of
others it is given, or a key map is.
"""

import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.storage
from h5py import is_hdf5

from robodiff.data.cache import decoded, memory_free
from robodiff.data.episodes import (
    Episodes,
    Feature,
    Finding,
    RecordingError,
    as_images,
    as_vectors,
    check_finite,
    check_lengths,
    recorded_keys,
)
from robodiff.envs.pusht.geometry import corners_from_pose
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.files import reading

ATTRIBUTE = "robodiff"
Convert = Callable[[str, str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Source:
    """How one key is made of an array of the file."""

    file_key: str
    convert: Convert
    unit: str | None = None
    optional: bool = False


def _columns(columns: slice, width: int) -> Convert:
    def convert(source: str, key: str, array: np.ndarray) -> np.ndarray:
        if array.ndim != 2 or array.shape[1] != width:
            message = f"{key} must have {width} numbers a frame; found shape {array.shape}"
            raise RecordingError(source, [Finding("fatal", "form", message, "choose another layout or a key map", key)])
        return as_vectors(source, key, array[:, columns])

    return convert


def _corners(source: str, key: str, array: np.ndarray) -> np.ndarray:
    return corners_from_pose(_columns(slice(2, 5), 5)(source, key, array)).astype(np.float32)


LAYOUTS: dict[str, dict[str, Source]] = {
    # Diffusion Policy's Push-T: state is the agent's x, y and the block's x, y, angle
    "pusht": {
        "observation.state": Source("state", _columns(slice(0, 2), 5), "px"),
        "observation.environment_state": Source("state", _corners, "px"),
        "observation.image": Source("img", as_images, optional=True),
        "action": Source("action", _columns(slice(0, 2), 2), "px"),
    },
    "robofactory": {
        "observation.images.head_camera": Source("head_camera", as_images),
        "observation.state": Source("state", as_vectors),
        "action": Source("action", as_vectors),
    },
    "img": {
        "observation.image": Source("img", as_images),
        "observation.state": Source("state", as_vectors),
        "action": Source("action", as_vectors),
    },
}


def read_zarr(
    path: Path,
    layout: str | None = None,
    key_map: Mapping[str, str] | None = None,
    keys: list[str] | None = None,
    fps: float | None = None,
) -> Episodes:
    """Read a recording.

    Args:
        path: a zarr group as a folder or a .zip file.
        layout: ``pusht``, ``robofactory`` or ``img``; what the file itself says when None.
        key_map: the file's key -> its name here, in place of a layout.
        keys: which keys to read, by their names here; all when None.
        fps: frames per second; what the file itself says when None.

    Raises:
        RobodiffError: no recording there, or a broken one; the message names the file, the key and the first bad frame.
        UsageError: an unknown layout, or neither a layout nor a key map for a file that needs one.
    """
    with _open(path) as group:
        attributes = _attributes(group, path)
        data, meta = _child(group, path, "data"), _child(group, path, "meta")
        sources = _sources(path, data, layout or attributes.get("layout"), key_map)
        fps = fps or attributes.get("fps")
        if fps is None:
            raise UsageError(f"{path}: does not say how many frames a second it has; set fps")
        read = list(sources) if keys is None else recorded_keys(str(path), keys, sources)
        wanted = {key: source for key, source in sources.items() if key in read}
        stored = {source.file_key: _array(data, path, source.file_key) for source in wanted.values()}
        stopped = attributes.get("complete") is False
        ends = _episode_ends(meta, path, frames=min(array.shape[0] for array in stored.values()), stopped=stopped)
        lengths = {f"data/{key}": array.shape[0] for key, array in stored.items()}
        if stopped and ends.size:  # what a writer that was stopped within an episode left of it is not read
            lengths = {key: min(length, int(ends[-1])) for key, length in lengths.items()}
        check_lengths(str(path), lengths, ends)
        found = {key: decoded(path, f"data/{key}", array, int(ends[-1])) for key, array in stored.items()}
        check_finite(str(path), {f"data/{key}": array for key, array in found.items()}, ends)
        arrays, features, faults = {}, {}, []
        for key, source in wanted.items():
            try:
                arrays[key] = source.convert(str(path), f"data/{source.file_key}", found[source.file_key])
            except RecordingError as error:
                faults += error.findings
                continue
            features[key] = Feature.of(arrays[key], unit=source.unit)
        if faults:
            raise RecordingError(str(path), list(dict.fromkeys(faults)))
        table = {name: _column(meta, path, name, len(ends)) for name in meta if name != "episode_ends"}
        unread = [f"data/{key}" for key in data if key not in stored]
    return Episodes(str(path), arrays, ends.astype(np.int64), float(fps), features, table, unread=unread)


def written_ends(ends: np.ndarray) -> np.ndarray:
    """Drop the end that a stopped writer made room for and did not write: zarr lengthens an array, then fills it."""
    return ends[:-1] if ends.size and ends[-1] == 0 else ends


@contextmanager
def _open(path: Path) -> Iterator[zarr.Group]:
    if not (path.is_file() or path.is_dir()):
        raise RobodiffError(f"{path}: no such file or folder")
    if path.is_file() and is_hdf5(path):
        raise UsageError(f"{path}: is an HDF5 file; set --data RobomimicDataModule")
    with reading(path, "a zarr group (a folder or a .zip)"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files beside the arrays, codecs on their way into the zarr 3 standard
        _check_files(path)
        store: Any = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
        try:
            yield zarr.open_group(store, mode="r")
        finally:
            if path.is_file():
                store.close()


def _check_files(path: Path) -> None:
    """Refuse what has no end, or would be unpacked into more than memory holds: zarr reads every file as a whole."""
    for folder, _, names in os.walk(path):
        for file in (os.path.join(folder, name) for name in names):
            if not os.path.isfile(file):  # not Path: there may be a million chunks
                raise RobodiffError(f"{file}: is neither a file nor a folder; remove it")
    if path.is_dir():
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > memory_free() / 3:
                raise RobodiffError(f"{path}: {member.filename} unpacks to {member.file_size / 1e9:.1f} GB, more than "
                                    "memory has room for")  # fmt: skip


def _attributes(group: zarr.Group, path: Path) -> dict[str, Any]:
    """What a recording that robodiff wrote says of itself; nothing for those of others."""
    found: Any = group.attrs.get(ATTRIBUTE, {})
    found = found if isinstance(found, dict) else {}
    fps, layout = found.get("fps"), found.get("layout")
    if fps is not None and not (isinstance(fps, (int, float)) and 0 < fps < math.inf):
        raise RobodiffError(f"{path}: its attributes say fps {fps!r}; expected a number above 0")
    if layout is not None and not isinstance(layout, str):
        raise RobodiffError(f"{path}: its attributes say layout {layout!r}; expected a name")
    return found


def _child(group: zarr.Group, path: Path, name: str) -> Any:
    child = group.get(name)
    if not isinstance(child, zarr.Group):
        raise RobodiffError(f"{path}: has no group {name}/; expected data/<key> arrays and meta/episode_ends")
    return child


def _array(group: Any, path: Path, name: str) -> Any:
    """An array with something in each row, which can be decoded without unpickling."""
    array, key = group[name], f"{group.basename}/{name}"
    if not isinstance(array, zarr.Array) or array.ndim == 0 or 0 in array.shape[1:] or 0 in array.chunks:
        found = "a group" if isinstance(array, zarr.Group) else f"shape {array.shape}"
        message = f"{key} must be an array with something in each row, one a frame or an episode; found {found}"
        raise RecordingError(str(path), [Finding("fatal", "form", message, "write it again", key)])
    codecs = [*array.filters, *array.compressors]
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in codecs):
        raise RobodiffError(f"{path}: {key} is pickled, and a pickle may run any code; write it again without")
    return array


def _episode_ends(meta: Any, path: Path, frames: int, stopped: bool) -> np.ndarray:
    if "episode_ends" not in meta:
        raise RobodiffError(f"{path}: meta/episode_ends is missing; it says after which frame each episode ends")
    array = _array(meta, path, "episode_ends")
    if array.shape[0] > frames:
        raise RobodiffError(f"{path}: meta/episode_ends has {array.shape[0]} episodes, but there are {frames} frames")
    ends = decoded(path, "meta/episode_ends", array, array.shape[0])
    return written_ends(ends) if stopped else ends


def _column(meta: Any, path: Path, name: str, episodes: int) -> list[Any]:
    array = _array(meta, path, name)
    if array.shape[0] < episodes:  # a writer that was stopped leaves one more
        raise RobodiffError(f"{path}: meta/{name} has {array.shape[0]} rows, but there are {episodes} episodes")
    return decoded(path, f"meta/{name}", array, episodes).tolist()


def _sources(path: Path, data: zarr.Group, layout: str | None, key_map: Mapping[str, str] | None) -> dict[str, Source]:
    there = sorted(data.keys())
    if key_map is not None:
        sources = {name: Source(file_key, _by_shape) for file_key, name in key_map.items()}
    elif layout is not None:
        if layout not in LAYOUTS:
            raise UsageError(
                f"unknown layout {layout!r}; there is {', '.join(LAYOUTS)}.{nearest(layout, list(LAYOUTS))}"
            )
        sources = LAYOUTS[layout]
        sources = {key: s for key, s in sources.items() if not (s.optional and s.file_key not in there)}
    elif "action" in there and any(key.startswith("observation.") for key in there):
        sources = {key: Source(key, _by_shape) for key in there}
    else:
        raise UsageError(f"{path}: holds data/{', data/'.join(there)}; say what they are with layout "
                         f"({', '.join(LAYOUTS)}) or with key_map, such as {{state: observation.state}}")  # fmt: skip
    absent = sorted({source.file_key for source in sources.values()} - {*there})
    if absent:
        it_holds = f"it holds data/{', data/'.join(there)}"
        advice = "choose another layout or a key map"
        raise RecordingError(
            str(path),
            [Finding("fatal", "keys", f"data/{k} is missing; {it_holds}", advice, f"data/{k}") for k in absent],
        )
    return sources


def _by_shape(source: str, key: str, array: np.ndarray) -> np.ndarray:
    return as_images(source, key, array) if array.ndim == 4 else as_vectors(source, key, array)
