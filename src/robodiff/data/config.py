"""Which demonstrations to train on, and how they become batches. Imports no torch, so that help is instant."""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.data.episodes import ACTION, MASK, Episodes, episode_numbers
from robodiff.data.formats.shape_meta import ShapeMeta, check_form
from robodiff.data.windows import WindowShape, split_episodes
from robodiff.errors import RobodiffError, UsageError, nearest, notice
from robodiff.files import is_repository

BUILTIN = {"pusht": Path(__file__).parents[1] / "envs" / "pusht" / "demonstrations.zarr.zip"}
"""Demonstrations inside the package, by the name in ``builtin:<name>``."""
HDF5 = (".hdf5", ".h5")
"""How the name of a robomimic file ends."""


@dataclass(frozen=True, kw_only=True)
class DataModule(ABC):
    """Demonstrations and how they become batches; --data.help LeRobotDataModule, --data.help ZarrDataModule and
    --data.help RobomimicDataModule tell what each format needs."""

    episodes: list[int] | None = None
    """Which episodes to use, by number; all when null."""
    train_batch_size: int = 256
    """Windows in one training batch, on each device."""
    val_batch_size: int = 256
    """Windows in one validation batch."""
    val_split: float = 0.05
    """Share of the episodes that is held out for validation; 0 holds none out."""
    val_split_seed: int = 42
    """Chooses which episodes are held out."""

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "val_batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; found {getattr(self, name)}")
        if self.val_split_seed < 0:
            raise UsageError(f"val_split_seed must not be negative; found {self.val_split_seed}")
        if not 0 <= self.val_split < 1:
            raise UsageError(f"val_split must be at least 0 and below 1; found {self.val_split}")

    @abstractmethod
    def read(self, observation_keys: list[str] | None = None) -> Episodes:
        """Read the observations that are named, or all, and the actions.

        Raises:
            RobodiffError: nothing there to read, a broken recording, or a key that it lacks.
        """

    def window(self, shape: WindowShape, fps: float) -> WindowShape:
        """The time steps of one sample: the policy's, unless the data say more of them."""
        return shape

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """The sorted places in ``episodes`` of those to train on and of those held out, among the chosen ones."""
        chosen = self.chosen(episodes)
        train, held_out = split_episodes(len(chosen), self.val_split, self.val_split_seed)
        return chosen[train], chosen[held_out]

    def chosen(self, episodes: Episodes) -> np.ndarray:
        """The sorted places in ``episodes`` of those to use."""
        return np.arange(len(episodes))

    @abstractmethod
    def arguments(self) -> list[str]:
        """How ``robodiff data info`` and ``robodiff data check`` are told of this recording."""


@dataclass(frozen=True, kw_only=True)
class ZarrDataModule(DataModule):
    """Demonstrations in a zarr group, formats 2 and 3, as a folder or a .zip."""

    path: str
    """Where the recording is; builtin:pusht is the one inside the package."""
    layout: Literal["pusht", "robofactory", "img"] | None = None
    """What the file's keys are; a file that robodiff wrote says it itself."""
    key_map: dict[str, str] | None = None
    """Key in the file -> name here, such as {state: observation.state}, in place of a layout."""
    fps: float | None = None
    """Frames per second; a file that robodiff wrote says it itself, the layout pusht has 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fps(self.fps)
        if self.key_map is not None and self.layout is not None:
            raise UsageError("layout and key_map both say what the file's keys are; give one of them")

    def read(self, observation_keys: list[str] | None = None) -> Episodes:  # noqa: D102
        from robodiff.data.formats.zarr import read_zarr

        fps = self.fps or (10.0 if self.layout == "pusht" else None)
        keys = None if observation_keys is None else [*observation_keys, ACTION]
        return replace(read_zarr(resolve(self.path), self.layout, self.key_map, keys, fps), source=self.path)

    def chosen(self, episodes: Episodes) -> np.ndarray:  # noqa: D102
        return np.array(episode_numbers(episodes.source, self.episodes, len(episodes)))

    def arguments(self) -> list[str]:  # noqa: D102
        words = [self.path]
        words += ["--layout", self.layout] if self.layout else []
        words += ["--key_map", json.dumps(self.key_map)] if self.key_map else []
        return words + (["--fps", f"{self.fps:g}"] if self.fps else [])


@dataclass(frozen=True, kw_only=True)
class LeRobotDataModule(DataModule):
    """Demonstrations in a LeRobot data set, v2.1 or v3.0, in a folder or on the Hugging Face hub."""

    repo_id: str | None = None
    """Its name on the hub, such as lerobot/pusht; fetched once unless root is given."""
    root: str | None = None
    """Its folder, with meta/, data/ and videos/."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the main branch when null."""
    resize_shape: tuple[int, int] | None = None
    """Height and width to which images are brought when they are decoded; as recorded when null. The policy then
    expects images of this size."""
    cache_dir: str | None = None
    """Folder of the decoded images; ROBODIFF_CACHE, or ~/.cache/robodiff, when null."""
    delta_timestamps: dict[str, list[float]] | None = None
    """Seconds from now of the frames in a sample, per key, as LeRobot has them; checked against the policy, which
    says it all: its spacing becomes frame_stride."""
    image_transforms: Literal[None] = None
    """Only null: images are cropped and changed by the policy, on its device."""
    num_workers: int | None = None
    """Accepted and not used: batches are gathered from memory, no worker decodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repo_id is None and self.root is None:
            raise UsageError("nothing says where the demonstrations are; set data.root (a folder) or data.repo_id")
        _check_size(self.resize_shape)
        if self.image_transforms is not None:
            raise UsageError("image_transforms must be null; the policy crops and changes images on its device, "
                             "see robodiff fit --model.help DiffusionConfig")  # fmt: skip
        for key, seconds in (self.delta_timestamps or {}).items():
            if not all(map(math.isfinite, seconds)):
                raise UsageError(f"data.delta_timestamps.{key} must be finite numbers of seconds; found {seconds}")

    def read(self, observation_keys: list[str] | None = None) -> Episodes:  # noqa: D102
        from robodiff.data.formats.lerobot.meta import download, read_meta
        from robodiff.data.formats.lerobot.reader import read_lerobot

        if self.num_workers is not None:
            notice("data.num_workers has no effect: batches are gathered from memory, no worker decodes")
        keys = None if observation_keys is None else [*observation_keys, ACTION]
        if self.root is not None:
            root = Path(self.root).expanduser()
        else:
            assert self.repo_id is not None
            root = download(self.repo_id, self.revision, keys, self.episodes)
        if self.delta_timestamps:
            there = read_meta(root).features
            for key in sorted(self.delta_timestamps.keys() - there.keys()):
                raise UsageError(f"data.delta_timestamps names {key!r}, which {root} does not have."
                                 f"{nearest(key, [*there])}")  # fmt: skip
        episodes = read_lerobot(root, keys, self.episodes, self.resize_shape, _folder(self.cache_dir))
        return replace(episodes, source=self.root or self.repo_id)

    def arguments(self) -> list[str]:  # noqa: D102
        if self.root is not None:
            return [self.root]
        assert self.repo_id is not None
        return [self.repo_id, *(["--revision", self.revision] if self.revision else [])]

    def window(self, shape: WindowShape, fps: float) -> WindowShape:
        """The policy's time steps, checked against ``delta_timestamps``.

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
            late = key == ACTION and first < 0 and seconds[:1] == [0.0]  # starts with the newest observation
            frames = (steps - first if late else steps) * stride
            if len(seconds) != len(steps) or np.abs(np.asarray(seconds) * fps - frames).max() > 0.1:
                right = ", ".join(f"{step * stride / fps:.4g}" for step in steps)
                raise UsageError(
                    f"data.delta_timestamps.{key} must be null or the policy's own steps [{right}] (n_obs_steps "
                    f"{shape.n_obs_steps}, horizon {shape.horizon}, fps {fps:g}); found {seconds}"
                )
            if late:
                notice(f"data.delta_timestamps.{key} starts at 0.0; taken as from {steps[0] * stride / fps:g}, where "
                       f"the oldest of {shape.n_obs_steps} observations is")  # fmt: skip
        return replace(shape, frame_stride=stride)


@dataclass(frozen=True, kw_only=True)
class RobomimicDataModule(DataModule):
    """Demonstrations in an HDF5 file of robomimic."""

    path: str
    """The file, which has data/demo_0 and so on."""
    filter_key: str | None = None
    """Train only on the demonstrations that mask/<filter_key> of the file names, such as train; on all when null."""
    val_filter_key: str | None = None
    """Hold out the demonstrations that mask/<val_filter_key> names, such as valid; val_split of them when null."""
    shape_meta: ShapeMeta | None = None
    """Diffusion Policy's description of what to read, which is compared with the file:
    {obs: {<key>: {shape: [3, 84, 84], type: rgb}, ...}, action: {shape: [7]}}; the type is low_dim when left out."""
    fps: float | None = None
    """Frames per second; control_freq of the file's env_args when null."""
    resize_shape: tuple[int, int] | None = None
    """Height and width to which images are brought once; as recorded when null. The policy then expects images of this
    size."""
    cache_dir: str | None = None
    """Folder of the images as raw arrays; ROBODIFF_CACHE, or ~/.cache/robodiff, when null."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fps(self.fps)
        _check_size(self.resize_shape)
        if self.shape_meta is not None:
            check_form(self.shape_meta)

    def read(self, observation_keys: list[str] | None = None) -> Episodes:  # noqa: D102
        from robodiff.data.formats.robomimic import read_robomimic

        keys = None if observation_keys is None else [*observation_keys, ACTION]
        episodes = read_robomimic(
            resolve(self.path), keys, self.episodes, self.filter_key, self.val_filter_key, self.shape_meta, self.fps,
            self.resize_shape, _folder(self.cache_dir),
        )  # fmt: skip
        return replace(episodes, source=self.path)

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """As ``val_filter_key`` says, where it is given."""
        if self.val_filter_key is None:
            return super().split(episodes)
        held_out = np.array(episodes.table[MASK + self.val_filter_key])
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def arguments(self) -> list[str]:  # noqa: D102
        return [self.path, *(["--fps", f"{self.fps:g}"] if self.fps else [])]


def recording(path: str, **options: Any) -> DataModule:
    """What reads the recording at a path: a LeRobot data set, which has ``meta/info.json``, robomimic's HDF5, which its
    name tells, or a zarr group. Where nothing is, owner/name is a LeRobot data set of the Hugging Face hub.

    Args:
        path: the file or folder, or the data set's name.
        options: further fields of its data module, such as ``fps``; None is not given.

    Raises:
        UsageError: an option that recordings of this format do not have.
    """
    where = Path(path).expanduser()
    given = {name: value for name, value in options.items() if value is not None}
    if (where / "meta" / "info.json").is_file():
        kind, what, given["root"] = LeRobotDataModule, "a LeRobot data set", path
    elif where.suffix in HDF5:
        kind, what, given["path"] = RobomimicDataModule, "an HDF5 file of robomimic", path
    elif is_repository(path) and where.suffix not in (".zarr", ".zip"):
        notice(f"{path}: no such file or folder here; looked for on the Hugging Face hub")
        kind, what, given["repo_id"] = LeRobotDataModule, "a LeRobot data set", path
    else:
        kind, what, given["path"] = ZarrDataModule, "a zarr group", path
    if "revision" in given and "repo_id" not in given:
        raise UsageError(f"{path}: is no data set of the Hugging Face hub, written owner/name; leave out revision")
    if unknown := sorted(given.keys() - {field.name for field in fields(kind)}):
        raise UsageError(f"{path}: is {what}, which says itself what its {', '.join(unknown)} is; leave it out")
    return kind(**given)


def resolve(path: str) -> Path:
    """The file that a path names; ``builtin:<name>`` is a recording inside the package."""
    if not path.startswith("builtin:"):
        return Path(path).expanduser()
    name = path.removeprefix("builtin:")
    if name not in BUILTIN:
        raise UsageError(f"{path}: there is {', '.join(f'builtin:{n}' for n in BUILTIN)}.{nearest(name, [*BUILTIN])}")
    if not BUILTIN[name].exists():
        raise RobodiffError(f"{path}: {BUILTIN[name]} is missing; install robodiff again")
    return BUILTIN[name]


def _check_fps(fps: float | None) -> None:
    if fps is not None and not fps > 0:
        raise UsageError(f"fps must be above 0; found {fps}")


def _check_size(size: tuple[int, int] | None) -> None:
    if size is not None and min(size) < 1:
        raise UsageError(f"resize_shape must be a height and a width above 0; found {list(size)}")


def _folder(name: str | None) -> Path | None:
    return None if name is None else Path(name).expanduser()
