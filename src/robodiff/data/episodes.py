"""``Feature`` and ``Episodes``: the one form that every recorded format is read into."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import index
from typing import Annotated, Any, Literal, SupportsIndex

import numpy as np

from robodiff.documents import Between, Document
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.text import brief, listed

ACTION = "action"
PAST_ACTION = "observation.past_action"
"""The action that was executed one step of the policy before, zeros at the start of an episode. Where it was not
recorded it is derived: for training from the actions (``with_past_action``), when acting by ``PolicyRunner``."""
INTERVENTION = "intervention"
"""Who acted at a frame: 1 an expert, 0 a policy. It is never observed; where it was not recorded, an expert acted
throughout."""
OPTIONAL = (PAST_ACTION, INTERVENTION)
"""Keys that a recording need not have."""
SMALLEST_RANGE = 1e-4
"""A dimension that moves less than this does not move: it is centred and not scaled."""
LARGEST = 10**6
"""The most that one dimension of a feature can have."""
WHERE = ("episode_index", "demo")
"""Columns of a table that say which episode of its source one is; a new recording counts for itself."""
MASK = "mask."
"""Before the name of a group of episodes: the column of a table that says of each whether it is in the group."""

SPELLINGS = {
    "rad": ("rad", "radian", "radians"),
    "deg": ("deg", "degree", "degrees", "°"),
    "m": ("m", "meter", "meters", "metre", "metres"),
    "px": ("px", "pixel", "pixels"),
    "percent": ("percent", "%", "per cent"),
}
"""Of units, in lower case."""
Unit = str | tuple[str, ...] | None
"""Of a vector: one of all dimensions, or one of each, empty where none is known."""


@dataclass(frozen=True)
class Feature(Document):
    """What one key holds at one time step; encoders and normalizer choose by ``kind``."""

    kind: Literal["image", "vector"]
    """``image``: uint8 (C, H, W). ``vector``: float32 (D,)."""
    shape: tuple[Annotated[int, Between(1, LARGEST)], ...]
    """The shape of one time step."""
    dtype: str
    """NumPy's name of the element type."""
    names: tuple[str, ...] | None = None
    """What each dimension of a vector is."""
    unit: Unit = None
    """The unit of a vector, such as ``px`` or ``rad``; where they differ, that of each dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != (dimensions := {"image": 3, "vector": 1}[self.kind]):
            raise UsageError(f"expected {dimensions} dimensions for kind {self.kind}; found {brief(self.shape)}")
        if self.kind == "vector" and self.names is not None and len(self.names) != self.shape[0]:
            raise UsageError(f"expected as many names as dimensions, {self.shape[0]}; found {len(self.names)}")
        if isinstance(self.unit, tuple) and len(self.unit) != self.shape[0]:
            raise UsageError(f"expected as many units as dimensions, {self.shape[0]}; found {len(self.unit)}")

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each dimension; empty where none is known."""
        return self.unit if isinstance(self.unit, tuple) else (self.unit or "",) * self.shape[0]

    def part(self, dimensions: Iterable[int]) -> "Feature":
        """Return what some dimensions of a vector hold, in this order."""
        places = [*dimensions]
        names = self.names and tuple(self.names[place] for place in places)
        unit = tuple(self.unit[place] for place in places) if isinstance(self.unit, tuple) else self.unit
        return replace(self, shape=(len(places),), names=names, unit=unit)

    @classmethod
    def of(cls, array: np.ndarray, unit: Unit = None, names: tuple[str, ...] | None = None) -> "Feature":
        """Return what an array over all frames (N, ...) holds: four dimensions are images, two are vectors."""
        return cls("image" if array.ndim == 4 else "vector", array.shape[1:], str(array.dtype), names, unit)


def same_unit(first: Unit, second: Unit) -> bool:
    """Tell whether two units are one, however they are spelled; what says no unit goes with any.

    One for all dimensions goes with those of each if it is among them: it was often written for joints alone, and
    meant nothing of the gripper beside them.
    """
    units = ([*map(_usual_unit, unit if isinstance(unit, tuple) else (unit or "",))] for unit in (first, second))
    fewer, more = sorted(units, key=len)
    if len(fewer) == len(more):
        return all(not one or not other or one == other for one, other in zip(fewer, more, strict=True))
    return len(fewer) == 1 and (fewer[0] in ("", *more) or not any(more))


def _usual_unit(text: str) -> str:
    text = text.strip()
    return next((unit for unit, spellings in SPELLINGS.items() if text.lower() in spellings), text)


def texts_of(value: Any, size: int) -> tuple[str, ...] | None:
    """Return what a file says of each of so many dimensions, names or units; None where it is something else."""
    fits = isinstance(value, list) and len(value) == size and all(type(each) is str for each in value)
    return tuple(value) if fits else None


def unit_in_words(unit: Unit) -> str:
    """Return a unit, or the different ones of several dimensions: ``deg, percent``."""
    return ", ".join(dict.fromkeys(filter(None, unit))) if isinstance(unit, tuple) else unit or ""


def joined_unit(units: Sequence[tuple[Unit, int]]) -> Unit:
    """Return the unit of vectors end to end, of each its unit and its dimensions."""
    if len({unit for unit, _ in units}) == 1 and not isinstance(units[0][0], tuple):
        return units[0][0]
    return tuple(each for unit, size in units for each in (unit if isinstance(unit, tuple) else (unit or "",) * size))


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a recording, or unusual in it."""

    severity: Literal["fatal", "warning", "note"]
    """``fatal``: training is not possible or would be harmed. ``warning``: look at it. ``note``: worth knowing."""
    check: str
    """Which check found it."""
    message: str
    """What was found, and where."""
    advice: str
    """What to do about it."""
    key: str | None = None
    """The key, where it lies in one."""
    episode: int | None = None
    """The number of the episode, where it lies in one."""
    frame: int | None = None
    """The first frame of it, counted from the start of what was read."""


@dataclass(frozen=True)
class Episodes:
    """Recorded demonstrations: per key one array over all frames, episode after episode."""

    source: str
    """Where they come from, for messages."""
    arrays: Mapping[str, np.ndarray]
    """Per key (N, C, H, W) uint8 or (N, D) float32; in memory or memory-mapped."""
    episode_ends: np.ndarray
    """(E,) int64: the frame after each episode's last."""
    fps: float
    """Frames per second, the same for all keys."""
    features: Mapping[str, Feature]
    """Per key of ``arrays``, what one frame holds."""
    table: Mapping[str, list[Any]] = field(default_factory=dict)
    """What the source says of each episode (``task``, ``success``, ``seed``): per column a list of E values."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the source says of all of it, for a writer of the same format: robomimic's ``env_args``, LeRobot's
    ``robot_type``."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Per key its name in the source, where the format's writer could not tell it from the key."""
    team_names: Mapping[str, str] = field(default_factory=dict)
    """Per key of one agent of several, its name in a recording of all of them: ``agents.<id>.<key>``."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """What else the source holds and was not read: by its own names, of what type and shape."""
    findings: Sequence[Finding] = ()
    """What was found while it was read."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) frames in each episode."""
        return np.diff(self.episode_ends, prepend=0)

    @cached_property
    def expert(self) -> np.ndarray | None:
        """(N,) bool, at which frames an expert acted; None where one did throughout."""
        acted = self.arrays.get(INTERVENTION)
        return None if acted is None or acted.all() else acted.min(axis=1) > 0  # of a team, each agent's expert

    def __len__(self) -> int:
        return len(self.episode_ends)

    def slice(self, episode: int) -> slice:
        """Return the frames of one episode."""
        start = 0 if episode == 0 else int(self.episode_ends[episode - 1])
        return slice(start, int(self.episode_ends[episode]))

    def number(self, episode: SupportsIndex) -> int:
        """Return what its source counts an episode as: another number than its place where only some were read."""
        return self.table["episode_index"][episode] if "episode_index" in self.table else index(episode)

    def at(self, frames: np.ndarray | int) -> np.ndarray:
        """Return the place here of the episode in which each frame lies, in the shape of ``frames``."""
        return np.searchsorted(self.episode_ends, frames, side="right")

    def where(self, frame: int) -> str:
        """Return a frame in words: which of the frames of which episode, as its source counts it."""
        episode = int(self.at(frame))
        return f"frame {frame - self.slice(episode).start} of episode {self.number(episode)}"

    def finding(
        self, frame: int, severity: Any, check: str, message: str, advice: str, key: str | None = None
    ) -> Finding:
        """Return what was found from a frame on."""
        return Finding(severity, check, message, advice, key, self.number(self.at(frame)), frame)

    def only(self, places: np.ndarray) -> "Episodes":
        """Return some of the episodes, by their places here, rising."""
        if len(places) == len(self):
            return self
        frames = np.concatenate([np.arange(s.start, s.stop) for s in map(self.slice, places.tolist())])
        table = {name: [column[place] for place in places.tolist()] for name, column in self.table.items()}
        numbers = [self.number(place) for place in places.tolist()]
        kept = {None, *numbers}
        return replace(
            self,
            arrays={key: array[frames] for key, array in self.arrays.items()},
            episode_ends=np.cumsum(self.lengths[places]),
            table={**table, "episode_index": numbers},
            findings=[_moved(each, frames) for each in self.findings if each.episode in kept],
        )

    def columns(self, *types: type) -> dict[str, list[Any]]:
        """Return the columns of the table whose values are all of one of these types, but for ``WHERE``.

        Integers among floats become floats; None, where the source says nothing of an episode, stays.
        """
        columns = {}
        for name, column in self.table.items():
            kinds = {type(value) for value in column if value is not None}
            if kinds == {int, float}:
                kinds, column = {float}, [float(value) if type(value) is int else value for value in column]
            if name not in WHERE and len(kinds) <= 1 and kinds <= set(types):
                columns[name] = column
        return columns


def _moved(finding: Finding, frames: np.ndarray) -> Finding:
    """Return a finding in a recording of which only some frames, (N,) and rising, were kept."""
    if finding.frame is None:
        return finding
    place = int(np.searchsorted(frames, finding.frame))
    return replace(finding, frame=place if place < len(frames) and frames[place] == finding.frame else None)


class RecordingError(RobodiffError):
    """A recording that cannot be used; its message is the first of all ``findings``."""

    def __init__(self, source: str, findings: Sequence[Finding]) -> None:
        where = "" if findings[0].message.startswith(source) else f"{source}: "
        super().__init__(f"{where}{findings[0].message}; {findings[0].advice}")
        self.source, self.findings = source, findings


class NotRecorded(RobodiffError):
    """A key that was asked for is not in a recording."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def raise_faults(source: str, faults: Iterable[Finding]) -> None:
    """Raise a ``RecordingError`` if there are any."""
    if findings := list(faults):
        raise RecordingError(source, findings)


def with_past_action(episodes: Episodes, observation_keys: Sequence[str] | None, stride: int) -> Episodes:
    """Add ``observation.past_action`` where it is among the keys and was not recorded itself.

    Args:
        episodes: with ``action``.
        observation_keys: what a policy observes; None is all that was recorded.
        stride: frames from one step of the policy to its next.

    Returns:
        The episodes in which it is, at each frame, the action ``stride`` frames before in the same episode, and zeros,
        in the units of the recording, where there is none.
    """
    if PAST_ACTION not in (observation_keys or ()) or PAST_ACTION in episodes.arrays:
        return episodes
    action = episodes.arrays[ACTION]
    past = np.zeros_like(action)
    for frames in map(episodes.slice, range(len(episodes))):
        past[frames][stride:] = action[frames][:-stride]
    return replace(
        episodes,
        arrays={**episodes.arrays, PAST_ACTION: past},
        features={**episodes.features, PAST_ACTION: episodes.features[ACTION]},
    )


def with_expert_actions(episodes: Episodes) -> Episodes:
    """Put, where a policy acted, the action of the frame of the same episode that is nearest of an expert's.

    What a policy did is no target. A denoiser reads whole windows, though, and what stands beside a target should be
    what an expert might have done: it is filled up as what lies outside of an episode is. Episodes in which no expert
    acts stay as they are.
    """
    if (expert := episodes.expert) is None:
        return episodes
    taken = np.arange(len(expert))
    for frames in map(episodes.slice, range(len(episodes))):
        acted = np.flatnonzero(expert[frames])
        if len(acted):
            between = (acted[1:] + acted[:-1]) / 2
            nearest_of = np.searchsorted(between, np.arange(frames.stop - frames.start))
            taken[frames] = frames.start + acted[nearest_of]
    return replace(episodes, arrays={**episodes.arrays, ACTION: episodes.arrays[ACTION][taken]})


def left_out(episodes: Episodes, kept: Collection[str], names_kept: bool = False) -> list[str]:
    """Return what of a recording a file has no place for.

    Args:
        episodes: the recording.
        kept: the columns, attributes and keys that are written, at least those that might not be.
        names_kept: whether names and units of dimensions are.
    """
    named = any(feature.names or feature.unit for feature in episodes.features.values())
    lost = [name for name in (*episodes.table, *episodes.attributes) if name not in (*kept, *WHERE)]
    return [*lost, *(["names and units of dimensions"] if named and not names_kept else [])]


def recorded_keys(source: str, keys: Sequence[str], known: Collection[str]) -> list[str]:
    """Return those of ``keys`` that can be read: all, but that those of ``OPTIONAL`` need not have been recorded.

    Raises:
        NotRecorded: another key is not there.
    """
    if missing := [key for key in keys if key not in known and key not in OPTIONAL]:
        others = [key for key in known if key not in keys]
        message = f"{source}: has no {missing[0]!r}; it has {listed(known)}.{nearest(missing[0], others)}"
        raise NotRecorded(message, missing[0])
    return [key for key in keys if key in known]
