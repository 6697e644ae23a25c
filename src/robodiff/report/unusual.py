"""How unlike the others an episode is: by its length, and by where its joints start, are, and how far they move."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from robodiff.data.episodes import Episodes
from robodiff.report.joints import Group, named
from robodiff.text import shortened

FEWEST = 8
"""Episodes that tell what is usual."""
UNUSUAL = 6.0
"""Robust standard deviations from which on an episode stands out; clean recordings of 8 to 350 episodes have none."""
_LEAST_SPREAD = 0.02
"""A share of the range of all frames, or of the logarithm of a length: what differs by less is alike."""


@dataclass(frozen=True)
class Unusual:
    """How far each of E episodes is from the others."""

    values: np.ndarray
    """(E,) in robust standard deviations: of the quantity in which it is farthest."""
    quantities: np.ndarray
    """(E,) int, which that is."""
    names: list[str]
    """Of the quantities, such as ``start of elbow``."""


def unusual_episodes(episodes: Episodes, groups: list[Group]) -> Unusual | None:
    """Return how far each episode is from the median of all; None where they are too few to tell what is usual."""
    if len(episodes) < FEWEST:
        return None
    columns, names = [_deviations(np.log(episodes.lengths), 1.0)], ["length"]
    starts = episodes.episode_ends - episodes.lengths
    for joint in (joint for group in groups for joint in group.joints):
        key, dimension = next(iter(joint.items()))
        values = episodes.arrays[key][:, dimension].astype(np.float64)
        total = partial(np.add.reduceat, indices=starts)
        means = total(values) / episodes.lengths
        spreads = np.sqrt(np.maximum(total((values - np.repeat(means, episodes.lengths)) ** 2) / episodes.lengths, 0))
        name = f"{shortened(key, 60)}: {named(episodes, joint)[0]}"
        for what, column in (("start", values[starts]), ("mean", means), ("spread", spreads)):
            columns.append(_deviations(column, float(np.ptp(values))))
            names.append(f"{what} of {name}")
    table = np.stack(columns, axis=1)  # (E, quantities)
    farthest = table.argmax(axis=1)
    return Unusual(table.max(axis=1), farthest, names)


def _deviations(column: np.ndarray, of: float) -> np.ndarray:
    """Return how many robust standard deviations each value is from the median: as 90 % of them have it."""
    far = np.abs(column - np.median(column))
    usual = float(np.quantile(far, 0.9, method="lower")) / 1.645
    return far / max(usual, _LEAST_SPREAD * of)
