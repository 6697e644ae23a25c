"""Write LeRobot v3.0 data sets, episode by episode.

``meta/info.json`` is written last and says how many episodes count; whatever else a stopped writer left is not read,
and is dropped when a writer goes on. A parquet file is complete only when it is closed, so the last one is rewritten
with each episode until it is full. ``robodiff.json`` says by which recipe a data set is made, if by any, and whether it
is whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robodiff.data.episodes import Feature, as_images
from robodiff.data.formats.lerobot.info import Said
from robodiff.data.formats.lerobot.meta import CLOCK, reserved
from robodiff.data.formats.lerobot.parquet import CHUNK, PLACE, GrowingTable, column, hugging_face, pngs, task_table
from robodiff.data.formats.lerobot.stats import Stats, image_stats, merge_stats, vector_stats
from robodiff.data.formats.lerobot.video import Codec, describe_video, encode_video
from robodiff.errors import RobodiffError, UsageError
from robodiff.files import reading, replacing, write_json

_DATA, _EPISODES = f"data/{PLACE}.parquet", f"meta/episodes/{PLACE}.parquet"
_VIDEO = f"videos/{{video_key}}/{PLACE}.mp4"
_RECIPE = "robodiff.json"


class LeRobotWriter:
    """Append episodes to a data set; each is durable when ``append`` returns, and a stopped writer goes on.

    Args:
        path: the folder; an existing data set of the same kind is continued after its last whole episode.
        fps: frames per second, a whole number.
        images: how images are stored: as video with a codec, or ``png``, which loses nothing and takes far more room.
        features: names and units of the vectors' dimensions, per key.
        robot_type: which robot it was recorded on.
        recipe: how the episodes are made; a data set is then continued only by the recipe that began it.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        images: Literal["av1", "h264", "png"] = "av1",
        features: Mapping[str, Feature] | None = None,
        robot_type: str | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        if fps != int(fps) or fps < 1:
            raise UsageError(f"{path}: LeRobot's fps is a whole number; found {fps:g}")
        self.path, self.fps, self._described = path, int(fps), dict(features or {})
        self._codec: Codec | None = None if images == "png" else images
        self._info: dict[str, Any] = {
            "codebase_version": "v3.0", "robot_type": robot_type, "total_episodes": 0, "total_frames": 0,
            "total_tasks": 0, "chunks_size": CHUNK, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
            "fps": self.fps, "splits": {}, "data_path": _DATA, "video_path": _VIDEO, "features": {},
        }  # fmt: skip
        self._data, self._rows = GrowingTable(path, _DATA), GrowingTable(path, _EPISODES)
        self._tasks: list[str] = []
        self._stats: dict[str, Stats] = {}
        self._recipe = recipe
        self.complete = recipe is not None and _made_by(recipe, path)
        if (path / "meta" / "info.json").exists():
            self._go_on()

    @property
    def episodes(self) -> int:
        """How many there are."""
        return self._info["total_episodes"]

    def append(self, arrays: Mapping[str, np.ndarray], task: str = "", **row: Any) -> None:
        """Add one episode: per key (L, D) or (L,) numbers, or (L, C, H, W) or (L, H, W, C) images; its task and row.

        Raises:
            RobodiffError: arrays of unequal lengths, other keys, shapes or columns than the episodes before have, or
                images that the codec does not take; nothing of the episode counts then.
        """
        length = self._check(arrays, row)
        tasks = list(dict.fromkeys([*self._tasks, task]))
        images = {key: as_images(str(self.path), key, array) for key, array in arrays.items() if array.ndim == 4}
        vectors = {key: _numbers(self.path, key, array) for key, array in arrays.items() if array.ndim != 4}
        vectors |= self._clock(length, tasks.index(task))
        features = {**{key: self._image_feature(key, stack) for key, stack in images.items()},
                    **{key: self._vector_feature(key, values) for key, values in vectors.items()}}  # fmt: skip
        if self.episodes and features != self._info["features"]:
            there = self._info["features"]
            key = next(key for key in {**there, **features} if there.get(key) != features.get(key))
            raise RobodiffError(f"{self.path}: {key} must be as in the episodes before, {there.get(key, 'absent')}; "
                                f"found {features.get(key, 'none')}")  # fmt: skip
        stats = {**{key: image_stats(stack) for key, stack in images.items()},
                 **{key: vector_stats(values) for key, values in vectors.items()}}  # fmt: skip

        columns = {key: column(values) for key, values in vectors.items()}
        said: dict[str, Any] = {"episode_index": self.episodes, "tasks": [task], "length": length, **row}
        for key, stack in images.items():
            if self._codec is None:
                columns[key] = pngs(stack)
            else:
                said |= self._write_video(key, stack, self._codec)
        said |= {f"data/{name}": value for name, value in self._data.place().items()}
        said |= {"dataset_from_index": self._info["total_frames"],
                 "dataset_to_index": self._info["total_frames"] + length}  # fmt: skip
        said |= {f"stats/{key}/{name}": value.tolist() for key, each in stats.items() for name, value in each.items()}
        said |= {f"meta/episodes/{name}": value for name, value in self._rows.place().items()}
        self._data.write(pa.table(columns).replace_schema_metadata(hugging_face(features)))
        self._rows.write(pa.table({name: [value] for name, value in said.items()}))
        self._finish(length, tasks, features, merge_stats(self._stats, stats))

    def close(self) -> None:
        """Replace the quantiles of the vectors, until now averages over the episodes, by those over all frames, and
        mark what is made by a recipe as whole."""
        vectors = [key for key, feature in self._info["features"].items() if feature["dtype"] not in ("image", "video")]
        for key in vectors:  # one at a time, so that only one is in memory
            tables = [pq.read_table(path, columns=[key]) for path in sorted(self.path.glob("data/*/*.parquet"))]
            rows = pa.concat_tables(tables)[key].combine_chunks()
            values = rows.flatten() if pa.types.is_fixed_size_list(rows.type) else rows
            width = self._info["features"][key]["shape"][0]
            self._stats[key] = vector_stats(values.to_numpy(zero_copy_only=False).reshape(-1, width))
        if self.episodes:
            self._write_stats(self._stats)
        if self._recipe is not None:
            _write_recipe(self.path, self._recipe, complete=True)

    def _go_on(self) -> None:
        """Take up an existing data set, and drop what an unfinished episode left of itself."""
        path = self.path / "meta" / "info.json"
        with reading(path, "a JSON file"):
            info = json.loads(path.read_text())
        there = Said(path, info)
        counts = {name: there.whole(name) for name in ("total_episodes", "total_frames", "total_tasks")}
        counts |= {name: there.entry(name) for name in ("splits", "features")}
        if info != {**self._info, **counts}:
            said = {name: info.get(name) for name, value in self._info.items()
                    if name not in counts and info.get(name) != value}  # fmt: skip
            raise RobodiffError(f"{self.path}: holds another data set, which robodiff cannot add to ({said}); "
                                "choose another path")  # fmt: skip
        self._info = info
        self._data.resume(self.episodes)
        self._rows.resume(self.episodes)
        for path in sorted(self.path.glob("meta/episodes/*/*.parquet")):
            with reading(path, "a parquet file", pa.ArrowException):
                rows = pq.read_table(path).to_pylist()
            for row in (row for row in rows if row["episode_index"] < self.episodes):
                self._tasks = list(dict.fromkeys([*self._tasks, *row["tasks"]]))
                self._stats = merge_stats(self._stats, _stats_of(row, info["features"]))

    def _check(self, arrays: Mapping[str, np.ndarray], row: Mapping[str, Any]) -> int:
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise RobodiffError(f"an episode's arrays must be equally long; found {sorted(lengths)} frames")
        for key in [*arrays, *row]:
            if key in CLOCK or reserved(key) or "/" in key:
                raise RobodiffError(f"{self.path}: {key!r} is a name that LeRobot's format keeps for itself")
        return lengths.pop()

    def _clock(self, length: int, task: int) -> dict[str, np.ndarray]:
        step = np.arange(length)
        same = np.ones(length, np.int64)
        values = (step / self.fps, step, same * self.episodes, step + self._info["total_frames"], same * task)
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
        said = self._described.get(key)
        names = list(said.names) if said is not None and said.names is not None else None
        unit = {"unit": said.unit} if said is not None and said.unit is not None else {}
        return {"dtype": str(values.dtype), "shape": [values.shape[1]], "names": names, **unit}

    def _write_video(self, key: str, images: np.ndarray, codec: Codec) -> dict[str, Any]:
        """One video an episode, which is whole when the episode is; returns what the episode's row says of it."""
        place = {"chunk_index": self.episodes // CHUNK, "file_index": self.episodes % CHUNK}
        with replacing(self.path / _VIDEO.format(video_key=key, **place)) as temporary:
            encode_video(temporary, images, self.fps, codec)
        row = {**place, "from_timestamp": 0.0, "to_timestamp": len(images) / self.fps}
        return {f"videos/{key}/{name}": value for name, value in row.items()}

    def _finish(self, length: int, tasks: list[str], features: dict[str, Any], stats: dict[str, Stats]) -> None:
        if tasks != self._tasks:
            with replacing(self.path / "meta" / "tasks.parquet") as temporary:
                pq.write_table(task_table(tasks), temporary)
        self._write_stats(stats)
        episodes, frames = self.episodes + 1, self._info["total_frames"] + length
        info = {**self._info, "features": features, "total_episodes": episodes, "total_frames": frames,
                "total_tasks": len(tasks), "splits": {"train": f"0:{episodes}"}}  # fmt: skip
        write_json(self.path / "meta" / "info.json", info)
        self._info, self._tasks, self._stats = info, tasks, stats
        self._data.commit()
        self._rows.commit()

    def _write_stats(self, stats: dict[str, Stats]) -> None:
        plain = {key: {name: value.tolist() for name, value in each.items()} for key, each in stats.items()}
        write_json(self.path / "meta" / "stats.json", plain)


def _made_by(recipe: Mapping[str, Any], path: Path) -> bool:
    """Whether a recipe's data set is here and whole; where there is none, or one without an episode, it is begun.

    Raises:
        RobodiffError: what is here was made otherwise.
    """
    mark, made = path / _RECIPE, ""
    if mark.exists():
        with reading(mark, "a JSON file"):
            found = json.loads(mark.read_text())
            if found["recipe"] == recipe:
                return found["complete"]
            made = f" ({found['recipe']})"
    began = ["meta/info.json"] if made else ["data", "meta", "videos"]  # without info.json no episode is whole
    if any((path / name).exists() for name in began):
        raise RobodiffError(f"{path}: holds another recording{made}; choose another path")
    _write_recipe(path, recipe, complete=False)
    return False


def _write_recipe(path: Path, recipe: Mapping[str, Any], complete: bool) -> None:
    write_json(path / _RECIPE, {"recipe": dict(recipe), "complete": complete})


def _stats_of(row: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Stats]:
    """What an episode's row says of its statistics."""
    said = {key: f"stats/{key}/" for key in keys}
    return {
        key: {name.removeprefix(prefix): np.array(value) for name, value in row.items() if name.startswith(prefix)}
        for key, prefix in said.items()
    }


def _numbers(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """(L,) or (L, D) numbers as (L, D) bool, int64 or float32."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        raise RobodiffError(f"{path}: {key} must be numbers (L, D) or images (L, C, H, W); found {array.dtype} "
                            f"{array.shape}")  # fmt: skip
    if not np.isfinite(array).all():
        raise RobodiffError(f"{path}: {key} is not finite at frame {int(np.argwhere(~np.isfinite(array))[0][0])}")
    kinds = {"b": np.bool_, "f": np.float32}
    return array.reshape(len(array), -1).astype(kinds.get(array.dtype.kind, np.int64))
