"""myCobot's episodes: folders with a ``states.json``, which has a row a frame, and the pictures of one camera.

A row has ``angles`` (six, in degrees), ``gripper_value`` (per cent, a number or a list of one), ``image``, the file,
and may have ``action``, what the robot was told to do, in the same units.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from robodiff.data.arrays import episode_numbers
from robodiff.data.episodes import ACTION, SMALLEST_RANGE, Episodes, Feature, Finding, left_out, raise_faults, same_unit
from robodiff.data.formats.pictures import SUFFIXES, files_piece
from robodiff.data.formats.pieces import Gathered, Piece, inside
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import AtLeast, read_json
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.files import replacing
from robodiff.text import counted

FPS = 10.0
NAMES = (*(f"joint{number}" for number in range(1, 7)), "gripper")
UNITS = (*("deg",) * 6, "percent")
IN_RADIANS = (*("rad",) * 6, "share")
STATE = "observation.state"
CAMERA = "observation.images.front"
STATES, FRAMES = "states.json", "frame_dir"
ADVICE = "leave it out with data.episodes, or record it again"
_FIRST = datetime(2000, 1, 1)
"""Names are times at which episodes were recorded. What is simulated has no such time: seed 0 has this one, and every
further seed a millisecond more, so that the same episode always has the same name."""


@dataclass(frozen=True)
class _Frame:
    """A row of ``states.json``."""

    angles: tuple[float, float, float, float, float, float]
    gripper_value: float | tuple[float]
    image: str
    action: tuple[float, float, float, float, float, float, float] | None = None

    @property
    def state(self) -> list[float]:
        gripper = self.gripper_value
        return [*self.angles, *(gripper if isinstance(gripper, tuple) else [gripper])]


class _Episode(NamedTuple):
    """What is read of one episode."""

    number: int
    folder: Path
    rows: list[_Frame]
    """Those that are kept."""
    images: set[str]
    """What all rows name."""


@dataclass(frozen=True, kw_only=True)
class MycobotConfig(DataConfig):
    """Demonstrations of a myCobot: a folder of episode_<date>, each with states.json and pictures."""

    path: str
    """The folder."""
    frame_skip: Annotated[int, AtLeast(1)] = 1
    """Keep every n-th frame alone, at the n-th part of the rate; the others are not decoded."""
    action_from: Literal["recorded", "next_state", "same_state"] | None = None
    """What an action is: the one in its row; the state of the next frame that is kept, at an episode's end its own; or
    the state of its frame, which teaches nothing. When null the row's, or the next state where rows have none."""
    angles: Literal["deg", "rad"] | None = None
    """The unit of the angles in the files, which are read as degrees; degrees when null, unless their range tells
    radians."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        files = sorted(self.place.glob(f"episode_*/{STATES}"))
        numbers = episode_numbers(self.path, self.episodes, len(files))
        with_states = {file.parent for file in files}
        for folder in sorted({*self.place.glob("episode_*/")} - with_states):
            notice(f"{folder}: has no {STATES}; left out")
        if self.fps is None:
            notice(f"{self.path}: does not say its rate; taken as {FPS:g} frames a second (data.fps)")
        episodes = _read(self.path, [(number, files[number]) for number in numbers], self.frame_skip)
        labels, names = [each.folder.name for each in episodes], {key: key for key in (STATE, ACTION, CAMERA)}
        have_action = [row.action is not None for each in episodes for row in each.rows]
        source = self.action_from or ("recorded" if all(have_action) else "next_state")
        if self.action_from is None and any(have_action) and not all(have_action):
            told = f"{have_action.count(False)} of {counted(len(have_action), 'frame')} have no action"
            notice(f"{self.path}: {told}; all actions are next states (data.action_from)")
        if source == "same_state":
            told = "an action is what was observed at its frame already (action_from same_state), and a policy that is"
            notice(f"{self.path}: {told} shown it learns nothing else; next_state is where the robot went")
        pieces = [_pieces(each, source, self.angles == "rad") for each in episodes]
        table = {"episode_index": numbers}
        recording = Gathered(self.path, pieces, labels, names, self.fps or FPS, table).recording(self)
        faults = [*_without_action(episodes)] if source == "recorded" else []
        radians = [*_radians(episodes, source == "recorded" and not faults)] if self.angles is None else []
        return replace(recording, findings=[*faults, *radians, *_unusual(episodes)])

    def rate(self, recording: Recording, clock: float | None = None) -> float:  # noqa: D102
        return super().rate(recording, clock) / self.frame_skip


def _read(source: str, files: Sequence[tuple[int, Path]], skip: int) -> list[_Episode]:
    """Return the rows that are kept of each episode.

    Raises:
        RecordingError: files that cannot be read; it holds all of them.
    """
    episodes, faults = [], []
    for number, file in files:
        try:
            rows = read_json(inside(file.parents[1], file), list[_Frame], "record the episode again")
            if not rows:
                raise RobodiffError(f"{file}: has no frames")
            told = [row.action for row in rows[skip - 1 :: skip]] + [rows[-1].action]  # last before the next frame
            kept = [replace(row, action=action) for row, action in zip(rows[::skip], told, strict=False)]
            episodes.append(_Episode(number, file.parent, kept, {row.image for row in rows}))
        except RobodiffError as error:
            faults.append(Finding("fatal", "form", str(error), ADVICE, episode=number))
    raise_faults(source, faults)
    return episodes


def _pieces(episode: _Episode, action_from: str, in_radians: bool) -> dict[str, Piece]:
    """Return state, action and pictures of an episode."""
    scale = np.array([*([180 / np.pi if in_radians else 1] * 6), 1])

    def vector(place: str, values: list) -> Piece:
        block = np.array(values) * scale
        shape, blocks = (len(NAMES),), lambda: iter([block])
        return Piece(episode.folder / STATES, place, len(block), shape, "float64", "vector", blocks, NAMES, UNITS)

    states = [row.state for row in episode.rows]
    action = vector("angles", states if action_from == "same_state" else [*states[1:], states[-1]])
    if action_from == "recorded":
        action = vector("action", [row.action or row.state for row in episode.rows])
    return {STATE: vector("angles", states), ACTION: action, CAMERA: _pictures(episode)}


def _pictures(episode: _Episode) -> Piece:
    """Return the pictures of an episode; what is wrong with the files that rows name is its fault."""
    files, faults = [], []
    for row in episode.rows:
        try:
            files.append(inside(episode.folder, episode.folder / row.image))
        except RobodiffError as error:
            faults.append(str(error))
    if not faults:
        try:
            return files_piece("image", files)
        except RobodiffError as error:
            faults.append(str(error))
    more = f"; and {counted(len(faults) - 1, 'further picture')}" if len(faults) > 1 else ""
    fault, blocks = f"cannot be read: {faults[0]}{more}", lambda: iter(())
    return Piece(episode.folder, "image", len(episode.rows), (1, 1, 3), "uint8", "image", blocks, fault=fault)


def _without_action(episodes: list[_Episode]) -> Iterator[Finding]:
    for number, folder, rows, _ in episodes:
        if lacking := [frame for frame, row in enumerate(rows) if row.action is None]:
            message = f"{folder / STATES}: has no action at frame {lacking[0]}, of all {counted(len(lacking), 'frame')}"
            yield Finding("fatal", "form", message, "data.action_from next_state makes it of states", ACTION, number)


def _radians(episodes: list[_Episode], has_actions: bool) -> Iterator[Finding]:
    """Find angles, else actions, that move, and never by more than one turn is in radians, which is a few degrees."""
    for what, key in [("angles", STATE), (ACTION, ACTION)][: 1 + has_actions]:
        angles = [np.array([getattr(row, what)[:6] for row in each.rows], ndmin=2) for each in episodes]
        small = [np.abs(each).max() <= 2 * np.pi and np.ptp(each, axis=0).max() >= SMALLEST_RANGE for each in angles]
        if key == STATE and all(small):
            every = np.concatenate(angles)
            message = f"all angles lie from {every.min():.2f} to {every.max():.2f}, as radians do"
            yield Finding("fatal", "unit", message, "say with data.angles whether they are rad or deg", STATE)
            return
        for each, own in itertools.compress(zip(episodes, angles, strict=True), small):
            where = f"joints of {what} in {each.folder.name}"
            message = f"{where} lie from {own.min():.2f} to {own.max():.2f}, as radians do"
            advice = f"write degrees, or say data.angles deg if they are; or {ADVICE}"
            yield Finding("fatal", "unit", f"{message}; others are degrees", advice, key, each.number)
        if any(small):
            return


def _unusual(episodes: list[_Episode]) -> Iterator[Finding]:
    """Find what can be trained on: episodes of one frame, grippers not in per cent, and pictures that no row names."""
    for number, folder, rows, images in episodes:
        if len(rows) == 1:
            message = f"{folder.name} has one frame, and so no move to learn"
            yield Finding("warning", "length", message, ADVICE, episode=number)
        low, high = min(openings := [row.state[-1] for row in rows]), max(openings)
        if low < -5 or high > 105 or low < high <= 1:
            message = f"gripper_value of {folder.name} lies from {low:g} to {high:g}, and is read as per cent"
            yield Finding("warning", "unit", message, "0 is closed and 100 open; write it so", STATE, number)
        pictures = {f"{FRAMES}/{path.name}" for path in folder.glob(f"{FRAMES}/*") if path.suffix in SUFFIXES}
        if unnamed := pictures - images:
            message = f"{folder.name} has {counted(len(unnamed), 'picture')} that {STATES} does not name"
            yield Finding("warning", "unequal", message, f"left out, {min(unnamed)} first", CAMERA, number)


def write_mycobot(episodes: Episodes, path: Path, on_episode: Callable[[int], None] | None = None) -> list[str]:
    """Write states, actions and the pictures of one camera, whole or not at all; degrees come back to the bit.

    Actions are written where they are commands of what the state holds: of the same names.

    Returns:
        What of the recording such files have no place for.
    """
    from PIL import Image

    (_, camera), names = written_keys(episodes.features), episodes.features[STATE].names
    with_action = ACTION in episodes.features and names is not None and episodes.features[ACTION].names == names
    written = (STATE, ACTION) if with_action else (STATE,)
    rows = {key: _in_degrees(key, episodes.features[key], episodes.arrays[key]) for key in written}
    seeds = episodes.columns(int).get("seed", [])
    is_name = len({*seeds}) == len(episodes) and all(seed is not None and 0 <= seed < 10**14 for seed in seeds)
    with replacing(path) as temporary:
        for number in range(len(episodes)):
            time = _FIRST + timedelta(milliseconds=seeds[number] if is_name else number)
            folder = temporary / f"episode_{time:%Y%m%d_%H%M%S}_{time.microsecond // 1000:03}"
            (folder / FRAMES).mkdir(parents=True)
            frames = []
            for frame in range(episodes.slice(number).start, episodes.slice(number).stop):
                image = f"{FRAMES}/image_{len(frames):05}.png"
                Image.fromarray(episodes.arrays[camera][frame].transpose(1, 2, 0)).save(folder / image)  # CHW -> HWC
                *angles, gripper = rows[STATE][frame]
                row = {"angles": angles, "gripper_value": [gripper], "image": image}
                frames.append(json.dumps({**row, ACTION: rows[ACTION][frame]} if with_action else row))
            (folder / STATES).write_text("[\n  " + ",\n  ".join(frames) + "\n]\n")
            if on_episode is not None:
                on_episode(number + 1)
    if episodes.fps != FPS:
        notice(f"{path}: its files do not say its rate; read it with data.fps {episodes.fps}")
    keys = [key for key in episodes.arrays if key not in (camera, *rows)]
    return [*keys, *left_out(episodes, ["seed"], names_kept=True)]


def _in_degrees(key: str, feature: Feature, values: np.ndarray) -> list[list[float]]:
    """Return (N, 7) in degrees and per cent, as the shortest numbers that are read the same.

    Without a unit, no joint turns by more than 2 pi rad; of one for all, a gripper's beside rad is a share.
    """
    unit = feature.unit
    if unit is None:
        unit = "deg" if np.abs(values[:, :-1]).max() > 2 * np.pi else "rad"
        notice(f"{key} does not say its unit; taken as in {'deg and per cent' if unit == 'deg' else 'rad and shares'}")
    units = unit if isinstance(unit, tuple) else UNITS if same_unit(unit, "deg") else IN_RADIANS
    scale = [180 / np.pi if each and same_unit(each, "rad") else 100 if each == "share" else 1 for each in units]
    return (values * np.array(scale)).astype(np.float32).astype(str).astype(float).tolist()


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
    lambda path: path.is_dir() and any(path.glob(f"episode_*/{STATES}")),
    write=write_mycobot,
    keys=written_keys,
)
