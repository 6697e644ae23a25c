"""What a LeRobot data set says of itself in ``meta/``, formats v2.1 and v3.0, and fetching one from the hub."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robodiff.data.episodes import ACTION, Feature, episode_numbers, recorded_keys
from robodiff.errors import NotFetched, RobodiffError

VERSIONS = ("v2.1", "v3.0")
CLOCK = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that the format itself has in every row."""
_COLUMNS = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
_PREFIXES = ("data/", "videos/", "meta/", "stats/")


@dataclass(frozen=True)
class Episode:
    """Where one episode is. Paths are relative to the data set's folder."""

    number: int
    length: int
    """Frames."""
    data: str
    """The parquet file with its vectors."""
    videos: Mapping[str, tuple[str, float]]
    """Per camera its video, and the time in seconds at which the episode starts there."""
    row: Mapping[str, Any]
    """``task`` and what else is said of it."""


@dataclass(frozen=True)
class Meta:
    """What ``meta/`` says."""

    root: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    """Per key LeRobot's ``dtype``, ``shape`` and ``names``."""
    episodes: list[Episode]
    robot_type: str | None

    def choose(self, numbers: list[int] | None) -> list[Episode]:
        """The episodes of these numbers in rising order, or all; raises ``UsageError`` for a number that is none."""
        return [self.episodes[number] for number in episode_numbers(str(self.root), numbers, len(self.episodes))]

    def wanted(self, keys: list[str] | None) -> dict[str, Feature]:
        """What robodiff makes of these keys, or of all observations and the action.

        Raises:
            RobodiffError: a key that was not recorded, or one that is neither numbers nor colour images.
        """
        there = recorded_keys(str(self.root), keys or [ACTION], self.features)
        if keys is None:
            keys = [key for key in self.features if key == ACTION or key.startswith("observation.")]
            return {key: feature for key in keys if (feature := self._feature(key)) is not None}
        features = {key: self._feature(key) for key in there}
        for key, feature in features.items():
            if feature is None:
                raise RobodiffError(f"{self.root}: {key} is neither numbers nor colour images; meta/info.json says "
                                    f"{self.features[key]}")  # fmt: skip
        return {key: feature for key, feature in features.items() if feature is not None}

    def image_size(self, key: str) -> tuple[int, int]:
        """Recorded height and width of a camera's images."""
        shape = self.features[key]["shape"]
        height, width = shape[1:] if shape[0] == 3 and shape[2] != 3 else shape[:2]  # (3, H, W) in older ones
        return int(height), int(width)

    def _feature(self, key: str) -> Feature | None:
        said = self.features[key]
        shape, dtype = said["shape"], said["dtype"]
        if dtype in ("image", "video"):
            info = {**(said.get("info") or {}), **(said.get("video_info") or {})}
            if len(shape) != 3 or 3 not in shape or info.get("is_depth_map") or info.get("video.is_depth_map"):
                return None
            return Feature("image", (3, *self.image_size(key)), "uint8")
        if dtype in ("string", "language"):
            return None
        width, names = int(np.prod(shape)), _names(said.get("names"))
        names = names if names is not None and len(names) == width else None
        return Feature("vector", (width,), "float32", names, said.get("unit"))


def read_meta(root: Path) -> Meta:
    """Read and check what a data set says of itself.

    Raises:
        RobodiffError: no data set there, another version, a broken or incomplete one, or a gap in the episodes.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise RobodiffError(f"{root}: is not a LeRobot data set (it has no meta/info.json)")
    with reading(path):
        info = json.loads(path.read_text())
        version = info.get("codebase_version")
        if version not in VERSIONS:
            raise RobodiffError(f"{root}: has format {version!r}; robodiff reads {' and '.join(VERSIONS)}; "
                                "convert it with LeRobot's own converters")  # fmt: skip
        total, fps, features = int(info["total_episodes"]), float(info["fps"]), info["features"]
        if total < 1 or not fps > 0:
            raise RobodiffError(f"{path}: must have episodes and an fps above 0; found {total} episodes, fps {fps:g}")
        for feature in features.values():
            feature["dtype"], feature["shape"] = str(feature["dtype"]), [int(size) for size in feature["shape"]]
        cameras = [key for key, feature in features.items() if feature["dtype"] == "video"]
        for name in ("chunks_size", "data_path", *(["video_path"] if cameras else [])):
            _ = info[name]
    find = _v21 if version == "v2.1" else _v30
    # More than info.json counts are of an episode that was being saved when the recording stopped.
    episodes = sorted(find(root, info, cameras), key=lambda episode: episode.number)[:total]
    for place, episode in enumerate(episodes):
        if episode.number != place:
            raise RobodiffError(f"{root}: episode {place} is missing; meta/ goes on with episode {episode.number}; "
                                "episodes must be numbered from 0 without a gap")  # fmt: skip
        if episode.length < 1:
            raise RobodiffError(f"{root}: episode {place} has {episode.length} frames, by what meta/ says")
    if len(episodes) < total:
        raise RobodiffError(f"{root}: meta/info.json says {total} episodes, but meta/ describes {len(episodes)}")
    robot = info.get("robot_type")
    return Meta(root, fps, features, episodes, robot if isinstance(robot, str) else None)


def download(repo_id: str, revision: str | None, keys: list[str] | None, numbers: list[int] | None) -> Path:
    """Fetch what of a data set on the Hugging Face hub is needed, once, and return its folder.

    Raises:
        NotFetched: no network, no such repository or revision, or no access to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    def fetch(patterns: list[str]) -> Path:
        try:
            return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns))
        except GatedRepoError:
            reason = "needs access: ask for it on its page, then huggingface-cli login"
        except RepositoryNotFoundError:
            reason = "no such data set on the hub, or a private one (then: huggingface-cli login)"
        except RevisionNotFoundError:
            reason = f"has no revision {revision!r}"
        except HFValidationError as error:
            reason = str(error).splitlines()[0]
        except Exception as error:  # requests' or httpx's, by the version of huggingface_hub; offline; a full disk
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("Got: ").split(". ")[0]
            reason = f"cannot be fetched from the hub: {said[:160]}; without a network, give the path of its folder"
        raise NotFetched(f"{repo_id}: {reason}")

    meta = read_meta(fetch(["meta/*"]))
    cameras = {key for key, feature in meta.wanted(keys).items() if feature.kind == "image"}
    chosen = meta.choose(numbers)
    videos = {path for episode in chosen for key, (path, _) in episode.videos.items() if key in cameras}
    return fetch(["meta/*", *sorted({episode.data for episode in chosen} | videos)])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of what goes wrong with a file which one it is."""
    try:
        yield
    except FileNotFoundError:
        raise RobodiffError(f"{path}: is missing; copy or download the data set again") from None
    except KeyError as error:
        raise RobodiffError(f"{path}: has no {error.args[0]!r}") from None
    except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise RobodiffError(f"{path}: is broken: {(str(error).splitlines() or [type(error).__name__])[0]}") from None


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file whose pages are compared with their checksums, where it has them."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def columns(file: pq.ParquetFile, wanted: Callable[[str], bool] | list[str]) -> pa.Table:
    """The columns that are named, or that a function picks; raises ``KeyError`` for one that is not there."""
    there = file.schema_arrow.names
    chosen = wanted if isinstance(wanted, list) else [name for name in there if wanted(name)]
    for name in chosen:
        if name not in there:
            raise KeyError(name)
    return file.read(columns=chosen)


def reserved(column: str) -> bool:
    """Whether the format itself has this column in an episode's row."""
    return column in _COLUMNS or column.startswith(_PREFIXES)


def _v21(root: Path, info: dict[str, Any], cameras: list[str]) -> Iterator[Episode]:
    path = root / "meta" / "episodes.jsonl"
    with reading(path):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            number = int(row["episode_index"])
            place = {"episode_index": number, "episode_chunk": number // info["chunks_size"]}
            videos = {camera: (info["video_path"].format(video_key=camera, **place), 0.0) for camera in cameras}
            yield Episode(number, int(row["length"]), info["data_path"].format(**place), videos, _row(row))


def _v30(root: Path, info: dict[str, Any], cameras: list[str]) -> Iterator[Episode]:
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise RobodiffError(f"{root}: meta/episodes/ holds no parquet file; copy or download the data set again")
    for path in paths:
        with reading(path), open_parquet(path) as file:
            for row in columns(file, lambda name: not name.startswith("stats/")).to_pylist():
                place = {part: row[f"data/{part}"] for part in ("chunk_index", "file_index")}
                videos = {}
                for camera in cameras:
                    said = {part: row[f"videos/{camera}/{part}"] for part in ("chunk_index", "file_index")}
                    start = float(row[f"videos/{camera}/from_timestamp"])
                    videos[camera] = (info["video_path"].format(video_key=camera, **said), start)
                data = info["data_path"].format(**place)
                yield Episode(int(row["episode_index"]), int(row["length"]), data, videos, _row(row))


def _row(said: Mapping[str, Any]) -> dict[str, Any]:
    """An episode's row of the table: its task, and columns that the format itself does not have."""
    more = {key: value for key, value in said.items() if not reserved(key)}
    return {"task": "; ".join(said.get("tasks") or []), **more}


def _names(names: Any) -> tuple[str, ...] | None:
    """LeRobot's names of dimensions, which are a list, a list in a list or a dictionary of lists, as one tuple."""
    if isinstance(names, dict):
        names = list(names.values())
    if not isinstance(names, list):
        return None
    flat = [name for part in names for name in (part if isinstance(part, list) else [part])]
    return tuple(map(str, flat))
