"""Paired comparison of two evaluations: what it counts and what it concludes."""

from typing import Any

import pytest

from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.config import Stopping
from robodiff.evaluation.evaluate import summary
from robodiff.evaluation.results import EnvResult, Evaluated
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.policies.runtime import Latency


def metrics(won: str, first_seed: int = 7, **changes: Any) -> EnvResult:
    """An evaluation in which ``1`` succeeded with reward 1 and ``0`` failed with reward 0.5."""
    records = [EpisodeRecord(first_seed + i, c == "1", 1.0 if c == "1" else 0.5) for i, c in enumerate(won)]
    sampled = {"policy": "p", "sampler": "Flow", "steps": 1, "device": "cpu"}
    where = {"environment": "pusht", "environment_version": "1", "success_means": "s"}
    evaluated = Evaluated(**{**sampled, **where, **changes})
    return EnvResult(
        **vars(summary(records)),
        episodes=[record.result for record in records],
        evaluated=evaluated,
        latency_ms=Latency(p50=1, p95=2),
    )


def test_counts_and_differences() -> None:
    result = compare(metrics("11100"), metrics("10010"))
    assert (result.both, result.only_first, result.only_second, result.neither) == (1, 2, 1, 1)
    assert result.success_difference == pytest.approx(0.2)
    assert result.reward_difference == pytest.approx(0.1)
    low, high = result.reward_difference_ci95
    assert low < 0.1 < high


def test_pairs_by_seed_and_not_by_place() -> None:
    shuffled = metrics("10010")
    shuffled.episodes.reverse()
    assert compare(metrics("11100"), shuffled) == compare(metrics("11100"), metrics("10010"))
    assert compare(metrics("0011", first_seed=5), metrics("11", first_seed=7)).both == 2


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("1" * 20, "0" * 10 + "1" * 10, "A succeeds more often than B"),
        ("0" * 10 + "1" * 10, "1" * 20, "B succeeds more often than A"),
        ("1" * 18 + "00", "1" * 17 + "000", "do not decide between A and B (p = 1); if the difference is the one seen"),
        ("10" * 10, "10" * 10, "No difference in success between A and B"),
    ],
)
def test_conclusions(first: str, second: str, words: str) -> None:
    assert words in compare(metrics(first), metrics(second), "A", "B").conclusion


def test_refused() -> None:
    with pytest.raises(UsageError, match="share no seed: 7 to 8 and 100 to 101"):
        compare(metrics("11"), metrics("11", first_seed=100))
    with pytest.raises(UsageError, match="in pusht with one in aloha"):
        compare(metrics("11"), metrics("11", environment="aloha"))


@pytest.mark.kind("a what-if evaluation taken for the policy's own")
def test_a_weaker_policy_of_one_name_must_have_equal_weights() -> None:
    def unlike(weak: str | None, policy: str = "p", name: str = "epoch-1") -> EnvResult:
        return metrics("11", policy=policy, best_of=2, contrast=name, contrast_policy=weak)

    with pytest.raises(UsageError, match="unlike epoch-1 with weights abc with one unlike epoch-1 with weights def"):
        compare(unlike("abc"), unlike("def"))
    for other in (unlike("abc"), unlike(None), unlike("def", "q"), unlike("def", name="epoch-2")):
        assert compare(unlike("abc"), other).both == 2


@pytest.mark.kind("a what-if evaluation taken for the policy's own")
def test_rules_of_success_must_be_equal() -> None:
    for changes, words in (
        ({"success_means": "more than 90 %"}, "where success means 's' with one where success means 'more than 90 %'"),
        ({"success_reward": 0.95}, "where success is a reward of 1 with one where success is a reward of 0.95"),
        ({"environment": "lift?size=2"}, "in pusht with one in lift"),  # options of an environment are in its name
    ):
        with pytest.raises(UsageError) as error:
            compare(metrics("11", success_reward=1.0), metrics("11", **{"success_reward": 1.0, **changes}))
        assert words in str(error.value)
    assert (
        compare(metrics("11", success_reward=1.0), metrics("11")).both == 2
    )  # of an earlier version, which wrote none


@pytest.mark.parametrize("which", [0, 1])
def test_what_stopped_by_itself_is_compared_by_what_holds_then(which: int) -> None:
    stopped = {"stopping": Stopping(most=40)}
    results = [metrics(won, **(stopped if place == which else {})) for place, won in enumerate(("1" * 6, "0" * 6))]
    fixed, paired = compare(metrics("1" * 6), metrics("0" * 6)), compare(*results, "A", "B")
    assert fixed.p < 0.05 < paired.p  # six of six decide only where six was the number beforehand
    assert (paired.mcnemar_p, paired.anytime_p, paired.stopping) == (None, paired.p, Stopping(most=40))
    assert paired.conclusion.startswith("6 of at most 40 episodes do not decide between A and B")
    low, high = paired.success_difference_ci95
    assert low < fixed.success_difference_ci95[0] < high
