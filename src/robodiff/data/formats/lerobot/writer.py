"""Write LeRobot v3.0 data sets, episode by episode; they are whole when the writer is closed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from robodiff.data.arrays import as_images
from robodiff.data.episodes import INTERVENTION, Episodes, Feature, left_out
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
from robodiff.data.formats.pieces import episode_rows
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
        for arrays, row in episode_rows(episodes, columns, on_episode):
            who = {key: array > 0 for key, array in arrays.items() if key == INTERVENTION}  # as LeRobot has it
            writer.append({**arrays, **who}, **row)
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
            raise UsageError(f"LeRobot's fps is a whole number; found {fps:g}; choose another format")
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path}: exists already; choose another path")
        self.path, self.fps, self._robot_type = path, int(fps), robot_type
        self._described = dict(features or {})
        self._codec: Codec | None = None if images == "png" else images
        self._data = GrowingTable(path, _DATA)
        self._rows: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._features: dict[str, Any] = {}
        self._types: dict[str, Any] = {}
        self._vectors: dict[str, list[np.ndarray]] = {}
        self._images: dict[str, list[Stats]] = {}
        self._frames = 0

    def append(self, arrays: Mapping[str, np.ndarray], task: str = "", **row: Any) -> None:
        """Add one episode: per key (L, D) or (L,) numbers, or (L, C, H, W) or (L, H, W, C) images; its task and row.

        Raises:
            RobodiffError: arrays of unequal lengths, other keys, shapes or columns than the episodes before have, or
                images that the codec does not take; nothing of the episode counts then.
        """
        number, lengths = len(self._rows), {len(array) for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise RobodiffError(f"an episode's arrays must be equally long; found {sorted(lengths)} frames")
        if kept := [key for key in [*arrays, *row] if key in CLOCK or reserved(key) or "/" in key]:
            raise RobodiffError(f"{self.path}: {kept[0]!r} is a name that LeRobot's format keeps for itself")
        (length,), task_index = lengths, self._tasks.get(task, len(self._tasks))
        images = {key: as_images(str(self.path), key, array) for key, array in arrays.items() if array.ndim == 4}
        vectors = {key: _numbers(self.path, key, array) for key, array in arrays.items() if array.ndim != 4}
        vectors |= self._clock(length, task_index)
        features = {
            **{key: self._image_feature(key, stack) for key, stack in images.items()},
            **{key: self._vector_feature(key, values) for key, values in vectors.items()},
        }
        types = {**features, **{name: type(value).__name__ for name, value in row.items()}}
        before = self._types or types
        if odd := [key for key in {**before, **types} if before.get(key) != types.get(key)]:
            change = f"{before.get(odd[0], 'absent')}; found {types.get(odd[0], 'none')}"
            raise RobodiffError(f"{self.path}: {odd[0]} must be as in the episodes before, {change}")
        stats = {
            **{key: image_stats(stack) for key, stack in images.items()},
            **{key: vector_stats(values) for key, values in vectors.items()},
        }
        columns = {key: column(values) for key, values in vectors.items()}
        videos: dict[str, Any] = {}
        for key, stack in images.items():
            if self._codec is None:
                columns[key] = pngs(stack)
            else:
                videos |= self._write_video(key, number, stack, self._codec)
        place = self._data.write(pa.table(columns).replace_schema_metadata(hugging_face(features)))
        numbers = {f"stats/{key}/{name}": value.tolist() for key, each in stats.items() for name, value in each.items()}
        row = {"episode_index": number, "tasks": [task], "length": length, **row, **videos}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": self._frames, "dataset_to_index": self._frames + length, **numbers}
        self._rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        for key, values in vectors.items():
            self._vectors.setdefault(key, []).append(values)
        for key in images:
            self._images.setdefault(key, []).append(stats[key])
        self._features, self._types, self._frames = features, types, self._frames + length
        self._tasks[task] = task_index

    def close(self) -> None:
        """Write what is known only of all episodes together, ``meta/info.json`` last: it makes them count."""
        if not self._rows:
            return
        self._data.close()
        write_table(pa.Table.from_pylist(self._rows), self.path / _EPISODES.format(chunk_index=0, file_index=0))
        write_table(task_table([*self._tasks]), self.path / "meta" / "tasks.parquet")
        stats = {key: merge_stats(parts) for key, parts in self._images.items()}
        stats |= {key: vector_stats(np.concatenate(parts)) for key, parts in self._vectors.items()}
        listed = {key: {name: value.tolist() for name, value in each.items()} for key, each in stats.items()}
        write_json(self.path / "meta" / "stats.json", listed)
        info = {"codebase_version": "v3.0", "robot_type": self._robot_type, "total_episodes": len(self._rows)}
        info |= {"total_frames": self._frames, "total_tasks": len(self._tasks), "chunks_size": CHUNK, "fps": self.fps}
        info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "features": self._features}
        info |= {"data_path": _DATA, "video_path": _VIDEO, "splits": {"train": f"0:{len(self._rows)}"}}
        write_json(self.path / "meta" / "info.json", info)

    def _clock(self, length: int, task: int) -> dict[str, np.ndarray]:
        step = np.arange(length)
        episode, tasks = np.full(length, len(self._rows)), np.full(length, task)
        values = ((step / self.fps).astype(np.float32), step, episode, step + self._frames, tasks)
        return {key: value[:, None] for key, value in zip(CLOCK, values, strict=True)}

    def _image_feature(self, key: str, images: np.ndarray) -> dict[str, Any]:
        _, channels, height, width = images.shape
        if channels not in (1, 3):
            raise RobodiffError(f"{self.path}: {key} must be grey or colour images; found {channels} channels")
        shape = {"shape": [height, width, channels], "names": ["height", "width", "channels"]}
        if self._codec is None:
            return {"dtype": "image", **shape}
        return {"dtype": "video", **shape, "info": describe_video(height, width, self.fps, self._codec)}

    def _vector_feature(self, key: str, values: np.ndarray) -> dict[str, Any]:
        described = self._described.get(key)
        names = list(described.names) if described and described.names else None
        unit = {"unit": described.unit} if described and described.unit else {}
        return {"dtype": str(values.dtype), "shape": [values.shape[1]], "names": names, **unit}

    def _write_video(self, key: str, number: int, images: np.ndarray, codec: Codec) -> dict[str, Any]:
        """Write one video an episode; return what the episode's row says of it."""
        place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        video = self.path / _VIDEO.format(video_key=key, **place)
        video.parent.mkdir(parents=True, exist_ok=True)
        encode_video(video, np.broadcast_to(images, (len(images), 3, *images.shape[2:])), self.fps, codec)
        row = {**place, "from_timestamp": 0.0, "to_timestamp": len(images) / self.fps}
        return {f"videos/{key}/{name}": value for name, value in row.items()}


def _numbers(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Return (L,) or (L, D) numbers as (L, D) bool, int64 or float32."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise RobodiffError(f"{path}: {key} must be finite numbers (L, D); found {array.dtype} {array.shape}")
    kinds = {"b": np.bool_, "f": np.float32}
    return array.reshape(len(array), -1).astype(kinds.get(array.dtype.kind, np.int64))
