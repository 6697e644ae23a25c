"""Paired comparison of two evaluations: what it counts and what it concludes."""

import pytest

from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.evaluate import summary
from robodiff.evaluation.results import EnvResult, Evaluated
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.policies.runtime import Latency


def metrics(won: str, first_seed: int = 7, env: str = "pusht") -> EnvResult:
    """An evaluation in which ``1`` succeeded with reward 1 and ``0`` failed with reward 0.5."""
    records = [EpisodeRecord(first_seed + i, c == "1", 1.0 if c == "1" else 0.5) for i, c in enumerate(won)]
    evaluated = Evaluated(
        policy="p", environment=env, environment_version="1", success_means="s", sampler="Flow", steps=1, device="cpu"
    )
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
        compare(metrics("11"), metrics("11", env="aloha"))
