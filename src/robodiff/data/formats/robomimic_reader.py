"""Read robomimic's HDF5 files: what demonstrations hold is compared before any image of theirs is read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robodiff.data.arrays import episode_numbers
from robodiff.data.episodes import ACTION, INTERVENTION, MASK, Feature
from robodiff.data.formats import hdf5
from robodiff.data.formats.pieces import Gathered, Kind, Piece, by_number, check_room, control_frequency, hwc
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.stored import Recording
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.text import counted

PLACES = {"actions": ACTION, "interventions": INTERVENTION}
"""What arrays are called here that are no observations."""
_NO_COLUMNS = ("num_samples", "model_file", "ep_meta")
"""Attributes of a demonstration that do not go into the table: its length, and what the simulator is made of."""


def open_robomimic(path: Path, config: RobomimicConfig) -> Recording:
    """Return what the chosen demonstrations hold, in the file's order.

    In the table ``demo`` has their names, ``episode_index`` their numbers, and ``mask.<filter key>`` whether they are
    in it.

    Raises:
        RobodiffError: no such file, a broken one, or one that is not what ``shape_meta`` says; the message names the
            file, the key and the demonstration.
        UsageError: episodes or filter keys that there are not.
    """
    with hdf5.opened(path) as file:
        data = file.get("data")
        every = [name for name in data or () if isinstance(data.get(name), h5py.Group)]
        if not every:
            raise RobodiffError(f"{path}: holds no demonstrations; expected data/demo_0 with actions and obs/<key>")
        every.sort(key=by_number)
        masks = _read_masks(path, file)
        numbers = _choose(path, every, masks, config)
        demos = {every[number]: data[every[number]] for number in numbers}
        episodes = [_pieces(path, demo) for demo in demos.values()]
        names = {place: name_of(place, piece.kind) for episode in episodes for place, piece in episode.items()}
        if config.shape_meta is not None:
            config.shape_meta.check(str(path), {place: _feature(piece) for place, piece in episodes[0].items()})
            names = {place: name for place, name in names.items() if place in (*config.shape_meta.places, "actions")}
        environment, others = _environment(data), [name for name in file if name not in ("data", "mask")]
        table = _attributes(demos)
    if not any(place.startswith("obs/") for place in names):
        raise RobodiffError(f"{path}: has no group obs/; extract the observations with dataset_states_to_obs.py first")
    table |= {MASK + key: [name in listed for name in demos] for key, listed in masks.items()}
    table |= {"demo": list(demos), "episode_index": numbers}
    about = {"env_args": environment} if environment else {}
    fps = control_frequency(environment)
    recording = Gathered(str(path), episodes, list(demos), names, fps, table, about).recording(config)
    return replace(recording, others=others)


def _pieces(path: Path, demo: h5py.Group) -> dict[str, Piece]:
    """Return the arrays of a demonstration; the actions must be as many as it says."""
    episode = hdf5.pieces(path, demo)
    actions, samples = episode.get("actions"), demo.attrs.get("num_samples")
    if actions and not actions.fault and samples is not None and int(samples) != actions.frames:
        episode["actions"] = replace(
            actions, fault=f"has {counted(actions.frames, 'frame')}, but num_samples is {samples}"
        )
    return episode


def name_of(place: str, kind: Kind) -> str | None:
    """Return what an array is called here; None for what is no observation."""
    if place in PLACES:
        return PLACES[place]
    if not place.startswith("obs/"):
        return None
    key = place.removeprefix("obs/")
    if kind != "image" or key == "image":
        return f"observation.{key}"
    return f"observation.images.{key.removesuffix('_image')}"


def _feature(piece: Piece) -> Feature | str:
    """Return what one frame is, as recorded; in words where it is neither numbers nor images."""
    if piece.kind == "image":
        height, width, channels = hwc(piece.shape)
        return Feature("image", (channels, height, width), "uint8")
    if piece.kind == "vector":
        return Feature("vector", (int(np.prod(piece.shape)),), "float32")
    return f"{piece}, neither numbers nor images"


def _read_masks(path: Path, file: Any) -> dict[str, set[str]]:
    """Return per filter key the names of demonstrations that it lists."""
    group, masks = file.get("mask"), {}
    for key, dataset in group.items() if isinstance(group, h5py.Group) else ():
        if isinstance(dataset, h5py.Dataset):
            if fault := hdf5.elsewhere(dataset):
                raise RobodiffError(f"{path}: mask/{hdf5.printed(key)} {fault}")
            check_room(f"{path}: mask/{key}", dataset.shape, dataset.dtype)
            listed = np.atleast_1d(dataset[()]).tolist()
            masks[key] = {name.decode() if isinstance(name, bytes) else str(name) for name in listed}
    return masks


def _choose(path: Path, names: list[str], masks: Mapping[str, set[str]], config: RobomimicConfig) -> list[int]:
    """Return the places in ``names`` of the demonstrations to train on and of those to hold out, rising.

    Raises:
        UsageError: a filter key or an episode that there is not, or nothing left to train on or to hold out.
        RobodiffError: a filter that names what is not there, or filters that name the same.
    """
    for key in filter(None, (config.filter_key, config.val_filter_key)):
        if key not in masks:
            known = f"there is {', '.join(masks) or 'no mask/'}.{nearest(key, masks)}"
            raise UsageError(f"{path}: has no filter key {key!r}; {known}")
        if unknown := sorted(masks[key] - {*names}):
            raise RobodiffError(f"{path}: mask/{key} names {unknown[0]!r}, which is not in data/; write the mask again")
    held_out = masks[config.val_filter_key] if config.val_filter_key else set()
    training = masks[config.filter_key] if config.filter_key else {*names} - held_out
    if both := sorted(training & held_out):
        filters = f"mask/{config.filter_key} and mask/{config.val_filter_key}"
        raise RobodiffError(f"{path}: {filters} both name {both[0]!r}; what is held out cannot be trained on")
    numbers = [n for n in episode_numbers(str(path), config.episodes, len(names)) if names[n] in training | held_out]
    left = {names[number] for number in numbers}
    for purpose, part in (("train on", training), *([("hold out", held_out)] if config.val_filter_key else [])):
        if not left & part:
            raise UsageError(f"{path}: no demonstration is left to {purpose}; see data.filter_key and data.episodes")
    return numbers


def _environment(data: Any) -> dict[str, Any]:
    """Return what ``env_args`` says of the environment; nothing where it cannot be read."""
    try:
        values = json.loads(data.attrs["env_args"])
    except (LookupError, ValueError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _attributes(demos: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return columns of a table: per attribute of the demonstrations its values, None where one has it not."""
    names = dict.fromkeys(name for demo in demos.values() for name in demo.attrs if name not in _NO_COLUMNS)
    columns = {name: [_plain(demo.attrs.get(name)) for demo in demos.values()] for name in names}
    return {name: column for name, column in columns.items() if any(value is not None for value in column)}


def _plain(value: Any) -> bool | int | float | str | None:
    value = value.item() if isinstance(value, np.generic) else value
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value if isinstance(value, bool | int | float | str) else None
