"""What a run was trained on: a digest of every episode, which of them were held out, and what has changed since.

The numbers of an episode are digested whole; of its images ``FRAMES_DIGESTED``, so that a memory-mapped recording of
100 GB is told from another in seconds. Episodes are known by their numbers alone: a recording that was converted, with
its images compressed anew, is still the one that was trained on.
"""

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from robodiff.data.episodes import INTERVENTION, Episodes, Feature
from robodiff.data.recordings import DataConfig
from robodiff.documents import Above, Document, FromTo, plain, read_json, write_json
from robodiff.errors import RobodiffError
from robodiff.text import brief, counted

FILE = "recording.json"
FRAMES_DIGESTED = 5
"""Images of each camera in an episode, evenly spread, its first and its last among them."""
ACCEPT = "--accept_changed_data"
PLANNING = ("unreachable", "collision")
"""Columns of a table: for how many seeds since the episode before no motion was found, by the reason."""
_MOST_NAMED = 5
REMEDY = "take it from a copy of the run; without it nothing tells which episodes were held out"

Digests = dict[str, str]
"""By the number that the recording gives an episode, ``<digest of its numbers>[-<digest of its images>]``."""


@dataclass(frozen=True, kw_only=True)
class Planning:
    """How often the planner that demonstrated found a motion; it says nothing of a policy."""

    demonstrations: Annotated[int, FromTo(0, 10**15)]
    """Episodes that it made."""
    failures: dict[str, Annotated[int, FromTo(0, 10**15)]]
    """Seeds for which it found no motion and that were skipped, by the reason."""

    def __str__(self) -> str:
        failed = sum(self.failures.values())
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.failures.items())
        return f"motion planning failed for {failed} of {counted(self.demonstrations + failed, 'seed')} ({reasons})"


@dataclass(frozen=True, kw_only=True)
class TrainedOn(Document):
    """What a run was trained on; ``fit`` writes it when training starts."""

    run: str
    """Drawn when the run began; its checkpoints hold it, too."""
    fingerprint: str
    """Of rate, features and the digests of the episodes that are used."""
    fps: Annotated[float, Above(0)]
    features: dict[str, Feature]
    training: Digests
    held_out: Digests
    earlier: list[str] = field(default_factory=list)
    """Digests, of numbers alone, of episodes that were trained on and that the recording no longer has."""
    planning: Planning | None = None
    """Of these episodes; None where the recording says nothing of it."""

    @property
    def episodes(self) -> Digests:
        """All that are used."""
        return {**self.training, **self.held_out}

    @property
    def numbers_trained_on(self) -> set[str]:
        """Digests of the numbers of all episodes that were ever trained on."""
        return {*map(numbers_of, self.training.values()), *self.earlier}


@dataclass(frozen=True)
class Division:
    """The episodes of a recording that a run uses, by their places in it."""

    to_train: np.ndarray
    """What is trained on from here on: new episodes, too."""
    to_hold_out: np.ndarray
    seen: np.ndarray
    """What was trained on already; of a run that begins, what will be."""
    unseen: np.ndarray
    """What never was: held out, or new to the recording."""
    found: TrainedOn
    """The recording as it is, divided like this."""
    changes: Sequence[str] = ()
    """In words, what of it is not as the run recorded it."""

    def check(self, source: str, advice: str) -> None:
        """Raise ``RobodiffError`` if the recording is not what the run was trained on."""
        if self.changes:
            raise RobodiffError(f"{source}: has changed since the run was trained on it: {self.summary}\n{advice}")

    @property
    def summary(self) -> str:
        """The changes in a line."""
        more = len(self.changes) - _MOST_NAMED
        return "; ".join(self.changes[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def divide(config: DataConfig, episodes: Episodes, recorded: TrainedOn | None) -> Division:
    """Divide a recording as its run did or, of a run that begins, as its configuration says.

    Args:
        config: of the data.
        episodes: what was read of it.
        recorded: what the run was trained on; None of one that begins, or that kept no record.
    """
    training, held_out = config.split(episodes)
    used = np.union1d(training, held_out)
    digests = digest(episodes, used.tolist())
    found = _describe(recorded.run if recorded else secrets.token_hex(8), episodes, digests, held_out)
    if recorded is None:
        return Division(training, held_out, training, held_out, found)
    if found.fingerprint == recorded.fingerprint:
        held_out = _where(digests, lambda place: str(episodes.number(place)) in recorded.held_out)
        training = np.setdiff1d(used, held_out)
        return Division(training, held_out, training, held_out, recorded)
    before, kept = recorded.numbers_trained_on, {*map(numbers_of, recorded.held_out.values())}
    seen = _where(digests, lambda place: numbers_of(digests[place]) in before)
    unseen = np.setdiff1d(used, seen)
    still = _where(digests, lambda place: numbers_of(digests[place]) in kept - before)
    held_out = still if len(still) else np.intersect1d(held_out, unseen)  # where none of them is left
    found = _describe(recorded.run, episodes, digests, held_out)
    found = replace(found, earlier=sorted(before - found.numbers_trained_on))
    changes = [*_changes(recorded, found)] or ["its episodes are in another order"]
    return Division(np.setdiff1d(used, held_out), held_out, seen, unseen, found, changes)


def read_trained_on(run: Path) -> TrainedOn | None:
    """Return what a run was trained on; None of one that was begun before runs recorded it.

    Raises:
        RobodiffError: the record is broken.
    """
    return read_json(run / FILE, TrainedOn, REMEDY) if (run / FILE).exists() else None


def write_trained_on(run: Path, trained_on: TrainedOn) -> None:
    """Record what a run is trained on."""
    write_json(run / FILE, plain(trained_on))


def digest(episodes: Episodes, places: Sequence[int]) -> dict[int, str]:
    """Return the digest of each of these episodes."""
    return {place: _digest(episodes, episodes.slice(place)) for place in places}


def numbers_of(digest: str) -> str:
    """Return of a digest what tells of the numbers."""
    return digest.partition("-")[0]


def _digest(episodes: Episodes, frames: slice) -> str:
    numbers, images, has_images = hashlib.sha256(), hashlib.sha256(), False
    for key in sorted(episodes.arrays):
        array = episodes.arrays[key][frames]
        if key == INTERVENTION and array.all():
            continue  # as where nothing says who acted
        if is_image := episodes.features[key].kind == "image":
            array, has_images = array[np.linspace(0, len(array) - 1, FRAMES_DIGESTED).astype(int)], True
        target = images if is_image else numbers
        target.update(f"{key} {array.shape} {array.dtype}\n".encode())
        target.update(np.ascontiguousarray(array).data)
    return numbers.hexdigest()[:16] + (f"-{images.hexdigest()[:16]}" if has_images else "")


def _where(digests: Mapping[int, str], condition: Callable[[int], bool]) -> np.ndarray:
    return np.array([place for place in digests if condition(place)], np.int64)


def _describe(run: str, episodes: Episodes, digests: Mapping[int, str], held_out: np.ndarray) -> TrainedOn:
    numbered = {place: (str(episodes.number(place)), each) for place, each in digests.items()}
    held = {*held_out.tolist()}
    features = {key: episodes.features[key] for key in episodes.arrays}
    counts = {name: [episodes.table[name][place] for place in digests] for name in PLANNING if name in episodes.table}
    failures = {name: sum(column) for name, column in counts.items() if {*map(type, column)} == {int}}
    content = f"{episodes.fps!r}\n{sorted(plain(features).items())}\n{[*numbered.values()]}"
    return TrainedOn(
        run=run,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        fps=episodes.fps,
        features=features,
        training=dict(numbered[place] for place in digests if place not in held),
        held_out=dict(numbered[place] for place in digests if place in held),
        planning=Planning(demonstrations=len(digests), failures=failures) if failures else None,
    )


def _changes(before: TrainedOn, now: TrainedOn) -> Iterator[str]:
    """Yield in words how a recording differs from what was recorded of it."""
    for key in {**before.features, **now.features}:
        old, new = before.features.get(key), now.features.get(key)
        if old is None or new is None:
            yield f"{key} is {'new' if old is None else 'gone'}"
        elif old != new:
            values = {name: (value, getattr(old, name)) for name, value in vars(new).items()}
            name = next(name for name, (value, was) in values.items() if value != was)
            yield f"{key}: {name} is {brief(values[name][0])} in place of {brief(values[name][1])}"
    if before.fps != now.fps:
        yield f"{now.fps:g} frames a second in place of {before.fps:g}"
    gone, new = before.episodes.keys() - now.episodes.keys(), now.episodes.keys() - before.episodes.keys()
    if len(gone) != len(new):
        yield f"{len(now.episodes)} episodes in place of {len(before.episodes)}"
    elif gone:
        yield f"other episodes: without {_named(gone)}, with {_named(new)}"
    other = [number for number, each in before.episodes.items() if now.episodes.get(number, each) != each]
    if other:
        yield f"other values in {len(other)} of its {len(before.episodes)} episodes ({_named(other)})"


def _named(numbers: Collection[str]) -> str:
    """Return the first few of the numbers of episodes, in a line."""
    ordered = sorted(numbers, key=lambda number: (len(number), number))
    return ", ".join(ordered[:_MOST_NAMED]) + (", ..." if len(numbers) > _MOST_NAMED else "")
