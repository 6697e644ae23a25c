"""The statistics in LeRobot's ``meta/``: of vectors per dimension, of images per channel in [0, 1]."""

from collections.abc import Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_SAMPLED, _SIDE = 100, 150  # images and pixels along a side that are enough to know a camera by

Stats = dict[str, np.ndarray]


def vector_stats(values: np.ndarray) -> Stats:
    """Return of (L, D) numbers arrays (D,), and ``count`` (1,)."""
    values = values.astype(np.float64)
    stats = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {**stats, "count": np.array([len(values)]), **dict(zip(QUANTILES, quantiles, strict=True))}


def image_stats(images: np.ndarray) -> Stats:
    """Return of images (L, C, H, W) uint8, some of them, thinned out, arrays (C, 1, 1), and ``count`` (1,)."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _SAMPLED)).astype(int))
    thin = max(1, max(images.shape[2:]) // _SIDE)
    sample = images[chosen, :, ::thin, ::thin]
    counts = np.stack(
        [np.bincount(sample[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    )  # (C, 256)
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    at = {name: [np.searchsorted(np.cumsum(share), q) for share in shares] for name, q in QUANTILES.items()}
    at |= {"min": (counts > 0).argmax(1), "max": 255 - (counts[:, ::-1] > 0).argmax(1)}
    stats = {name: levels[np.minimum(place, 255)] for name, place in at.items()}
    stats |= {"mean": mean, "std": np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(1))}
    return {**{name: value[:, None, None] for name, value in stats.items()}, "count": np.array([len(sample)])}


def merge_stats(parts: Sequence[Stats]) -> Stats:
    """Return the statistics of all parts together; quantiles are averaged by count, as LeRobot does it."""
    every = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    total = every["count"].sum(0)
    share = (every["count"] / total).reshape(-1, *[1] * (every["mean"].ndim - 1))
    merged = {name: (share * every[name]).sum(0) for name in ("mean", *QUANTILES)}
    variance = (share * (every["std"] ** 2 + (every["mean"] - merged["mean"]) ** 2)).sum(0)
    extremes = {"min": every["min"].min(0), "max": every["max"].max(0)}
    return {**merged, **extremes, "std": np.sqrt(variance), "count": total}
