"""``Feature`` and ``Episodes``: the one form that every recorded format is read into."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import index
from typing import Annotated, Any, Literal, SupportsIndex

import numpy as np

from robodiff.documents import Between, Document, brief
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.machine import memory_free
from robodiff.text import counted, listed

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
CHANNELS = (1, 3, 4)
"""How many an image of a file may have: grey, or colours, or colours and how opaque they are."""
LONGEST_ROW = 512
LARGEST_MATRIX = 16
"""A row of more bytes is an encoded image, a matrix of more rows or columns a depth map or a mask."""
ROUNDED = 1e-3
"""A share of the range of a dimension by which float32 may be off."""
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


def check_ends(source: str, episode_ends: np.ndarray) -> np.ndarray:
    """Return the frame after each episode's last, (E,) int64.

    Raises:
        RecordingError: they are no whole numbers, or do not increase; without them nothing can be said of the rest.
    """
    fault = partial(Finding, "fatal", "ends", key="episode_ends", advice="write the frame after each episode's last")
    if episode_ends.ndim != 1 or len(episode_ends) == 0 or not np.issubdtype(episode_ends.dtype, np.integer):
        raise RecordingError(source, [fault("episode_ends must be a list of whole numbers, one for each episode")])
    ends = episode_ends.astype(np.int64)
    rule = "episode_ends must increase from above 0"
    falling = np.flatnonzero(np.diff(ends, prepend=0) <= 0).tolist()
    raise_faults(source, [fault(f"{rule}; episode {e} ends at frame {ends[e]}", episode=e) for e in falling])
    return ends


def unequal(key: str, frames: int, episode_ends: np.ndarray) -> list[Finding]:
    """Return what is wrong where an array of so many frames belongs to episodes that end at these."""
    if not len(episode_ends) or frames == episode_ends[-1]:
        return []
    message = f"{key} has {counted(frames, 'frame')}, but the last episode ends at {episode_ends[-1]}"
    return [Finding("fatal", "unequal", message, "every array must be as long as the last episode_ends says", key)]


Gap = tuple[int, int]
"""Frames that were never written: the first, and the one after the last."""


def unwritten(
    key: str, gaps: Iterable[Gap], episode_ends: np.ndarray, numbers: Sequence[int] = (), names: Sequence[str] = ()
) -> list[Finding]:
    """Return in which episodes an array lacks frames.

    Args:
        key: the array.
        gaps: of all episodes, rising.
        episode_ends: (E,) the frame after each episode's last.
        numbers: of each episode in its source; their places when empty.
        names: what the file calls each episode, if it does.
    """
    starts = np.concatenate([[0], episode_ends]).tolist()
    missing: dict[int, Gap] = {}
    for first, end in gaps:
        places = np.searchsorted(episode_ends, [first, end - 1], side="right").tolist()
        for place in range(places[0], min(places[1] + 1, len(episode_ends))):
            own = max(first, starts[place]), min(end, starts[place + 1])
            missing[place] = (missing.get(place, own)[0], own[1])
    advice = "copy or record it again, or leave the episode out; if zeros are right there: data.accept_unwritten true"
    findings = []
    for place, (first, end) in missing.items():
        number, start = numbers[place] if len(numbers) else place, starts[place]
        frames = f"frame {first - start}" if end == first + 1 else f"frames {first - start} to {end - 1 - start}"
        message = f"{key} was never written at {frames} of {names[place] if names else f'episode {number}'}"
        findings.append(Finding("fatal", "unwritten", message, advice, key, number, first))
    return findings


def episode_numbers(source: str, numbers: list[int] | None, count: int) -> list[int]:
    """Return which of ``count`` episodes are chosen by ``data.episodes``, rising; all when None.

    Raises:
        UsageError: numbers that no episode has, or the same twice.
    """
    if numbers is None:
        return list(range(count))
    rule = f"data.episodes must be different numbers from 0 to {count - 1}"
    if not numbers or not set(numbers) <= set(range(count)) or len(set(numbers)) != len(numbers):
        raise UsageError(f"{source}: {rule}; found {numbers[:8]}")
    return sorted(numbers)


def check_finite(
    source: str, arrays: Mapping[str, np.ndarray], episode_ends: np.ndarray, names: Sequence[str] = ()
) -> None:
    """Check what a file holds, under the file's own names, before anything is made of it.

    Args:
        source: the file, for messages.
        arrays: per key (N, ...).
        episode_ends: (E,) the frame after each episode's last.
        names: what the file calls each episode, if it does.

    Raises:
        RecordingError: values that are not finite as float32; it holds all episodes with some, and its message names
            the file, the key and the first bad frame.
    """
    faults = []
    starts = np.concatenate([[0], episode_ends])
    for key, array in arrays.items():
        bad = _not_finite(array)
        places, first = np.unique(np.searchsorted(episode_ends, bad, side="right"), return_index=True)
        for place, frame in zip(places.tolist(), bad[first].tolist(), strict=True):
            name = names[place] if names else f"episode {place}"
            message = f"{key} is not finite at frame {frame - starts[place]} of {name}"
            faults.append(Finding("fatal", "finite", message, "mend or drop it", key, place, frame))
    raise_faults(source, faults)


def kind_of(shape: Sequence[int], dtype: np.dtype) -> Literal["image", "vector"] | None:
    """Return what frames of this shape and type are: images, numbers, or neither.

    Planes of bytes are grey images, other planes, and one channel that is not uint8, depth or masks; long rows of bytes
    are encoded images.
    """
    if 0 in shape or dtype.kind not in "biuf" or max(shape, default=1) > LARGEST:
        return None
    if len(shape) == 2 and dtype == np.uint8 and min(shape) > LARGEST_MATRIX // 2:
        return "image"
    if len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS) and min(shape[1], max(shape[::2])) > 1:
        is_colour = 3 in (shape[0], shape[2]) and sorted(shape)[1] > 4  # else poses, such as two rotations
        return "image" if dtype == np.uint8 or is_colour else None
    if dtype == np.uint8 and (len(shape) > 1 or math.prod(shape) > LONGEST_ROW):
        return None
    if len(shape) == 2 and max(shape) > LARGEST_MATRIX:
        return None
    return "vector" if len(shape) < 3 and math.prod(shape) <= LARGEST else None


def wrong_form(key: str, expected: str, frame: int | None = None) -> Finding:
    """Return that an array is not what its key needs."""
    return Finding("fatal", "form", f"{key} must be {expected}", "convert it, or leave it out", key, frame=frame)


def as_vectors(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return (N,), (N, D) or (N, ...) numbers as float32 (N, D), trailing dimensions flattened; see ``rounded``."""
    if array.ndim < 1 or array.ndim > 3 or kind_of(array.shape[1:], array.dtype) != "vector":
        raise RecordingError(source, [wrong_form(key, f"numbers (frames, D); found {array.dtype} {array.shape}")])
    return np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float32)


def rounded(key: str, array: np.ndarray, converted: np.ndarray) -> list[Finding]:
    """Return where float32 (N, D) does not hold what numbers (N, ...) say: whole ones above 2^24, or moves that are
    small beside the numbers, as those of a clock that counts from 1970 are."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize < 4 or array.dtype == np.float32:
        return []
    exact = array.reshape(len(array), -1)
    for start in range(0, exact.shape[1], 64):
        values, kept = exact[:, start : start + 64], converted[:, start : start + 64]
        if array.dtype.kind in "iu":
            with np.errstate(invalid="ignore"):  # 2^64 - 1 becomes a float that no integer holds
                off = kept.astype(array.dtype) != values
        else:
            moves = np.ptp(values, axis=0) if len(values) else np.zeros(values.shape[1])
            off = np.abs(kept - values) > ROUNDED * np.where(moves >= SMALLEST_RANGE, moves, np.inf)
        if off.any():
            frame, dimension = np.argwhere(off)[0].tolist()
            message = (
                f"{key}[{start + dimension}] is {values[frame, dimension]} at frame {frame}, which float32 rounds to"
            )
            message += f" {kept[frame, dimension]:.17g}"
            return [Finding("warning", "rounded", message, "subtract what is constant from it, or leave it out", key)]
    return []


def as_images(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W), (N, H, W, C) or (N, H, W) as uint8 (N, 1 or 3, H, W); floats must be whole, 0 to 255.

    The fourth of four channels, which says how opaque a pixel is, is left out.

    From contiguous images windows are gathered several times as fast: they become so where memory has ample room. A
    memory-mapped array of uint8 stays one.
    """
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or not {array.shape[1], array.shape[3]} & {*CHANNELS}:
        raise RecordingError(source, [wrong_form(key, f"images of 1, 3 or 4 channels; found shape {array.shape}")])
    if array.shape[1] not in CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    array = array[:, :3] if array.shape[1] > 3 else array
    if array.dtype == np.uint8:
        fits = not isinstance(array, np.memmap) and array.nbytes <= memory_free() / 2
        return np.ascontiguousarray(array) if fits else array
    converted = np.empty(array.shape, np.uint8)
    for frame, image in enumerate(array):  # frame by frame: a float copy of a whole recording may not fit in memory
        converted[frame] = image
        if not np.array_equal(converted[frame], image):
            raise RecordingError(source, [wrong_form(key, f"whole numbers from 0 to 255, unlike frame {frame}", frame)])
    return converted


def blocks(array: np.ndarray, size: int = 2**25) -> Iterator[tuple[int, np.ndarray]]:
    """Yield an array (N, ...) in blocks of about ``size`` bytes, each with its first frame."""
    rows = max(1, size // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _not_finite(array: np.ndarray) -> np.ndarray:
    """Return the frames with a value that is not finite in the type that training uses."""
    if not np.issubdtype(array.dtype, np.floating):
        return np.zeros(0, np.int64)
    bad = [np.zeros(0, np.int64)]
    for start, block in blocks(array):
        with np.errstate(over="ignore"):
            finite = np.isfinite(block.reshape(len(block), -1).astype(np.float32, copy=False))
        bad.append(start + np.flatnonzero(~finite.all(axis=1)))
    return np.concatenate(bad)
