"""Read zarr recordings: what a group holds is listed and checked before any of it is decoded."""

import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import zarr
import zarr.storage

from robodiff.data.cache import decoded, folder_of, memory_free
from robodiff.data.episodes import CHANNELS, WHERE, Feature, Finding, RecordingError, check_ends, kind_of, unequal
from robodiff.data.formats.zarr import ZarrConfig, find_layout
from robodiff.data.images import Resized, target_size
from robodiff.data.naming import usual_names
from robodiff.data.recordings import Recording, Stored
from robodiff.documents import Above, convert
from robodiff.errors import RobodiffError
from robodiff.files import reading

ATTRIBUTE = "robodiff"
WHAT = "a zarr group (a folder or a .zip)"


class Attributes(msgspec.Struct):
    """What a recording that robodiff wrote says of itself."""

    fps: Annotated[float, Above(0)] | None = None
    layout: str | None = None
    complete: bool = True
    """False while a writer is at work, or was stopped."""


def open_zarr(path: Path, config: ZarrConfig) -> Recording:
    """Return what a group holds.

    Raises:
        RobodiffError: no recording there, or one in which episodes have no ends.
    """
    if not path.exists():
        raise RobodiffError(f"{path}: no such file or folder")
    with reading(path, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files beside the arrays, codecs on their way into the zarr 3 standard
        check_files(path)
        store: Any = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
        group = zarr.open_group(store, mode="r")
        own = _attributes(group, path)
        data, meta = _child(group, path, "data"), _child(group, path, "meta")
        frames = max((array.shape[0] for _, array in data.arrays() if array.ndim), default=0)
        ends = check_ends(str(path), _episode_ends(meta, path, frames, stopped=not own.complete))
        arrays = {f"data/{key}": data[key] for key in sorted(data)}
        names = usual_names({key: _kind(array) for key, array in arrays.items()})
        if any(name and name.startswith("observation.") and key.endswith(name) for key, name in names.items()):
            names = {key: key.removeprefix("data/") for key in arrays}  # names are ours, others' included
        stored = {
            key: _stored(path, key, array, names[key], ends, config, stopped=not own.complete)
            for key, array in arrays.items()
        }
        table = {name: _column(meta, path, name, len(ends)) for name in meta if name not in ("episode_ends", *WHERE)}
    layout = config.layout or own.layout
    return Recording(str(path), stored, ends, own.fps, table=table, layout=find_layout(layout) if layout else None)


def written_ends(ends: np.ndarray) -> np.ndarray:
    """Drop the end that a stopped writer made room for and did not write: zarr lengthens an array, then fills it."""
    return ends[:-1] if ends.size and ends[-1] == 0 else ends


def check_files(path: Path) -> None:
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


def _attributes(group: zarr.Group, path: Path) -> Attributes:
    attributes: Any = group.attrs.get(ATTRIBUTE, {})
    try:
        return convert(attributes if isinstance(attributes, dict) else {}, Attributes)
    except ValueError as error:
        raise RobodiffError(f"{path}: its attributes say {error}") from None


def _child(group: zarr.Group, path: Path, name: str) -> zarr.Group:
    child = group.get(name)
    if not isinstance(child, zarr.Group):
        raise RobodiffError(f"{path}: has no group {name}/; expected data/<key> arrays and meta/episode_ends")
    return child


def _kind(array: Any) -> str | None:
    return kind_of(array.shape[1:], array.dtype) if isinstance(array, zarr.Array) and array.ndim else None


def _stored(
    path: Path, key: str, array: Any, name: str | None, ends: np.ndarray, config: ZarrConfig, stopped: bool
) -> Stored:
    """Return an array as what can be read of it, with what is wrong with it."""
    if faults := list(_faults(key, array)):
        return Stored((), "no array", lambda: np.zeros(0), name, faults=faults)
    # what a writer that was stopped within an episode left of it is not read
    if not (stopped and ends.size and array.shape[0] > ends[-1]):
        faults = unequal(key, array.shape[0], ends)
    frame, kind, make = array.shape[1:], _kind(array), None
    feature = Feature("vector", (math.prod(frame),), "float32", *_names_and_unit(array)) if kind == "vector" else None
    if kind == "image":
        channels, height, width = frame if frame[0] in CHANNELS else (frame[2], *frame[:2])
        size = target_size(config.resize_shape, height, width)
        feature = Feature("image", (channels, *(size or (height, width))), "uint8")
        make = Resized(str(path), key, size) if size else None

    def read() -> np.ndarray:
        with reading(path, WHAT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decoded(path, key, array, int(ends[-1]), make, folder_of(config.cache_dir))

    return Stored(frame, str(array.dtype), read if kind else None, name, feature, faults)


def _names_and_unit(array: Any) -> tuple[tuple[str, ...] | None, str | None]:
    """Return what robodiff's writer says of the dimensions; what others say by these names counts if it fits."""
    names, unit = array.attrs.get("names"), array.attrs.get("unit")
    fits = isinstance(names, list) and len(names) == math.prod(array.shape[1:]) and all(type(n) is str for n in names)
    return tuple(names) if fits else None, unit if isinstance(unit, str) else None


def _faults(key: str, array: Any) -> Iterator[Finding]:
    """Find what has nothing in each row, and what could only be unpickled."""
    if not isinstance(array, zarr.Array) or array.ndim == 0 or 0 in array.shape[1:] or 0 in array.chunks:
        what = "a group" if isinstance(array, zarr.Group) else f"shape {array.shape}"
        message = f"{key} must be an array with something in each row, one a frame or an episode; found {what}"
        yield Finding("fatal", "form", message, "write it again", key)
    elif any(getattr(codec, "codec_id", None) == "pickle" for codec in (*array.filters, *array.compressors)):
        message = f"{key} is pickled, and a pickle may run any code"
        yield Finding("fatal", "form", message, "write it again without", key)


def decodable(path: Path, key: str, array: Any) -> Any:
    """Return an array that can be decoded without unpickling; ``RecordingError`` else."""
    if faults := list(_faults(key, array)):
        raise RecordingError(str(path), faults)
    return array


def _episode_ends(meta: zarr.Group, path: Path, frames: int, stopped: bool) -> np.ndarray:
    if "episode_ends" not in meta:
        raise RobodiffError(f"{path}: meta/episode_ends is missing; it says after which frame each episode ends")
    array = decodable(path, "meta/episode_ends", meta["episode_ends"])
    if array.shape[0] > frames:
        raise RobodiffError(f"{path}: meta/episode_ends has {array.shape[0]} episodes, but there are {frames} frames")
    ends = decoded(path, "meta/episode_ends", array, array.shape[0])
    return written_ends(ends) if stopped else ends


def _column(meta: zarr.Group, path: Path, name: str, episodes: int) -> list[Any]:
    array = decodable(path, f"meta/{name}", meta[name])
    if array.shape[0] < episodes:  # a writer that was stopped leaves one more
        raise RobodiffError(f"{path}: meta/{name} has {array.shape[0]} rows, but there are {episodes} episodes")
    return decoded(path, f"meta/{name}", array, episodes).tolist()
