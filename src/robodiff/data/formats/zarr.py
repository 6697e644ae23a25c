"""Zarr recordings, formats 2 and 3, as a folder or a .zip: ``data/<key>`` over all frames, ``meta/episode_ends``.

A layout says what the file's keys are called here. robodiff's own files name it in their attributes; for those of
others it may be given, as may a key map; else their names tell.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robodiff import registry
from robodiff.data.episodes import Episodes
from robodiff.data.naming import LayoutKey
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.errors import UsageError

LAYOUTS: dict[str, dict[str, LayoutKey]] = {
    "robofactory": {
        "observation.images.head_camera": LayoutKey("head_camera"),
        "observation.state": LayoutKey("state"),
        "action": LayoutKey("action"),
    },
    "img": {
        "observation.image": LayoutKey("img"),
        "observation.state": LayoutKey("state"),
        "action": LayoutKey("action"),
    },
}
"""Of no environment's own; environments register theirs as ``layouts``."""


@dataclass(frozen=True, kw_only=True)
class ZarrConfig(DataConfig):
    """Demonstrations in a zarr group, formats 2 and 3, as a folder or a .zip."""

    path: str
    """Where the recording is; builtin:pusht is the one inside the package."""
    layout: str | None = None
    """What the file's keys are: pusht, robofactory or img. A file that robodiff wrote says it itself; else the names of
    its keys tell."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.key_map is not None and self.layout is not None:
            raise UsageError("layout and key_map both say what the file's keys are; give one of them")
        if self.layout is not None:
            find_layout(self.layout)

    def open(self, keys: Sequence[str] | None = None) -> Recording:
        """Return what the group holds; nothing is decoded but where episodes end, and their table."""
        from robodiff.data.formats.zarr_reader import open_zarr

        return open_zarr(self.place, self)


def find_layout(name: str) -> Mapping[str, LayoutKey]:
    """Return the layout of this name.

    Raises:
        UsageError: there is none.
    """
    return LAYOUTS[name] if name in LAYOUTS else registry.find("layouts", name)


def _recognise(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".zip", ".zarr")
    return path.suffix == ".zarr" or any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _write(
    episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None, out_layout: str | None = None
) -> list[str]:
    from robodiff.data.formats.zarr_writer import write_zarr

    is_robofactory = re.search(r"_Agent\w+_\d+\.zarr$", path.name)  # what RoboFactory calls its files
    return write_zarr(episodes, path, on_episode, out_layout or ("robofactory" if is_robofactory else None))


FORMAT = Format("a zarr group", ZarrConfig, _recognise, (".zarr", ".zip"), _write, ("out_layout",), keeps_agents=True)
