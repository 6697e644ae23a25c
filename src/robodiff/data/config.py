"""Which demonstrations to train on, and how they become batches. Imports no torch, so that help is instant."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from robodiff.data.episodes import ACTION, Episodes
from robodiff.data.windows import split_episodes
from robodiff.errors import RobodiffError, UsageError, nearest

BUILTIN = {"pusht": Path(__file__).parent / "builtin" / "pusht.zarr.zip"}
"""Demonstrations inside the package, by the name in ``builtin:<name>``."""


@dataclass(frozen=True, kw_only=True)
class ZarrDataModule:
    """Demonstrations in a zarr group, formats 2 and 3, as a folder or a .zip."""

    path: str
    """Where the recording is; builtin:pusht is the one inside the package."""
    layout: Literal["pusht", "robofactory", "img"] | None = None
    """What the file's keys are; a file that robodiff wrote says it itself."""
    key_map: dict[str, str] | None = None
    """Key in the file -> name here, such as {state: observation.state}, in place of a layout."""
    fps: float | None = None
    """Frames per second; a file that robodiff wrote says it itself, the layout pusht has 10."""
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
        if not 0 <= self.val_split < 1:
            raise UsageError(f"val_split must be at least 0 and below 1; found {self.val_split}")
        if self.fps is not None and not self.fps > 0:
            raise UsageError(f"fps must be above 0; found {self.fps}")
        if self.key_map is not None and self.layout is not None:
            raise UsageError("layout and key_map both say what the file's keys are; give one of them")

    def read(self, observation_keys: list[str] | None = None) -> Episodes:
        """Read the observations that are named, or all, and the actions.

        Raises:
            RobodiffError: nothing there to read, a broken recording, or a key that it lacks.
        """
        from robodiff.data.formats.zarr import read_zarr

        fps = self.fps or (10.0 if self.layout == "pusht" else None)
        keys = None if observation_keys is None else [*observation_keys, ACTION]
        return replace(read_zarr(resolve(self.path), self.layout, self.key_map, keys, fps), source=self.path)

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """The sorted numbers of the episodes to train on and of those held out, among the chosen ones."""
        chosen = np.arange(len(episodes))
        if self.episodes is not None:
            numbers = self.episodes
            if not numbers or not set(numbers) <= set(chosen.tolist()) or len(set(numbers)) != len(numbers):
                raise UsageError(f"{episodes.source}: data.episodes must be different numbers from 0 to "
                                 f"{len(episodes) - 1}; found {numbers[:8]}")  # fmt: skip
            chosen = np.array(sorted(numbers))
        train, held_out = split_episodes(len(chosen), self.val_split, self.val_split_seed)
        return chosen[train], chosen[held_out]


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
