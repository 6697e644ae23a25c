"""A recording in another format: zarr, LeRobot v3.0 and robomimic's HDF5, from each to each."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.data.config import HDF5
from robodiff.data.episodes import WHERE, Episodes
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.formats.robomimic_writer import place_of, write_robomimic
from robodiff.data.formats.zarr_writer import ZarrWriter, building, pack_zip
from robodiff.errors import UsageError
from robodiff.files import locked, naming

Images = Literal["av1", "h264", "png"]
ZARR = (".zip", ".zarr")
NUMBERS = (bool, int, float)
"""What a column of a table may hold in zarr; the others take texts, too."""


def convert(
    episodes: Episodes, out: Path, images: Images | None = None, on_episode: Callable[[int], None] | None = None
) -> bool:
    """Write a recording to ``out``; what an earlier, stopped conversion of it wrote there is kept and gone on with, but
    for HDF5, of which nothing is kept until it is whole.

    The arrays of ``episodes`` come back to the bit from zarr and HDF5, and from LeRobot's format with ``png``.

    Args:
        episodes: the recording.
        out: a zarr group (``.zarr``, or ``.zip``), robomimic's HDF5 (``.hdf5``, ``.h5``), or else the folder of a
            LeRobot data set.
        images: how LeRobot's format stores images; None is ``av1``.
        on_episode: called with the number of episodes done.

    Returns:
        Whether it was written; False where a folder holds it already, whole.

    Raises:
        UsageError: ``images`` for zarr or HDF5, or an ``out`` that is a file already.
        RobodiffError: an ``out`` that holds something else.
    """
    packed, to_zarr, to_hdf5 = out.suffix == ".zip", out.suffix in ZARR, out.suffix in HDF5
    if images is not None and (to_zarr or to_hdf5):
        what = "zarr" if to_zarr else "HDF5"
        raise UsageError(f"{out}: {what} stores images as they are; leave out --images {images}")
    if (packed or to_hdf5) and out.exists():
        raise UsageError(f"{out}: exists already; choose another path")
    if to_hdf5:
        write_robomimic(out, episodes, on_episode)
        return True
    folder = building(out) if packed else out
    if not to_zarr and episodes.fps != int(episodes.fps):
        raise UsageError(f"{out}: LeRobot's fps is a whole number; found {episodes.fps:g}")
    with locked(folder), naming(folder):
        writer = _zarr(episodes, folder) if to_zarr else _lerobot(episodes, folder, images or "av1")
        if writer.complete and writer.episodes == len(episodes) and not packed:
            return False
        if writer.episodes > len(episodes):
            raise UsageError(f"{folder}: has {writer.episodes} episodes already, more than {episodes.source}")
        columns = _columns(episodes, out)
        for number in range(writer.episodes, len(episodes)):
            frames = episodes.slice(number)
            arrays = {key: np.asarray(array[frames]) for key, array in episodes.arrays.items()}
            row = {name: column[number] for name, column in columns.items()}
            writer.append(arrays, **{name: value for name, value in row.items() if value is not None})
            if on_episode is not None:
                on_episode(number + 1)
        writer.close()
    if packed:
        pack_zip(folder, out)
    return True


def lost(episodes: Episodes, out: Path) -> list[str]:
    """What there is no place for: columns of lists or of mixed types, in zarr those of texts, too; columns that some
    episodes lack, but in HDF5; in HDF5 keys but observations; but in LeRobot's format the dimensions' names and units;
    and what the source says of all of it, in formats but its own."""
    to_zarr, to_hdf5 = out.suffix in ZARR, out.suffix in HDF5
    keys = [key for key in episodes.arrays if place_of(episodes, key) is None] if to_hdf5 else []
    kept = [*_columns(episodes, out), *WHERE, *([] if to_zarr else ["env_args" if to_hdf5 else "robot_type"])]
    described = (to_zarr or to_hdf5) and any(f.names or f.unit for f in episodes.features.values())
    names = [name for name in (*episodes.table, *episodes.attributes) if name not in kept]
    return [*names, *keys, *(["names and units of dimensions"] if described else [])]


def _columns(episodes: Episodes, out: Path) -> dict[str, list[Any]]:
    """Those columns of the table that there is a place for."""
    columns = episodes.columns(*NUMBERS, *(() if out.suffix in ZARR else (str,)))
    if out.suffix in HDF5:
        return columns
    may_lack = () if out.suffix in ZARR else ("task",)  # LeRobot's format has an empty task for these
    return {name: column for name, column in columns.items() if name in may_lack or None not in column}


def _zarr(episodes: Episodes, folder: Path) -> ZarrWriter:
    return ZarrWriter(folder, episodes.fps, recipe=_recipe(episodes))


def _lerobot(episodes: Episodes, folder: Path, images: Images) -> LeRobotWriter:
    robot, recipe = episodes.attributes.get("robot_type"), {**_recipe(episodes), "images": images}
    return LeRobotWriter(folder, episodes.fps, images, episodes.features, robot, recipe)


def _recipe(episodes: Episodes) -> dict[str, str]:
    """What tells a recording from others: the name of its source, not where that lies, and a fingerprint of all numbers
    and texts and of the first image of each episode."""
    features = {key: dataclasses.asdict(feature) for key, feature in episodes.features.items()}
    said = [episodes.fps, episodes.episode_ends.tolist(), features, episodes.table, episodes.attributes]
    digest = hashlib.sha256(json.dumps(said, default=str).encode())
    firsts = [episodes.slice(number).start for number in range(len(episodes))]
    for array in episodes.arrays.values():
        digest.update(np.ascontiguousarray(array[firsts] if array.ndim == 4 else array).data)
    return {"converted_from": Path(episodes.source).resolve().name, "fingerprint": digest.hexdigest()[:16]}
