"""Policies that differ in their training seed alone: how much of a result is chance, and what may be concluded.

Two things are drawn by chance: the training seeds and the episodes, and every policy is measured on the same episodes.
An interval for the recipe, not for one of its policies, has to count both (``crossed_mean``); Wilson's, over all
episodes of all policies as if they were one policy's, is too narrow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.comparison import E, check_conditions
from robodiff.evaluation.conditions import Count, Number
from robodiff.evaluation.results import EnvResult, Interval, OfflineComparison, OfflineResult, Result
from robodiff.evaluation.statistics import student_quantile, wilson_interval
from robodiff.text import counted

MOST_FREEDOM = 1000.0
"""Degrees of freedom from which on Student's quantile is the normal one."""
ERROR, SUCCESS = "error", "success"
"""What is measured: the share of the error of holding the last action, and success in an environment."""


@dataclass(frozen=True, kw_only=True)
class SeedMeasured:
    """What one training seed's policy was measured at."""

    seed: Count
    policy: str
    """Hash of the policy."""
    value: Number
    ci95: Interval | None = None
    """Of this policy, over episodes (Wilson); None of an error."""
    mean_max_reward: Number | None = None


@dataclass(frozen=True, kw_only=True)
class SeedsResult(Result):
    """An evaluation of several training seeds, each on the same episodes."""

    file = "seeds.json"

    measured: Literal["success", "error"]
    """Success in an environment, or the error on recorded episodes as a share of that of holding the last action."""
    where: str
    """The environment, or the recording."""
    what_if: list[str] = field(default_factory=list)
    """What was asked for in place of what a policy is measured under by default."""
    episodes: Count
    """On which each was measured."""
    members: list[SeedMeasured]
    mean: Number
    """Over training seeds."""
    std: Number | None
    """Standard deviation over training seeds, with n - 1; None with a single one."""
    lowest: Number
    highest: Number
    mean_ci95: Interval | None
    """Of the mean over all training seeds that there could be: of success over further episodes, too; of an error on
    these. None with a single seed."""


@dataclass(frozen=True, kw_only=True)
class SeedDifference:
    """What the two policies of one training seed were measured at."""

    seed: Count
    first: Number
    second: Number


@dataclass(frozen=True, kw_only=True)
class SeedsComparison(Result):
    """Two evaluations of several training seeds, paired by seed and by episode; differences are the first's less the
    second's."""

    file = "seeds_comparison.json"
    advice = "compare again with robodiff eval --against"

    against: str
    measured: Literal["success", "error"]
    episodes: Count
    """That were shared."""
    members: list[SeedDifference]
    difference: Number
    difference_ci95: Interval | None
    """As ``SeedsResult.mean_ci95``."""
    conclusion: str
    """In one sentence."""
    policies: list[str]
    """Hashes of the first's policies."""


class CrossedMean(NamedTuple):
    """A mean over training seeds and episodes, and how certain it is."""

    mean: float
    variance: float
    """Of the mean."""
    quantile: float
    """Student's."""


def crossed_mean(values: np.ndarray) -> CrossedMean:
    """Return the mean of values (S, E) of S >= 2 training seeds on the same E episodes, for further seeds and episodes.

    Both are random effects, as readers and cases are where radiologists read the same images: the variance and the
    degrees of freedom are those of Hillis (Statistics in Medicine 26, 2007) for one modality.
    """
    seeds, episodes = values.shape
    by_seed, by_episode = values.mean(1), values.mean(0)
    of_seeds = episodes * by_seed.var(ddof=1)
    beyond = 0.0  # what episodes differ by, beyond what is each policy's own luck
    if episodes > 1:
        rest = values - by_seed[:, None] - by_episode + values.mean()
        of_rest = (rest**2).sum() / ((seeds - 1) * (episodes - 1))
        beyond = max(0.0, seeds * by_episode.var(ddof=1) - of_rest)
    spread = of_seeds + beyond
    freedom = (seeds - 1) * (spread / of_seeds) ** 2 if of_seeds > 0 else MOST_FREEDOM
    return CrossedMean(float(values.mean()), float(spread / values.size), student_quantile(min(freedom, MOST_FREEDOM)))


def success_interval(won: np.ndarray) -> Interval | None:
    """Return the 95 % interval of success over training seeds and episodes, from won (S, E); None with one seed.

    It is Wilson's for as many independent episodes as these are worth: at most all of them, and only E where every
    policy did the same. Like Wilson's it stays within [0, 1] and is honest at 0 and at 100 %.
    """
    if len(won) < 2:
        return None
    mean, variance, quantile = crossed_mean(won.astype(np.float64))
    worth = mean * (1 - mean) / variance if variance > 0 else won.shape[1]
    worth = min(max(worth, 1.0), won.size)
    return wilson_interval(mean * worth, worth, quantile)


def difference_interval(differences: np.ndarray) -> Interval | None:
    """Return the 95 % interval of the mean of paired differences (S, E), each -1, 0 or 1; None with one seed."""
    if len(differences) < 2:
        return None
    mean, variance, quantile = crossed_mean(differences.astype(np.float64))
    half = quantile * variance**0.5 or wilson_interval(0, differences.shape[1])[1]  # where no two episodes differ
    return max(-1.0, mean - half), min(1.0, mean + half)


def mean_interval(values: np.ndarray) -> Interval | None:
    """Return Student's 95 % interval of the mean of values (S,), one a training seed; None with one."""
    if len(values) < 2:
        return None
    half = student_quantile(len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def summarise(results: Mapping[int, EnvResult | OfflineResult]) -> SeedsResult:
    """Return what the policies of several training seeds were measured at together.

    Args:
        results: by training seed, all of one kind.

    Raises:
        UsageError: they were measured under other conditions.
        RobodiffError: nothing moves in the recorded episodes.
    """
    in_env = {seed: each for seed, each in results.items() if isinstance(each, EnvResult)}
    return _of_success(in_env) if in_env else _of_errors(results)  # pyright: ignore[reportArgumentType]


def _of_success(results: Mapping[int, EnvResult]) -> SeedsResult:
    evaluated = _one_way({seed: result.evaluated for seed, result in results.items()})
    if len({tuple(episode.seed for episode in result.episodes) for result in results.values()}) > 1:
        seeds, remedy = ", ".join(map(str, results)), "give the same --seed and --episodes for all"
        raise UsageError(f"training seeds {seeds}: were measured on different episodes; {remedy}")
    won = np.array([[episode.success for episode in result.episodes] for result in results.values()])  # (S, E)
    members = [
        SeedMeasured(
            seed=seed,
            policy=result.evaluated.policy,
            value=result.success_rate,
            ci95=result.success_rate_ci95,
            mean_max_reward=result.mean_max_reward,
        )
        for seed, result in results.items()
    ]
    what = SUCCESS, evaluated.environment, evaluated.what_if(), won.shape[1]
    return _over_seeds(members, success_interval(won), *what)


def _of_errors(results: Mapping[int, OfflineResult]) -> SeedsResult:
    evaluated = _one_way({seed: result.evaluated for seed, result in results.items()})
    values = [result.relative_to_hold for result in results.values()]
    if None in values:
        raise RobodiffError(f"{evaluated.data}: the recorded actions do not move: nothing can be compared with")
    members = [
        SeedMeasured(seed=seed, policy=result.evaluated.policy, value=result.relative_to_hold or 0.0)
        for seed, result in results.items()
    ]
    what = ERROR, evaluated.data, evaluated.what_if(), len(evaluated.episodes)
    return _over_seeds(members, mean_interval(np.array(values, np.float64)), *what)


def _one_way(evaluated: Mapping[int, E]) -> E:
    """Return under which conditions policies were evaluated, if these are the same for all."""
    (seed, first), *others = evaluated.items()
    for other, each in others:
        check_conditions(first, each, f"seed {seed}", f"seed {other}")
    return first


def _over_seeds(
    members: list[SeedMeasured], interval: Interval | None, measured: Literal["success", "error"], where: str,
    what_if: list[str], episodes: int,
) -> SeedsResult:  # fmt: skip
    values = np.array([member.value for member in members])
    return SeedsResult(
        measured=measured,
        where=where,
        what_if=what_if,
        episodes=episodes,
        members=members,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        lowest=float(values.min()),
        highest=float(values.max()),
        mean_ci95=interval,
    )


def compare_success(
    pairs: Mapping[int, tuple[EnvResult, EnvResult]], name: str = "the first", against: str = "the second"
) -> SeedsComparison:
    """Compare two recipes by success, paired by training seed and by episode.

    Args:
        pairs: by training seed that both have, the evaluations of its two policies.
        name: of the first, in the conclusion.
        against: the name of the second.

    Raises:
        UsageError: measured under other conditions, or not all of them on one and the same episode.
    """
    for seed, (first, second) in pairs.items():
        check_conditions(first.evaluated, second.evaluated, f"{name}, seed {seed},", against)
    outcomes = [[{each.seed: each.success for each in one.episodes} for one in pair] for pair in pairs.values()]
    shared = sorted(set.intersection(*({*each} for pair in outcomes for each in pair)))
    if not shared:
        raise UsageError(f"{name} against {against}: no episode was measured of every policy; use one --seed for all")
    won = np.array([[[each[seed] for seed in shared] for each in pair] for pair in outcomes], np.float64)  # (S, 2, E)
    rates = won.mean(2).tolist()
    members = [SeedDifference(seed=s, first=a, second=b) for s, (a, b) in zip(pairs, rates, strict=True)]
    interval = difference_interval(won[:, 0] - won[:, 1])
    policies = [first.evaluated.policy for first, _ in pairs.values()]
    return _compared(SUCCESS, members, interval, len(shared), policies, name, against)


def compare_errors(
    pairs: Mapping[int, OfflineComparison], name: str = "the first", against: str = "the second"
) -> SeedsComparison:
    """Compare two recipes by their error on recorded episodes, paired by training seed; arguments as above."""
    members = [SeedDifference(seed=seed, first=each.first, second=each.second) for seed, each in pairs.items()]
    interval = mean_interval(np.array([member.first - member.second for member in members]))
    episodes = min(each.episodes for each in pairs.values())
    policies = [each.evaluated.policy for each in pairs.values()]
    return _compared(ERROR, members, interval, episodes, policies, name, against)


def _compared(
    measured: Literal["success", "error"], members: list[SeedDifference], interval: Interval | None, episodes: int,
    policies: list[str], name: str, against: str,
) -> SeedsComparison:  # fmt: skip
    difference = float(np.mean([member.first - member.second for member in members]))
    over = f"{counted(len(members), 'training seed')} and {counted(episodes, 'episode')}"
    what = "succeeds more often" if measured == SUCCESS else "is closer to the recorded actions"
    if interval is None:
        conclusion = f"One training seed does not tell {name} from {against}: train more with --seeds."
    else:
        found = f"{difference:+.2f} (95 % interval {interval[0]:+.2f} to {interval[1]:+.2f})"
        better, worse = (name, against) if (difference > 0) == (measured == SUCCESS) else (against, name)
        is_clear = interval[0] > 0 or interval[1] < 0
        conclusion = (
            f"{better} {what} than {worse}: {found} in {measured} over {over}." if is_clear
            else f"{over} do not decide between {name} and {against}: {found} in {measured}."
        )  # fmt: skip
    return SeedsComparison(
        against=against,
        measured=measured,
        episodes=episodes,
        members=members,
        difference=difference,
        difference_ci95=interval,
        conclusion=conclusion,
        policies=policies,
    )
