"""The parquet files of a LeRobot data set: the rows of each episode, their numbers, and when they were recorded."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from robodiff.data.episodes import Finding, raise_faults
from robodiff.data.formats.lerobot.meta import Episode, Meta
from robodiff.data.formats.lerobot.parquet import read_columns
from robodiff.data.formats.lerobot.video import TOLERANCE
from robodiff.data.formats.pieces import column_values
from robodiff.data.resample import rate_of
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.machine import cores

WRONG_RATE = 0.05
"""How far the rate of the timestamps may be off that of info.json before one of them is taken to be wrong."""
_PLACE = ("episode_index", "frame_index")


def values_of(meta: Meta, key: str, files: list[list[Episode]]) -> np.ndarray:
    """Return a column of numbers, (N, *shape). Of what width they are does not matter, as long as they are as many."""
    info = meta.features[key]

    def read(episodes: list[Episode]) -> np.ndarray:
        path = meta.root / episodes[0].data
        with reading(path, "a parquet file"):
            table, rows = episode_table(meta, key, episodes)
            values = column_values(path, key, table[key])
        if values is None or values.size != len(table) * math.prod(info.shape):
            actual = table[key].type if values is None else f"{values.dtype} of shape {[*values.shape[1:]]}"
            expected = f"{info.dtype} of shape {info.shape}"
            raise RobodiffError(f"{path}: {key} is {actual} in each frame, but meta/info.json says {expected}")
        return values.reshape(len(table), *info.shape)[rows]

    with ThreadPoolExecutor(cores()) as pool:
        return np.concatenate(list(pool.map(read, files)))


def episode_table(meta: Meta, key: str, episodes: list[Episode]) -> tuple[pa.Table, np.ndarray]:
    """Return a file's table with a key, and the rows that episodes have in it, which are all there and in order."""
    path = meta.root / episodes[0].data
    table = read_columns(path, {*_PLACE, key}.__contains__)
    number, frame = (table[name].to_numpy().astype(np.float64) for name in _PLACE)
    order, rows, faults = np.argsort(number, kind="stable"), [], []
    for episode in episodes:
        first, last = np.searchsorted(number, [episode.number, episode.number + 1], sorter=order)
        rows.append(order[first:last])
        advice, message = "download it again, or leave the episode out with data.episodes", None
        if last - first != episode.length:
            frames = f"{last - first} frames of episode {episode.number}"
            message = f"{path}: holds {frames}, but meta/ says it has {episode.length}"
        elif not (fits := frame[rows[-1]] == np.arange(episode.length)).all():
            worst = int(np.argmin(fits))
            place = f"frame_index {frame[rows[-1][worst]]:.6g} at frame {worst} of episode {episode.number}"
            message = f"{path}: has {place}; expected {worst}"
        if message is not None:
            faults.append(Finding("fatal", "unequal", message, advice, key, episode.number))
    raise_faults(str(meta.root), faults)
    return table, np.concatenate(rows)


def times_of(meta: Meta, files: list[list[Episode]], is_resampled: bool) -> np.ndarray:
    """Return when each frame was recorded, (N,) seconds.

    Raises:
        RecordingError: times that are not finite or go back, or, unless they tell the rate, of another than meta/ says.
    """
    times, faults = [], []
    for episodes in files:
        path = meta.root / episodes[0].data
        with reading(path, "a parquet file"):
            table, rows = episode_table(meta, "timestamp", episodes)
            clock = table["timestamp"].to_numpy().astype(np.float64)[rows]
        times.append(clock)
        for episode, own in zip(episodes, split(clock, episodes), strict=True):
            rate = rate_of([own])
            off = np.abs((own - own[0]) * meta.fps - np.arange(len(own)))
            if len(own) == 1 or (rate and is_resampled) or (rate and abs(rate.fps / meta.fps - 1) <= WRONG_RATE):
                continue
            frame = int(np.argmax(~(off <= TOLERANCE)))
            message = f"{path}: has timestamp {own[frame]:.6g} at frame {frame} of episode {episode.number}"
            advice = (
                f"bring frames to one rate by their clock with data.fps (--fps {rate.fps:g})" if rate else "mend it"
            )
            expected = f"{message}; expected {own[0] + frame / meta.fps:.6g} (fps {meta.fps:g})"
            faults.append(Finding("fatal", "clock", expected, advice, "timestamp", episode.number))
    raise_faults(str(meta.root), faults)
    return np.concatenate(times)


def split(values: np.ndarray, episodes: list[Episode]) -> list[np.ndarray]:
    """Return what of the rows of episodes end to end is each one's."""
    return np.split(values, np.cumsum([episode.length for episode in episodes])[:-1])
