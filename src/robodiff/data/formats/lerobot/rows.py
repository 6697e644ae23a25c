"""The parquet files of a LeRobot data set: the rows of each episode, their numbers, and when they were recorded."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from robodiff.data.episodes import Finding, raise_faults
from robodiff.data.formats.lerobot.meta import Episode, Meta
from robodiff.data.formats.lerobot.video import TOLERANCE
from robodiff.data.formats.parquet import read_parquet
from robodiff.data.formats.pieces import column_values
from robodiff.data.resample import Rate, rate_of
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.machine import cores

WRONG_RATE = 0.05
"""How far the rate of the timestamps may be off that of info.json before one of them is taken to be wrong."""
_PLACE = ("episode_index", "frame_index")


def values_of(meta: Meta, key: str, files: list[list[Episode]]) -> np.ndarray:
    """Return a column of numbers, (N, *shape). Of what width they are does not matter; truth values are no numbers."""
    info = meta.features[key]

    def read(episodes: list[Episode]) -> np.ndarray:
        path = meta.root / episodes[0].data
        with reading(path, "a parquet file"):
            table, rows = episode_table(meta, key, episodes)
            values = column_values(path, key, table[key])
        form = info.dtype == "bool", len(table) * math.prod(info.shape)
        if values is None or (values.dtype == np.bool_, values.size) != form:
            actual = table[key].type if values is None else f"{values.dtype} of shape {[*values.shape[1:]]}"
            expected = f"{info.dtype} of shape {info.shape}"
            raise RobodiffError(f"{path}: {key} is {actual} in each frame, but meta/info.json says {expected}")
        return values.reshape(len(table), *info.shape)[rows]

    with ThreadPoolExecutor(cores()) as pool:
        return np.concatenate(list(pool.map(read, files)))


def episode_table(meta: Meta, key: str, episodes: list[Episode]) -> tuple[pa.Table, np.ndarray]:
    """Return a file's table with a key, and the rows that episodes have in it, which are all there and in order."""
    path = meta.root / episodes[0].data
    table = read_parquet(path, {*_PLACE, key}.__contains__)
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
        RecordingError: times that are not finite or do not advance, that are of another rate than meta/ says, unless
            frames are brought to one by them, or that leave open which image of a video is of which row.
    """
    times, faults = [], []
    for episodes in files:
        path = meta.root / episodes[0].data
        with reading(path, "a parquet file"):
            table, rows = episode_table(meta, "timestamp", episodes)
            clock = table["timestamp"].to_numpy().astype(np.float64)[rows]
        for episode, own in zip(episodes, split(clock, episodes), strict=True):
            rate = rate_of([own]) or Rate(meta.fps, 0.0, 0, 1.0)
            times.append(own / rate.unit)
            if (frame := _first_wrong(meta.fps, episode, times[-1], rate, is_resampled)) is not None:
                message = f"{path}: has timestamp {own[frame]:.6g} at frame {frame} of episode {episode.number}"
                expected = f"{message}; expected {times[-1][0] + frame / meta.fps:.6g} (fps {meta.fps:g})"
                taken = f"take frames by their clock with data.fps (--fps {rate.fps:g})"
                advice = f"mend it or fps in meta/info.json, {taken}, or leave the episode out with data.episodes"
                faults.append(Finding("fatal", "clock", expected, advice, "timestamp", episode.number))
    raise_faults(str(meta.root), faults)
    return np.concatenate(times)


def _first_wrong(fps: float, episode: Episode, clock: np.ndarray, rate: Rate, is_resampled: bool) -> int | None:
    """Return the first frame of a clock that cannot be taken as it is; None where the clock is even, or nearly."""
    wrong = ~(np.abs((clock - clock[0]) * fps - np.arange(len(clock))) <= TOLERANCE)
    if not wrong.any():
        return None
    advances = np.diff(clock, prepend=clock[0] - 1) > 0  # false for NaN, too
    if not advances.all():
        return int(np.argmin(advances))
    mean = (len(clock) - 1) / (clock[-1] - clock[0])
    has_other_rate = min(abs(rate.fps / fps - 1), abs(mean / fps - 1)) > WRONG_RATE
    has_more_images = any(
        (end - start) * fps > episode.length + 0.5 for _, start, end in episode.videos.values() if end < math.inf
    )
    return int(np.argmax(wrong)) if has_more_images or (has_other_rate and not is_resampled) else None


def split(values: np.ndarray, episodes: list[Episode]) -> list[np.ndarray]:
    """Return what of the rows of episodes end to end is each one's."""
    return np.split(values, np.cumsum([episode.length for episode in episodes])[:-1])
