"""What a robomimic file says of its demonstrations: which there are, in which filters, at which rate, and more."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robodiff.data.episodes import episode_numbers
from robodiff.data.formats.pieces import check_room
from robodiff.errors import RobodiffError, UsageError, nearest

Demonstrations = Mapping[str, Any]
"""Groups of a file, by their names."""
NO_COLUMNS = ("num_samples", "model_file", "ep_meta")
"""Attributes of a demonstration that do not go into the table: its length, and what the simulator is made of."""


def read_masks(path: Path, file: Any) -> dict[str, set[str]]:
    """Return per filter key the names of demonstrations that it lists."""
    group, masks = file.get("mask"), {}
    for key, dataset in group.items() if isinstance(group, h5py.Group) else ():
        if isinstance(dataset, h5py.Dataset):
            check_room(f"{path}: mask/{key}", dataset.shape, dataset.dtype)
            listed = np.atleast_1d(dataset[()]).tolist()
            masks[key] = {name.decode() if isinstance(name, bytes) else str(name) for name in listed}
    return masks


def choose(
    path: Path,
    names: list[str],
    masks: Mapping[str, set[str]],
    filter_key: str | None,
    val_filter_key: str | None,
    episodes: list[int] | None,
) -> list[int]:
    """Return the places in ``names`` of the demonstrations to train on and of those to hold out, rising.

    Raises:
        UsageError: a filter key or an episode that there is not, or nothing left to train on or to hold out.
        RobodiffError: a filter that names what is not there, or filters that name the same.
    """
    for key in (key for key in (filter_key, val_filter_key) if key is not None):
        if key not in masks:
            others = f"there is {', '.join(masks)}.{nearest(key, [*masks])}" if masks else "it has no mask/"
            raise UsageError(f"{path}: has no filter key {key!r}; {others}")
        if unknown := sorted(masks[key] - {*names}):
            raise RobodiffError(f"{path}: mask/{key} names {unknown[0]!r}, which is not in data/; write the mask again")
    held_out = set() if val_filter_key is None else masks[val_filter_key]
    training = {*names} - held_out if filter_key is None else masks[filter_key]
    if both := sorted(training & held_out):
        raise RobodiffError(f"{path}: mask/{filter_key} and mask/{val_filter_key} both name {both[0]!r}; what is held "
                            "out cannot be trained on")  # fmt: skip
    numbers = [n for n in episode_numbers(str(path), episodes, len(names)) if names[n] in training | held_out]
    left = {names[number] for number in numbers}
    if not left & training or (val_filter_key is not None and not left & held_out):
        purpose = "hold out" if left & training else "train on"
        raise UsageError(f"{path}: no demonstration is left to {purpose}; see filter_key, val_filter_key and episodes")
    return numbers


def environment(data: Any) -> dict[str, Any]:
    """Return what ``env_args`` says of the environment; nothing where it cannot be read."""
    try:
        values = json.loads(data.attrs["env_args"])
    except (LookupError, ValueError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def control_frequency(environment: Mapping[str, Any]) -> float | None:
    """Return the rate at which an environment was stepped; None where it is not told."""
    try:
        rate = environment["env_kwargs"]["control_freq"]
        return float(rate) if 0 < rate < math.inf else None
    except (LookupError, TypeError):
        return None


def attributes(demos: Demonstrations) -> dict[str, list[Any]]:
    """Return columns of a table: per attribute of the demonstrations its values, None where one has it not."""
    names = dict.fromkeys(name for demo in demos.values() for name in demo.attrs if name not in NO_COLUMNS)
    columns = {name: [_plain(demo.attrs.get(name)) for demo in demos.values()] for name in names}
    return {name: column for name, column in columns.items() if any(value is not None for value in column)}


def _plain(value: Any) -> bool | int | float | str | None:
    value = value.item() if isinstance(value, np.generic) else value
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value if isinstance(value, bool | int | float | str) else None
