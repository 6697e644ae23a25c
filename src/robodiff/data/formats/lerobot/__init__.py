"""LeRobot data sets, formats v2.1 and v3.0, in a folder or on the Hugging Face hub."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.data.episodes import ACTION, Episodes
from robodiff.data.recordings import DataConfig, Format, Recording, resolve
from robodiff.data.windows import WindowShape
from robodiff.errors import UsageError, nearest, notice
from robodiff.files import with_home


@dataclass(frozen=True, kw_only=True)
class LeRobotConfig(DataConfig):
    """Demonstrations in a LeRobot data set, v2.1 or v3.0, in a folder or on the Hugging Face hub."""

    repo_id: str | None = None
    """Its name on the hub, such as lerobot/pusht; fetched once unless root is given."""
    root: str | None = None
    """Its folder, with meta/, data/ and videos/."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the main branch when null."""
    delta_timestamps: dict[str, list[float]] | None = None
    """Seconds from now of the frames in a sample, per key, as LeRobot has them; checked against the policy, which
    says it all: its spacing becomes frame_stride."""
    image_transforms: None = None
    """Only null: images are cropped and changed by the policy, on its device."""
    num_workers: int | None = None
    """Accepted and not used: batches are gathered from memory, no worker decodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repo_id is None and self.root is None:
            raise UsageError("nothing says where the demonstrations are; set data.root (a folder) or data.repo_id")

    @classmethod
    def at(cls, path: str, **options: Any) -> "LeRobotConfig":
        """Return the options for a folder, or for a data set of the hub."""
        if not resolve(path).exists():
            return cls(repo_id=path, **options)
        if "revision" in options:
            raise UsageError(f"{path}: is a folder; leave out revision, which is for data sets of the Hugging Face hub")
        return cls(root=path, **options)

    @property
    def source(self) -> str:
        """Where it is, as it was given."""
        return str(self.root or self.repo_id)

    def open(self, keys: Sequence[str] | None = None) -> Recording:
        """Return what the data set holds; of one on the hub, fetch what these keys need."""
        from robodiff.data.formats.lerobot.meta import fetch, files_of, read_meta
        from robodiff.data.formats.lerobot.reader import recording_of, unlisted

        if self.num_workers is not None:
            notice("data.num_workers has no effect: batches are gathered from memory, no worker decodes")
        if self.root is not None:
            meta = read_meta(Path(with_home(self.root)))
        else:
            meta = read_meta(fetch(self.source, self.revision, ["meta/*"]))
        if unknown := sorted((self.delta_timestamps or {}).keys() - meta.features.keys()):
            advice = nearest(unknown[0], meta.features)
            raise UsageError(f"data.delta_timestamps names {unknown[0]!r}, which {meta.root} does not have.{advice}")
        recording = recording_of(meta, self)
        if self.root is None:
            file_keys = {part.file_key for made_of in self.select(recording, keys).values() for part in made_of}
            files = files_of(meta.choose(self.episodes), file_keys)
            fetch(self.source, self.revision, ["meta/*", *sorted(files)])
        return replace(recording, arrays={**recording.arrays, **unlisted(meta)})

    def window(self, shape: WindowShape, fps: float) -> WindowShape:
        """Return the policy's time steps, checked against ``delta_timestamps``.

        Raises:
            UsageError: other steps than the policy's.
        """
        given = self.delta_timestamps
        if not given:
            return shape
        longest, stride = max(given.values(), key=len), shape.frame_stride
        if stride == 1 and len(longest) > 1:
            stride = max(1, round((longest[-1] - longest[0]) / (len(longest) - 1) * fps))
        for key, seconds in given.items():
            first = 1 - shape.n_obs_steps
            steps = np.arange(first, first + shape.horizon if key == ACTION else 1)
            starts_late = key == ACTION and first < 0 and seconds[:1] == [0.0]  # with the newest observation
            frames = (steps - first if starts_late else steps) * stride
            if len(seconds) != len(steps) or np.abs(np.asarray(seconds) * fps - frames).max() > 0.1:
                right = ", ".join(f"{step * stride / fps:.4g}" for step in steps)
                problem = f"data.delta_timestamps.{key} must be null or the policy's own steps [{right}]"
                raise UsageError(f"{problem} at {fps:g} frames a second; found {seconds}")
            if starts_late:
                start = f"{steps[0] * stride / fps:g}, where the oldest of {shape.n_obs_steps} observations is"
                notice(f"data.delta_timestamps.{key} starts at 0.0; taken as from {start}")
        return replace(shape, frame_stride=stride)


def _recognise(path: Path) -> bool:
    meta = path / "meta"
    return (meta / "info.json").is_file() or (meta / "episodes.jsonl").is_file()


def _write(
    episodes: Episodes,
    path: Path,
    on_episode: Callable[[int], None] | None = None,
    images: Literal["av1", "h264", "png"] = "av1",
) -> list[str]:
    from robodiff.data.formats.lerobot.writer import write_lerobot

    return write_lerobot(episodes, path, on_episode, images)


FORMAT = Format("a LeRobot data set", LeRobotConfig, _recognise, (), _write, ("images",))
