"""ALOHA's recordings: a folder of ``episode_<n>.hdf5``, or one such file.

``observations/qpos`` is ``observation.state`` here, other ``observations/<x>`` are ``observation.<x>``, cameras
``observations/images/<x>`` are ``observation.images.<x>``, and ``action`` is ``action``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robodiff.data.episodes import ACTION, episode_numbers
from robodiff.data.formats import hdf5
from robodiff.data.formats.pieces import Gathered, files_of, inside
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.errors import RobodiffError, notice

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
        root = Path(self.path).expanduser()
        files = files_of(root, hdf5.SUFFIXES)
        if not files:
            raise RobodiffError(f"{root}: no HDF5 files found; expected episode_0.hdf5 and so on")
        numbers = episode_numbers(self.path, self.episodes, len(files))
        episodes = []
        for path in (files[number] for number in numbers):
            with hdf5.opened(inside(root, path)) as file:
                episodes.append(hdf5.pieces(path, file, swap_channels=self.swap_channels))
        every = {key: piece for episode in episodes for key, piece in episode.items()}
        if self.swap_channels and any(piece.recipe for piece in every.values()):
            notice(f"{self.path}: compressed pictures are taken as ALOHA's recorder writes them, with red and blue "
                   "swapped; set data.swap_channels to false where they look wrong in robodiff data view")  # fmt: skip
        if self.fps is None:
            notice(f"{self.path}: ALOHA's files do not say their rate; taken as {FPS:g} frames a second (data.fps)")
        return Gathered(
            self.path,
            episodes,
            [files[number].name for number in numbers],
            {key: _name(key) for key in every},
            self.fps or FPS,
            {"episode_index": numbers},
        ).recording(self)


def _name(key: str) -> str | None:
    group, _, rest = key.partition("/")
    if group != "observations":
        return ACTION if key == ACTION else None
    if rest.startswith("images/"):
        return f"observation.{rest.replace('/', '.', 1).replace('/', '_')}"
    return "observation.state" if rest == "qpos" else f"observation.{rest.replace('/', '_')}"


def _recognise(path: Path) -> bool:
    files = files_of(path, hdf5.SUFFIXES)
    if not files or not hdf5.is_hdf5(files[0]):
        return False
    with hdf5.opened(files[0]) as file:
        return "observations" in file and "action" in file


FORMAT = Format("ALOHA's HDF5 files", AlohaConfig, _recognise)
