"""ALOHA's recordings: a folder of ``episode_<n>.hdf5``, or one such file.

``observations/qpos`` is ``observation.state`` here, other ``observations/<x>`` are ``observation.<x>``, cameras
``observations/images/<x>`` are ``observation.images.<x>``, and ``action`` is ``action``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robodiff.data.episodes import ACTION
from robodiff.data.formats import hdf5
from robodiff.data.formats.pieces import Gathered, episode_files, files_of
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.errors import notice

FPS = 50.0


@dataclass(frozen=True, kw_only=True)
class AlohaConfig(DataConfig):
    """Demonstrations as ALOHA records them: a folder of HDF5 files, one an episode."""

    path: str
    """The folder, or one file."""
    swap_channels: bool = True
    """Whether red and blue are swapped in compressed pictures, as in those of ALOHA's own recorder, which hands RGB
    images to OpenCV's imencode; false where the pictures show true colours."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        numbers, files = episode_files(self, hdf5.SUFFIXES, hdf5.is_hdf5)
        episodes = [hdf5.file_pieces(path, self.swap_channels) for path in files]
        every = {key: piece for episode in episodes for key, piece in episode.items()}
        if self.swap_channels and any(piece.recipe for piece in every.values()):
            notice(
                f"{self.path}: red and blue of compressed pictures are swapped, as ALOHA's recorder writes them; "
                "set data.swap_channels to false where they look wrong in robodiff data view"
            )
        if self.fps is None:
            notice(f"{self.path}: ALOHA's files do not say their rate; taken as {FPS:g} frames a second (data.fps)")
        labels, names = [file.name for file in files], {key: _name(key) for key in every}
        table = {"episode_index": numbers}
        return Gathered(self.path, episodes, labels, names, self.fps or FPS, table).recording(self)


def _name(key: str) -> str | None:
    group, _, rest = key.partition("/")
    if group != "observations":
        return ACTION if key == ACTION else None
    if rest.startswith("images/"):
        return f"observation.{rest.replace('/', '.', 1).replace('/', '_')}"
    return "observation.state" if rest == "qpos" else f"observation.{rest.replace('/', '_')}"


def _recognise(path: Path) -> bool:
    files = files_of(path, hdf5.SUFFIXES, hdf5.is_hdf5)
    if not files or not hdf5.is_hdf5(files[0]):
        return False
    with hdf5.opened(files[0]) as file:
        return "observations" in file and "action" in file


FORMAT = Format("ALOHA's HDF5 files", AlohaConfig, _recognise)
