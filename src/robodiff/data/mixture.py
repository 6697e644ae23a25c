"""Several recordings, of any formats, that are learnt from as one: their episodes end to end."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np

from robodiff.data.alike import check_alike
from robodiff.data.arrays import blocks
from robodiff.data.cache import cached, file_state, folder_of
from robodiff.data.episodes import INTERVENTION, OPTIONAL, WHERE, Episodes, Feature, Finding
from robodiff.data.recordings import DataConfig, Format, open_path
from robodiff.documents import Above, AtMost, NotEmpty
from robodiff.errors import UsageError
from robodiff.machine import memory_free
from robodiff.text import brief

RECORDING = "recording"
"""The column of a table that says in which recording an episode is: its path, as it was given."""
FOR_ALL = ("keys", "key_map", "fps", "agent", "resize_shape", "cache_dir", "accept_unwritten")
"""Options that are handed on to each recording, whose own take precedence."""
OF_TRAINING = (
    *("train_batch_size", "val_batch_size", "val_split", "val_split_seed", "val_episodes", "symmetries"),
    *("val_filter_key", "delta_timestamps", "num_workers"),
)
"""Options that say nothing of what is in a recording."""
Used = tuple[Episodes, np.ndarray]
"""What was read of a recording, and the places of the episodes that are used."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(DataConfig):
    """Demonstrations in several recordings, of any formats, which are trained on as one."""

    recordings: Annotated[list[str | dict[str, Any]], NotEmpty()]
    """Of each its path or, with options of its format, a mapping such as {path: demos.zarr, episodes: [0, 1]}. What is
    read of all of them, such as keys and fps, is said once, for all."""
    weights: list[Annotated[float, Above(0), AtMost(1000)]] | None = None
    """How often the windows of each recording come in an epoch: with 3 three times, with 0.5 half of them, drawn anew
    for each epoch; once when null."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        paths = [options.get("path") for options in self._options]
        for options in self._options:
            if not isinstance(options.get("path"), str):
                yield f"recordings: expected a path, or a mapping with one; found {brief(options)}"
            if unknown := [name for name in options if name in OF_TRAINING]:
                yield f"recordings: {unknown[0]} says how to train on all of them; give it as data.{unknown[0]}"
        if twins := [path for path in paths if paths.count(path) > 1]:
            yield f"recordings: {twins[0]} is named twice; to see it more often, give data.weights"
        if self.weights is not None and len(self.weights) != len(paths):
            yield f"weights: expected one for each of {len(paths)} recordings; found {len(self.weights)}"

    @property
    def _options(self) -> list[dict[str, Any]]:
        return [{"path": each} if isinstance(each, str) else each for each in self.recordings]

    @property
    def source(self) -> str:
        """The paths of all, as they were given."""
        return ", ".join(options["path"] for options in self._options)

    @property
    def parts(self) -> list[DataConfig]:
        """Each recording; errors are those of ``open_path``."""
        common = {name: getattr(self, name) for name in FOR_ALL}
        return [open_path(**{**common, **options}) for options in self._options]

    def open(self, keys: Sequence[str] | None = None) -> NoReturn:
        """Refuse: the arrays of several formats have no common form before they are read."""
        raise UsageError(f"{self.source}: are several recordings; open each of them")

    def agents(self) -> list[str]:
        """Return the ids of the agents that the first recording has keys of; others must have the same to be read."""
        return self.parts[0].agents()

    def read(self, observation_keys: Sequence[str] | None = None) -> Episodes:
        """Read what is named of each recording, or all, and put the episodes that are used end to end.

        Images go to a file in the cache folder, unless all of them are in memory and fit in it twice.

        Raises:
            UsageError: recordings that are not alike; the message names two of them.
            RobodiffError: one of them cannot be read, or lacks a key.
        """
        parts = self.parts
        read = [part.read(observation_keys) for part in parts]
        keys = _common_keys(read)
        for other in read[1:]:
            _check_alike(read[0], other, keys)
        used = [(each, part.chosen(each)) for part, each in zip(parts, read, strict=True)]
        cache = folder_of(self.cache_dir)
        arrays = {key: _joined(self.source, key, used, cache) for key in keys}
        features = {key: read[0].features[key] for key in keys}
        if any(INTERVENTION in each.arrays for each in read):
            arrays[INTERVENTION] = np.concatenate([_acted(*each) for each in used])
            features[INTERVENTION] = Feature.of(arrays[INTERVENTION])
        return Episodes(
            source=self.source,
            arrays=arrays,
            episode_ends=np.cumsum(np.concatenate([each.lengths[places] for each, places in used])),
            fps=read[0].fps,
            features=features,
            table=self._table(used),
            findings=[finding for each in used for finding in _findings(*each)],
        )

    def repeats(self, episodes: Episodes) -> np.ndarray | None:
        """Return how often the windows of each episode come in an epoch of training, (E,), as ``weights`` say."""
        if self.weights is None:
            return None
        often = {options["path"]: weight for options, weight in zip(self._options, self.weights, strict=True)}
        return np.array([often[path] for path in episodes.table[RECORDING]])

    def _table(self, used: Sequence[Used]) -> dict[str, list[Any]]:
        """Return every column that one of the tables has, and the recording of each episode."""
        names = dict.fromkeys(name for each, _ in used for name in each.table if name not in WHERE)
        rows = [(each.table, place) for each, places in used for place in places.tolist()]
        columns = {name: [table[name][place] if name in table else None for table, place in rows] for name in names}
        paths = zip(self._options, used, strict=True)
        return {**columns, RECORDING: [options["path"] for options, (_, places) in paths for _ in places]}


def _common_keys(read: Sequence[Episodes]) -> list[str]:
    """Return the keys of all recordings, without those that need not have been recorded and were not in all."""
    common = [key for key in read[0].arrays if all(key in each.arrays for each in read) and key != INTERVENTION]
    for having in read:
        for key in having.arrays:
            if key not in (*common, *OPTIONAL):
                lacking = next(each.source for each in read if key not in each.arrays)
                remedy = f"to leave it out: --data.keys '{json.dumps(common)}'"
                raise UsageError(f"{lacking}: has no {key!r}, which {having.source} has\n{remedy}")
    return common


def _check_alike(first: Episodes, other: Episodes, keys: Sequence[str]) -> None:
    """Refuse recordings whose frames do not mean the same; errors are those of ``MixtureConfig.read``."""
    if first.fps != other.fps:
        remedy = "bring one to the rate of the other; where clocks were recorded, --data.fps RATE does it"
        rates = f"{first.fps:g} in {first.source} and {other.fps:g} in {other.source}"
        raise UsageError(f"frames a second are {rates}\n{remedy}")
    check_alike(first.features, other.features, keys, (first.source, other.source))


def _frames(episodes: Episodes, places: np.ndarray) -> np.ndarray:
    """Return the frames of some episodes, (F,) int64."""
    return np.concatenate([np.arange(s.start, s.stop) for s in map(episodes.slice, places.tolist())])


def _acted(episodes: Episodes, places: np.ndarray) -> np.ndarray:
    """Return who acted at each frame of some episodes, (F, 1); an expert where it was not recorded."""
    expert = np.ones(episodes.episode_ends[-1], bool) if episodes.expert is None else episodes.expert
    return expert[_frames(episodes, places), None].astype(np.float32)


def _findings(episodes: Episodes, places: np.ndarray) -> Iterator[Finding]:
    """Yield what was found in the episodes that are used; where, the message says."""
    numbers = {episodes.number(place) for place in places}
    for each in episodes.findings:
        if each.episode is None or each.episode in numbers:
            yield replace(each, message=f"{episodes.source}: {each.message}", episode=None, frame=None)


def _joined(source: str, key: str, used: Sequence[Used], cache: Path | None) -> np.ndarray:
    """Return the frames of a key that are used, those of one recording after those of another."""
    pieces = [(each.arrays[key], _frames(each, places)) for each, places in used]
    first = pieces[0][0]
    shape = sum(len(frames) for _, frames in pieces), *first.shape[1:]
    is_mapped = any(isinstance(array, np.memmap) for array, _ in pieces)
    if first.ndim == 2 or not (is_mapped or math.prod(shape) > memory_free() / 2):
        return np.concatenate([array if len(array) == len(frames) else array[frames] for array, frames in pieces])
    digest = hashlib.sha256(f"{key} {shape}".encode())
    for array, frames in pieces:
        digest.update(frames.tobytes())
        if isinstance(array, np.memmap):
            digest.update(f"{file_state(Path(str(array.filename)))} {array.offset} {array.strides}".encode())
        else:
            for _, block in blocks(array):
                digest.update(np.ascontiguousarray(block).data)

    def write(path: Path) -> None:
        start = np.lib.format.open_memmap(path, "w+", np.uint8, shape).offset
        size = 8 * max(1, 2**25 // math.prod(shape[1:]))  # bytes of frame numbers for about 32 MB of images
        with path.open("r+b") as file:  # written, not mapped: see ``cache``
            file.seek(start)
            for array, frames in pieces:
                for _, some in blocks(frames, size):
                    file.write(np.ascontiguousarray(array[some]).data)

    return cached(f"{source}: {key}: joining", digest.hexdigest()[:24], shape, np.dtype(np.uint8), write, cache)


FORMAT = Format("several recordings", MixtureConfig, lambda path: False)
