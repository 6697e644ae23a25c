"""LeRobot data sets, formats v2.1 and v3.0: numbers from parquet files, images decoded once from videos or pictures."""

import math
from dataclasses import replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from robodiff.data.cache import folder_of
from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.cameras import Camera
from robodiff.data.formats.lerobot.meta import CLOCK, Episode, Meta
from robodiff.data.formats.lerobot.parquet import column_names
from robodiff.data.formats.lerobot.rows import times_of, values_of
from robodiff.data.formats.lerobot.spans import span_faults
from robodiff.data.images import Resized, target_size
from robodiff.data.naming import usual_names
from robodiff.data.stored import Recording, Stored
from robodiff.errors import notice
from robodiff.files import reading


def recording_of(meta: Meta, config: LeRobotConfig) -> Recording:
    """Return what the chosen episodes hold, in the order of their numbers; nothing is read.

    Reading raises ``RobodiffError`` for what is not as ``meta/`` says; the message names the file, the key and the
    episode.
    """
    chosen = meta.choose(config.episodes)
    infos = {key: info for key, info in meta.features.items() if key not in CLOCK}
    names = usual_names({key: info.feature and info.feature.kind for key, info in infos.items()})
    files = [list(group) for _, group in groupby(chosen, key=lambda episode: episode.data)]
    arrays = {key: _stored(meta, config, key, files) for key in infos}
    columns = dict.fromkeys(name for episode in chosen for name in episode.row)
    table = {name: [episode.row.get(name) for episode in chosen] for name in columns}
    return Recording(
        str(meta.root),
        {key: replace(stored, name=names[key]) for key, stored in arrays.items()},
        np.cumsum([episode.length for episode in chosen]),
        meta.fps,
        [f"episode {episode.number}" for episode in chosen],
        {**table, "episode_index": [episode.number for episode in chosen]},
        {} if meta.robot_type is None else {"robot_type": meta.robot_type},
        times=partial(times_of, meta, files, config.fps is not None),
    )


def unlisted(meta: Meta) -> dict[str, Stored]:
    """Return what a parquet file holds beside what info.json lists, and the tasks where they differ by frame."""
    path = meta.root / meta.episodes[0].data
    columns = column_names(path) if path.is_file() else {}
    known = {*meta.features, *CLOCK}
    several = any(episode.tasks != 1 for episode in meta.episodes)
    names = [name for name in columns if name not in known or (name == "task_index" and several)]
    return {name: Stored((), columns[name], None) for name in names}


def _stored(meta: Meta, config: LeRobotConfig, key: str, files: list[list[Episode]]) -> Stored:
    """Return one key, and what is known to be wrong with its videos."""
    info, faults = meta.features[key], []
    shape, feature = tuple(info.shape), info.feature
    if feature is None:
        return Stored(shape, info.dtype, None)
    if feature.kind == "vector":
        if len(shape) > 1:
            notice(f"{meta.root}: {key} of shape {shape} is read as {feature.shape[0]} numbers in a row")
        return Stored(shape, info.dtype, partial(_numbers, meta, key, files), feature=feature)
    size = target_size(config.resize_shape, *feature.shape[1:])
    made = Feature("image", (feature.shape[0], *(size or feature.shape[1:])), "uint8")
    if not info.is_coded:
        return Stored(shape, info.dtype, partial(_planes, meta, key, files, size), feature=made)
    camera = Camera(meta, key, feature, size)
    if info.dtype == "video":
        end = _no_end if config.root is None else _no_end_if_present  # videos of the hub are fetched later
        faults = [*span_faults(meta, key, [*chain(*files)], end)]
    return Stored(shape, info.dtype, partial(camera.read, files, folder_of(config.cache_dir)), None, made, faults)


def _numbers(meta: Meta, key: str, files: list[list[Episode]]) -> np.ndarray:
    """Return the numbers of episodes, those of one file together, (N, D)."""
    values = values_of(meta, key, files)
    return values.reshape(len(values), -1)


def _planes(meta: Meta, key: str, files: list[list[Episode]], size: tuple[int, int] | None) -> np.ndarray:
    """Return images that are arrays of numbers, (N, C, H, W)."""
    values = values_of(meta, key, files)
    return values if size is None else Resized(str(meta.root), key, size)(values)


def _no_end(video: Path) -> float:
    return math.inf


def _no_end_if_present(video: Path) -> float:
    with reading(video, "a video"):
        video.stat()
    return math.inf
