"""Ways of acting over the same seeds: what is measured again, what is called better, what comes off best."""

from dataclasses import replace

import pytest
from tests.evaluation.test_comparison import metrics

from robodiff.evaluation.conditions import Sampling
from robodiff.evaluation.results import EnvResult, SweepCell
from robodiff.evaluation.statistics import holm
from robodiff.evaluation.sweep import choose, dominated
from robodiff.policies.runtime import Latency


def test_holm_is_that_of_the_textbook() -> None:
    # Holm 1979 as in R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def cells(won: list[str], costs: list[float]) -> tuple[list[SweepCell], list[EnvResult]]:
    """Ways of acting that won these episodes (``1``) at these milliseconds an action."""
    results = [metrics(each) for each in won]
    return [
        SweepCell(
            way=Sampling(sampler="Flow", steps=number),
            success_rate=result.success_rate,
            success_rate_ci95=result.success_rate_ci95,
            mean_max_reward=result.mean_max_reward,
            latency_ms=Latency(p50=cost, p95=cost),
            action_ms=cost,
            success_difference=0,
            mcnemar_p=1,
            holm_p=1,
            efficient=True,
        )
        for number, (result, cost) in enumerate(zip(results, costs, strict=True), start=1)
    ], results


@pytest.mark.parametrize(
    ("won", "costs", "chosen"),
    [
        (["1" * 20, "1" * 19 + "0", "1" * 10 + "0" * 10], [9, 3, 1], 1),  # one episode is within an error, ten are not
        (["1" * 20, "1" * 19 + "0", "1" * 10 + "0" * 10], [3, 2.9, 1], 0),  # as cheap as the policy's own
        (["1" * 10 + "0" * 10, "1" * 18 + "00", "1" * 20], [1, 5, 5], 2),  # of two as cheap the better
        (["0" * 20, "0" * 20], [9, 1], 0),  # nothing can be chosen where none succeeds
        (["1" * 10 + "0" * 10, "1" * 20], [1, 9], 1),  # far better, whatever it costs
    ],
)
def test_the_cheapest_within_one_standard_error_is_chosen(won: list[str], costs: list[float], chosen: int) -> None:
    assert choose(*cells(won, costs)) == chosen


def test_what_another_beats_in_both_is_not_efficient() -> None:
    points = [(0.9, 3.0), (0.8, 1.0), (0.8, 2.0), (0.9, 3.0), (0.7, 1.0)]
    assert [dominated(point, points) for point in points] == [False, False, True, False, True]


def test_ways_of_acting_agree_in_what_both_know() -> None:
    old, new = Sampling(sampler="Flow", steps=3), Sampling(sampler="Flow", steps=3, n_action_steps=8)
    assert old.differing(new) == new.differing(old) == set()
    assert new.differing(replace(new, n_action_steps=4, best_of=8)) == {"n_action_steps", "best_of"}
    assert new.beside(replace(new, n_action_steps=4)) == "Flow, 3 steps, 8 actions"
    assert replace(new, best_of=8).beside(new) == "Flow, 3 steps, best of 8"
