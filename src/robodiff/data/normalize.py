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


class Normalizer(nn.Module):
    """Affine maps, one a key, saved with the weights of the policy.

    ``limits`` maps the range of the training data to [-1, 1], ``mean_std`` to mean 0 and standard deviation 1,
    ``identity`` changes nothing.

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
            s = statistics[key]
            scale, offset = np.ones_like(s.mean), np.zeros_like(s.mean)
            for start, stop, mode in key_spans:
                if mode == "identity":
                    continue
                centre = (s.min + s.max) / 2 if mode == "limits" else s.mean
                spread = (s.max - s.min) / 2 if mode == "limits" else s.std
                spread = np.where(s.max - s.min < SMALLEST_RANGE, 1.0, spread)
                scale[start:stop] = 1 / spread[start:stop]
                offset[start:stop] = -centre[start:stop] / spread[start:stop]
            self._map(key).set(scale=scale, offset=offset, min=s.min, max=s.max)

    def normalize(self, key: str, value: Tensor) -> Tensor:
        """Map (..., D) in the recording's units to (..., D) normalised."""
        affine = self._map(key)
        return value * affine.scale + affine.offset

    def unnormalize(self, key: str, value: Tensor) -> Tensor:
        """Map (..., D) normalised to (..., D) in the recording's units."""
        affine = self._map(key)
        return (value - affine.offset) / affine.scale

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

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name, value in (("scale", 1.0), ("offset", 0.0), ("min", -1.0), ("max", 1.0)):
            self.register_buffer(name, torch.full((dim,), value))

    def set(self, **values: np.ndarray) -> None:
        for name, value in values.items():
            self.get_buffer(name).copy_(torch.from_numpy(value))


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
