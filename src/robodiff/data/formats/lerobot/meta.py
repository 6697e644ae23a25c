"""What a LeRobot data set says of itself in ``meta/``, formats v2.1 and v3.0, and fetching one from the hub."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from robodiff.data.episodes import episode_numbers
from robodiff.data.formats.lerobot.info import Count, FeatureInfo, Info, Some, entry, read_info
from robodiff.data.formats.lerobot.parquet import read_columns
from robodiff.documents import AtLeast
from robodiff.errors import NotFetched, RobodiffError
from robodiff.files import reading

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
    videos = {episode.videos[key][0] for episode in episodes for key in keys if key in episode.videos}
    return {episode.data for episode in episodes} | videos


def reserved(column: str) -> bool:
    """Tell whether the format itself has this column in an episode's row."""
    return column in _COLUMNS or column.startswith(_PREFIXES)


def _rows_v21(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = root / "meta" / "episodes.jsonl"
    with reading(path, "a JSON lines file"):
        for line in path.read_text().splitlines():
            yield path, {**json.loads(line)}


def _rows_v30(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        with reading(path, "a parquet file"):
            for row in read_columns(path, lambda name: not name.startswith("stats/")).to_pylist():
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

    videos = {}
    for key in info.cameras:
        start = entry(path, row, f"videos/{key}/from_timestamp", Annotated[float, AtLeast(0)]) if in_row else 0.0
        videos[key] = (place("video_path", f"videos/{key}", video_key=key), start)
    with reading(path, "a table of episodes"):
        task = "; ".join(row.get("tasks") or [])
    more = {name: value for name, value in row.items() if not reserved(name)}
    return Episode(number, entry(path, row, "length", Some), place("data_path", "data"), videos, {"task": task, **more})
