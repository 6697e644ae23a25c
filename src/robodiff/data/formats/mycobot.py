"""myCobot's episodes: folders with a ``states.json``, which has a row a frame, and the pictures of one camera.

A row has ``angles`` (six, in degrees), ``gripper_value`` (per cent, in a list) and ``image``, the file. No action is
recorded: it is the state of the frame after, and in an episode's last frame the state itself.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np

from robodiff.data.episodes import ACTION, Episodes, Feature, episode_numbers, left_out, same_unit
from robodiff.data.formats.pictures import files_piece
from robodiff.data.formats.pieces import Gathered, Piece, inside
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import read_json
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.files import replacing

FPS = 10.0
NAMES = (*(f"joint{number}" for number in range(1, 7)), "gripper")
STATE = "observation.state"
CAMERA = "observation.images.front"
STATES = "states.json"
_FIRST = datetime(2000, 1, 1)
"""Names are times at which episodes were recorded. What is simulated has no such time: seed 0 has this one, and every
further seed a millisecond more, so that the same episode always has the same name."""


@dataclass(frozen=True)
class _Frame:
    """A row of ``states.json``."""

    angles: tuple[float, float, float, float, float, float]
    gripper_value: tuple[float]
    image: str


@dataclass(frozen=True, kw_only=True)
class MycobotConfig(DataConfig):
    """Demonstrations of a myCobot: a folder of episode_<date>, each with states.json and pictures."""

    path: str
    """The folder."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        files = _episodes(self.place)
        numbers = episode_numbers(self.path, self.episodes, len(files))
        with_states = {file.parent for file in files}
        for folder in sorted({*self.place.glob("episode_*/")} - with_states):
            notice(f"{folder}: has no {STATES}; left out")
        if self.fps is None:
            notice(f"{self.path}: does not say its rate; taken as {FPS:g} frames a second (data.fps)")
        episodes = [_pieces(files[number]) for number in numbers]
        labels, names = [files[number].parent.name for number in numbers], {key: key for key in (STATE, ACTION, CAMERA)}
        return Gathered(self.path, episodes, labels, names, self.fps or FPS, {"episode_index": numbers}).recording(self)


def _episodes(root: Path) -> list[Path]:
    return sorted(root.glob(f"episode_*/{STATES}"))


def _pieces(file: Path) -> dict[str, Piece]:
    """Return state, action and pictures of an episode."""
    rows = read_json(inside(file.parents[1], file), list[_Frame], "record the episode again")
    if not rows:
        raise RobodiffError(f"{file}: has no frames; remove {file.parent}")
    states = np.array([[*row.angles, *row.gripper_value] for row in rows], np.float32)
    action = np.concatenate([states[1:], states[-1:]])
    vector = partial(Piece, file, frames=len(rows), shape=(len(NAMES),), dtype="float32", kind="vector", names=NAMES)
    return {
        STATE: vector(place="angles", blocks=lambda: iter([states]), unit="deg"),
        ACTION: vector(place="angles", blocks=lambda: iter([action]), unit="deg"),
        CAMERA: files_piece("image", [inside(file.parent, file.parent / row.image) for row in rows]),
    }


def write_mycobot(episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None) -> list[str]:
    """Write the states and the pictures of one camera, whole or not at all; degrees come back to the bit.

    Returns:
        What of the recording such files have no place for.
    """
    from PIL import Image

    (_, camera), states = written_keys(episodes.features), episodes.arrays[STATE].astype(np.float64)
    if not _in_degrees(episodes.features[STATE].unit, states):
        states = np.concatenate([np.degrees(states[:, :-1]), 100 * states[:, -1:]], axis=1)
    rows = states.astype(np.float32).astype(str).astype(float).tolist()  # the shortest numbers that are read the same
    seeds = episodes.columns(int).get("seed", [])
    is_name = len({*seeds}) == len(episodes) and all(seed is not None and 0 <= seed < 10**14 for seed in seeds)
    with replacing(path) as temporary:
        for number in range(len(episodes)):
            time = _FIRST + timedelta(milliseconds=seeds[number] if is_name else number)
            folder = temporary / f"episode_{time:%Y%m%d_%H%M%S}_{time.microsecond // 1000:03}"
            (folder / "frame_dir").mkdir(parents=True)
            frames = []
            for frame in range(episodes.slice(number).start, episodes.slice(number).stop):
                image = f"frame_dir/image_{len(frames):05}.png"
                Image.fromarray(episodes.arrays[camera][frame].transpose(1, 2, 0)).save(folder / image)  # CHW -> HWC
                row = {"angles": rows[frame][:-1], "gripper_value": rows[frame][-1:], "image": image}
                frames.append(json.dumps(row))
            (folder / STATES).write_text("[\n  " + ",\n  ".join(frames) + "\n]\n")
            if on_episode is not None:
                on_episode(number + 1)
    keys = [key for key in episodes.arrays if key not in (STATE, camera)]
    return [*keys, *left_out(episodes, ["seed"], names_kept=True)]


def _in_degrees(unit: str | None, states: np.ndarray) -> bool:
    """Tell whether states are in degrees and per cent; without a unit, no joint turns by more than 2 pi rad."""
    if unit is not None:
        return same_unit(unit, "deg")
    is_large = bool(np.abs(states[:, :-1]).max() > 2 * np.pi)
    notice(f"{STATE} does not say its unit; taken as in {'deg and per cent' if is_large else 'rad and shares'}")
    return is_large


def written_keys(features: Mapping[str, Feature]) -> tuple[str, str]:
    """Return the keys of the state and of the camera: the one in front, what sees the whole table, or the first.

    Raises:
        UsageError: the state is not six joint angles and a gripper, or there is no camera.
    """
    state = features.get(STATE, Feature("vector", (1,), "float32"))
    if state.shape != (len(NAMES),) or (state.names and state.names[-1] != NAMES[-1]):
        raise UsageError(f"mycobot: needs {STATE} of six joint angles and a gripper; choose another format")
    cameras = [key for key, feature in features.items() if feature.kind == "image"]
    if not cameras:
        raise UsageError("mycobot: needs the images of a camera; choose another format")
    return STATE, next(key for key in (CAMERA, "observation.images.agentview", *cameras) if key in cameras)


FORMAT = Format(
    "myCobot's episode folders",
    MycobotConfig,
    lambda path: path.is_dir() and bool(_episodes(path)),
    write=write_mycobot,
    keys=written_keys,
)
