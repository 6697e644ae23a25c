"""Write LeRobot v3.0 data sets, episode by episode; they are whole when the writer is closed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from robodiff.data.episodes import Episodes, Feature, as_images, left_out
from robodiff.data.formats.lerobot.meta import CLOCK, reserved
from robodiff.data.formats.lerobot.parquet import (
    CHUNK,
    PLACE,
    GrowingTable,
    column,
    hugging_face,
    pngs,
    task_table,
    write_table,
)
from robodiff.data.formats.lerobot.stats import Stats, image_stats, merge_stats, vector_stats
from robodiff.data.formats.lerobot.video import Codec, describe_video, encode_video
from robodiff.documents import write_json
from robodiff.errors import RobodiffError, UsageError
from robodiff.files import replacing

Images = Literal["av1", "h264", "png"]
_DATA, _EPISODES = f"data/{PLACE}.parquet", f"meta/episodes/{PLACE}.parquet"
_VIDEO = f"videos/{{video_key}}/{PLACE}.mp4"


def write_lerobot(
    episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None, images: Images = "av1"
) -> list[str]:
    """Write a recording to a folder, whole or not at all.

    Args:
        episodes: the recording.
        path: where nothing is yet.
        on_episode: called with the number of episodes done.
        images: how images are stored; with ``png`` they come back to the bit.

    Returns:
        What of it a LeRobot data set has no place for.
    """
    every = episodes.columns(bool, int, float, str)
    columns = {name: column for name, column in every.items() if name == "task" or None not in column}
    with replacing(path) as temporary:
        robot = episodes.attributes.get("robot_type")
        writer = LeRobotWriter(temporary, episodes.fps, images, episodes.features, robot)
        for number in range(len(episodes)):
            frames = episodes.slice(number)
            arrays = {key: np.asarray(array[frames]) for key, array in episodes.arrays.items()}
            row = {name: column[number] for name, column in columns.items()}
            writer.append(arrays, **{name: value for name, value in row.items() if value is not None})
            if on_episode is not None:
                on_episode(number + 1)
        writer.close()
    return left_out(episodes, [*columns, "robot_type"], names_kept=True)


class LeRobotWriter:
    """Append episodes to a new data set, and close it.

    Args:
        path: the folder, in which nothing is yet.
        fps: frames per second, a whole number.
        images: how images are stored: as video with a codec, or ``png``, which loses nothing and takes far more room.
        features: names and units of the vectors' dimensions, per key.
        robot_type: which robot it was recorded on.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        images: Images = "av1",
        features: Mapping[str, Feature] | None = None,
        robot_type: str | None = None,
    ) -> None:
        if fps != int(fps) or fps < 1:
            raise UsageError(f"{path}: LeRobot's fps is a whole number; found {fps:g}")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path}: exists already; choose another path")
        self.path, self.fps, self._described = path, int(fps), dict(features or {})
        self._codec: Codec | None = None if images == "png" else images
        self._robot_type = robot_type
        self._data = GrowingTable(path, _DATA)
        self._rows: list[dict[str, Any]] = []
        self._row_types: dict[str, str] = {}
        self._tasks: list[str] = []
        self._features: dict[str, Any] = {}
        self._vectors: dict[str, list[np.ndarray]] = {}
        self._image_stats: dict[str, Stats] = {}
        self._frames = 0

    def append(self, arrays: Mapping[str, np.ndarray], task: str = "", **row: Any) -> None:
        """Add one episode: per key (L, D) or (L,) numbers, or (L, C, H, W) or (L, H, W, C) images; its task and row.

        Raises:
            RobodiffError: arrays of unequal lengths, other keys, shapes or columns than the episodes before have, or
                images that the codec does not take; nothing of the episode counts then.
        """
        length, number = self._check(arrays, row), len(self._rows)
        tasks = list(dict.fromkeys([*self._tasks, task]))
        images = {key: as_images(str(self.path), key, array) for key, array in arrays.items() if array.ndim == 4}
        vectors = {key: _numbers(self.path, key, array) for key, array in arrays.items() if array.ndim != 4}
        vectors |= self._clock(length, tasks.index(task))
        features = {**{key: self._image_feature(key, stack) for key, stack in images.items()},
                    **{key: self._vector_feature(key, values) for key, values in vectors.items()}}  # fmt: skip
        before = self._features or features
        if key := next((key for key in {**before, **features} if before.get(key) != features.get(key)), None):
            raise RobodiffError(f"{self.path}: {key} must be as in the episodes before, {before.get(key, 'absent')}; "
                                f"found {features.get(key, 'none')}")  # fmt: skip
        seen = {key: image_stats(stack) for key, stack in images.items()}
        stats = {**seen, **{key: vector_stats(values) for key, values in vectors.items()}}
        columns = {key: column(values) for key, values in vectors.items()}
        videos: dict[str, Any] = {}
        for key, stack in images.items():
            if self._codec is None:
                columns[key] = pngs(stack)
            else:
                videos |= self._write_video(key, number, stack, self._codec)
        place = self._data.write(pa.table(columns).replace_schema_metadata(hugging_face(features)))
        self._rows.append({
            "episode_index": number, "tasks": [task], "length": length, **row, **videos,
            **{f"data/{name}": value for name, value in place.items()},
            "dataset_from_index": self._frames, "dataset_to_index": self._frames + length,
            **{f"stats/{key}/{name}": value.tolist() for key, each in stats.items() for name, value in each.items()},
            "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        })  # fmt: skip
        for key, values in vectors.items():
            self._vectors.setdefault(key, []).append(values)
        self._features, self._tasks, self._frames = features, tasks, self._frames + length
        self._image_stats = merge_stats(self._image_stats, seen)

    def close(self) -> None:
        """Write what is known only of all episodes together, ``meta/info.json`` last: it makes them count."""
        if not self._rows:
            return
        self._data.close()
        write_table(pa.Table.from_pylist(self._rows), self.path / _EPISODES.format(chunk_index=0, file_index=0))
        write_table(task_table(self._tasks), self.path / "meta" / "tasks.parquet")
        whole = {key: vector_stats(np.concatenate(parts)) for key, parts in self._vectors.items()}
        stats = {key: {name: value.tolist() for name, value in each.items()}
                 for key, each in {**self._image_stats, **whole}.items()}  # fmt: skip
        write_json(self.path / "meta" / "stats.json", stats)
        write_json(self.path / "meta" / "info.json", {
            "codebase_version": "v3.0", "robot_type": self._robot_type, "total_episodes": len(self._rows),
            "total_frames": self._frames, "total_tasks": len(self._tasks), "chunks_size": CHUNK,
            "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": self.fps,
            "splits": {"train": f"0:{len(self._rows)}"}, "data_path": _DATA, "video_path": _VIDEO,
            "features": self._features,
        })  # fmt: skip

    def _check(self, arrays: Mapping[str, np.ndarray], row: Mapping[str, Any]) -> int:
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise RobodiffError(f"an episode's arrays must be equally long; found {sorted(lengths)} frames")
        for key in [*arrays, *row]:
            if key in CLOCK or reserved(key) or "/" in key:
                raise RobodiffError(f"{self.path}: {key!r} is a name that LeRobot's format keeps for itself")
        types = {name: type(value).__name__ for name, value in row.items()}
        if types != (before := self._row_types if self._rows else types):
            raise RobodiffError(f"{self.path}: an episode's columns must be those of the episodes before; expected "
                                f"{before}, found {types}")  # fmt: skip
        self._row_types = types
        return lengths.pop()

    def _clock(self, length: int, task: int) -> dict[str, np.ndarray]:
        step = np.arange(length)
        same = np.ones(length, np.int64)
        values = (step / self.fps, step, same * len(self._rows), step + self._frames, same * task)
        columns = {key: value[:, None] for key, value in zip(CLOCK, values, strict=True)}
        return {**columns, "timestamp": columns["timestamp"].astype(np.float32)}

    def _image_feature(self, key: str, images: np.ndarray) -> dict[str, Any]:
        _, channels, height, width = images.shape
        if channels != 3:
            raise RobodiffError(f"{self.path}: {key} must be colour images; found {channels} channels")
        shape = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
        if self._codec is None:
            return {"dtype": "image", **shape}
        return {"dtype": "video", **shape, "info": describe_video(height, width, self.fps, self._codec)}

    def _vector_feature(self, key: str, values: np.ndarray) -> dict[str, Any]:
        described = self._described.get(key)
        names = list(described.names) if described is not None and described.names is not None else None
        unit = {"unit": described.unit} if described is not None and described.unit is not None else {}
        return {"dtype": str(values.dtype), "shape": [values.shape[1]], "names": names, **unit}

    def _write_video(self, key: str, number: int, images: np.ndarray, codec: Codec) -> dict[str, Any]:
        """Write one video an episode; return what the episode's row says of it."""
        place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        with replacing(self.path / _VIDEO.format(video_key=key, **place)) as temporary:
            encode_video(temporary, images, self.fps, codec)
        row = {**place, "from_timestamp": 0.0, "to_timestamp": len(images) / self.fps}
        return {f"videos/{key}/{name}": value for name, value in row.items()}


def _numbers(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Return (L,) or (L, D) numbers as (L, D) bool, int64 or float32."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        raise RobodiffError(f"{path}: {key} must be numbers (L, D) or images (L, C, H, W); found {array.dtype} "
                            f"{array.shape}")  # fmt: skip
    if not np.isfinite(array).all():
        raise RobodiffError(f"{path}: {key} is not finite at frame {int(np.argwhere(~np.isfinite(array))[0][0])}")
    kinds = {"b": np.bool_, "f": np.float32}
    return array.reshape(len(array), -1).astype(kinds.get(array.dtype.kind, np.int64))
