"""robomimic's HDF5 files: a group ``data/demo_<n>`` a demonstration, with ``actions`` and ``obs/<key>``.

Images ``obs/<camera>_image`` are called ``observation.images.<camera>`` here, and ``obs/image`` ``observation.image``;
numbers ``obs/<key>`` are ``observation.<key>``, and ``actions`` is ``action``. ``states``, the simulator's own, are no
observation and are not read. ``mask/<filter key>`` lists demonstrations by name.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robodiff.data.cache import Part, assembled
from robodiff.data.episodes import (
    ACTION,
    MASK,
    PAST_ACTION,
    Episodes,
    Feature,
    Finding,
    RecordingError,
    as_vectors,
    check_finite,
)
from robodiff.data.formats import robomimic_meta as meta
from robodiff.data.formats.lerobot.video import resized
from robodiff.data.formats.shape_meta import check_features, named
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.files import reading

FRAMES_PER_PART = 2000  # few seconds of work to lose, and no file to sync for each short demonstration
BLOCK = 2**25  # bytes of images in memory at once, by each thread


@dataclass(frozen=True)
class Source:
    """How each demonstration stores one key."""

    place: str
    """``actions``, or ``obs/<key>``."""
    feature: Feature
    """What one frame of it is here, as recorded."""


def read_robomimic(
    path: Path,
    keys: list[str] | None = None,
    episodes: list[int] | None = None,
    filter_key: str | None = None,
    val_filter_key: str | None = None,
    shape_meta: Mapping[str, Any] | None = None,
    fps: float | None = None,
    resize_shape: tuple[int, int] | None = None,
    cache: Path | None = None,
) -> Episodes:
    """Read a file; images of keys that are not asked for stay untouched.

    Args:
        path: the HDF5 file.
        keys: which keys to read, by their names here; all observations and the action when None.
        episodes: which demonstrations, by their number from 0 in the file's order, filters or not; all when None.
        filter_key: the name in ``mask/`` of those to train on; all that are not held out when None.
        val_filter_key: the name in ``mask/`` of those to hold out, which are read, too; none when None.
        shape_meta: which keys to read at most, by their names in the file, and of what shape and type they must be.
        fps: frames per second; what ``env_args`` says (``control_freq``) when None.
        resize_shape: height and width of the images that are made of it; the recorded size when None.
        cache: folder of the images as raw arrays; that of ``robodiff.data.cache`` when None.

    Returns:
        The chosen demonstrations alone, in the file's order; in the table ``demo`` has their names, ``episode_index``
        their numbers, and ``mask.<filter key>`` whether they are in it.

    Raises:
        RobodiffError: no such file, a broken one, or one that is not what ``shape_meta`` says; the message names the
            file, the key and the demonstration.
        UsageError: episodes or filter keys that there are not, or a file that does not say its rate.
    """
    if not path.is_file():
        raise RobodiffError(f"{path}: no such file")
    with reading(path, "an HDF5 file"), h5py.File(path, "r", locking="best-effort") as file:
        names, masks = meta.demonstrations(path, file), meta.read_masks(path, file)
        numbers = meta.choose(path, names, masks, filter_key, val_filter_key, episodes)
        data: Any = file["data"]
        demos = {names[number]: data[names[number]] for number in numbers}
        environment = meta.environment(data)
        fps = fps or meta.control_frequency(environment)
        if fps is None:
            raise UsageError(f"{path}: does not say how many frames a second it has (env_args has no control_freq); "
                             "set fps, which is 20 for most of robosuite's")  # fmt: skip
        sources = _wanted(path, *_sources(path, *next(iter(demos.items()))), keys, shape_meta)
        ends = np.cumsum(_lengths(path, demos, sources))
        places = {key: source.place for key, source in sources.items()}
        arrays = _vectors(path, demos, sources, ends)
        for key, source in sources.items():
            if source.feature.kind == "image":
                arrays[key] = _images(path, demos, source, ends, resize_shape, cache)
        table = meta.attributes(demos)
        about = {"env_args": environment} if environment else {}
        unread = _unread(data, demos, {"total", "num_samples", "obs", *about, *table, *places.values()})
        table |= {MASK + key: [name in listed for name in demos] for key, listed in masks.items()}
        table |= {"demo": list(demos), "episode_index": numbers}
    features = {key: Feature.of(arrays[key]) for key in sources}
    arrays = {key: arrays[key] for key in sources}
    return Episodes(str(path), arrays, ends, float(fps), features, table, about, places, unread)


def _sources(path: Path, name: str, demo: Any) -> tuple[dict[str, Source], dict[str, str]]:
    """By their names here, how keys are stored in a demonstration; and by its place, what of it is neither numbers nor
    images."""
    obs = demo.get("obs")
    if not isinstance(obs, h5py.Group):
        raise RobodiffError(f"{path}: data/{name} has no group obs/; extract the observations first, with robomimic's "
                            "dataset_states_to_obs.py")  # fmt: skip
    sources: dict[str, Source] = {}
    others: dict[str, str] = {}
    for place in [*(f"obs/{key}" for key in obs), *(["actions"] if "actions" in demo else [])]:
        feature = _feature(demo.get(place))
        if feature is None:
            others[place] = f"{_stored(demo.get(place))}, neither numbers (L, D) nor uint8 images (L, H, W, C)"
            continue
        key = ACTION if place == "actions" else f"observation.{place.removeprefix('obs/')}"
        if feature.kind == "image" and key != "observation.image":
            key = f"observation.images.{place.removeprefix('obs/').removesuffix('_image')}"
        if key in sources:
            raise RobodiffError(
                f"{path}: {sources[key].place} and {place} would both be called {key}; rename one of them"
            )
        sources[key] = Source(place, feature)
    return sources, others


def _feature(dataset: Any) -> Feature | None:
    """What one frame of a dataset is; None where it is neither numbers nor images."""
    if not isinstance(dataset, h5py.Dataset) or not dataset.ndim or 0 in dataset.shape[1:]:
        return None
    if dataset.ndim == 4 and dataset.dtype == np.uint8 and dataset.shape[3] in (1, 3, 4):
        height, width, channels = dataset.shape[1:]
        return Feature("image", (channels, height, width), "uint8")
    if dataset.ndim < 4 and dataset.dtype.kind in "biuf":
        return Feature("vector", (math.prod(dataset.shape[1:]),), "float32")
    return None


def _stored(dataset: Any) -> str:
    return f"{dataset.dtype} {dataset.shape}" if isinstance(dataset, h5py.Dataset) else "no array"


def _wanted(
    path: Path,
    sources: dict[str, Source],
    others: Mapping[str, str],
    keys: list[str] | None,
    shape_meta: Mapping[str, Any] | None,
) -> dict[str, Source]:
    """The sources of the keys that are asked for, or of all."""
    if shape_meta is not None:
        there = {source.place: source.feature for source in sources.values()}
        check_features(str(path), shape_meta, {**there, **others})
        described = [key for key, source in sources.items() if source.place in named(shape_meta)]
        if missing := [key for key in keys or [] if key in sources and key not in described]:
            raise UsageError(f"{path}: data.shape_meta leaves out {missing[0]!r}, which is to be read; it names "
                             f"{', '.join(described)}")  # fmt: skip
        keys = keys or described
    unreadable = [f"{place} is {what}" for place, what in others.items()]
    for key in [ACTION, *(keys or [])]:
        if key not in sources and key != PAST_ACTION:
            raise RobodiffError(f"{path}: has no {key!r}; {'; '.join(['it has ' + ', '.join(sources), *unreadable])}")
    if keys is None:
        for what in unreadable:
            notice(f"{path}: {what}; left out")
    return {key: source for key, source in sources.items() if keys is None or key in keys}


def _lengths(path: Path, demos: meta.Demonstrations, sources: Mapping[str, Source]) -> list[int]:
    """Frames of each demonstration; every key must be in all, of one shape, and as long as its actions."""
    faults = [
        finding
        for episode, (name, demo) in enumerate(demos.items())
        for finding in _faults(partial(Finding, "fatal", episode=episode), f"data/{name}", demo, sources)
    ]
    if faults:
        raise RecordingError(str(path), faults)
    return [len(demo["actions"]) for demo in demos.values()]


def _faults(fault: "partial[Finding]", name: str, demo: Any, sources: Mapping[str, Source]) -> Iterator[Finding]:
    leave_out = "leave it out with data.episodes, or record it again"
    lengths = {"num_samples": int(demo.attrs["num_samples"])} if "num_samples" in demo.attrs else {}
    for place, feature in ((source.place, source.feature) for source in sources.values()):
        dataset = demo.get(place)
        if dataset is None:
            yield fault("keys", f"{name} has no {place}, which others have", leave_out, place)
        elif _feature(dataset) != feature:
            message = f"{place} of {name} is {_stored(dataset)}; expected {feature.kind}s of shape {feature.shape}"
            yield fault("form", message, leave_out, place)
        else:
            lengths[place] = len(dataset)
    frames = lengths.pop("actions", None)
    if frames == 0:
        yield fault("ends", f"{name} has no frames", leave_out)
    for place, length in lengths.items():
        if frames is not None and length != frames:
            message = f"{name} has arrays of unequal lengths: actions {frames}, {place} {length}"
            yield fault("unequal", message, leave_out, place)


def _vectors(
    path: Path, demos: meta.Demonstrations, sources: Mapping[str, Source], ends: np.ndarray
) -> dict[str, np.ndarray]:
    """Per key (N, D) float32."""
    vectors = {key: source.place for key, source in sources.items() if source.feature.kind == "vector"}
    found = {
        place: _rows(meta.values(path, place, [demo[place] for demo in demos.values()])) for place in vectors.values()
    }
    check_finite(str(path), found, ends, list(demos))
    return {key: as_vectors(str(path), place, found[place]) for key, place in vectors.items()}


def _unread(data: Any, demos: meta.Demonstrations, read: set[str]) -> list[str]:
    """The arrays, groups and attributes that are not among those that were read."""
    there = dict.fromkeys(data.attrs)
    for demo in demos.values():
        obs = demo.get("obs")
        seen = [f"obs/{key}" for key in obs] if isinstance(obs, h5py.Group) else []
        there |= dict.fromkeys([*demo, *seen, *demo.attrs])
    return [name for name in there if name not in read]


def _rows(parts: list[np.ndarray]) -> np.ndarray:
    """(N, D), of parts (L, ...) or (L,)."""
    return np.concatenate([part.reshape(len(part), -1) for part in parts])


def _images(
    path: Path,
    demos: meta.Demonstrations,
    source: Source,
    ends: np.ndarray,
    resize: tuple[int, int] | None,
    cache: Path | None,
) -> np.ndarray:
    """(N, C, H, W) uint8, memory-mapped."""
    channels, *size = source.feature.shape
    if resize is not None and channels != 3:
        raise UsageError(f"{path}: resize_shape is for colour images; {source.place} has {channels} channels")
    parts = []
    for _, group in groupby(zip(demos, ends.tolist(), strict=True), key=lambda demo: demo[1] // FRAMES_PER_PART):
        names = [name for name, _ in group]
        datasets = [demos[name][source.place] for name in names]
        recipe = f"{source.place} {names} {resize}"
        parts.append(Part(path, sum(map(len, datasets)), recipe, partial(_decode, path, datasets, resize)))
    return assembled(f"{path}: {source.place}", parts, (channels, *(resize or size)), np.dtype(np.uint8), cache)


def _decode(path: Path, datasets: list[Any], resize: tuple[int, int] | None) -> Iterator[np.ndarray]:
    """Images in blocks (n, C, H, W), of whole chunks, so that each is decompressed once."""
    with reading(path, "an HDF5 file"):
        for dataset in datasets:
            chunk = dataset.chunks[0] if dataset.chunks else 1
            step = chunk * max(1, BLOCK // (chunk * math.prod(dataset.shape[1:])))
            for start in range(0, len(dataset), step):
                images = dataset[start : start + step]  # (n, H, W, C)
                if resize is None:
                    yield images.transpose(0, 3, 1, 2)
                else:
                    yield np.stack([resized(image, resize) for image in images])
