"""What a LeRobot data set says of itself in ``meta/``, formats v2.1 and v3.0, and fetching one from the hub."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from robodiff.data.arrays import episode_numbers
from robodiff.data.formats.lerobot.info import Count, FeatureInfo, Info, Some, entry, read_info
from robodiff.data.formats.parquet import read_parquet
from robodiff.documents import AtLeast
from robodiff.errors import NotFetched, RobodiffError
from robodiff.files import reading

CLOCK = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that the format itself has in every row."""
_COLUMNS = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
_PREFIXES = ("data/", "videos/", "meta/", "stats/")


class Span(NamedTuple):
    """Where the images of one episode are."""

    video: str
    start: float
    """Seconds."""
    end: float
    """Seconds; infinity where nothing says it."""


@dataclass(frozen=True)
class Episode:
    """Where one episode is. Paths are relative to the data set's folder."""

    number: int
    length: int
    """Frames."""
    data: str
    """The parquet file with its vectors."""
    videos: Mapping[str, Span]
    """Per camera."""
    tasks: int
    """How many it has."""
    row: Mapping[str, Any]
    """``task`` and what else is said of it."""


@dataclass(frozen=True)
class Meta:
    """What ``meta/`` says."""

    root: Path
    fps: float
    features: Mapping[str, FeatureInfo]
    episodes: list[Episode]
    robot_type: str | None

    def choose(self, numbers: list[int] | None) -> list[Episode]:
        """Return the episodes of these numbers in rising order, or all; ``UsageError`` for a number that is none."""
        return [self.episodes[number] for number in episode_numbers(str(self.root), numbers, len(self.episodes))]


def read_meta(root: Path) -> Meta:
    """Read and check what a data set says of itself.

    Raises:
        RobodiffError: no data set there, another version, a broken or incomplete one, or a gap in the episodes.
    """
    info = read_info(root)
    rows = _rows_v21(root) if info.codebase_version == "v2.1" else _rows_v30(root)
    episodes = sorted((_episode(root, info, path, row) for path, row in rows), key=lambda episode: episode.number)
    episodes = episodes[: info.total_episodes]
    missing = set(range(info.total_episodes)) - {episode.number for episode in episodes}
    if missing:
        raise RobodiffError(f"{root}: meta/ lacks episode {min(missing)} of {info.total_episodes}; download it again")
    robot = info.robot_type if isinstance(info.robot_type, str) else None
    return Meta(root, info.fps, info.features, episodes, robot)


def fetch(repo_id: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """Fetch some files of a data set on the Hugging Face hub, once, and return its folder.

    Raises:
        NotFetched: no network, no such repository or revision, or no access to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reasons = {
        GatedRepoError: "needs access: ask for it on its page, then huggingface-cli login",
        RepositoryNotFoundError: "no such data set on the hub, or a private one (then: huggingface-cli login)",
        RevisionNotFoundError: f"has no revision {revision!r}",
    }
    try:
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # requests' or httpx's, by the version of huggingface_hub; offline; a full disk
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("Got: ").split(". ")[0]
        unknown = f"cannot be fetched from the hub: {text[:160]}; without a network, give the path of its folder"
        reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), unknown)
        raise NotFetched(f"{repo_id}: {reason}") from None


def files_of(episodes: Sequence[Episode], keys: Iterable[str]) -> set[str]:
    """Return the files that these keys of some episodes are in."""
    videos = {episode.videos[key].video for episode in episodes for key in keys if key in episode.videos}
    return {episode.data for episode in episodes} | videos


def reserved(column: str) -> bool:
    """Tell whether the format itself has this column in an episode's row."""
    return column in _COLUMNS or column.startswith(_PREFIXES)


def _rows_v21(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = root / "meta" / "episodes.jsonl"
    with reading(path, "a JSON lines file"):
        for line in path.read_text(encoding="utf-8-sig").split(
            "\n"
        ):  # splitlines would cut at U+2028, which JSON allows
            if line.strip():
                yield path, {**json.loads(line)}


def _rows_v30(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        with reading(path, "a parquet file"):
            for row in read_parquet(path, lambda name: not name.startswith("stats/")).to_pylist():
                yield path, row


def _episode(root: Path, info: Info, path: Path, row: Mapping[str, Any]) -> Episode:
    """Make an episode of its row; v2.1 tells files by its number, v3.0 says them."""
    number, in_row = entry(path, row, "episode_index", Count), info.codebase_version == "v3.0"

    def place(template: str, prefix: str, **fields: Any) -> str:
        for name in ("chunk_index", "file_index") if in_row else ():
            fields[name] = entry(path, row, f"{prefix}/{name}", Count)
        if not in_row:
            fields |= {"episode_index": number, "episode_chunk": number // info.chunks_size}
        return info.place(root, template, **fields)

    def seconds(name: str, default: float) -> float:
        there = in_row and (default == 0 or row.get(name) is not None)  # older ones do not say where an episode ends
        return entry(path, row, name, Annotated[float, AtLeast(0)]) if there else default

    videos = {}
    for key in info.cameras:
        ends = seconds(f"videos/{key}/from_timestamp", 0.0), seconds(f"videos/{key}/to_timestamp", math.inf)
        videos[key] = Span(place("video_path", f"videos/{key}", video_key=key), *ends)
    with reading(path, "a table of episodes"):
        tasks = row.get("tasks") or []
        task = "; ".join(tasks)
    more = {name: value for name, value in row.items() if not reserved(name)}
    length, data = entry(path, row, "length", Some), place("data_path", "data")
    return Episode(number, length, data, videos, len(tasks), {"task": task, **more})
