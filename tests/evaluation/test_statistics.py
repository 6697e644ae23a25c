"""Intervals and tests against published values, their own definitions, and simulated repetitions."""

import math

import numpy as np
import pytest

from robodiff.evaluation.statistics import (
    bootstrap_mean_interval,
    clustered_ratio_interval,
    episodes_to_decide,
    mcnemar_exact,
    paired_success_interval,
    student_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(successes: int, episodes: int, low: float, high: float) -> None:
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


def test_its_ends_are_where_the_score_test_just_rejects() -> None:
    for successes, episodes in ((3, 10), (86, 100), (1, 50)):
        for p in wilson_interval(successes, episodes):
            z = (successes / episodes - p) / math.sqrt(p * (1 - p) / episodes)
            assert abs(z) == pytest.approx(1.959964, abs=1e-4)


def test_all_and_none() -> None:
    assert wilson_interval(100, 100)[1] == 1.0
    assert wilson_interval(0, 100)[0] == 0.0
    with pytest.raises(ValueError, match="found 3 of 2"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"), [(0, 6, 2 / 64), (1, 9, 22 / 1024), (5, 5, 1.0), (0, 0, 1.0)]
)
def test_mcnemar_counts_the_splits_that_are_as_uneven(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)
    assert mcnemar_exact(only_second, only_first) == pytest.approx(p)


def test_paired_interval_published_value() -> None:
    # Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10
    assert paired_success_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_paired_interval_covers_and_is_antisymmetric() -> None:
    random = np.random.default_rng(0)
    for shares in ([0.6, 0.2, 0.1, 0.1], [0.9, 0.04, 0.01, 0.05], [0.3, 0.2, 0.2, 0.3]):
        tables = random.multinomial(50, shares, 1000)
        intervals = np.array([paired_success_interval(*map(int, table)) for table in tables])
        covered = (intervals[:, 0] <= shares[1] - shares[2]) & (shares[1] - shares[2] <= intervals[:, 1])
        assert 0.93 <= covered.mean() <= 0.995
    low, high = paired_success_interval(20, 9, 4, 7)
    assert paired_success_interval(20, 4, 9, 7) == pytest.approx((-high, -low))


def test_bootstrap_is_that_of_the_normal_law_and_repeats() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 400)
    low, high = bootstrap_mean_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert bootstrap_mean_interval(values) == (low, high)
    assert bootstrap_mean_interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_that_many_episodes_decide_4_times_of_5() -> None:
    n = episodes_to_decide(10, 4, 100)
    assert n is not None
    tables = np.random.default_rng(2).multinomial(n, [0.1, 0.04, 0.86], 1000)
    decided = np.mean([mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in tables])
    assert 0.75 <= decided <= 0.85
    assert episodes_to_decide(3, 3, 100) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (30, 2.04227), (1000, 1.96234)]
)
def test_student_quantile(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, rel=2e-5)


def test_interval_over_episodes_covers_though_windows_of_one_are_alike() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        lengths = random.integers(20, 80, 5)
        sums = random.normal(0.1, 0.3, 5) * lengths  # all windows of an episode differ by the same
        low, high = clustered_ratio_interval(sums, lengths) or (0, 0)
        covered += low <= 0.1 <= high
    assert 0.92 < covered / 400 < 0.98
    assert clustered_ratio_interval(np.array([1.0]), np.array([2.0])) is None
