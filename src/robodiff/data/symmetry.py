"""Symmetries of a scene: each maps a recorded episode onto another one that could have been recorded as well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robodiff.data.episodes import ACTION, Episodes
from robodiff.errors import UsageError
from robodiff.machine import memory_free


@dataclass(frozen=True)
class VectorMap:
    """A signed permutation and an offset: y = sign x[index] + offset, in recorded units.

    ``sign`` and ``offset`` are one number for all dimensions, or one for each.
    """

    index: tuple[int, ...]
    """Of each dimension of y which one of x it is taken from, (D,)."""
    sign: float | tuple[float, ...] = 1.0
    """1 or -1."""
    offset: float | tuple[float, ...] = 0.0
    """In the unit of the dimension."""

    def __post_init__(self) -> None:
        if sorted(self.index) != [*range(len(self.index))]:
            raise UsageError(f"index of a VectorMap has each of 0 to {len(self.index) - 1} once; found {self.index}")

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Map (..., D)."""
        sign, offset = (np.asarray(each, vectors.dtype) for each in (self.sign, self.offset))
        return vectors[..., self.index] * sign + offset


@dataclass(frozen=True)
class ImageMap:
    """Rows and columns exchanged, then flipped: pictures are square where they are exchanged."""

    transpose: bool = False
    """Exchange rows and columns."""
    upside_down: bool = False
    """Flip the rows, after that."""
    left_right: bool = False
    """Flip the columns, after that."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Map (..., H, W)."""
        images = images.swapaxes(-2, -1) if self.transpose else images
        return images[..., :: -1 if self.upside_down else 1, :: -1 if self.left_right else 1]


@dataclass(frozen=True)
class Side:
    """On which side of a mirror a scene lies: the far one, where a weighted sum exceeds a threshold."""

    key: str
    """The observation whose numbers are summed."""
    weights: float | tuple[float, ...]
    """One for all of its dimensions, or one for each."""
    threshold: float = 0.0
    """In recorded units."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return how far beyond the threshold observations (..., D) are, (...)."""
        return (vectors * np.asarray(self.weights)).sum(-1) - self.threshold


@dataclass(frozen=True)
class Symmetry:
    """How everything that is observed and done looks after the scene was mapped onto itself."""

    name: str
    """For messages, such as mirror."""
    maps: Mapping[str, VectorMap | ImageMap]
    """By key, of all observations and of the action."""
    side: Side | None = None
    """Of a mirror, which leads from each side to the other: on which one a scene lies."""

    def __post_init__(self) -> None:
        if self.side is None:
            return
        vectors = {key: each for key, each in self.maps.items() if isinstance(each, VectorMap)}
        if self.side.key not in vectors:
            raise UsageError(f"the symmetry {self.name} maps no vector {self.side.key}, by which it tells sides")
        size, count = len(vectors[self.side.key].index), np.size(self.side.weights)
        if count not in (1, size):
            raise UsageError(f"the side of the symmetry {self.name} has {count} weights; {self.side.key} has {size}")
        for key, each in vectors.items():
            points = np.eye(len(each.index) + 1, len(each.index))  # affine maps that agree on these are the same
            there = each(points)
            if not np.allclose(each(there), points, atol=1e-6):
                raise UsageError(f"the symmetry {self.name} has a side, but {key} mapped twice is another vector")
            if key == self.side.key and not np.allclose(self.side(there), -self.side(points), atol=1e-6):
                raise UsageError(f"the symmetry {self.name} does not lead from each side by {key} to the other")

    def __call__(self, key: str, array: np.ndarray) -> np.ndarray:
        """Map an array over frames, (N, D) or (N, C, H, W); what is neither observed nor done stays.

        Raises:
            UsageError: a key of which nothing is said, or one of another shape.
        """
        if key.rpartition(".")[2] != ACTION and "observation." not in key:
            return array
        if key not in self.maps:
            remedy = "leave it out of model.observation_keys, or give --data.symmetries null"
            raise UsageError(f"the symmetry {self.name} does not say how {key} is mapped; {remedy}")
        each, shape = self.maps[key], array.shape[1:]
        size = (len(each.index),) if isinstance(each, VectorMap) else None
        if size not in (None, shape) or (size is None and len(shape) != 3):
            raise UsageError(f"the symmetry {self.name} does not fit {key}, which is of shape {shape}")
        mapped = each(array)
        if mapped.shape != array.shape:
            raise UsageError(f"the symmetry {self.name} exchanges rows and columns; {key} is not square: {shape}")
        return mapped


def with_symmetries(
    episodes: Episodes, chosen: np.ndarray, symmetries: Sequence[Symmetry]
) -> tuple[Episodes, np.ndarray]:
    """Add episodes to a recording: the chosen ones under each symmetry.

    Args:
        episodes: the recording.
        chosen: places of the episodes to train on.
        symmetries: none leaves everything as it is.

    Returns:
        The recording, the added episodes behind all others; and of each episode in it the place of the one that was
        recorded, (E + A,).

    Raises:
        UsageError: a symmetry that does not fit what was recorded, or images that memory has no room for.
    """
    if not symmetries or not len(chosen):
        return episodes, np.arange(len(episodes))
    frames = np.concatenate([np.arange(s.start, s.stop) for s in map(episodes.slice, chosen.tolist())])
    size = sum(array[:1].nbytes * (len(array) + len(symmetries) * len(frames)) for array in episodes.arrays.values())
    if size > (free := memory_free()):
        needed = f"with its symmetries it takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
        raise UsageError(f"{episodes.source}: {needed}; make images smaller (data.resize_shape)")
    arrays = {
        key: np.concatenate([array, *(symmetry(key, array[frames]) for symmetry in symmetries)])
        for key, array in episodes.arrays.items()
    }
    origins = np.concatenate([np.arange(len(episodes)), np.tile(chosen, len(symmetries))])
    table = {name: [column[place] for place in origins.tolist()] for name, column in episodes.table.items()}
    table["episode_index"] = [*map(episodes.number, origins.tolist())]
    ends = np.cumsum(episodes.lengths[origins])
    return replace(episodes, arrays=arrays, episode_ends=ends, table=table), origins
