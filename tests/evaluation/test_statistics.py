"""The Wilson interval against published values and its own definition."""

import math

import pytest

from robodiff.evaluation.statistics import wilson_interval


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
