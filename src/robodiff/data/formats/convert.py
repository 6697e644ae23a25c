"""A recording in another format: zarr and LeRobot v3.0, both ways."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.data.episodes import Episodes
from robodiff.data.formats.lerobot_writer import LeRobotWriter
from robodiff.data.formats.zarr_writer import ZarrWriter, building, pack_zip
from robodiff.errors import UsageError
from robodiff.files import locked, naming

Images = Literal["av1", "h264", "png"]


def convert(
    episodes: Episodes, out: Path, images: Images | None = None, on_episode: Callable[[int], None] | None = None
) -> None:
    """Write a recording to ``out``; what an earlier, stopped conversion wrote there is kept and gone on with.

    Numbers stay as they are, to the bit. Images do in zarr, and in LeRobot's format as ``png``.

    Args:
        episodes: the recording.
        out: a zarr group (``.zarr``, or ``.zip``) or else the folder of a LeRobot data set.
        images: how LeRobot's format stores images; None is ``av1``.
        on_episode: called with the number of episodes done.

    Raises:
        UsageError: ``images`` for zarr, or an ``out`` that exists and holds something else.
    """
    packed, to_zarr = out.suffix == ".zip", out.suffix in (".zip", ".zarr")
    if to_zarr and images is not None:
        raise UsageError(f"{out}: zarr stores images as they are; leave out --images {images}")
    if packed and out.exists():
        raise UsageError(f"{out}: exists already; choose another path")
    folder = building(out) if packed else out
    if not to_zarr and episodes.fps != int(episodes.fps):
        raise UsageError(f"{out}: LeRobot's fps is a whole number; found {episodes.fps:g}")
    with locked(folder), naming(folder):
        writer = _zarr(episodes, folder) if to_zarr else _lerobot(episodes, folder, images or "av1")
        if writer.episodes > len(episodes):
            raise UsageError(f"{folder}: has {writer.episodes} episodes already, more than {episodes.source}")
        for number in range(writer.episodes, len(episodes)):
            frames = episodes.slice(number)
            arrays = {key: np.asarray(array[frames]) for key, array in episodes.arrays.items()}
            writer.append(arrays, **_row(episodes, number, texts=not to_zarr))
            if on_episode is not None:
                on_episode(number + 1)
        writer.close()
    if packed:
        pack_zip(folder, out)


def lost(episodes: Episodes, out: Path) -> list[str]:
    """Columns of the episodes' table that zarr has no place for: texts and lists."""
    kept = _row(episodes, 0, texts=False)
    return (
        [name for name in episodes.table if name not in (*kept, "episode_index")]
        if out.suffix in (".zip", ".zarr")
        else []
    )


def _zarr(episodes: Episodes, folder: Path) -> ZarrWriter:
    return ZarrWriter(folder, episodes.fps, recipe={"converted_from": episodes.source})


def _lerobot(episodes: Episodes, folder: Path, images: Images) -> LeRobotWriter:
    return LeRobotWriter(folder, episodes.fps, images, features=episodes.features)


def _row(episodes: Episodes, number: int, texts: bool) -> dict[str, Any]:
    plain = (bool, int, float, str) if texts else (bool, int, float)
    row = {name: values[number] for name, values in episodes.table.items() if isinstance(values[number], plain)}
    row.pop("episode_index", None)  # where it was; the new recording counts for itself
    return row
