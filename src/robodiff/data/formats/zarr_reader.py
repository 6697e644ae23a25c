"""Read zarr recordings: what a group holds is listed and checked before any of it is decoded."""

import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import zarr
import zarr.storage

from robodiff.data.cache import decoded, folder_of
from robodiff.data.episodes import WHERE, Feature, Finding, RecordingError, check_ends, kind_of, unequal
from robodiff.data.formats.pieces import check_room, hwc
from robodiff.data.formats.zarr import ZarrConfig, find_layout
from robodiff.data.images import Resized, target_size
from robodiff.data.naming import usual_names
from robodiff.data.recordings import Recording, Stored
from robodiff.documents import Above, convert
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.text import counted

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
    with opening(path):
        store: Any = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
        group = zarr.open_group(store, mode="r")
        own = convert(group.attrs.get(ATTRIBUTE, {}), Attributes)
        for place, kind in (("data", zarr.Group), ("meta", zarr.Group), ("meta/episode_ends", zarr.Array)):
            if not isinstance(group.get(place), kind):
                raise RobodiffError(f"{path}: has no {place}; expected data/<key> arrays and meta/episode_ends")
        data: Any = group["data"]
        meta: Any = group["meta"]
        frames = max((array.shape[0] for _, array in data.arrays() if array.ndim), default=0)
        ends = _column(meta, path, "episode_ends", most=frames)
        ends = check_ends(str(path), ends if own.complete else written_ends(ends))
        arrays = {f"data/{key}": data[key] for key in sorted(data)}
        names = usual_names({key: _kind(array) for key, array in arrays.items()})
        if any(name and name.startswith("observation.") and key.endswith(name) for key, name in names.items()):
            names = {key: key.removeprefix("data/") for key in arrays}  # names are ours, others' included
        stored = {key: _stored(path, key, array, names[key], ends, config, own) for key, array in arrays.items()}
        columns = [name for name in meta if name not in ("episode_ends", *WHERE)]
        table = {name: _column(meta, path, name, rows=len(ends)).tolist() for name in columns}
    layout = config.layout or own.layout
    return Recording(str(path), stored, ends, own.fps, table=table, layout=find_layout(layout) if layout else None)


def written_ends(ends: np.ndarray) -> np.ndarray:
    """Drop the end that a stopped writer made room for and did not write: zarr lengthens an array, then fills it."""
    return ends[:-1] if ends.size and ends[-1] == 0 else ends


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Name the file in what goes wrong, and refuse what has no end or unpacks to more than memory holds.

    zarr reads every file as a whole.
    """
    with reading(path, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files beside the arrays, codecs on their way into the zarr 3 standard
        for folder, _, names in os.walk(path):
            for file in (os.path.join(folder, name) for name in names):
                if not os.path.isfile(file):  # not Path: there may be a million chunks
                    raise RobodiffError(f"{file}: is neither a file nor a folder; remove it")
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    check_room(f"{path}: {member.filename}", (member.file_size,))
        yield


def _kind(array: Any) -> str | None:
    return kind_of(array.shape[1:], array.dtype) if isinstance(array, zarr.Array) and array.ndim else None


def _stored(
    path: Path, key: str, array: Any, name: str | None, ends: np.ndarray, config: ZarrConfig, own: Attributes
) -> Stored:
    """Return an array as what can be read of it, with what is wrong with it."""
    if message := fault_of(array):
        fault = Finding("fatal", "form", f"{key} {message}", "write it again", key)
        return Stored((), "no array", lambda: np.zeros(0), name, faults=[fault])
    # what a writer that was stopped within an episode left of it is not read
    is_longer = not own.complete and array.shape[0] > ends[-1]
    faults = [] if is_longer else unequal(key, array.shape[0], ends)
    frame, kind, make, feature = array.shape[1:], _kind(array), None, None
    if kind == "vector":
        feature = Feature("vector", (math.prod(frame),), "float32", *_names_and_unit(array))
    elif kind == "image":
        height, width, channels = hwc(frame)
        size = target_size(config.resize_shape, height, width)
        feature = Feature("image", (channels, *(size or (height, width))), "uint8")
        make = Resized(str(path), key, size) if size else None

    read = partial(decode, path, key, array, int(ends[-1]), make, folder_of(config.cache_dir))
    return Stored(frame, str(array.dtype), read if kind else None, name, feature, faults)


def decode(path: Path, key: str, array: Any, frames: int, *more: Any) -> np.ndarray:
    """Return the first frames of an array, as ``cache.decoded`` does; errors name the file."""
    with reading(path, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decoded(path, key, array, frames, *more)


def _names_and_unit(array: Any) -> tuple[tuple[str, ...] | None, str | None]:
    """Return what robodiff's writer says of the dimensions; what others say by these names counts if it fits."""
    names, unit = array.attrs.get("names"), array.attrs.get("unit")
    fits = isinstance(names, list) and len(names) == math.prod(array.shape[1:]) and all(type(n) is str for n in names)
    return tuple(names) if fits else None, unit if isinstance(unit, str) else None


def fault_of(array: Any) -> str:
    """Return why something has nothing in each row, or could only be unpickled; empty where nothing is wrong."""
    if not isinstance(array, zarr.Array) or array.ndim == 0 or 0 in array.shape[1:] or 0 in array.chunks:
        kind = "a group" if isinstance(array, zarr.Group) else f"shape {array.shape}"
        return f"must be an array with something in each row, one a frame or an episode; found {kind}"
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in (*array.filters, *array.compressors)):
        return "is pickled, and a pickle may run any code"
    return ""


def _column(meta: Any, path: Path, name: str, rows: int | None = None, most: int | None = None) -> np.ndarray:
    """Return what ``meta/`` says of each episode: of so many, where a stopped writer may have left one more."""
    message = fault_of(meta[name])
    count = 0 if message else meta[name].shape[0]
    if not message and (count < (rows or 0) or (most is not None and count > most)):
        whole = f"{counted(count, 'row')}, but there are {most} frames"
        message = f"has {whole if rows is None else f'{count} of {rows} rows'}"
    if message:
        fault = Finding("fatal", "form", f"meta/{name} {message}", "write it again", f"meta/{name}")
        raise RecordingError(str(path), [fault])
    return decoded(path, f"meta/{name}", meta[name], count if rows is None else rows)
