"""robomimic's HDF5 files: a group ``data/demo_<n>`` a demonstration, with ``actions`` and ``obs/<key>``.

Images ``obs/<camera>_image`` are called ``observation.images.<camera>`` here, and ``obs/image`` ``observation.image``;
numbers ``obs/<key>`` are ``observation.<key>``, and ``actions`` is ``action``. ``states``, the simulator's own, are no
observation and are not read. ``mask/<filter key>`` lists demonstrations by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robodiff.data.episodes import MASK, Episodes
from robodiff.data.formats import hdf5
from robodiff.data.formats.shape_meta import ShapeMeta
from robodiff.data.recordings import DataConfig, Format, Recording, resolve
from robodiff.errors import RobodiffError


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

        return open_robomimic(resolve(self.path), self)

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """Divide as ``val_filter_key`` says, where it is given."""
        if self.val_filter_key is None:
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
