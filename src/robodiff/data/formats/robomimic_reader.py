"""Read robomimic's HDF5 files: what demonstrations hold is compared before any image of theirs is read."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robodiff.data.episodes import ACTION, MASK, Feature, Finding, RecordingError
from robodiff.data.formats import hdf5
from robodiff.data.formats import robomimic_meta as meta
from robodiff.data.formats.pieces import Gathered, Kind, Piece, by_number, hwc
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.recordings import Recording
from robodiff.errors import RobodiffError


def open_robomimic(path: Path, config: RobomimicConfig) -> Recording:
    """Return what the chosen demonstrations hold, in the file's order.

    In the table ``demo`` has their names, ``episode_index`` their numbers, and ``mask.<filter key>`` whether they are
    in it.

    Raises:
        RobodiffError: no such file, a broken one, or one that is not what ``shape_meta`` says; the message names the
            file, the key and the demonstration.
        UsageError: episodes or filter keys that there are not.
    """
    if not path.is_file():
        raise RobodiffError(f"{path}: no such file")
    with hdf5.opened(path) as file:
        data = file.get("data")
        every = [name for name in data or () if isinstance(data.get(name), h5py.Group)]
        if not every:
            raise RobodiffError(
                f"{path}: holds no demonstrations; expected data/demo_0, ... with actions and obs/<key>"
            )
        every.sort(key=by_number)
        masks = meta.read_masks(path, file)
        numbers = meta.choose(path, every, masks, config.filter_key, config.val_filter_key, config.episodes)
        demos = {every[number]: data[every[number]] for number in numbers}
        episodes = [hdf5.pieces(path, demo) for demo in demos.values()]
        _check_lengths(path, demos, episodes)
        names = {place: _name(place, piece.kind) for episode in episodes for place, piece in episode.items()}
        if config.shape_meta is not None:
            config.shape_meta.check(str(path), {place: _feature(piece) for place, piece in episodes[0].items()})
            names = {place: name for place, name in names.items() if place in (*config.shape_meta.places, "actions")}
        environment = meta.environment(data)
        table = meta.attributes(demos)
    if not any(place.startswith("obs/") for place in names):
        raise RobodiffError(f"{path}: data/{next(iter(demos))} has no group obs/; extract the observations first, with "
                            "robomimic's dataset_states_to_obs.py")  # fmt: skip
    table |= {MASK + key: [name in listed for name in demos] for key, listed in masks.items()}
    table |= {"demo": list(demos), "episode_index": numbers}
    about = {"env_args": environment} if environment else {}
    fps = meta.control_frequency(environment)
    return Gathered(str(path), episodes, list(demos), names, fps, table, about).recording(config)


def _name(place: str, kind: Kind) -> str | None:
    """Return what an array is called here; None for what is no observation."""
    if place == "actions":
        return ACTION
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


def _check_lengths(path: Path, demos: dict[str, Any], episodes: list[dict[str, Piece]]) -> None:
    """Compare the actions with what each demonstration says of its length."""
    advice, faults = "leave it out with data.episodes, or record it again", []
    for number, ((name, demo), episode) in enumerate(zip(demos.items(), episodes, strict=True)):
        length = episode["actions"].frames if "actions" in episode else 0
        samples = int(demo.attrs.get("num_samples", length))
        if length and samples != length:
            message = f"{name} has arrays of unequal lengths: actions {length}, num_samples {samples}"
            faults.append(Finding("fatal", "unequal", message, advice, "num_samples", number))
    if faults:
        raise RecordingError(str(path), faults)
