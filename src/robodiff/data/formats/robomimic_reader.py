"""Read robomimic's HDF5 files: what demonstrations hold is compared before any image of theirs is read."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from robodiff.data.episodes import ACTION, MASK, Feature
from robodiff.data.formats import hdf5
from robodiff.data.formats import robomimic_meta as meta
from robodiff.data.formats.pieces import Gathered, Kind, Piece, by_number, control_frequency, hwc
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
            raise RobodiffError(f"{path}: holds no demonstrations; expected data/demo_0 with actions and obs/<key>")
        every.sort(key=by_number)
        masks = meta.read_masks(path, file)
        numbers = meta.choose(path, every, masks, config)
        demos = {every[number]: data[every[number]] for number in numbers}
        episodes = [_pieces(path, demo) for demo in demos.values()]
        names = {place: _name(place, piece.kind) for episode in episodes for place, piece in episode.items()}
        if config.shape_meta is not None:
            config.shape_meta.check(str(path), {place: _feature(piece) for place, piece in episodes[0].items()})
            names = {place: name for place, name in names.items() if place in (*config.shape_meta.places, "actions")}
        environment = meta.environment(data)
        table = meta.attributes(demos)
    if not any(place.startswith("obs/") for place in names):
        raise RobodiffError(f"{path}: has no group obs/; extract the observations with dataset_states_to_obs.py first")
    table |= {MASK + key: [name in listed for name in demos] for key, listed in masks.items()}
    table |= {"demo": list(demos), "episode_index": numbers}
    about = {"env_args": environment} if environment else {}
    fps = control_frequency(environment)
    return Gathered(str(path), episodes, list(demos), names, fps, table, about).recording(config)


def _pieces(path: Path, demo: h5py.Group) -> dict[str, Piece]:
    """Return the arrays of a demonstration; the actions must be as many as it says."""
    episode = hdf5.pieces(path, demo)
    actions, samples = episode.get("actions"), demo.attrs.get("num_samples")
    if actions and samples is not None and int(samples) != actions.frames:
        episode["actions"] = replace(actions, fault=f"has {actions.frames} frames, but num_samples is {samples}")
    return episode


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
