"""robomimic's HDF5 files: a group ``data/demo_<n>`` a demonstration, with ``actions`` and ``obs/<key>``.

Images ``obs/<camera>_image`` are called ``observation.images.<camera>`` here, and ``obs/image`` ``observation.image``;
numbers ``obs/<key>`` are ``observation.<key>``, and ``actions`` is ``action``. ``states``, the simulator's own, are no
observation and are not read. ``mask/<filter key>`` lists demonstrations by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from robodiff.data.episodes import MASK, Episodes, Feature
from robodiff.data.formats import hdf5
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import AtLeast, NotEmpty
from robodiff.errors import RobodiffError


class Described(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What one frame of a key is."""

    shape: Annotated[list[Annotated[int, AtLeast(1)]], NotEmpty()]
    type: Literal["rgb", "low_dim"] = "low_dim"

    def __str__(self) -> str:
        return f"{self.type} of shape {self.shape}"


class ShapeMeta(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Diffusion Policy's description of what to read of a file, and of what shape and type it must be."""

    obs: Annotated[dict[str, Described], NotEmpty()]
    action: Described | None = None

    @property
    def places(self) -> dict[str, Described]:
        """By their places in a file, what is to be read of it at most."""
        action = {"actions": self.action} if self.action else {}
        return {**{f"obs/{key}": described for key, described in self.obs.items()}, **action}

    def check(self, source: str, features: Mapping[str, Feature | str]) -> None:
        """Compare the description with what a file holds.

        Args:
            source: the file, for messages.
            features: per key of the file (``obs/<key>``, ``actions``) what one frame of it is, images (C, H, W), or in
                words what it is instead.

        Raises:
            RobodiffError: a key that is missing, or of another shape or type; it says which, and what there is.
        """
        for place, expected in self.places.items():
            feature = features.get(place, "absent")
            if isinstance(feature, Feature):
                feature = Described(list(feature.shape), "rgb" if feature.kind == "image" else "low_dim")
            if str(feature) != str(expected):
                raise RobodiffError(f"{source}: {place} is {feature}, but shape_meta says {expected}")


@dataclass(frozen=True, kw_only=True)
class RobomimicConfig(DataConfig):
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

    def open(self, keys: Sequence[str] | None = None) -> Recording:
        """Return what the chosen demonstrations hold; no image is read."""
        from robodiff.data.formats.robomimic_reader import open_robomimic

        return open_robomimic(self.place, self)

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """Divide as ``val_filter_key`` says, where it is given."""
        if self.val_filter_key is None or self.val_episodes is not None:
            return super().split(episodes)
        held_out = np.array(episodes.table[MASK + self.val_filter_key])
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _recognise(path: Path) -> bool:
    """Tell it by its group ``data``; what only calls itself HDF5 is a broken one."""
    if not hdf5.is_hdf5(path):
        return path.is_file() and path.suffix in hdf5.SUFFIXES
    try:
        with hdf5.opened(path) as file:
            return hasattr(file.get("data"), "keys")
    except RobodiffError:
        return path.suffix in hdf5.SUFFIXES


def _write(episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None) -> list[str]:
    from robodiff.data.formats.robomimic_writer import write_robomimic

    return write_robomimic(episodes, path, on_episode)


FORMAT = Format("an HDF5 file of robomimic", RobomimicConfig, _recognise, hdf5.SUFFIXES, _write)
