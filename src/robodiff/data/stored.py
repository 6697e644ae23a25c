"""``Recording``: what a format finds at a path before anything is decoded, and how its arrays are read."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robodiff.data.arrays import as_images, as_vectors, check_ends, check_finite, kind_of, rounded
from robodiff.data.episodes import Feature, Finding, RecordingError, joined_unit, raise_faults
from robodiff.data.naming import LayoutKey, Sources
from robodiff.errors import RobodiffError


@dataclass(frozen=True)
class Stored:
    """One array of a recording, over all frames of the episodes that are read; nothing is decoded before ``read``."""

    shape: tuple[int, ...]
    """Of one frame, as the file has it."""
    dtype: str
    """As the file has it."""
    read: Callable[[], np.ndarray] | None
    """Return (N, ...): images as uint8 (N, C, H, W), memory-mapped where large; else numbers, as the file has them.
    None where it is neither (texts, depth, point clouds): it is described and left out."""
    name: str | None = None
    """What it is called here, unless a key map says otherwise; None: it is read only where a key map names it."""
    feature: Feature | None = None
    """What one frame of it is here, as ``read`` gives it; None where that is not known."""
    faults: Sequence[Finding] = ()
    """What is known to be wrong with it before it is decoded; told where it is to be read."""
    unwritten: Sequence[Finding] = ()
    """Where it holds frames that were never written, which can be read, as what the file fills gaps with."""

    @property
    def is_image(self) -> bool:
        """Whether it is images, as far as that is known."""
        return self.feature is not None and self.feature.kind == "image"

    @property
    def is_unreadable(self) -> bool:
        """Whether it is something else than images or numbers, and nothing more is wrong with it."""
        return self.read is None and not self.faults

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Recording:
    """What a format finds at a path: all that can be known before arrays are decoded."""

    source: str
    """Where it is, for messages."""
    arrays: Mapping[str, Stored]
    """By the file's own names."""
    episode_ends: np.ndarray
    """(E,) int64: the frame after each episode's last."""
    fps: float | None
    """Frames per second; None where the file does not say it."""
    names: Sequence[str] = ()
    """What the file calls each episode, where it is not by their numbers."""
    table: Mapping[str, list[Any]] = field(default_factory=dict)
    """As in ``Episodes``; ``episode_index`` has the numbers of the episodes where only some were opened."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """As in ``Episodes``."""
    times: Callable[[], np.ndarray] | None = None
    """Return (N,) seconds at which each frame was recorded; None where no array of its own says it."""
    layout: Mapping[str, LayoutKey] | None = None
    """By the names here, of what each key is made, where arrays are not simply called otherwise."""
    others: Sequence[str] = ()
    """What else the file holds, and is not looked into."""
    findings: Sequence[Finding] = ()
    """What is wrong beside the arrays, such as in the table, and harms no training."""


@dataclass
class Reading:
    """Reads the arrays of a recording, and notes what is wrong with them.

    Numbers come first, so that what is wrong with them is found before images are decoded.
    """

    recording: Recording
    salvage: bool
    """Whether keys with which something is wrong are left out; else it is raised."""
    accept_unwritten: bool = False
    """Whether frames that were never written may be trained on."""
    chosen: Collection[int] | None = None
    """Episodes that are to be used: what is wrong with others is not raised; all when None."""
    findings: list[Finding] = field(default_factory=list)
    """What was found so far, and beside the arrays."""
    episode_ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(E,) the frame after each episode's last, once they were checked."""

    def read(self, sources: Sources) -> tuple[dict[str, np.ndarray], dict[str, Feature]]:
        """Return by their names here the arrays, images or vectors, and what they hold.

        Raises:
            RecordingError: episodes without ends; and, unless they are to be salvaged, all that is wrong with the
                numbers, or else with the images.
        """
        parts = {part.file_key: self.recording.arrays[part.file_key] for made in sources.values() for part in made}
        for stored in parts.values():
            severity = "warning" if self.accept_unwritten else "fatal"
            self.findings += (*stored.faults, *(replace(each, severity=severity) for each in stored.unwritten))
        self._raise()
        try:
            self.episode_ends = check_ends(self.recording.source, self.recording.episode_ends)
        except RecordingError as error:
            raise RecordingError(self.recording.source, [*self._fatal(), *error.findings]) from None
        arrays: dict[str, np.ndarray] = {}
        for is_image in (False, True):
            self._raise()
            for key, stored in parts.items():
                if stored.read and not stored.faults and stored.is_image is is_image:
                    with self._noting(key):
                        array = stored.read()
                        check_finite(self.recording.source, {key: array}, self.episode_ends, self.recording.names)
                        arrays[key] = array
        made, features = {}, {}
        for name, made_of in sources.items():
            if all(part.file_key in arrays for part in made_of):
                with self._noting(name):
                    pieces = [self._converted(part, arrays[part.file_key]) for part in made_of]
                    made[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
                    features[name] = _feature(made[name], [(part, parts[part.file_key].feature) for part in made_of])
        self._raise()
        return made, features

    def _converted(self, part: LayoutKey, array: np.ndarray) -> np.ndarray:
        """Return what a key is made of, as images or vectors."""
        is_image = kind_of(array.shape[1:], array.dtype) == "image" or array.ndim == 4
        converted = (part.convert or (as_images if is_image else as_vectors))(
            self.recording.source, part.file_key, array
        )
        if not is_image and part.convert is None:
            self.findings += rounded(part.file_key, array, converted)
        return converted

    @contextmanager
    def _noting(self, key: str) -> Iterator[None]:
        try:
            yield
        except RecordingError as error:
            self.findings += error.findings
        except RobodiffError as error:
            if not self.salvage:
                raise
            self.findings.append(Finding("fatal", "readable", str(error), "leave it out, or record it again", key))

    def _raise(self) -> None:
        self.findings = [*dict.fromkeys(self.findings)]  # of an array of which several keys are made
        if not self.salvage:
            raise_faults(self.recording.source, self._fatal())

    def _fatal(self) -> list[Finding]:
        fatal = [each for each in self.findings if each.severity == "fatal"]
        return [each for each in fatal if each.episode is None or self.chosen is None or each.episode in self.chosen]


def _feature(array: np.ndarray, parts: list[tuple[LayoutKey, Feature | None]]) -> Feature:
    """Return what an array holds; names and unit are those of its parts, where nothing was cut out of them."""
    units = [part.unit or (feature.unit if feature else None) for part, feature in parts]
    names = [part.names or (feature and not part.convert and feature.names) or () for part, feature in parts]
    whole = [name for each in names for name in each]
    fits = array.ndim == 2 and len(whole) == array.shape[1]
    sizes = [feature.shape[0] if feature and not part.convert else 0 for part, feature in parts]
    if sum(sizes) == array.shape[1] or (len({*units}) == 1 and not isinstance(units[0], tuple)):
        unit = joined_unit([*zip(units, sizes, strict=True)])
    else:
        unit = None
    return Feature.of(array, unit, tuple(whole) if fits else None)
