"""Two evaluations over the same seeds, pairwise: what differs, and what may be concluded from it."""

from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np

from robodiff.errors import UsageError
from robodiff.evaluation.conditions import (
    AGAIN,
    SAME_SEEDS,
    WEAKER,
    Condition,
    Evaluated,
    EvaluatedOffline,
    Sampled,
    Sampling,
)
from robodiff.evaluation.results import Comparison, EnvResult, EpisodeResult, Interval
from robodiff.evaluation.sequential import LEVEL, anytime_interval, anytime_p, conclude
from robodiff.evaluation.statistics import (
    bootstrap_mean_interval,
    episodes_to_decide,
    mcnemar_exact,
    paired_success_interval,
)
from robodiff.text import counted

E = TypeVar("E", Evaluated, EvaluatedOffline)


def compare(first: EnvResult, second: EnvResult, name: str = "the first", against: str = "the second") -> Comparison:
    """Compare two evaluations over the seeds that they share.

    Where either stopped as soon as a trial was decided, by what holds whenever one stops: see ``sequential``.

    Args:
        first: the evaluation of interest.
        second: what it is held against.
        name: of the first, in the conclusion.
        against: the name of the second.

    Raises:
        UsageError: measured under other conditions, or no seed in common.
    """
    check_conditions(first.evaluated, second.evaluated, name, against)
    this, that = titles(first.evaluated, second.evaluated, name, against)
    pairs = paired(first, second)
    counts, seeds = paired_counts(pairs), [own.seed for own, _ in pairs]
    reward = np.array([own.max_reward - other.max_reward for own, other in pairs])  # (N,)
    stopping = first.evaluated.stopping or second.evaluated.stopping
    discordant = counts["only_first"], counts["only_second"]
    if stopping is None:
        interval, p = paired_success_interval(**counts), mcnemar_exact(*discordant)
        conclusion = _conclusion(*discordant, len(seeds), interval, p, (this, that))
    else:
        interval, p = anytime_interval(*discordant, len(seeds)), anytime_p(*discordant)
        conclusion = conclude(*discordant, len(seeds), stopping, (this, that))
    return Comparison(
        **counts,
        against=against,
        episodes=len(seeds),
        success_difference=(discordant[0] - discordant[1]) / len(seeds),
        success_difference_ci95=interval,
        mcnemar_p=None if stopping else p,
        anytime_p=p if stopping else None,
        reward_difference=float(reward.mean()),
        reward_difference_ci95=None if stopping else bootstrap_mean_interval(reward),
        stopping=stopping,
        conclusion=conclusion,
        evaluated=first.evaluated,
        evaluated_against=second.evaluated,
    )


def _conclusion(
    only_first: int, only_second: int, episodes: int, interval: Interval, p: float, names: tuple[str, str]
) -> str:
    """Return what may be concluded from a number of episodes that was fixed beforehand."""
    if p < LEVEL:
        better, worse = names if only_first > only_second else reversed(names)
        chance = f"a difference like this would come about by chance in {p:.2g} of such comparisons."
        return f"{better} succeeds more often than {worse}: {chance}"
    between = " and ".join(names)
    if (needed := episodes_to_decide(only_first, only_second, episodes)) is None:
        return (
            f"No difference in success between {between}, and one larger than "
            f"{max(-interval[0], interval[1]):.2f} is not compatible with {counted(episodes, 'such episode')}."
        )
    return (
        f"{counted(episodes, 'episode')} do{'es' * (episodes == 1)} not decide between {between} (p = {p:.2g}); if the "
        f"difference is the one seen here, about {max(1, needed - episodes):,} more would show it 4 times of 5."
    )


def paired(first: EnvResult, second: EnvResult) -> list[tuple[EpisodeResult, EpisodeResult]]:
    """Return the episodes of two evaluations whose seeds both have, by seed.

    Raises:
        UsageError: no seed in common.
    """
    own, other = ({episode.seed: episode for episode in each.episodes} for each in (first, second))
    return [(own[seed], other[seed]) for seed in sorted(shared_seeds(own, second))]


def paired_counts(pairs: Sequence[tuple[EpisodeResult, EpisodeResult]]) -> dict[str, int]:
    """Return in how many pairs of episodes both succeeded, one alone, and neither."""
    won = np.array([[own.success, other.success] for own, other in pairs], bool)  # (N, 2)
    patterns = {"both": [1, 1], "only_first": [1, 0], "only_second": [0, 1], "neither": [0, 0]}
    return {which: int((won == pattern).all(axis=1).sum()) for which, pattern in patterns.items()}


def shared_seeds(seeds: Collection[int], other: EnvResult) -> set[int]:
    """Return the seeds of an evaluation that another one, which it is to be compared with, has too.

    Raises:
        UsageError: there is none.
    """
    others = {episode.seed for episode in other.episodes}
    if not (shared := others.intersection(seeds)):
        ranges = f"{min(seeds)} to {max(seeds)} and {min(others)} to {max(others)}"
        raise UsageError(f"the two evaluations share no seed: {ranges}; {SAME_SEEDS}")
    return shared


def check_conditions(first: E, second: E, name: str = "the first", against: str = "the second") -> None:
    """Check that two evaluations answer the same question, so that the policies alone make a difference.

    One policy may be compared with itself sampling in two ways, which then is the question: ``titles`` names it.

    Raises:
        UsageError: they do not.
    """
    pair = unequal(first, second)
    if pair and not (first.policy == second.policy and isinstance(pair[0].value, Sampling)):
        raise not_alike(pair, name, against, pair[0].remedy)


def unequal(first: E, second: E) -> tuple[Condition, Condition] | None:
    """Return the first condition that two evaluations do not share; each policy may sample in its own way."""
    pairs = list(zip(first.conditions(), second.conditions(), strict=True))
    if not sample_alike(first, second):
        ways = [Condition(each.sampling, f"sampled by {each.way}", AGAIN) for each in (first, second)]
        pairs.append((ways[0], ways[1]))
    if first.policy == second.policy:  # another run's policy of that name is another one
        weak = [Condition(each.contrast_policy, _unlike(each), WEAKER) for each in (first, second)]
        pairs.append((weak[0], weak[1]))
    values = [(one.value, other.value) for one, other in pairs]
    differing = [a != b and None not in (a, b) for a, b in values]
    return pairs[differing.index(True)] if any(differing) else None


def _unlike(sampled: Sampled) -> str:
    return f"unlike {sampled.contrast} with weights {(sampled.contrast_policy or '')[:8]}"


def not_alike(pair: tuple[Condition, Condition], name: str, against: str, remedy: str) -> UsageError:
    """Return the error that two evaluations were made under other conditions."""
    unlike = f"cannot compare an evaluation {pair[0].words} with one {pair[1].words}"
    return UsageError(f"{name} against {against}: {unlike}\n{remedy}")


def sample_alike(first: Sampled, second: Sampled) -> bool:
    """Tell whether two policies acted each in its own way, but for what was asked of both alike."""
    return not first.sampling.differing(second.sampling) & (first.asked | second.asked)


def titles(first: Sampled, second: Sampled, name: str, against: str) -> tuple[str, str]:
    """Return what a conclusion calls two evaluations: of one policy that samples in two ways, by these."""
    if sample_alike(first, second):
        return name, against
    one, other = first.sampling, second.sampling
    return f"{name} with {one.beside(other)}", f"{against} with {other.beside(one)}"
