"""Write recordings as HDF5 files of robomimic: whole or not at all, for such a file cannot be gone on with."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robodiff.data.episodes import ACTION, MASK, Episodes, left_out, recorded_keys
from robodiff.data.formats.pieces import control_frequency, episode_rows
from robodiff.data.formats.robomimic_reader import PLACES, name_of
from robodiff.errors import RobodiffError
from robodiff.files import replacing


def write_robomimic(episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None) -> list[str]:
    """Write observations and actions as they are, uncompressed, with the rate, the table and the filter keys.

    Images become ``obs/<camera>_image`` (L, H, W, C), numbers ``obs/<key>`` (L, D), who acted ``interventions``, the
    table's columns ``mask.<name>`` lists in ``mask/``, and its others attributes of the demonstrations. Left out are
    columns that say where an episode was, and keys for which ``place_of`` has none.

    Args:
        episodes: the recording.
        path: the file; an existing one is replaced.
        on_episode: called with the number of episodes done.

    Returns:
        What of it such a file has no place for.

    Raises:
        RobodiffError: a recording without actions, or two keys that would have one place.
    """
    recorded_keys(episodes.source, [ACTION], episodes.arrays)
    places = {key: place for key in episodes.arrays if (place := place_of(episodes, key)) is not None}
    owners: dict[str, list[str]] = {}
    for key, place in places.items():
        owners.setdefault(place, []).append(key)
    if twins := [f"{' and '.join(keys)} would both be {place}" for place, keys in owners.items() if len(keys) > 1]:
        raise RobodiffError(f"{path}: {twins[0]}; rename one of them")
    size = sum(array.nbytes for key, array in episodes.arrays.items() if key in places)
    with replacing(path) as temporary:
        with temporary.open("wb") as reserved:  # HDF5 may crash where the disk has no room: find it out before
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(reserved.fileno(), 0, size + 2**20)
        with h5py.File(temporary, "w") as file:
            _fill(file, episodes, places, on_episode)
    columns = episodes.columns(bool, int, float, str)
    return [*left_out(episodes, [*columns, "env_args"]), *(key for key in episodes.arrays if key not in places)]


def _fill(
    file: h5py.File, episodes: Episodes, places: Mapping[str, str], on_episode: Callable[[int], None] | None
) -> None:
    data = file.create_group("data")
    data.attrs["total"] = int(episodes.episode_ends[-1])
    data.attrs["env_args"] = json.dumps(_environment(episodes))
    columns = {
        name: column for name, column in episodes.columns(bool, int, float, str).items() if not name.startswith(MASK)
    }
    for number, (arrays, row) in enumerate(episode_rows(episodes, columns, on_episode)):
        demo = data.create_group(f"demo_{number}")
        demo.attrs.update({**row, "num_samples": int(episodes.lengths[number])})
        for key, place in places.items():
            demo[place] = arrays[key] if arrays[key].ndim == 2 else arrays[key].transpose(0, 2, 3, 1)  # CHW -> HWC
    for column in (column for column in episodes.table if column.startswith(MASK)):
        listed = [f"demo_{number}" for number, is_in in enumerate(episodes.table[column]) if is_in]
        file[f"mask/{column.removeprefix(MASK)}"] = np.array(listed, "S")


def _environment(episodes: Episodes) -> dict[str, Any]:
    """Return the source's own, so that robomimic can make it again; it says the rate of the recording."""
    own = episodes.attributes.get("env_args", {"env_name": episodes.source, "type": 2})  # 2 is Gym's
    if control_frequency(own) == episodes.fps:
        return own
    arguments = own.get("env_kwargs")
    return {**own, "env_kwargs": {**(arguments if isinstance(arguments, dict) else {}), "control_freq": episodes.fps}}


def place_of(episodes: Episodes, key: str) -> str | None:
    """Return where a demonstration has a key: where it was in one of robomimic's, else ``actions``, ``obs/<key>``; None
    for what there is no place for."""
    place, kind = episodes.places.get(key, ""), episodes.features[key].kind
    if name_of(place, kind) == key:
        return place
    if not key.startswith("observation."):
        return next((place for place, name in PLACES.items() if name == key), None)
    name = key.removeprefix("observation.")
    if kind == "image" and name != "image":
        name = f"{name.removeprefix('images.')}_image"
    return f"obs/{name}"
