"""LeRobot data sets, formats v2.1 and v3.0: vectors from parquet files, images decoded once from videos or PNGs."""

import hashlib
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robodiff.data.cache import Part, assembled, folder_of
from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.meta import CLOCK, Episode, Meta
from robodiff.data.formats.lerobot.parquet import read_columns
from robodiff.data.formats.lerobot.video import TOLERANCE, decode_frames
from robodiff.data.images import resized, target_size
from robodiff.data.naming import usual_names
from robodiff.data.recordings import Recording, Stored
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.machine import cores

FRAMES_PER_PART = 2000  # of a video: few seconds of work to lose, and far more than finding the first frame costs
_CLOCK = ["episode_index", "frame_index", "timestamp"]
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


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
            read = partial(_images, meta, key, chosen, files, size, folder_of(config.cache_dir))
        arrays[key] = Stored(shape, meta.features[key].dtype, read, names[key], feature)
    table = {
        name: [episode.row.get(name) for episode in chosen]
        for name in dict.fromkeys(name for episode in chosen for name in episode.row)
    }
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

    def read(episodes: list[Episode]) -> np.ndarray:
        path = meta.root / episodes[0].data
        with reading(path, "a parquet file"):
            table = read_columns(path, [*_CLOCK, key])
            rows = _rows(meta, path, table, episodes)
            return _numbers(meta, path, key, table)[rows]

    with ThreadPoolExecutor(cores()) as pool:
        return np.concatenate(list(pool.map(read, files)))


def _rows(meta: Meta, path: Path, table: pa.Table, episodes: list[Episode]) -> np.ndarray:
    """Return the rows that episodes have in the table of a file; their clock is checked."""
    number, frame, time = (table[key].to_numpy() for key in _CLOCK)
    for key, clock in zip(_CLOCK, (number, frame, time), strict=True):
        if clock.dtype.kind not in "iuf":
            raise RobodiffError(f"{path}: {key} must be numbers; found {table[key].type}")
    if not np.all(number[1:] >= number[:-1]):
        raise RobodiffError(f"{path}: its episodes are not in rising order, see column episode_index")
    places = []
    for episode in episodes:
        first, last = np.searchsorted(number, [episode.number, episode.number + 1])
        if last - first != episode.length:
            raise RobodiffError(
                f"{path}: episode {episode.number} has {last - first} rows, but meta/ says {episode.length} frames"
            )
        expected = np.arange(episode.length)
        if (gap := np.flatnonzero(frame[first:last] != expected)).size:
            raise RobodiffError(f"{path}: episode {episode.number} has frame_index {frame[first + gap[0]]} "
                                f"in place of {gap[0]}")  # fmt: skip
        off = np.abs(time[first:last] * meta.fps - expected)
        if not off.max() <= TOLERANCE:  # or is not a number
            worst = int(np.argmin(off <= TOLERANCE))
            raise RobodiffError(
                f"{path}: frame {worst} of episode {episode.number} is at {time[first + worst]:.3f} s, but fps "
                f"{meta.fps:g} of meta/info.json puts it at {worst / meta.fps:.3f} s"
            )
        places.append(np.arange(first, last))
    return np.concatenate(places)


def _numbers(meta: Meta, path: Path, key: str, table: pa.Table) -> np.ndarray:
    """Return a column of numbers, or of lists of numbers, as (rows, D); it must be what info.json says."""
    column, info, rows = table[key].combine_chunks(), meta.features[key], len(table)
    width = math.prod(info.shape)
    while len(column) > 0 and column.null_count == 0 and any(is_list(column.type) for is_list in _LISTS):
        lengths = pc.call_function("list_value_length", [column]).to_numpy()
        kinds, counts = np.unique(lengths, return_counts=True)
        usual = kinds[counts.argmax()]
        if (bad := np.flatnonzero(lengths != usual)).size:
            row = int(bad[0]) * rows // len(column)
            frame, episode = (table[name][row].as_py() for name in ("frame_index", "episode_index"))
            raise RobodiffError(f"{path}: {key} has {lengths[bad[0]]} values in frame {frame} of episode {episode}, "
                                f"and {usual} in most others; record it again")  # fmt: skip
        column = column.flatten()
    if column.null_count:
        raise RobodiffError(f"{path}: {key} has frames without a value")
    plain = pa.types.is_primitive(column.type)
    dtype = str(np.dtype(column.type.to_pandas_dtype()) if plain else column.type)
    if dtype != info.dtype or len(column) != rows * width:
        raise RobodiffError(f"{path}: {key} is {dtype} with {len(column) / max(rows, 1):g} numbers a frame, but "
                            f"meta/info.json says {info.dtype} of shape {info.shape}")  # fmt: skip
    return column.to_numpy(zero_copy_only=False).reshape(rows, width)


def _images(
    meta: Meta,
    key: str,
    chosen: list[Episode],
    files: list[list[Episode]],
    resize: tuple[int, int] | None,
    cache: Path | None,
) -> np.ndarray:
    """Return (N, 3, H, W) uint8, memory-mapped."""
    size = meta.features[key].image_size
    if meta.features[key].dtype == "video":
        parts = [_video_part(meta, key, group, size, resize) for group in _runs(meta, key, chosen)]
    else:
        parts = [
            Part(
                meta.root / group[0].data,
                sum(episode.length for episode in group),
                f"{key} {[episode.number for episode in group]} {resize}",
                partial(_pngs, meta, key, group, size, resize),
            )
            for group in files
        ]
    for part in parts:
        if not part.source.is_file():
            raise RobodiffError(f"{part.source}: is missing, and {key} needs it; copy or download the data set again")
    return assembled(f"{meta.root}: {key}", parts, (3, *(resize or size)), np.dtype(np.uint8), cache)


def _runs(meta: Meta, key: str, episodes: list[Episode]) -> Iterator[list[Episode]]:
    """Yield episodes that follow one another in one video, up to about ``FRAMES_PER_PART`` frames together."""
    run: list[Episode] = []
    frames, end = 0, 0.0
    for episode in episodes:
        path, start = episode.videos[key]
        if run and (path != run[0].videos[key][0] or start < end or frames + episode.length > FRAMES_PER_PART):
            yield run
            run, frames = [], 0
        run.append(episode)
        frames, end = frames + episode.length, start + (episode.length - TOLERANCE) / meta.fps
    yield run


def _video_part(
    meta: Meta, key: str, episodes: list[Episode], size: tuple[int, int], resize: tuple[int, int] | None
) -> Part:
    times = np.concatenate([e.videos[key][1] + np.arange(e.length) / meta.fps for e in episodes])
    path = meta.root / episodes[0].videos[key][0]
    recipe = f"{hashlib.sha256(times.tobytes()).hexdigest()} {resize}"

    def decode() -> Iterator[np.ndarray]:
        done = 0
        try:
            for image in decode_frames(path, times, meta.fps, size, resize):
                yield image
                done += 1
        except RobodiffError as error:
            place = np.searchsorted(np.cumsum([episode.length for episode in episodes]), done, side="right")
            raise RobodiffError(f"{error} (episode {episodes[place].number})") from None

    return Part(path, len(times), recipe, decode)


def _pngs(
    meta: Meta, key: str, episodes: list[Episode], size: tuple[int, int], resize: tuple[int, int] | None
) -> Iterator[np.ndarray]:
    """Yield images that are embedded in a parquet file, one by one as (1, 3, H, W)."""
    from PIL import Image

    path = meta.root / episodes[0].data
    with reading(path, "a parquet file of PNGs"):
        table = read_columns(path, [*_CLOCK, key])
        for row in _rows(meta, path, table, episodes):
            with Image.open(io.BytesIO(table[key][int(row)].as_py()["bytes"])) as image:
                if (image.height, image.width) != size:
                    raise RobodiffError(f"{path}: {key} is {image.height}x{image.width} (height x width) in row {row}, "
                                        f"but meta/info.json says {size[0]}x{size[1]}")  # fmt: skip
                yield resized(np.asarray(image.convert("RGB")).transpose(2, 0, 1)[None], resize)
