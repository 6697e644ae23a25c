"""Which of two policies succeeds more often, asked again and again while episodes run: answers that hold at any time.

McNemar's test holds for a number of episodes that was fixed beforehand. Whoever looks at it after every few episodes,
and stops when it says p < 0.05, is wrong far more often than 5 times of 100. Here the evidence is a bet. Of each pair
of episodes, one of either policy from the same start, D is 1 if the first policy alone succeeds, -1 if the second alone
does, else 0. If the mean of D is m, capital that is multiplied by 1 + b (D - m) after each pair does not grow on
average, whatever the bet b. That it ever reaches 20 then has a probability of at most 1/20 (Ville, 1939), at whichever
pair one stops. Capital of 20 against m = 0 decides that the policies are not equally good; the m against which it is
smaller are the confidence sequence of the difference.

The capital is spread evenly over many bets (Robbins, Annals of Mathematical Statistics 41, 1970; for means of bounded
values: Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B 86, 2024). For m = 0 it is the Beta-binomial
mixture on the pairs that one policy alone won.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from robodiff.evaluation.config import Stopping
from robodiff.text import counted

LEVEL = 0.05
"""How often a decision may be wrong: one for a policy when both are equal, or an interval that misses."""
BETS = np.cos(np.pi * (np.arange(128) + 0.5) / 128)
"""Bets, scaled from [-1, 1] to what a single pair can take. Equal weights at Chebyshev's nodes are the integral over
Jeffreys' prior, whose capital grows nearly as fast as that of whoever knows the best bet."""
DIFFERENCES = np.linspace(-0.998, 0.998, 999)
"""Those that the confidence sequence tries, 0.002 apart."""

Verdict = Literal["first", "second", "alike"]
"""Which policy succeeds more often, or that a difference which matters is excluded."""


def log_capital(only_first: ArrayLike, only_second: ArrayLike, ties: ArrayLike, m: ArrayLike) -> np.ndarray:
    """Return the logarithm of the capital, which began as 1, of whoever bets against a mean difference.

    Args:
        only_first: pairs in which the first policy alone succeeded.
        only_second: those in which the second did.
        ties: all other pairs.
        m: the difference that is bet against, within (-1, 1); all of these are broadcast.
    """
    counts = [np.asarray(each, float)[..., None] for each in (only_first, only_second, ties)]
    mean = np.asarray(m, float)[..., None]
    low, high = -1 / (1 - mean), 1 / (1 + mean)  # at these a single pair may take all
    bets = (low + high) / 2 + (high - low) / 2 * BETS
    gains = (count * np.log1p(bets * (d - mean)) for count, d in zip(counts, (1, -1, 0), strict=True))
    logs = sum(gains, start=np.zeros(1))
    most = logs.max(-1)
    return most + np.log(np.exp(logs - most[..., None]).mean(-1))


def anytime_p(only_first: int, only_second: int) -> float:
    """Return a p-value for equal success, which holds at whatever pair one looks or stops."""
    return float(min(1.0, np.exp(-log_capital(only_first, only_second, 0, 0.0))))


def anytime_interval(only_first: int, only_second: int, pairs: int) -> tuple[float, float]:
    """Return an interval of the difference in success; with probability 0.95 none, at whatever pair, misses it."""
    ties = pairs - only_first - only_second  # where m is the mean of what was seen, no bet gains: some are always kept
    kept = DIFFERENCES[log_capital(only_first, only_second, ties, DIFFERENCES) < -np.log(LEVEL)]
    step = DIFFERENCES[1] - DIFFERENCES[0]
    return float(max(-1.0, kept[0] - step)), float(min(1.0, kept[-1] + step))


def tally(first: Mapping[int, bool], second: Mapping[int, bool]) -> tuple[int, int, int]:
    """Return in how many pairs, by their numbers, the first alone and the second alone succeeded, and how many are."""
    pairs = [(first[number], second[number]) for number in first.keys() & second.keys()]
    return pairs.count((True, False)), pairs.count((False, True)), len(pairs)


def verdict(only_first: int, only_second: int, pairs: int, stopping: Stopping) -> Verdict | None:
    """Return what some pairs decide; None if they do not yet."""
    if anytime_p(only_first, only_second) <= LEVEL:
        return "first" if only_first > only_second else "second"
    least = stopping.smallest_difference
    if least is not None and max(map(abs, anytime_interval(only_first, only_second, pairs))) < least:
        return "alike"
    return None


def conclude(only_first: int, only_second: int, pairs: int, stopping: Stopping, names: tuple[str, str]) -> str:
    """Return in one sentence what a trial found out about two policies."""
    what, p = verdict(only_first, only_second, pairs, stopping), anytime_p(only_first, only_second)
    low, high = anytime_interval(only_first, only_second, pairs)
    after, both = f"{pairs:,} of at most {counted(stopping.most, 'episode')}", " and ".join(names)
    if what == "alike":
        return (
            f"{both} succeed equally often as far as it matters: after {after} a difference of "
            f"{stopping.smallest_difference:g} or more is excluded (p < {LEVEL:g}, whenever one stops)."
        )
    if what is None:
        return (
            f"{after} do{'es' * (pairs == 1)} not decide between {both} (p = {p:.2g}, whenever one stops); "
            f"the difference in success lies between {low:+.2f} and {high:+.2f}."
        )
    better, worse = names if what == "first" else reversed(names)
    return f"{better} succeeds more often than {worse}: decided after {after} (p = {p:.2g}, whenever one stops)."
