"""A format of one's own: a folder of .jsonl files, one an episode, with a line a frame: {"state": [], "action": []}.

robodiff data info FOLDER --plugin examples/extending/json_lines.py
robodiff fit --config generic --data FOLDER --plugin examples/extending/json_lines.py
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.episodes import Feature
from robodiff.data.recordings import DataConfig, Format, Recording, Stored
from robodiff.errors import RobodiffError

NAMES = {"state": "observation.state", "action": "action"}
"""The file's keys, and what they are called here; --data.key_map names others."""


@dataclass(frozen=True, kw_only=True)
class JsonLinesConfig(DataConfig):
    """Demonstrations in a folder of .jsonl files, one an episode."""

    path: str
    """The folder."""

    @classmethod
    def at(cls, path: str, **options: Any) -> "JsonLinesConfig":
        """Return the options for the folder at a path."""
        return cls(path=path, **options)

    def open(self, keys: Sequence[str] | None = None) -> Recording:
        """Return what the folder holds: files this small are read whole."""
        files = episode_files(Path(self.path))
        episodes = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        frames = [frame for episode in episodes for frame in episode]
        for number, frame in enumerate(frames):
            if frame.keys() != frames[0].keys():
                raise RobodiffError(f"{self.path}: line {number} has the keys {', '.join(frame)}")
        arrays = {key: np.array([frame[key] for frame in frames], np.float32) for key in frames[0]}
        stored = {key: _stored(key, array) for key, array in arrays.items()}
        ends = np.cumsum([len(episode) for episode in episodes])
        return Recording(self.path, stored, ends, self.fps, names=[file.stem for file in files])


def episode_files(folder: Path) -> list[Path]:
    """Return the files of a folder, in the order of their names."""
    return sorted(folder.glob("*.jsonl"))


def _stored(key: str, array: np.ndarray) -> Stored:
    return Stored(array.shape[1:], "float32", partial(np.copy, array), NAMES.get(key), Feature.of(array))


FORMAT = Format("a folder of JSON lines", JsonLinesConfig, recognise=lambda path: bool(episode_files(path)))
