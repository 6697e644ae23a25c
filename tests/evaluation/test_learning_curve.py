"""The fitted learning curve: it finds a curve that is there, covers what comes, and says where it cannot."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from robodiff.evaluation.learning_curve import Cell, fit_curve, learning_curve

COUNTS, SEEDS, EPISODES, ROUNDS = (25, 50, 100, 200), (1, 2, 3), 100, 60
Truth = Callable[[float], float]


def falling(count: float) -> float:
    return 0.15 + 3 * count**-0.6


def rising(count: float) -> float:
    return 1 / (1 + math.exp(-0.3 - 0.8 * math.log(count / 100)))


def saturating(count: float) -> float:
    return 0.9 - 1.44 * count**-0.5


def level(count: float) -> float:
    return 0.6


def cells(truth: Truth, random: np.random.Generator, is_success: bool, noise: float = 0.05) -> list[Cell]:
    def value(count: int) -> float:
        if not is_success:
            return truth(count) * math.exp(noise * random.normal())
        odds = truth(count) / (1 - truth(count)) * math.exp(4 * noise * random.normal())
        return random.binomial(EPISODES, odds / (1 + odds)) / EPISODES

    return [Cell(demonstrations=count, seed=seed, value=value(count)) for count in COUNTS for seed in SEEDS]


@pytest.mark.parametrize("truth", [falling, rising, saturating, level])
def test_the_interval_covers_what_is_extrapolated(truth: Truth) -> None:
    random, covered = np.random.default_rng(0), np.zeros(3)
    for _ in range(ROUNDS):
        curve = fit_curve(cells(truth, random, truth != falling), None if truth == falling else EPISODES)
        assert curve is not None
        for place, count in enumerate((200, 250, 400)):
            low, high = curve.at(count).ci95
            covered[place] += low <= truth(count) <= high
    assert (covered >= 0.88 * ROUNDS).all(), covered / ROUNDS


def test_an_exact_power_law_is_found() -> None:
    curve = fit_curve(cells(falling, np.random.default_rng(0), False, noise=1e-6), None)
    assert curve is not None
    assert curve.at(800).value == pytest.approx(falling(800), rel=2e-3)  # the exponent is one of a grid
    assert curve.helps(25, 200)


def test_it_says_whether_more_is_better() -> None:
    random = np.random.default_rng(0)
    shown = learning_curve(cells(rising, random, True), "success", "pusht", EPISODES)
    assert shown.conclusion.startswith("From 25 to 200 demonstrations, more are better. The fitted success is 0.")
    assert [each.demonstrations for each in shown.predictions] == [200, 250, 400]
    values = [each.value for each in shown.predictions]
    assert values == sorted(values)
    unknown = learning_curve(cells(level, random, True), "success", "pusht", EPISODES)
    assert unknown.conclusion.startswith("These 12 runs do not show that 200 demonstrations are better than 25")
    worse = learning_curve(cells(lambda count: 1 - rising(count), random, True), "success", "pusht", EPISODES)
    assert worse.conclusion.startswith("These 12 runs do not show")


def test_too_few_cells_say_so() -> None:
    every = cells(rising, np.random.default_rng(0), True)
    for some in (every[::4], every[:3]):  # three runs; one number of demonstrations
        result = learning_curve(some, "success", "pusht", EPISODES)
        assert (result.predictions, "3 runs cannot say" in result.conclusion) == ([], True)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_same_everywhere_is_not_certain(value: float) -> None:
    same = [Cell(demonstrations=count, seed=seed, value=value) for count in COUNTS for seed in SEEDS]
    curve = fit_curve(same, EPISODES)
    assert curve is not None
    low, high = curve.at(400).ci95
    assert 0 <= low < high <= 1
    assert high - low > 0.01
    assert not curve.helps(25, 200)
