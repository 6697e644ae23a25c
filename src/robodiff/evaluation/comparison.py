"""Two evaluations over the same seeds, pairwise: what differs, and what may be concluded from it."""

from collections.abc import Collection

import numpy as np

from robodiff.errors import UsageError
from robodiff.evaluation.results import Comparison, EnvResult
from robodiff.evaluation.statistics import (
    bootstrap_mean_interval,
    episodes_to_decide,
    mcnemar_exact,
    paired_success_interval,
)
from robodiff.text import counted

LEVEL = 0.05
"""A difference is called one when chance alone would show it less often than this."""


def compare(first: EnvResult, second: EnvResult, name: str = "the first", against: str = "the second") -> Comparison:
    """Compare two evaluations over the seeds that they share.

    Args:
        first: the evaluation of interest.
        second: what it is held against.
        name: of the first, in the conclusion.
        against: the name of the second.

    Raises:
        UsageError: other environments, or no seed in common.
    """
    own = {episode.seed: episode for episode in first.episodes}
    other = {episode.seed: episode for episode in second.episodes}
    seeds = sorted(shared_seeds(first.evaluated.environment, own, second))
    won = np.array([[own[seed].success, other[seed].success] for seed in seeds], bool)  # (N, 2)
    reward = np.array([own[seed].max_reward - other[seed].max_reward for seed in seeds])  # (N,)
    patterns = {"both": [1, 1], "only_first": [1, 0], "only_second": [0, 1], "neither": [0, 0]}
    counts = {name: int((won == pattern).all(axis=1).sum()) for name, pattern in patterns.items()}
    discordant = counts["only_first"], counts["only_second"]
    difference = (discordant[0] - discordant[1]) / len(seeds)
    interval = paired_success_interval(**counts)
    p = mcnemar_exact(*discordant)
    if p < LEVEL:
        better, worse = (name, against) if difference > 0 else (against, name)
        chance = f"a difference like this would come about by chance in {p:.2g} of such comparisons."
        conclusion = f"{better} succeeds more often than {worse}: {chance}"
    elif (needed := episodes_to_decide(*discordant, len(seeds))) is None:
        conclusion = (
            f"No difference in success between {name} and {against}, and one larger than "
            f"{max(-interval[0], interval[1]):.2f} is not compatible with {counted(len(seeds), 'such episode')}."
        )
    else:
        conclusion = (
            f"{counted(len(seeds), 'episode')} do{'es' * (len(seeds) == 1)} not decide between {name} and {against} "
            f"(p = {p:.2g}); if the difference is the one seen here, about {max(1, needed - len(seeds)):,} more would "
            "show it 4 times of 5."
        )
    return Comparison(
        **counts,
        against=against,
        episodes=len(seeds),
        success_difference=difference,
        success_difference_ci95=interval,
        mcnemar_p=p,
        reward_difference=float(reward.mean()),
        reward_difference_ci95=bootstrap_mean_interval(reward),
        conclusion=conclusion,
    )


def shared_seeds(environment: str, seeds: Collection[int], other: EnvResult) -> set[int]:
    """Return the seeds of an evaluation that another one, which it is to be compared with, has too.

    Raises:
        UsageError: the other was done in another environment, or on other seeds.
    """
    if other.evaluated.environment != environment:
        raise UsageError(f"cannot compare an evaluation in {environment} with one in {other.evaluated.environment}")
    others = {episode.seed for episode in other.episodes}
    if not (shared := others.intersection(seeds)):
        ranges = f"{min(seeds)} to {max(seeds)} and {min(others)} to {max(others)}"
        raise UsageError(f"the two evaluations share no seed: {ranges}; evaluate both with the same --seed")
    return shared
