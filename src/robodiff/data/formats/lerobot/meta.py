"""What a LeRobot data set says of itself in ``meta/``, formats v2.1 and v3.0, and fetching one from the hub."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robodiff.data.episodes import ACTION, Feature, episode_numbers, recorded_keys
from robodiff.data.formats.lerobot.info import Info, Said, read_info
from robodiff.data.formats.lerobot.parquet import read_columns
from robodiff.errors import NotFetched, RobodiffError
from robodiff.files import reading

_NUMBERS = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
            "float16", "float32", "float64")  # fmt: skip
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
                said = {name: self.features[key][name] for name in ("dtype", "shape")}
                raise RobodiffError(f"{self.root}: {key} is neither numbers nor colour images (depth is not read); "
                                    f"meta/info.json says {said}")  # fmt: skip
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
            more = [part for part in (said.get("info"), said.get("video_info")) if isinstance(part, dict)]
            depth = any(part.get("is_depth_map") or part.get("video.is_depth_map") for part in more)
            if len(shape) != 3 or 3 not in shape or depth:
                return None
            return Feature("image", (3, *self.image_size(key)), "uint8")
        if dtype not in _NUMBERS:
            return None
        width, names, unit = math.prod(shape), _names(said.get("names")), said.get("unit")
        names = names if names is not None and len(names) == width else None
        return Feature("vector", (width,), "float32", names, unit if isinstance(unit, str) else None)


def read_meta(root: Path) -> Meta:
    """Read and check what a data set says of itself.

    Raises:
        RobodiffError: no data set there, another version, a broken or incomplete one, or a gap in the episodes.
    """
    info = read_info(root)
    find = _v21 if info.version == "v2.1" else _v30
    episodes = sorted(find(root, info), key=lambda episode: episode.number)[: info.episodes]
    for place, episode in enumerate(episodes):
        if episode.number != place:
            raise RobodiffError(f"{root}: episode {place} is missing; meta/ goes on with episode {episode.number}; "
                                "episodes must be numbered from 0 without a gap")  # fmt: skip
    if len(episodes) < info.episodes:
        raise RobodiffError(
            f"{root}: meta/info.json says {info.episodes} episodes, but meta/ describes {len(episodes)}"
        )
    return Meta(root, info.fps, info.features, episodes, info.robot_type)


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


def reserved(column: str) -> bool:
    """Whether the format itself has this column in an episode's row."""
    return column in _COLUMNS or column.startswith(_PREFIXES)


def _v21(root: Path, info: Info) -> Iterator[Episode]:
    path = root / "meta" / "episodes.jsonl"
    with reading(path, "a JSON lines file"):
        for line in path.read_text().splitlines():
            row = Said(path, json.loads(line))
            number = row.whole("episode_index")
            fields = {"episode_index": number, "episode_chunk": number // info.chunks_size}
            videos = {camera: (info.place("video_path", video_key=camera, **fields), 0.0) for camera in info.cameras}
            yield Episode(number, row.whole("length", 1), info.place("data_path", **fields), videos, _row(row))


def _v30(root: Path, info: Info) -> Iterator[Episode]:
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise RobodiffError(f"{root}: meta/episodes/ holds no parquet file; copy or download the data set again")
    for path in paths:
        with reading(path, "a parquet file"):
            for found in read_columns(path, lambda name: not name.startswith("stats/")).to_pylist():
                row, videos = Said(path, found), {}
                for camera in info.cameras:
                    place = info.place("video_path", video_key=camera, **_file(row, f"videos/{camera}"))
                    videos[camera] = (place, row.number(f"videos/{camera}/from_timestamp"))
                data = info.place("data_path", **_file(row, "data"))
                yield Episode(row.whole("episode_index"), row.whole("length", 1), data, videos, _row(row))


def _file(row: Said, what: str) -> dict[str, int]:
    """Which file an episode is in."""
    return {part: row.whole(f"{what}/{part}") for part in ("chunk_index", "file_index")}


def _row(said: Said) -> dict[str, Any]:
    """An episode's row of the table: its task, and columns that the format itself does not have."""
    more = {key: value for key, value in said.values.items() if not reserved(key)}
    return {"task": "; ".join(said.values.get("tasks") or []), **more}


def _names(names: Any) -> tuple[str, ...] | None:
    """LeRobot's names of dimensions, which are a list, a list in a list or a dictionary of lists, as one tuple."""
    if isinstance(names, dict):
        names = list(names.values())
    if not isinstance(names, list):
        return None
    flat = [name for part in names for name in (part if isinstance(part, list) else [part])]
    return tuple(map(str, flat)) if all(isinstance(name, str | int | float) for name in flat) else None
