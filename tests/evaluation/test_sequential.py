"""What may be concluded at any time: exact checks of the bets, and simulated trials that look again and again."""

import math

import numpy as np
import pytest

from robodiff.evaluation.config import Stopping
from robodiff.evaluation.sequential import (
    LEVEL,
    anytime_interval,
    anytime_p,
    conclude,
    log_capital,
    tally,
    verdict,
)

TRIALS, PAIRS = 2000, 200


def simulate(first: float, second: float, shared: float, seed: int) -> np.ndarray:
    """What came of each pair, (TRIALS, PAIRS) of 1, -1 or 0, of policies with these rates of success.

    In a share of the pairs one number decides over both: starts that are hard for one are hard for the other.
    """
    random = np.random.default_rng(seed)
    own, other = random.random((2, TRIALS, PAIRS))
    other = np.where(random.random((TRIALS, PAIRS)) < shared, own, other)
    return (own < first).astype(int) - (other < second)


def test_against_equality_it_is_the_beta_binomial_mixture() -> None:
    for w, n in ((0, 0), (3, 0), (7, 0), (5, 12), (40, 61), (130, 110)):
        beta = math.lgamma(w + 0.5) + math.lgamma(n + 0.5) - math.lgamma(w + n + 1) - math.log(math.pi)
        expected = beta + (w + n) * math.log(2)
        assert log_capital(w, n, 0, 0.0) == pytest.approx(expected, abs=1e-9)
        assert log_capital(w, n, 50, 0.0) == pytest.approx(expected, abs=1e-9)  # ties tell nothing of equality


@pytest.mark.parametrize(("m", "discordant"), [(0.0, 0.3), (0.25, 0.4), (-0.6, 0.7), (0.9, 0.9)])
def test_it_does_not_grow_on_average_where_the_difference_is_true(m: float, discordant: float) -> None:
    p1, p2 = (discordant + m) / 2, (discordant - m) / 2
    for w, n, t in ((0, 0, 0), (3, 1, 2), (9, 14, 40)):
        after = np.exp(log_capital([w + 1, w, w], [n, n + 1, n], [t, t, t + 1], m))
        assert after @ [p1, p2, 1 - p1 - p2] == pytest.approx(np.exp(log_capital(w, n, t, m)), rel=1e-9)


@pytest.mark.parametrize(("success", "shared"), [(0.1, 0.0), (0.5, 0.0), (0.5, 0.7), (0.9, 0.5)])
def test_equal_policies_are_seldom_told_apart_however_often_one_looks(success: float, shared: float) -> None:
    pairs = simulate(success, success, shared, seed=int(100 * success + 10 * shared))
    first, second = (pairs == 1).cumsum(1), (pairs == -1).cumsum(1)
    counts = np.arange(max(first.max(), second.max()) + 1)
    table = log_capital(counts[:, None], counts, 0, 0.0)
    alarms = (table[first, second] >= -np.log(LEVEL)).any(1).mean()
    assert 0 < alarms <= LEVEL


@pytest.mark.parametrize(("first", "second", "shared"), [(0.6, 0.4, 0.0), (0.95, 0.9, 0.5), (0.9, 0.1, 0.0)])
def test_the_true_difference_is_seldom_outside_of_the_interval(first: float, second: float, shared: float) -> None:
    pairs = simulate(first, second, shared, seed=1)[:1000]
    counts = [(pairs == d).cumsum(1)[:, 9::10] for d in (1, -1, 0)]
    missed = (log_capital(*counts, first - second) >= -np.log(LEVEL)).any(1).mean()
    assert missed <= LEVEL


def test_the_interval_holds_what_was_seen_and_fits_the_p_value() -> None:
    random = np.random.default_rng(0)
    for first, second, ties in random.integers(0, 40, (30, 3)).tolist():
        pairs = first + second + ties + 1
        low, high = anytime_interval(first, second, pairs)
        assert -1 <= low <= (first - second) / pairs <= high <= 1
        assert anytime_interval(second, first, pairs) == pytest.approx((-high, -low), abs=1e-9)
        p = anytime_p(first, second)
        assert (low > 0 or high < 0) <= (p <= LEVEL)
        if p < LEVEL / 2:
            assert low > 0 or high < 0
    widths = [np.diff(anytime_interval(n // 4, n // 10, n))[0] for n in (20, 100, 500, 2000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.1
    assert anytime_interval(30, 0, 30)[1] == 1


@pytest.mark.parametrize(
    ("only_first", "only_second", "pairs", "smallest", "what", "words"),
    [
        (7, 0, 7, None, "first", "A succeeds more often than B: decided after 7 of at most 500 episodes"),
        (6, 0, 6, None, None, "6 of at most 500 episodes do not decide between A and B"),
        (3, 30, 50, 0.2, "second", "B succeeds more often than A"),
        (2, 2, 300, 0.1, "alike", "after 300 of at most 500 episodes a difference of 0.1 or more is excluded"),
        (2, 2, 300, None, None, "the difference in success lies between -0.0"),
        (2, 2, 20, 0.1, None, "do not decide"),
    ],
)
def test_verdicts(only_first: int, only_second: int, pairs: int, smallest: float | None, what: str, words: str) -> None:
    stopping = Stopping(most=500, smallest_difference=smallest)
    assert verdict(only_first, only_second, pairs, stopping) == what
    assert words in conclude(only_first, only_second, pairs, stopping, ("A", "B"))


def test_pairs_are_those_that_both_have() -> None:
    assert tally({1: True, 2: True, 3: False, 4: True}, {4: True, 3: True, 2: False, 9: True}) == (1, 1, 3)
