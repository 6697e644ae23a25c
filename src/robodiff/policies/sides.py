"""Turn every scene to one side of a mirror, and what is done there back. Imports no torch, and takes its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, Feature

NUMBERS = ("index", "sign", "offset", "weights", "threshold")


@dataclass(frozen=True)
class Sides:
    """A mirror as numbers, of NumPy arrays or of tensors of one device, and of which side a scene lies on.

    Those of all vectors, observed and done, stand end to end, N together.
    """

    spans: Mapping[str, slice]
    """Where those of each vector are, by key."""
    index: Any
    """Of each dimension in the mirror which one of its vector it is taken from, (N,)."""
    sign: Any
    """What it is multiplied with then, (N,)."""
    offset: Any
    """What is added then, (N,)."""
    weights: Any
    """Of each dimension in the sum that tells the side, (N,)."""
    threshold: Any
    """Beyond which the scene lies on the far side, ()."""

    def seen(self, arrays: Mapping[str, Any], newest: int) -> tuple[dict[str, Any], Any]:
        """Return a window as seen from the near side, and in which of its rows it was turned for that, (B,).

        Args:
            arrays: per key (B, steps, ...), all vectors that are observed among them.
            newest: the step that tells the side.
        """
        observed = [(arrays[key][:, newest], span) for key, span in self.spans.items() if key != ACTION]
        far = sum((vectors * self.weights[span]).sum(-1) for vectors, span in observed) > self.threshold  # (B,)
        return {key: self.turned(key, value, far) if key in self.spans else value for key, value in arrays.items()}, far

    def known(self, known: tuple[Any, Any], far: Any) -> tuple[Any, Any]:
        """Return actions that are given, and how far, (B, n, Da) each, as seen from the near side."""
        values, weights = known
        return self.turned(ACTION, values, far), _chosen(far, weights[..., self.index[self.spans[ACTION]]], weights)

    def turned(self, key: str, vectors: Any, far: Any) -> Any:
        """Return vectors (B, n, D) in the mirror where ``far`` (B,) is true, from either side to the other."""
        return _chosen(far, self.mirrored(key, vectors), vectors)

    def mirrored(self, key: str, vectors: Any) -> Any:
        """Return vectors (..., D) in the mirror."""
        span = self.spans[key]
        return vectors[..., self.index[span]] * self.sign[span] + self.offset[span]


def spans_of(features: Mapping[str, Feature]) -> dict[str, slice]:
    """Return the place of each vector where all stand end to end."""
    spans, start = {}, 0
    for key, feature in features.items():
        if feature.kind == "vector":
            spans[key] = slice(start, start := start + feature.shape[0])
    return spans


def _chosen(rows: Any, those: Any, others: Any) -> Any:
    """Return ``those`` in some rows (B,), and ``others`` in the rest, (B, n, D) each."""
    where = rows[:, None, None]
    return those.where(where, others) if hasattr(those, "where") else np.where(where, those, others)
