"""A recording in another format: zarr, LeRobot v3.0 and robomimic's HDF5, from each to each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.data.config import HDF5
from robodiff.data.episodes import WHERE, Episodes
from robodiff.data.formats.lerobot_writer import LeRobotWriter
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
) -> None:
    """Write a recording to ``out``; what an earlier, stopped conversion wrote there is kept and gone on with, but for
    HDF5, of which nothing is kept until it is whole.

    Numbers stay as they are, to the bit. Images do in zarr and HDF5, and in LeRobot's format as ``png``.

    Args:
        episodes: the recording.
        out: a zarr group (``.zarr``, or ``.zip``), robomimic's HDF5 (``.hdf5``, ``.h5``), or else the folder of a
            LeRobot data set.
        images: how LeRobot's format stores images; None is ``av1``.
        on_episode: called with the number of episodes done.

    Raises:
        UsageError: ``images`` for zarr or HDF5, or an ``out`` that exists and holds something else.
    """
    packed, to_zarr, to_hdf5 = out.suffix == ".zip", out.suffix in ZARR, out.suffix in HDF5
    if images is not None and (to_zarr or to_hdf5):
        what = "zarr" if to_zarr else "HDF5"
        raise UsageError(f"{out}: {what} stores images as they are; leave out --images {images}")
    if (packed or to_hdf5) and out.exists():
        raise UsageError(f"{out}: exists already; choose another path")
    if to_hdf5:
        write_robomimic(out, episodes, on_episode)
        return
    folder = building(out) if packed else out
    if not to_zarr and episodes.fps != int(episodes.fps):
        raise UsageError(f"{out}: LeRobot's fps is a whole number; found {episodes.fps:g}")
    with locked(folder), naming(folder):
        writer = _zarr(episodes, folder) if to_zarr else _lerobot(episodes, folder, images or "av1")
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


def lost(episodes: Episodes, out: Path) -> list[str]:
    """What there is no place for: columns of lists or of mixed types, in zarr those of texts, too; columns that some
    episodes lack, but in HDF5; and in HDF5 keys but observations."""
    keys = [key for key in episodes.arrays if place_of(episodes, key) is None] if out.suffix in HDF5 else []
    kept = _columns(episodes, out)
    return [name for name in episodes.table if name not in (*kept, *WHERE)] + keys


def _columns(episodes: Episodes, out: Path) -> dict[str, list[Any]]:
    """Those columns of the table that there is a place for."""
    columns = episodes.columns(*NUMBERS, *(() if out.suffix in ZARR else (str,)))
    if out.suffix in HDF5:
        return columns
    may_lack = () if out.suffix in ZARR else ("task",)  # LeRobot's format has an empty task for these
    return {name: column for name, column in columns.items() if name in may_lack or None not in column}


def _zarr(episodes: Episodes, folder: Path) -> ZarrWriter:
    return ZarrWriter(folder, episodes.fps, recipe={"converted_from": episodes.source})


def _lerobot(episodes: Episodes, folder: Path, images: Images) -> LeRobotWriter:
    return LeRobotWriter(folder, episodes.fps, images, features=episodes.features)
