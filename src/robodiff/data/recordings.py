"""A recording at a path, whatever its format: recognised, opened, named, and read into ``Episodes``.

A format (``formats/``) says how its files are recognised and lists what they hold, as a ``Recording``: every array by
the file's own name, with what it is called here. What is common to all formats is done here: key maps, which keys are
read, agents, the rate, and that every value is finite. Imports no torch.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from robodiff import registry
from robodiff.data.arrays import episode_numbers
from robodiff.data.cache import folder_of
from robodiff.data.episodes import ACTION, INTERVENTION, Episodes, Feature, Finding, raise_faults, recorded_keys
from robodiff.data.naming import AGENT_FILES, NOT_SEEN, LayoutKey, Sources, agents_in, find_key, of_agent
from robodiff.data.resample import CLOCK, at_one_rate, rate_of
from robodiff.data.stored import Reading, Recording, Stored
from robodiff.data.windows import WindowShape, split_episodes
from robodiff.documents import Above, AtLeast, Between, Document, FromTo
from robodiff.errors import RobodiffError, UsageError, nearest, notice
from robodiff.files import is_repository, reading, with_home
from robodiff.text import listed

USUAL_FPS = 10.0
"""Taken where neither a file nor an option says the rate."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Document, ABC):
    """Demonstrations and how they become batches: options of every format."""

    registry_kind: ClassVar[str] = "data"

    keys: list[str] | None = None
    """What is read besides the action and who acted, by the names here; everything when null. It leaves a broken camera
    out."""
    key_map: dict[str, str] | None = None
    """Key in the file -> name here, such as {state: observation.state}, in place of the names that it has otherwise."""
    fps: Annotated[float, Above(0)] | None = None
    """Frames per second; what the file says when null. Where a clock was recorded, the frames nearest to this rate are
    taken."""
    agent: str | None = None
    """Of several agents' recording the one to train, such as "0": its keys lose agents.0. and those of the others are
    left out; all agents together when null, and each with its own keys when "each"."""
    episodes: list[int] | None = None
    """Which episodes to use, by number; all when null."""
    resize_shape: tuple[Annotated[int, AtLeast(1)], Annotated[int, AtLeast(1)]] | int | None = None
    """Height and width to which images are brought when they are decoded, or the length of the shorter side at most;
    as recorded when null. The policy then expects images of this size."""
    cache_dir: str | None = None
    """Folder of the decoded images; ROBODIFF_CACHE, or ~/.cache/robodiff, when null."""
    train_batch_size: Annotated[int, Between(1, 10**6)] = 256
    """Windows in one training batch, on each device."""
    val_batch_size: Annotated[int, Between(1, 10**6)] = 256
    """Windows in one validation batch."""
    val_split: Annotated[float, FromTo(0, 1)] = 0.05
    """Share of the episodes that is held out for validation; 0 holds none out."""
    val_split_seed: Annotated[int, AtLeast(0)] = 42
    """Chooses which episodes are held out."""
    val_episodes: list[int] | None = None
    """The episodes that are held out, by number, of those that are used; val_split chooses them when null."""
    symmetries: str | None = None
    """An environment, such as pusht, whose symmetries the scene has: the training episodes are trained on as recorded
    and as each of them maps them; only as recorded when null."""
    accept_unwritten: bool = False
    """Train also on frames that were never written and read as zeros, which data check names: zarr leaves out chunks
    that are all zeros, and so do writers that are killed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = list((self.key_map or {}).values())
        if isinstance(self.resize_shape, int) and self.resize_shape < 1:  # msgspec crashes on a bound beside a tuple
            raise UsageError(f"resize_shape must be at least 1; found {self.resize_shape}")
        if "" in names:
            raise UsageError("key_map gives a key of the file no name; write FILE_KEY: NAME")
        if twins := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"key_map gives the name {twins[0]!r} to several keys of the file")

    @classmethod
    def at(cls, path: str, **options: Any) -> "DataConfig":
        """Return the options for the recording at a path."""
        return cls(path=path, **options)  # pyright: ignore[reportCallIssue]

    @property
    def source(self) -> str:
        """Where the recording is, as it was given."""
        return getattr(self, "path", "")

    @property
    def place(self) -> Path:
        """The file or folder at ``path``.

        Raises:
            RobodiffError: nothing there.
        """
        if not (place := resolve(self.source)).exists():
            raise RobodiffError(f"{self.source}: no such file or folder")
        return place

    @property
    def parts(self) -> "Sequence[DataConfig]":
        """The recordings that it consists of: this one."""
        return [self]

    @abstractmethod
    def open(self, keys: Sequence[str] | None = None) -> Recording:
        """Return what there is, checked as far as it can be before arrays are decoded.

        Args:
            keys: what will be read, by its names here, for formats that must fetch it; None is everything.

        Raises:
            RobodiffError: nothing there, or a broken recording; the message names file, key and first bad frame.
        """

    def read(self, observation_keys: Sequence[str] | None = None) -> Episodes:
        """Read the observations that are named, or all, and the actions.

        Raises:
            RobodiffError: nothing there to read, a broken recording, or a key that it lacks.
        """
        keys = None if observation_keys is None else list(dict.fromkeys([*observation_keys, ACTION, INTERVENTION]))
        return self.load(self.open(keys), keys)

    def read_chosen(self, salvage: bool = False) -> Episodes:
        """Read everything of the episodes that are to be used; see ``load``."""
        episodes = self.load(self.open(), None, salvage)
        return episodes.only(self.chosen(episodes))

    def overview(self) -> tuple[Episodes, dict[str, Feature]]:
        """Read the numbers alone of the episodes that are to be used, and tell what images there are."""
        recording = self.open([])
        sources = self.select(recording, None)
        stored = {name: recording.arrays[made_of[0].file_key] for name, made_of in sources.items()}
        images = {name: each.feature for name, each in stored.items() if each.feature and each.is_image}
        episodes = self.load(recording, [name for name in sources if name not in images], salvage=True)
        seen = {part.file_key for name in images for part in sources[name]}
        unread = {key: what for key, what in episodes.unread.items() if key not in seen}
        faults = [fault for name in images for fault in (*stored[name].faults, *stored[name].unwritten)]
        episodes = replace(episodes, unread=unread, findings=[*episodes.findings, *faults])
        return episodes.only(self.chosen(episodes)), images

    def load(self, recording: Recording, keys: Sequence[str] | None, salvage: bool = False) -> Episodes:
        """Read what was opened.

        Args:
            recording: what ``open`` returned.
            keys: by their names here; all that can be read when None.
            salvage: leave out the keys with which something is wrong, which the episodes' findings then tell; else it
                is raised.
        """
        sources = self.select(recording, keys)
        is_whole = "episode_index" not in recording.table
        chosen = episode_numbers(recording.source, self.episodes, len(recording.episode_ends)) if is_whole else None
        reading = Reading(recording, salvage, self.accept_unwritten, chosen and {*chosen}, [*recording.findings])
        clock = recording.times() if recording.times else None  # a faulty one would make other faults
        arrays, features = reading.read(sources)
        read = {part.file_key for made_of in sources.values() for part in made_of}
        own = {made_of[0].file_key: name for name, made_of in self.sources(recording).items()}
        unread = {key: str(stored) for key, stored in recording.arrays.items() if key not in read}
        if keys is None and self.keys is None and self.key_map is None and recording.layout is None:
            for key, stored in recording.arrays.items():
                if key not in read and (stored.is_unreadable or key not in own):  # else it is another agent's
                    reading.findings += _left_out(key, stored)
        unread |= dict.fromkeys(recording.others, "not looked into")
        places = {name: made_of[0].file_key for name, made_of in sources.items() if len(made_of) == 1}
        times, fps = (clock, recording.fps) if clock is not None else _clock(recording, reading.episode_ends)
        episodes = Episodes(
            source=self.source,
            arrays=arrays,
            episode_ends=reading.episode_ends,
            fps=self.rate(recording, fps),
            features=features,
            table=recording.table,
            attributes=recording.attributes,
            places=places,
            team_names={name: own[key] for name, key in places.items() if own[key].split(".", 2)[2:] == [name]},
            unread=unread,
            findings=reading.findings,
        )
        return episodes if times is None else at_one_rate(episodes, times, self.fps, folder_of(self.cache_dir))

    def select(self, recording: Recording, keys: Sequence[str] | None) -> Sources:
        """Return of what each of these keys is made, or each that can be read.

        Raises:
            RobodiffError: a key that the recording lacks, or that is neither numbers nor images.
        """
        sources = of_agent(self.source, self.sources(recording), self.agent)
        if self.keys is not None:
            known = [*self.keys, *(key for key in (ACTION, INTERVENTION) if key in sources and key not in self.keys)]
            sources = {key: sources[key] for key in recorded_keys(recording.source, known, sources)}
        if keys is not None:
            sources = {key: sources[key] for key in recorded_keys(recording.source, keys, sources)}
        every = [(name, part.file_key) for name, made_of in sources.items() for part in made_of]
        unreadable = {name: key for name, key in every if recording.arrays[key].is_unreadable}
        if keys is not None or self.key_map is not None or recording.layout is not None:
            raise_faults(recording.source, (_neither(key, recording.arrays[key]) for key in unreadable.values()))
        return {name: made_of for name, made_of in sources.items() if name not in unreadable}

    def agents(self) -> list[str]:
        """Return the ids of the agents that the recording has keys of."""
        return agents_in(self.sources(self.open([])))

    def sources(self, recording: Recording) -> Sources:
        """Return of what each key is made, all agents' included.

        Raises:
            RecordingError: the file lacks what the key map or the layout names; it holds all such keys.
        """
        layout: Mapping[str, LayoutKey]
        if self.key_map is not None:
            layout = {name: LayoutKey(file_key) for file_key, name in self.key_map.items()}
        elif recording.layout is not None:
            layout = {**recording.layout, INTERVENTION: LayoutKey(INTERVENTION, optional=True)}
        else:
            layout = _default_layout(recording)
        keys = {name: (find_key(recording.arrays, key.file_key), key) for name, key in layout.items()}
        missing = dict.fromkeys(
            key.file_key for file_key, key in keys.values() if file_key is None and not key.optional
        )
        raise_faults(recording.source, (_missing(key, recording.arrays) for key in missing))
        return {
            name: (replace(key, file_key=file_key),) for name, (file_key, key) in keys.items() if file_key is not None
        }

    def rate(self, recording: Recording, clock: float | None = None) -> float:
        """Return the frames per second: what is given, what the file or a clock in it says, or what is usual."""
        if self.fps is None and recording.fps is None and clock is None:
            rate = f"does not say how many frames a second it has; taken as {USUAL_FPS:g}"
            notice(f"{self.source}: {rate}; say it with --fps, in a configuration with data.fps")
        return float(self.fps or recording.fps or clock or USUAL_FPS)

    def window(self, shape: WindowShape, fps: float) -> WindowShape:
        """Return the time steps of one sample: the policy's, unless the data say more of them."""
        return shape

    def repeats(self, episodes: Episodes) -> np.ndarray | None:
        """Return how often the windows of each episode come in an epoch of training, (E,); None where once."""
        return None

    def split(self, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted places in ``episodes`` of those to train on and of those held out."""
        chosen = self.chosen(episodes)
        if self.val_episodes is not None:
            is_held_out = np.isin([episodes.number(place) for place in chosen], self.val_episodes)
            if is_held_out.all() or is_held_out.sum() != len(self.val_episodes):
                rule = "data.val_episodes must be different numbers of episodes that are used, and not of all of them"
                raise UsageError(f"{episodes.source}: {rule}; found {self.val_episodes[:8]}")
            return chosen[~is_held_out], chosen[is_held_out]
        train, held_out = split_episodes(len(chosen), self.val_split, self.val_split_seed)
        return chosen[train], chosen[held_out]

    def chosen(self, episodes: Episodes) -> np.ndarray:
        """Return the sorted places in ``episodes`` of those to use."""
        if "episode_index" in episodes.table:  # those alone were read
            return np.arange(len(episodes))
        return np.array(episode_numbers(episodes.source, self.episodes, len(episodes)))


@dataclass(frozen=True)
class Format:
    """One format of recordings: what a module of ``formats/`` exports as ``FORMAT``."""

    title: str
    """What messages call it, such as ``a zarr group``."""
    config: type[DataConfig]
    """Its options, which open it."""
    recognise: Callable[[Path], bool]
    """Tell whether a path that exists is of this format, by its content and quickly; imports no heavy library for what
    is clearly none."""
    suffixes: tuple[str, ...] = ()
    """How the names of what ``write`` writes end; empty for a folder of any name."""
    write: Callable[..., list[str]] | None = None
    """Write ``Episodes`` to a path that is free, as ``write(episodes, path, on_episode, **options)``, and return what
    of them it has no place for; None where the format is only read."""
    write_options: tuple[str, ...] = ()
    """Names of ``write``'s further options."""
    keys: Callable[[Mapping[str, Feature]], Sequence[str]] | None = None
    """Return of what is recorded the keys that ``write`` writes, or refuse it; None where it writes all."""
    keeps_agents: bool = False
    """Whether it holds the keys of several agents as they are; they are joined where it does not."""

    registry_kind: ClassVar[str] = "data"

    @property
    def registry_name(self) -> str:
        """The name by which a configuration names it."""
        return self.config.__name__

    @property
    def short_name(self) -> str:
        """The name by which a command line names it, such as ``zarr``."""
        return self.config.__name__.removesuffix("Config").lower()


def open_path(path: str, **options: Any) -> DataConfig:
    """Return the options of whatever recording is at a path: a file, a folder, ``builtin:<name>``, or a repository of
    the Hugging Face hub, written owner/name.

    Args:
        path: where it is.
        options: further options, such as ``fps``; None is not given.

    Raises:
        UsageError: no format recognises it, with a description of what is there; or an option that recordings of this
            format do not have.
        RobodiffError: nothing there.
    """
    given = {name: value for name, value in options.items() if value is not None}
    form = format_at(path)
    known = [each.name for each in fields(form.config)]
    if unknown := sorted(given.keys() - {*known}):
        advice = nearest(unknown[0], known)
        raise UsageError(f"{path}: is {form.title}, for which {unknown[0]} is not an option.{advice}")
    return form.config.at(path, **given)


def format_at(path: str) -> Format:
    """Return the format of what is at a path; errors are those of ``open_path``."""
    place = resolve(path)
    if place.exists() or AGENT_FILES in path:
        return _recognised(place)
    if is_repository(path) and not place.suffix:
        notice(f"{path}: no such file or folder here; looked for on the Hugging Face hub")
        return registry.find("data", "LeRobotConfig")
    raise RobodiffError(f"{path}: no such file or folder")


def _recognised(place: Path) -> Format:
    with reading(place, "a recording"):  # refuses what is no file: a device or a pipe has no end
        if form := next((each for each in formats() if each.recognise(place)), None):
            return form
    from robodiff.data.describe import describe_unknown

    raise UsageError(describe_unknown(place))


def formats() -> Iterator[Format]:
    """Yield every format that is registered."""
    for name in registry.names("data"):
        yield registry.find("data", name)


def resolve(path: str) -> Path:
    """Return the file or folder that a path names; ``builtin:<name>`` is a recording inside the package."""
    if path.startswith("builtin:"):
        return registry.find("recordings", path.removeprefix("builtin:"))
    return Path(with_home(path))


def _default_layout(recording: Recording) -> dict[str, LayoutKey]:
    layout: dict[str, LayoutKey] = {}
    for file_key, stored in recording.arrays.items():
        if stored.name in layout:
            twins = f"{layout[stored.name].file_key} and {file_key} would both be called {stored.name}"
            raise RobodiffError(f"{recording.source}: {twins}; rename one of them, or give a key map")
        is_plane = stored.is_image and stored.feature is not None and stored.feature.shape[0] == 1
        if stored.name is not None and not (is_plane and NOT_SEEN.search(file_key)):
            layout[stored.name] = LayoutKey(file_key)
    return layout


def _clock(recording: Recording, ends: np.ndarray) -> tuple[np.ndarray | None, float | None]:
    """Return the seconds (N,) at which frames were recorded, and the rate that they tell; None where no array does."""
    for key, stored in recording.arrays.items():
        is_number = not stored.faults and not stored.is_image and math.prod(stored.shape) == 1
        name = re.split(r"[/.]", key)[-1]
        if stored.read and is_number and CLOCK.fullmatch(name):
            values = stored.read().reshape(-1)[: ends[-1]]
            if rate := rate_of(np.split(values, ends[:-1]), name):
                return values / rate.unit, rate.fps
    return None, None


def _missing(key: str, arrays: Mapping[str, Stored]) -> Finding:
    known = nearest(key, [name.rpartition("/")[2] for name in arrays])
    message = f"{key} is missing.{known} It holds {listed(arrays)}"
    return Finding("fatal", "keys", message, "choose another layout or a key map", key)


def _neither(key: str, stored: Stored) -> Finding:
    message = f"{key} is {stored.dtype} of shape {stored.shape}, neither numbers nor images that can be read"
    return Finding("fatal", "form", message, "convert it, or name another key", key)


def _left_out(key: str, stored: Stored) -> list[Finding]:
    """Return what is to be told of an array that is not read: where it is broken, or may be what a policy observes."""
    if broken := [fault for fault in stored.faults if fault.check == "form"]:
        return [replace(fault, severity="warning", advice=f"left out; {fault.advice}") for fault in broken]
    is_bytes = bool(re.match(r"(large_)?binary|\|S|object|bytes", stored.dtype))
    if not (stored.shape or is_bytes) or not (stored.is_unreadable or stored.is_image):
        return []
    advice = "a key map can name it" if stored.is_image else "it is neither numbers nor images that can be read"
    return [Finding("note", "unread", f"{key}, {stored.dtype} of shape {stored.shape}, is left out", advice, key)]
