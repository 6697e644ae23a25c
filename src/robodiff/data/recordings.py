"""A recording at a path, whatever its format: recognised, opened, named, and read into ``Episodes``.

A format (``formats/``) says how its files are recognised and lists what they hold, as a ``Recording``: every array by
the file's own name, with what it is called here. What is common to all formats is done here: key maps, which keys are
read, agents, the rate, and that every value is finite. Imports no torch.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.windows import WindowShape, split_episodes
from robodiff.documents import Above, AtLeast, Document, FromTo


@dataclass(frozen=True)
class Stored:
    """One array of a recording, over all frames of the episodes that are read; nothing is decoded before ``read``."""

    shape: tuple[int, ...]
    """Of one frame, as the file has it."""
    dtype: str
    """As the file has it."""
    read: Callable[[], np.ndarray] | None
    """Return (N, ...): images as uint8 (N, C, H, W), memory-mapped where large; else numbers, as the file has them. None
    where it is neither (texts, depth, point clouds): it is described and left out."""
    name: str | None = None
    """What it is called here, unless a key map says otherwise; None: it is read only where a key map names it."""
    feature: Feature | None = None
    """What one frame of it is here; None where it cannot be read."""


@dataclass(frozen=True)
class Recording:
    """What a format finds at a path: all that can be known before arrays are decoded."""

    source: str
    """Where it is, for messages."""
    arrays: Mapping[str, Stored]
    """By the file's own names."""
    episode_ends: np.ndarray
    """(E,) int64: the frame after each episode's last."""
    fps: float | None
    """Frames per second; None where the file does not say it."""
    names: Sequence[str] = ()
    """What the file calls each episode, where it is not by their numbers."""
    table: Mapping[str, list[Any]] = field(default_factory=dict)
    """As in ``Episodes``; ``episode_index`` has the numbers of the episodes where only some were opened."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """As in ``Episodes``."""


@dataclass(frozen=True)
class LayoutKey:
    """How one key here is made of an array of a zarr file."""

    file_key: str
    """Its name in the file."""
    convert: Callable[[str, str, np.ndarray], np.ndarray]
    """From (source, key, array), for messages, to the values here."""
    unit: str | None = None
    """The unit of the values here."""
    optional: bool = False
    """Whether a file may lack it."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Document):
    """Demonstrations and how they become batches: options of every format."""

    registry_kind: ClassVar[str] = "data"

    key_map: dict[str, str] | None = None
    """Key in the file -> name here, such as {state: observation.state}, in place of the names that it has otherwise."""
    fps: Annotated[float, Above(0)] | None = None
    """Frames per second; what the file says when null."""
    agent: str | None = None
    """Of several agents' recording the one to train, such as "0": its keys lose agents.0. and those of the others are
    left out; all agents together when null."""
    episodes: list[int] | None = None
    """Which episodes to use, by number; all when null."""
    resize_shape: tuple[Annotated[int, AtLeast(1)], Annotated[int, AtLeast(1)]] | Annotated[int, AtLeast(1)] | None = (
        None
    )
    """Height and width to which images are brought when they are decoded, or the length of the shorter side at most;
    as recorded when null. The policy then expects images of this size."""
    cache_dir: str | None = None
    """Folder of the decoded images; ROBODIFF_CACHE, or ~/.cache/robodiff, when null."""
    train_batch_size: Annotated[int, AtLeast(1)] = 256
    """Windows in one training batch, on each device."""
    val_batch_size: Annotated[int, AtLeast(1)] = 256
    """Windows in one validation batch."""
    val_split: Annotated[float, FromTo(0, 1)] = 0.05
    """Share of the episodes that is held out for validation; 0 holds none out."""
    val_split_seed: Annotated[int, AtLeast(0)] = 42
    """Chooses which episodes are held out."""

    @classmethod
    @abstractmethod
    def at(cls, path: str, **options: Any) -> "DataConfig":
        """Return the options for the recording at a path."""

    @abstractmethod
    def open(self, keys: Sequence[str] | None = None) -> Recording:
        """Return what there is, checked as far as it can be before arrays are decoded.

        Args:
            keys: what will be read, by its names here, for formats that must fetch it; None is everything.

        Raises:
            RobodiffError: nothing there to read, or a broken recording; the message names file, key and first bad frame.
        """

    def read(self, observation_keys: Sequence[str] | None = None) -> Episodes:
        """Read the observations that are named, or all, and the actions.

        Raises:
            RobodiffError: nothing there to read, a broken recording, or a key that it lacks.
        """
        raise NotImplementedError

    def window(self, shape: WindowShape, fps: float) -> WindowShape:
        """Return the time steps of one sample: the policy's, unless the data say more of them."""
        return shape

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted places in ``episodes`` of those to train on and of those held out, among the chosen ones."""
        chosen = self.chosen(episodes)
        train, held_out = split_episodes(len(chosen), self.val_split, self.val_split_seed)
        return chosen[train], chosen[held_out]

    def chosen(self, episodes: Episodes) -> np.ndarray:
        """Return the sorted places in ``episodes`` of those to use."""
        raise NotImplementedError


@dataclass(frozen=True)
class Format:
    """One format of recordings: what a module of ``formats/`` exports as ``FORMAT``."""

    title: str
    """What messages call it, such as ``a zarr group``."""
    config: type[DataConfig]
    """Its options, which open it."""
    recognise: Callable[[Path], bool]
    """Tell whether a path that exists is of this format, by its content and quickly; imports no heavy library for what
    is clearly none."""
    suffixes: tuple[str, ...] = ()
    """How the names of what ``write`` writes end; empty for a folder of any name."""
    write: Callable[..., Any] | None = None
    """Write ``Episodes`` to a path; None where it is only read."""

    registry_kind: ClassVar[str] = "data"

    @property
    def registry_name(self) -> str:
        """The name by which a configuration names it."""
        return self.config.__name__


def open_path(path: str, **options: Any) -> DataConfig:
    """Return the options of whatever recording is at a path: a file, a folder, ``builtin:<name>``, or a repository of
    the Hugging Face hub, written owner/name.

    Args:
        path: where it is.
        options: further options, such as ``fps``; None is not given.

    Raises:
        UsageError: nothing there, or an option that recordings of this format do not have.
        RobodiffError: no format recognises it; the message describes what is there.
    """
    raise NotImplementedError
