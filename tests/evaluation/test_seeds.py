"""Intervals over training seeds: they cover, where Wilson's over all episodes does not, and stay within bounds."""

import math
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.test_comparison import metrics

from robodiff.errors import UsageError
from robodiff.evaluation.results import EnvResult
from robodiff.evaluation.runs import seed_runs
from robodiff.evaluation.seeds import crossed_mean, difference_interval, mean_interval, success_interval, summarise
from robodiff.evaluation.statistics import student_quantile, wilson_interval

ROUNDS = 100


def outcomes(random: np.random.Generator, shape: tuple[int, int], skill: float) -> np.ndarray:
    """Success (S, E) of policies whose skill varies with the seed, in episodes that are hard or easy for all."""
    return (
        skill + 0.3 * random.normal(size=(shape[0], 1)) + random.normal(size=shape[1]) + random.normal(size=shape) > 0
    )


def test_the_interval_of_success_covers() -> None:
    random, ours, pooled = np.random.default_rng(0), 0, 0
    truth = 0.5 * math.erfc(-0.5 / math.sqrt(0.3**2 + 1 + 1) / math.sqrt(2))
    for _ in range(ROUNDS):
        won = outcomes(random, (4, 60), 0.5)
        interval, wilson = success_interval(won), wilson_interval(int(won.sum()), won.size)
        assert interval is not None
        ours += interval[0] <= truth <= interval[1]
        pooled += wilson[0] <= truth <= wilson[1]
    assert ours >= 0.91 * ROUNDS
    assert pooled <= 0.8 * ROUNDS


def test_the_interval_of_a_difference_covers() -> None:
    random, covered = np.random.default_rng(1), 0
    truth = [0.5 * math.erfc(-skill / math.sqrt(0.3**2 + 1 + 1) / math.sqrt(2)) for skill in (0.6, 0.2)]
    for _ in range(ROUNDS):
        hard = random.normal(size=50)
        first, second = (
            skill + 0.3 * random.normal(size=(3, 1)) + hard + random.normal(size=(3, 50)) > 0 for skill in (0.6, 0.2)
        )
        low, high = difference_interval(first.astype(int) - second.astype(int)) or (0, 0)
        covered += low <= truth[0] - truth[1] <= high
    assert covered >= 0.91 * ROUNDS


@pytest.mark.parametrize("share", [0, 1])
def test_all_or_nothing(share: int) -> None:
    interval = success_interval(np.full((3, 40), bool(share)))
    assert interval == wilson_interval(40 * share, 40, student_quantile(1000))  # as if they were one policy


def test_no_two_episodes_differ() -> None:
    same = np.tile(np.arange(40) % 2, (3, 1))
    half = wilson_interval(0, 40)[1]
    assert difference_interval(same - same) == (-half, half)
    assert difference_interval(np.ones((3, 40))) == (1 - half, 1)


def test_seeds_that_differ_widen_it() -> None:
    alike = np.tile(np.arange(60) % 2 == 0, (3, 1))
    unlike = np.stack([np.arange(60) < most for most in (10, 30, 50)])
    widths = [high - low for low, high in filter(None, map(success_interval, (alike, unlike)))]
    assert widths[1] > 2 * widths[0]
    assert crossed_mean(unlike.astype(float)).mean == 0.5


def test_one_seed_tells_no_spread() -> None:
    assert success_interval(np.ones((1, 9), bool)) is None
    assert difference_interval(np.ones((1, 9))) is None
    assert mean_interval(np.ones(1)) is None


def test_one_episode_has_an_interval() -> None:
    low, high = success_interval(np.array([[True], [False], [True]])) or (2, 2)
    assert 0 <= low < 2 / 3 < high <= 1


@pytest.mark.parametrize("other", [metrics("011"), metrics("01", first_seed=9)])
def test_other_episodes_are_not_added_up(other: EnvResult) -> None:
    with pytest.raises(UsageError, match="training seeds 1, 2: were measured on different episodes; give the same"):
        summarise({1: metrics("01"), 2: other})


def test_only_numbers_are_training_seeds(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-2", "seed-old", "other-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    assert [*seed_runs(tmp_path)] == ["2", "10"]
