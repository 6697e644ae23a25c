"""What may be concluded from a number of episodes."""

import functools
import math
from collections.abc import Sequence

import numpy as np


def wilson_interval(successes: float, episodes: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the interval that covers a success probability 95 times of 100 (Wilson, 1927).

    Unlike success ± 2 standard errors it stays within [0, 1] and is honest at 0 and at 100 %.

    Args:
        successes: how many episodes succeeded.
        episodes: of how many, at least 1.
        z: quantile of the standard normal distribution; the default gives 95 %.
    """
    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(f"expected 0 <= successes <= episodes and at least one; found {successes} of {episodes}")
    p, n = successes / episodes, episodes
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return low, high


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: are the episodes that one alone won split evenly?

    Args:
        only_first: episodes in which the first succeeded and the second failed.
        only_second: the reverse.

    Returns:
        The probability of a split at least as uneven if both were equally good (McNemar, 1947; binomial, not chi²).
    """
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are, by Holm's step-down method (Scandinavian J. Statistics, 1979).

    The chance that any of those below a level is below it by chance alone is at most that level.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def paired_success_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference in success of two policies over the same episodes.

    Newcombe's method 10 (Statistics in Medicine 17, 1998): the two Wilson intervals, squared and added, less what the
    correlation of the two takes away. Within [-1, 1], and of a sensible width when they never differ.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    p1, p2 = first / n, second / n
    (low1, high1), (low2, high2) = wilson_interval(first, n), wilson_interval(second, n)
    margins = first * (n - first) * second * (n - second)
    agreement = both * neither - only_first * only_second
    if agreement > 0:  # the continuity correction, on the side of caution
        agreement = max(agreement - n / 2, 0)
    phi = agreement / math.sqrt(margins) if margins else 0.0
    d1, d2, d3, d4 = p1 - low1, high2 - p2, high1 - p1, p2 - low2
    below = math.sqrt(max(0.0, d1 * d1 - 2 * phi * d1 * d2 + d2 * d2))
    above = math.sqrt(max(0.0, d3 * d3 - 2 * phi * d3 * d4 + d4 * d4))
    return max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above)


def bootstrap_mean_interval(values: np.ndarray, seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of ``values`` (N,), from seeded resamples with replacement."""
    random = np.random.default_rng(seed)
    means = np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def clustered_ratio_interval(values: np.ndarray, weights: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of sum(values) / sum(weights), each (E,) a sum over one episode; None with a single one.

    What lies in one episode is alike, so it is the episodes that count as independent: the variance is that of a ratio
    of cluster totals (Cochran, Sampling Techniques, 3rd ed. 1977, chapters 6 and 9A), and the quantile Student's with
    E - 1 degrees of freedom (Cameron and Miller, Journal of Human Resources 50, 2015). A percentile bootstrap over the
    few episodes that are held out would give an interval that is too narrow.
    """
    count = len(values)
    if count < 2:
        return None
    ratio = values.sum() / weights.sum()
    variance = count / (count - 1) * ((values - ratio * weights) ** 2).sum() / weights.sum() ** 2
    half = student_quantile(count - 1) * math.sqrt(variance)
    return float(ratio - half), float(ratio + half)


@functools.cache
def student_quantile(freedom: float, cells: int = 100_000) -> float:
    """Return the t that Student's distribution exceeds, in either direction, 5 times of 100.

    With t = sqrt(freedom) tan(angle) its density becomes cos(angle)^(freedom - 1), which is summed over narrow cells.
    """
    edges = np.linspace(0, math.pi / 2, cells + 1)
    mass = np.cumsum(np.cos((edges[1:] + edges[:-1]) / 2) ** (freedom - 1))
    return math.sqrt(freedom) * math.tan(np.interp(0.95, mass / mass[-1], edges[1:]))


def episodes_to_decide(only_first: int, only_second: int, episodes: int) -> int | None:
    """Return how many episodes McNemar's test needs to see this difference 4 times of 5 (Miettinen, 1968).

    Power 0.8 at level 0.05, if the true shares of discordant episodes are those observed; None when they are equal,
    for then no number would show a difference.
    """
    discordant, difference = (only_first + only_second) / episodes, abs(only_first - only_second) / episodes
    if difference == 0:
        return None
    z_level, z_power = 1.959963984540054, 0.8416212335729143
    root = z_level * math.sqrt(discordant) + z_power * math.sqrt(max(0.0, discordant - difference**2))
    return math.ceil((root / difference) ** 2)
