"""Read zarr recordings: what a group holds is listed and checked before any of it is decoded."""

import math
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import zarr

from robodiff.data.arrays import Gap, check_ends, kind_of, unequal, unwritten
from robodiff.data.cache import MOST_CHUNKS_PER_FRAME, decoded, folder_of
from robodiff.data.episodes import WHERE, Feature, Finding, RecordingError, Unit, texts_of
from robodiff.data.formats.encoded import LOOKED_AT, Decoder, encoded_shape, may_be_encoded
from robodiff.data.formats.pieces import hwc
from robodiff.data.formats.zarr import ZarrConfig, find_layout
from robodiff.data.formats.zarr_store import WHAT, BoundedStore, gaps_in, opening
from robodiff.data.images import Resized, target_size
from robodiff.data.naming import usual_names
from robodiff.data.stored import Recording, Stored
from robodiff.documents import Above, convert
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.text import counted

ATTRIBUTE = "robodiff"


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
    with opening(path) as store:
        # Metadata that were consolidated are as old as that is: arrays may have grown since.
        group = zarr.open_group(store, path=_only_folder(store), mode="r", use_consolidated=False)
        own = convert(group.attrs.get(ATTRIBUTE, {}), Attributes)
        for place, kind in (("data", zarr.Group), ("meta", zarr.Group), ("meta/episode_ends", zarr.Array)):
            if not isinstance(group.get(place), kind):
                raise RobodiffError(f"{path}: has no {place}; expected data/<key> arrays and meta/episode_ends")
        data, meta = _members(store, group["data"]), _members(store, group["meta"])
        frames = max(
            (array.shape[0] for array in data.values() if isinstance(array, zarr.Array) and array.ndim), default=0
        )
        ends = _column(store, meta, "episode_ends", most=frames)
        ends = check_ends(str(path), ends if own.complete else written_ends(ends))
        arrays = {f"data/{key}": data[key] for key in sorted(data)}
        names = usual_names({key: _kind(path, key, array) for key, array in arrays.items()})
        if any(name and name.startswith("observation.") and key.endswith(name) for key, name in names.items()):
            names = {key: key.removeprefix("data/") for key in arrays}  # names are ours, others' included
        names |= {key: name for key, array in arrays.items() if isinstance(name := _attributes(array).get("name"), str)}
        stored = {key: _stored(store, key, array, names[key], ends, config, own) for key, array in arrays.items()}
        table, findings = {}, []
        for name in (name for name in meta if name not in ("episode_ends", *WHERE)):
            try:
                table[name] = _column(store, meta, name, rows=len(ends)).tolist()
            except RecordingError as error:
                findings += (replace(each, severity="warning") for each in error.findings)
        others = [name for name in _names(store, group.path) if name not in ("data", "meta")]
    layout = find_layout(name) if (name := config.layout or own.layout) else None
    return Recording(str(path), stored, ends, own.fps, table=table, layout=layout, others=others, findings=findings)


def _only_folder(store: BoundedStore) -> str:
    """Return the folder of the group in a .zip that holds a folder and nothing else, as archivers pack them."""
    tops = {name.partition("/")[0] for name in store.names}
    is_deeper = len(tops) == 1 and store.path.is_file() and all("/" in name for name in store.names)
    return tops.pop() if is_deeper else ""


def _members(store: BoundedStore, group: Any) -> dict[str, Any]:
    """Return the arrays and groups in a group; where one cannot be opened, what is wrong with it."""
    members: dict[str, Any] = {}
    for name in _names(store, group.path):
        try:
            with reading(store.path, WHAT):
                members[name] = group[name]
        except RobodiffError as error:
            members[name] = f"cannot be read: {error}"
    return members


def _names(store: BoundedStore, folder: str) -> list[str]:
    """Return the folders in one of a store, in each of which is an array or a group."""
    prefix = f"{folder}/" if folder else ""
    inner = (name.removeprefix(prefix) for name in store.names if name.startswith(prefix))
    return sorted({name.partition("/")[0] for name in inner if "/" in name})


def written_ends(ends: np.ndarray) -> np.ndarray:
    """Drop the end that a stopped writer made room for and did not write: zarr lengthens an array, then fills it."""
    return ends[:-1] if ends.size and ends[-1] == 0 else ends


def _kind(path: Path, key: str, array: Any) -> str | None:
    if not isinstance(array, zarr.Array) or not array.ndim:
        return None
    if shape := _picture_shape(path, key, array):
        return "image" if shape[2] else None
    return kind_of(array.shape[1:], array.dtype)


def _picture_shape(path: Path, key: str, array: Any) -> tuple[int, int, int] | None:
    """Return (H, W, C) of the pictures that the rows of an array are; None where they are none."""
    is_empty = 0 in array.shape or 0 in array.chunks
    if is_empty or not may_be_encoded(array.shape[1:], array.dtype):
        return None
    return encoded_shape(decode(path, key, array, min(LOOKED_AT, array.shape[0])))


def _stored(
    store: BoundedStore,
    key: str,
    array: Any,
    name: str | None,
    ends: np.ndarray,
    config: ZarrConfig,
    own: Attributes,
) -> Stored:
    """Return an array as what can be read of it, with what is wrong with it."""
    path = store.path
    if message := fault_of(store, array):
        fault = Finding("fatal", "form", f"{key} {message}", "write it again", key)
        return Stored((), "no array", lambda: np.zeros(0), name, faults=[fault])
    # what a writer that was stopped within an episode left of it is not read
    is_longer = not own.complete and array.shape[0] > ends[-1]
    faults = [] if is_longer else unequal(key, array.shape[0], ends)
    frame, kind, make, feature = array.shape[1:], _kind(path, key, array), None, None
    gaps, fault = find_gaps(store, array) if kind and not faults else ([], "")
    faults = [Finding("fatal", "form", f"{key} {fault}", "write it again", key)] if fault else faults
    if kind == "image" and (pixels := _picture_shape(path, key, array)):
        size = target_size(config.resize_shape, *pixels[:2])
        make = Decoder(f"{path}: {key}", pixels, resize=size)
        feature = Feature("image", (pixels[2], *(size or pixels[:2])), "uint8")
    elif kind == "vector":
        feature = Feature("vector", (math.prod(frame),), "float32", *_names_and_unit(array))
    elif kind == "image":
        height, width, channels = hwc(frame)
        size = target_size(config.resize_shape, height, width)
        feature = Feature("image", (channels, *(size or (height, width))), "uint8")
        make = Resized(str(path), key, size) if size else None
    read = partial(decode, path, key, array, int(ends[-1]), make, folder_of(config.cache_dir))
    return Stored(frame, str(array.dtype), read if kind else None, name, feature, faults, unwritten(key, gaps, ends))


def decode(path: Path, key: str, array: Any, frames: int, *more: Any) -> np.ndarray:
    """Return the first frames of an array, as ``cache.decoded`` does; errors name the file."""
    with reading(path, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decoded(path, key, array, frames, *more)


def _attributes(array: Any) -> dict[str, Any]:
    return array.attrs.asdict() if isinstance(array, zarr.Array) else {}


def _names_and_unit(array: Any) -> tuple[tuple[str, ...] | None, Unit]:
    """Return what robodiff's writer says of the dimensions; what others say by these names counts if it fits."""
    attributes = _attributes(array)
    size, unit = math.prod(array.shape[1:]), attributes.get("unit")
    return texts_of(attributes.get("names"), size), unit if isinstance(unit, str) else texts_of(unit, size)


def fault_of(store: BoundedStore, array: Any) -> str:
    """Return why an array cannot be read, as far as its head tells; empty where nothing is wrong."""
    if isinstance(array, str):
        return array
    if not isinstance(array, zarr.Array) or array.ndim == 0 or 0 in array.shape[1:] or 0 in array.chunks:
        kind = "a group" if isinstance(array, zarr.Group) else f"shape {array.shape}"
        return f"must be an array with something in each row, one a frame or an episode; found {kind}"
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in (*array.filters, *array.compressors)):
        return "is pickled, and a pickle may run any code"
    return ""


def find_gaps(store: BoundedStore, array: Any) -> tuple[list[Gap], str]:
    """Return the frames of an array that were never written, or why that cannot be told."""
    if array.nchunks > 10 * (len(store.names) + MOST_CHUNKS_PER_FRAME):
        return [], f"has {array.nchunks:,} chunks, of which most were never written"
    if codec := store.chunks[array.path].unknown:
        return [], f"is encoded by {codec}, of which it is not known how much it makes of a chunk"
    return gaps_in(store, array), ""


def _column(
    store: BoundedStore, meta: dict[str, Any], name: str, rows: int | None = None, most: int | None = None
) -> np.ndarray:
    """Return what ``meta/`` says of each episode: of so many, where a stopped writer may have left one more."""
    array, message = meta[name], fault_of(store, meta[name])
    count = 0 if message else array.shape[0]
    if not message and (count < (rows or 0) or (most is not None and count > most)):
        whole = f"{counted(count, 'row')}, but there are {most} frames"
        message = f"has {whole if rows is None else f'{count} of {rows} rows'}"
    if not message:
        gaps, message = find_gaps(store, array)
        message = f"was never written from row {gaps[0][0]} on" if gaps else message
    if message:
        fault = Finding("fatal", "form", f"meta/{name} {message}", "write it again", f"meta/{name}")
        raise RecordingError(str(store.path), [fault])
    return decode(store.path, f"meta/{name}", array, count if rows is None else rows)
