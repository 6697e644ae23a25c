"""From the units of the recording to the range that a network learns well in, and back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robodiff.data.episodes import SMALLEST_RANGE
from robodiff.errors import UsageError

MODES = ("limits", "mean_std", "identity")

Mode = str | Mapping[str, str]
"""One mode for all dimensions of a key, or a mode for each range of them, as ``{"0:3": "limits", "3:9": "identity"}``;
a range runs from its first number to before its second."""


@dataclass(frozen=True)
class Statistics:
    """What the training frames of one key hold, each (D,) float64."""

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray, frames: np.ndarray) -> "Statistics":
        """Take the statistics of the chosen frames of an array (N, D)."""
        chosen = np.asarray(array)[frames].astype(np.float64)
        return cls(chosen.min(0), chosen.max(0), chosen.mean(0), chosen.std(0))

    def joined(self, other: "Statistics") -> "Statistics":
        """Return those of as many frames of both."""
        std = np.sqrt((self.std**2 + other.std**2) / 2 + (self.mean - other.mean) ** 2 / 4)
        low, high = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return Statistics(low, high, (self.mean + other.mean) / 2, std)


def pixel_statistics(images: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the pixels of chosen frames of images (N, C, H, W) uint8, each (C,).

    A standard deviation of less than one of the 255 steps counts as one: next to nothing is not blown up.
    """
    sums, squares = np.zeros((2, images.shape[1]), np.int64)
    size = max(1, 2**22 // images[:1].nbytes)
    for first in range(0, len(frames), size):
        block = images[frames[first : first + size]]
        sums += block.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += np.square(block, dtype=np.uint32).sum(axis=(0, 2, 3), dtype=np.int64)
    count = len(frames) * images.shape[2] * images.shape[3]
    mean = sums / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 1.0))


class Normalizer(nn.Module):
    """Affine maps, one a key, saved with the weights of the policy.

    ``limits`` maps the range of the training data to [-1, 1], ``mean_std`` to mean 0 and standard deviation 1,
    ``identity`` changes nothing. A dimension that is still, with a range under ``SMALLEST_RANGE``, is not scaled; what
    leaves its range later is clipped to it, and the way back leads to its centre, whatever the value.

    Args:
        dims: the number of dimensions of each key.
        modes: how each key is normalised.
    """

    def __init__(self, dims: Mapping[str, int], modes: Mapping[str, Mode]) -> None:
        super().__init__()
        self.modes = {key: spans(key, dim, modes[key]) for key, dim in dims.items()}
        self.maps = nn.ModuleDict({_module_name(key): _Affine(dim) for key, dim in dims.items()})

    def fit(self, statistics: Mapping[str, Statistics]) -> None:
        """Set the maps by the statistics of the training episodes."""
        for key, key_spans in self.modes.items():
            s, affine = statistics[key], self._map(key)
            affine.set(min=s.min, max=s.max)
            is_still = affine.is_still.cpu().numpy()
            scale, offset = np.ones_like(s.mean), np.zeros_like(s.mean)
            for start, stop, mode in key_spans:
                if mode == "identity":
                    continue
                centre = (s.min + s.max) / 2 if mode == "limits" else s.mean
                spread = (s.max - s.min) / 2 if mode == "limits" else s.std
                spread = np.where(is_still, 1.0, spread)
                scale[start:stop] = 1 / spread[start:stop]
                offset[start:stop] = -centre[start:stop] / spread[start:stop]
            affine.set(scale=scale, offset=offset)

    def set(self, key: str, **values: Tensor) -> None:
        """Set what ``fit`` would find of a key, ``scale``, ``offset``, ``min`` and ``max``, each (D,)."""
        self._map(key).set(**{name: value.numpy() for name, value in values.items()})

    def normalize(self, key: str, value: Tensor) -> Tensor:
        """Map (..., D) in the recording's units to (..., D) normalised; what is still is clipped to its range."""
        affine = self._map(key)
        value = torch.where(affine.is_still, value.clamp(affine.min, affine.max), value)
        return value * affine.scale + affine.offset

    def unnormalize(self, key: str, value: Tensor) -> Tensor:
        """Map (..., D) normalised to (..., D) in the recording's units; what is still is as it was recorded."""
        affine = self._map(key)
        return hold_still((value - affine.offset) / affine.scale, affine.min, affine.max)

    def range(self, key: str) -> Tensor:
        """Return the least and the largest numbers of the training data of one key, (2, D)."""
        return torch.stack([self._map(key).min, self._map(key).max])

    def extent(self, key: str) -> Tensor:
        """Return how far from 0 the training data of one key lie, normalised, (D,)."""
        ends = (self.normalize(key, self._map(key).get_buffer(name)) for name in ("min", "max"))
        return torch.maximum(*(end.abs() for end in ends))

    def _map(self, key: str) -> "_Affine":
        return self.maps[_module_name(key)]  # pyright: ignore[reportReturnType]


class _Affine(nn.Module):
    """Scale and offset of one key; the range of the training data is kept beside them."""

    scale: Tensor
    offset: Tensor
    min: Tensor
    max: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name, value in (("scale", 1.0), ("offset", 0.0), ("min", -1.0), ("max", 1.0)):
            self.register_buffer(name, torch.full((dim,), value))

    def set(self, **values: np.ndarray) -> None:
        for name, value in values.items():
            self.get_buffer(name).copy_(torch.from_numpy(value))

    @property
    def is_still(self) -> Tensor:
        """Which dimensions do not move in the training data, (D,)."""
        return is_still(self.min, self.max)


def is_still(low: Tensor, high: Tensor) -> Tensor:
    """Tell which ranges are too small to be learnt."""
    return high - low < SMALLEST_RANGE


def hold_still(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Put what is still in the middle of its range, which is just what was recorded where nothing moved at all.

    Args:
        values: (..., D).
        low, high: (D,), the range of each dimension in training.
    """
    return torch.where(is_still(low, high), low + (high - low) / 2, values)


def spans(key: str, dim: int, mode: Mode) -> list[tuple[int, int, str]]:
    """Return (start, stop, mode) for the ranges of dimensions of one key.

    Raises:
        UsageError: a mode that does not exist, or ranges that do not cover every dimension exactly once.
    """
    ranges, where = {f"0:{dim}": mode} if isinstance(mode, str) else mode, f"normalization of {key}"
    if unknown := [name for name in ranges.values() if name not in MODES]:
        raise UsageError(f"{where}: {unknown[0]!r} is not one of {', '.join(MODES)}")
    covered = sorted((*parse_range(text, where), name) for text, name in ranges.items())
    if [0, *(stop for _, stop, _ in covered)] != [*(start for start, _, _ in covered), dim]:
        raise UsageError(f"{where}: the ranges {', '.join(ranges)} must cover each of its {dim} dimensions once")
    return covered


def parse_range(text: str, where: str) -> tuple[int, int]:
    """Read a range of dimensions, ``"0:3"``: from its first number to before its second.

    Raises:
        UsageError: it is not two whole numbers; ``where`` begins the message.
    """
    try:
        start, stop = (int(part) for part in str(text).split(":"))
    except ValueError:
        # YAML reads 3:6 without quotes as 3 * 60 + 6.
        raise UsageError(f"{where}: a range is written '0:3', in a YAML file with its quotes; found {text!r}") from None
    return start, stop


def _module_name(key: str) -> str:
    return key.replace(".", "/")  # a module's name may not hold a dot
