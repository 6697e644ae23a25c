"""Read robomimic's HDF5 files: what demonstrations hold is compared before any image of theirs is read."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robodiff.data.cache import Part
from robodiff.data.episodes import ACTION, CHANNELS, MASK, Feature, Finding, RecordingError, kind_of
from robodiff.data.formats import robomimic_meta as meta
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.images import assembled_images, target_size
from robodiff.data.recordings import Recording, Stored
from robodiff.errors import RobodiffError, notice
from robodiff.files import reading

FRAMES_PER_PART = 2000  # to each thread its share, and no part for each short demonstration
BLOCK = 2**25  # bytes of images in memory at once, by each thread


def open_robomimic(path: Path, config: RobomimicConfig, keys: Sequence[str] | None) -> Recording:
    """Return what the chosen demonstrations hold, in the file's order.

    In the table ``demo`` has their names, ``episode_index`` their numbers, and ``mask.<filter key>`` whether they are in
    it.

    Raises:
        RobodiffError: no such file, a broken one, or one that is not what ``shape_meta`` says; the message names the
            file, the key and the demonstration.
        UsageError: episodes or filter keys that there are not.
    """
    if not path.is_file():
        raise RobodiffError(f"{path}: no such file")
    with reading(path, "an HDF5 file"):
        file = h5py.File(path, "r", locking="best-effort")  # which stays open as long as one of its arrays is known
        names, masks = meta.demonstrations(path, file), meta.read_masks(path, file)
        numbers = meta.choose(path, names, masks, config.filter_key, config.val_filter_key, config.episodes)
        data: Any = file["data"]
        demos = {names[number]: data[names[number]] for number in numbers}
        first, demo = next(iter(demos.items()))
        if not isinstance(demo.get("obs"), h5py.Group):
            raise RobodiffError(f"{path}: data/{first} has no group obs/; extract the observations first, with "
                                "robomimic's dataset_states_to_obs.py")  # fmt: skip
        places = {place: _feature(demo.get(place)) for place in _places(demo)}
        if config.shape_meta is not None:
            config.shape_meta.check(str(path), {p: f or _stored(demo.get(p)) for p, f in places.items()})
        lengths = _lengths(path, demos)
        ends = np.cumsum(lengths)
        arrays = {}
        for place, feature in places.items():
            name = _name(place, feature)
            if config.shape_meta is not None and place not in (*config.shape_meta.places, "actions"):
                name = None
            wanted = config.key_map is not None or (name is not None and (keys is None or name in keys))
            faults = _faults(demos, lengths, place, feature) if wanted and feature is not None else []
            arrays[place] = _array(path, demos, place, feature, ends, config, name, faults)
        others = [place for demo in demos.values() for place in _places(demo) if place not in arrays]
        arrays |= {place: Stored((), "not in every demonstration", None) for place in others}
        environment = meta.environment(data)
        table = meta.attributes(demos)
    if keys is None and config.key_map is None:
        for place, feature in places.items():
            if feature is None and place.startswith("obs/"):
                notice(f"{path}: {place} is {_stored(demo.get(place))}; left out")
    table |= {MASK + key: [name in listed for name in demos] for key, listed in masks.items()}
    table |= {"demo": list(demos), "episode_index": numbers}
    about = {"env_args": environment} if environment else {}
    return Recording(str(path), arrays, ends, meta.control_frequency(environment), list(demos), table, about)


def _places(demo: Any) -> list[str]:
    """Return where a demonstration has arrays."""
    groups = {name: demo.get(name) for name in demo}
    inner = [f"{name}/{key}" for name, group in groups.items() if isinstance(group, h5py.Group) for key in group]
    return inner + [name for name, group in groups.items() if not isinstance(group, h5py.Group)]


def _name(place: str, feature: Feature | None) -> str | None:
    """Return what an array is called here; None for what is no observation."""
    if place == "actions":
        return ACTION
    if not place.startswith("obs/") or feature is None:
        return None
    key = place.removeprefix("obs/")
    if feature.kind == "vector" or key == "image":
        return f"observation.{key}"
    return f"observation.images.{key.removesuffix('_image')}"


def _feature(dataset: Any) -> Feature | None:
    """Return what one frame of a dataset is; None where it is neither numbers nor images."""
    kind = kind_of(dataset.shape[1:], dataset.dtype) if isinstance(dataset, h5py.Dataset) and dataset.ndim else None
    if kind == "vector":
        return Feature("vector", (math.prod(dataset.shape[1:]),), "float32")
    if kind == "image" and dataset.dtype == np.uint8 and dataset.shape[3] in CHANNELS:
        height, width, channels = dataset.shape[1:]
        return Feature("image", (channels, height, width), "uint8")
    return None


def _stored(dataset: Any) -> str:
    what = f"{dataset.dtype} {dataset.shape}" if isinstance(dataset, h5py.Dataset) else "no array"
    return f"{what}, neither numbers (L, D) nor uint8 images (L, H, W, C)"


def _lengths(path: Path, demos: meta.Demonstrations) -> list[int]:
    """Return the frames of each demonstration: of its actions, where it has some."""
    lengths, faults = [], []
    for episode, (name, demo) in enumerate(demos.items()):
        said = int(demo.attrs["num_samples"]) if "num_samples" in demo.attrs else None
        actions = demo.get("actions")
        length = len(actions) if isinstance(actions, h5py.Dataset) and actions.ndim else said
        lengths.append(length or 0)
        if not length:
            faults.append(_fault("ends", f"data/{name} has no frames", "actions", episode))
        elif said not in (None, length):
            message = f"data/{name} has arrays of unequal lengths: actions {length}, num_samples {said}"
            faults.append(_fault("unequal", message, "num_samples", episode))
    if faults:
        raise RecordingError(str(path), faults)
    return lengths


def _faults(demos: meta.Demonstrations, lengths: list[int], place: str, feature: Feature) -> list[Finding]:
    """Find what is not in every demonstration, of one shape, and as long as the actions."""
    faults = []
    for episode, ((name, demo), length) in enumerate(zip(demos.items(), lengths, strict=True)):
        dataset = demo.get(place)
        if dataset is None:
            faults.append(_fault("keys", f"data/{name} has no {place}, which others have", place, episode))
        elif _feature(dataset) != feature:
            expected = f"expected {feature.kind}s of shape {feature.shape}"
            faults.append(_fault("form", f"{place} of data/{name} is {_stored(dataset)}; {expected}", place, episode))
        elif len(dataset) != length:
            message = f"data/{name} has arrays of unequal lengths: actions {length}, {place} {len(dataset)}"
            faults.append(_fault("unequal", message, place, episode))
    return faults


def _fault(check: str, message: str, place: str, episode: int) -> Finding:
    return Finding("fatal", check, message, "leave it out with data.episodes, or record it again", place, episode)


def _array(
    path: Path,
    demos: meta.Demonstrations,
    place: str,
    feature: Feature | None,
    ends: np.ndarray,
    config: RobomimicConfig,
    name: str | None,
    faults: list[Finding],
) -> Stored:
    dataset = next(iter(demos.values())).get(place)
    if feature is None:
        return Stored(getattr(dataset, "shape", ())[1:], str(getattr(dataset, "dtype", "a group")), None, name)
    if feature.kind == "vector":
        read = partial(_vectors, path, demos, place)
    else:
        read = partial(_images, path, demos, place, feature.shape, ends, config)
        size = target_size(config.resize_shape, *feature.shape[1:])
        feature = Feature("image", (feature.shape[0], *(size or feature.shape[1:])), "uint8")
    return Stored(dataset.shape[1:], str(dataset.dtype), read, name, feature, faults)


def _vectors(path: Path, demos: meta.Demonstrations, place: str) -> np.ndarray:
    """Return (N, D)."""
    with reading(path, "an HDF5 file"):
        parts = meta.values(path, place, [demo[place] for demo in demos.values()])
        return np.concatenate([part.reshape(len(part), -1) for part in parts])


def _images(
    path: Path,
    demos: meta.Demonstrations,
    place: str,
    shape: tuple[int, ...],
    ends: np.ndarray,
    config: RobomimicConfig,
) -> np.ndarray:
    """Return (N, C, H, W) uint8, memory-mapped."""
    parts = []
    for _, group in groupby(zip(demos, ends.tolist(), strict=True), key=lambda demo: demo[1] // FRAMES_PER_PART):
        names = [name for name, _ in group]
        datasets = [demos[name][place] for name in names]
        parts.append(Part(path, sum(map(len, datasets)), f"{place} {names}", partial(_decode, path, datasets)))
    return assembled_images(f"{path}: {place}", parts, shape, config.resize_shape, config.cache_dir)


def _decode(path: Path, datasets: list[Any]) -> Iterator[np.ndarray]:
    """Yield images in blocks (n, C, H, W), of whole chunks, so that each is decompressed once."""
    with reading(path, "an HDF5 file"):
        for dataset in datasets:
            chunk = dataset.chunks[0] if dataset.chunks else 1
            step = chunk * max(1, BLOCK // (chunk * math.prod(dataset.shape[1:])))
            for start in range(0, len(dataset), step):
                yield dataset[start : start + step].transpose(0, 3, 1, 2)  # (n, H, W, C) -> (n, C, H, W)
