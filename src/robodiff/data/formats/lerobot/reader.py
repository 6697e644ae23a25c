"""LeRobot data sets, formats v2.1 and v3.0: vectors from parquet files, images decoded once from videos or PNGs."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from robodiff.data.cache import Part, assembled, folder_of
from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.meta import CLOCK, Episode, Meta
from robodiff.data.formats.lerobot.parquet import read_columns
from robodiff.data.formats.lerobot.video import TOLERANCE, decode_frames
from robodiff.data.formats.pictures import decode_picture
from robodiff.data.formats.pieces import column_values
from robodiff.data.images import resized, target_size
from robodiff.data.naming import usual_names
from robodiff.data.recordings import Recording, Stored
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.machine import cores
from robodiff.text import counted

FRAMES_PER_PART = 2000  # of a video: few seconds of work to lose, and far more than finding the first frame costs
_CLOCK = ["episode_index", "frame_index", "timestamp"]


def recording_of(meta: Meta, config: LeRobotConfig) -> Recording:
    """Return what the chosen episodes hold, in the order of their numbers; nothing is read.

    Reading raises ``RobodiffError`` for what is not as ``meta/`` says; the message names the file, the key and the
    episode.
    """
    chosen = meta.choose(config.episodes)
    features = {key: info.feature for key, info in meta.features.items() if key not in CLOCK}
    names = usual_names({key: feature and feature.kind for key, feature in features.items()})
    files = [list(group) for _, group in groupby(chosen, key=lambda episode: episode.data)]
    arrays = {}
    for key, feature in features.items():
        shape, read = tuple(meta.features[key].shape), None
        if feature is not None and feature.kind == "vector":
            read = partial(_vectors, meta, key, files)
        elif feature is not None:
            size = target_size(config.resize_shape, *feature.shape[1:])
            feature = Feature("image", (3, *(size or feature.shape[1:])), "uint8")
            read = partial(_Camera(meta, key, size).read, files, folder_of(config.cache_dir))
        arrays[key] = Stored(shape, meta.features[key].dtype, read, names[key], feature)
    columns = dict.fromkeys(name for episode in chosen for name in episode.row)
    table = {name: [episode.row.get(name) for episode in chosen] for name in columns}
    return Recording(
        str(meta.root),
        arrays,
        np.cumsum([episode.length for episode in chosen]),
        meta.fps,
        [f"episode {episode.number}" for episode in chosen],
        {**table, "episode_index": [episode.number for episode in chosen]},
        {} if meta.robot_type is None else {"robot_type": meta.robot_type},
    )


def _vectors(meta: Meta, key: str, files: list[list[Episode]]) -> np.ndarray:
    """Return the numbers of episodes, those of one file together, (N, D)."""
    info = meta.features[key]

    def read(episodes: list[Episode]) -> np.ndarray:
        path = meta.root / episodes[0].data
        with reading(path, "a parquet file"):
            table, rows = _table(meta, key, episodes)
            values = column_values(path, key, table[key])
        if values is None or (str(values.dtype), values.size) != (info.dtype, len(table) * math.prod(info.shape)):
            actual = table[key].type if values is None else f"{values.dtype} of shape {[*values.shape[1:]]}"
            expected = f"{info.dtype} of shape {info.shape}"
            raise RobodiffError(f"{path}: {key} is {actual} in each frame, but meta/info.json says {expected}")
        return values.reshape(len(table), -1)[rows]

    with ThreadPoolExecutor(cores()) as pool:
        return np.concatenate(list(pool.map(read, files)))


def _table(meta: Meta, key: str, episodes: list[Episode]) -> tuple[pa.Table, np.ndarray]:
    """Return a file's table with a key, and the rows that episodes have in it; their clock is checked."""
    path = meta.root / episodes[0].data
    table = read_columns(path, {*_CLOCK, key}.__contains__)
    number, frame, time = (table[name].to_numpy().astype(np.float64) for name in _CLOCK)
    order, rows = np.argsort(number, kind="stable"), []
    for episode in episodes:
        first, last = np.searchsorted(number, [episode.number, episode.number + 1], sorter=order)
        if last - first != episode.length:
            frames = f"{counted(int(last - first), 'frame')} of episode {episode.number}"
            raise RobodiffError(f"{path}: holds {frames}, but meta/ says it has {episode.length}")
        rows.append(order[first:last])
        steps = np.arange(episode.length)
        for name, values, rate, most in (("frame_index", frame, 1, 0), ("timestamp", time, meta.fps, TOLERANCE)):
            fits = np.abs(values[rows[-1]] * rate - steps) <= most
            if not fits.all():
                worst = int(np.argmin(fits))
                place = f"{name} {values[rows[-1][worst]]:.6g} at frame {worst} of episode {episode.number}"
                raise RobodiffError(f"{path}: has {place}; expected {worst / rate:.6g} (fps {meta.fps:g})")
    return table, np.concatenate(rows)


@dataclass(frozen=True)
class _Camera:
    """One key of images, which are decoded at another size where ``resize`` says it."""

    meta: Meta
    key: str
    resize: tuple[int, int] | None

    @property
    def size(self) -> tuple[int, int]:
        """Recorded height and width."""
        return self.meta.features[self.key].image_size

    def read(self, files: list[list[Episode]], cache: Path | None) -> np.ndarray:
        """Return (N, 3, H, W) uint8, memory-mapped."""
        if self.meta.features[self.key].dtype == "video":
            parts = [self.video_part(run) for run in self.runs(itertools.chain.from_iterable(files))]
        else:
            parts = [self.png_part(episodes) for episodes in files]
        for part in parts:
            if not part.source.is_file():
                raise RobodiffError(f"{part.source}: is missing, and {self.key} needs it; copy or download it again")
        shape = (3, *(self.resize or self.size))
        return assembled(f"{self.meta.root}: {self.key}", parts, shape, np.dtype(np.uint8), cache)

    def runs(self, episodes: Iterable[Episode]) -> Iterator[list[Episode]]:
        """Yield episodes that follow one another in one video, up to about ``FRAMES_PER_PART`` frames together."""
        run: list[Episode] = []
        frames, end = 0, 0.0
        for episode in episodes:
            path, start = episode.videos[self.key]
            if run and (path != run[0].videos[self.key][0] or start < end or frames + episode.length > FRAMES_PER_PART):
                yield run
                run, frames = [], 0
            run.append(episode)
            frames, end = frames + episode.length, start + (episode.length - TOLERANCE) / self.meta.fps
        yield run

    def video_part(self, episodes: list[Episode]) -> Part:
        """Return the images of episodes in one video."""
        times = np.concatenate([e.videos[self.key][1] + np.arange(e.length) / self.meta.fps for e in episodes])
        path = self.meta.root / episodes[0].videos[self.key][0]

        def decode() -> Iterator[np.ndarray]:
            done = 0
            try:
                for image in decode_frames(path, times, self.meta.fps, self.size, self.resize):
                    yield image
                    done += 1
            except RobodiffError as error:
                place = np.searchsorted(np.cumsum([episode.length for episode in episodes]), done, side="right")
                raise RobodiffError(f"{error} (episode {episodes[place].number})") from None

        return Part(path, len(times), f"{hashlib.sha256(times.tobytes()).hexdigest()} {self.resize}", decode)

    def png_part(self, episodes: list[Episode]) -> Part:
        """Return images that are embedded in one parquet file."""
        path = self.meta.root / episodes[0].data

        def decode() -> Iterator[np.ndarray]:
            with reading(path, "a parquet file of pictures"):
                table, rows = _table(self.meta, self.key, episodes)
                for row in rows.tolist():
                    picture = table[self.key][row].as_py()["bytes"]
                    image = decode_picture(f"{path}: {self.key} in row {row}", picture, self.size)
                    yield resized(image.transpose(2, 0, 1)[None], self.resize)

        recipe = f"{self.key} {[episode.number for episode in episodes]} {self.resize}"
        return Part(path, sum(episode.length for episode in episodes), recipe, decode)
