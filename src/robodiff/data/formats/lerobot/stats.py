"""The statistics in LeRobot's ``meta/``: of vectors per dimension, of images per channel in [0, 1]."""

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
    """Return of images (L, 3, H, W) uint8, some of them, thinned out, arrays (3, 1, 1), and ``count`` (1,)."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _SAMPLED)).astype(int))
    thin = max(1, max(images.shape[2:]) // _SIDE)
    sample = images[chosen, :, ::thin, ::thin]
    counts = np.stack([np.bincount(sample[:, channel].ravel(), minlength=256) for channel in range(3)])  # (3, 256)
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    at = {name: [np.searchsorted(np.cumsum(share), q) for share in shares] for name, q in QUANTILES.items()}
    at |= {"min": (counts > 0).argmax(1), "max": 255 - (counts[:, ::-1] > 0).argmax(1)}
    stats = {name: levels[np.minimum(place, 255)] for name, place in at.items()}
    stats |= {"mean": mean, "std": np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(1))}
    return {**{name: value[:, None, None] for name, value in stats.items()}, "count": np.array([len(sample)])}


def merge_stats(all_before: dict[str, Stats], new: dict[str, Stats]) -> dict[str, Stats]:
    """Return per key the statistics of both together; quantiles are averaged by count, as LeRobot does it."""
    return {key: _merge(all_before[key], stats) if key in all_before else stats for key, stats in new.items()}


def _merge(a: Stats, b: Stats) -> Stats:
    count = a["count"] + b["count"]
    share = b["count"] / count
    merged = {name: a[name] + (b[name] - a[name]) * share for name in ("mean", *QUANTILES)}
    variance = a["std"] ** 2 * (1 - share) + b["std"] ** 2 * share + (b["mean"] - a["mean"]) ** 2 * share * (1 - share)
    extremes = {"min": np.minimum(a["min"], b["min"]), "max": np.maximum(a["max"], b["max"])}
    return {**merged, **extremes, "std": np.sqrt(variance), "count": count}
