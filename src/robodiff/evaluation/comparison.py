"""Two evaluations over the same seeds, pairwise: what differs, and what may be concluded from it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robodiff.errors import UsageError
from robodiff.evaluation.statistics import (
    bootstrap_mean_interval,
    episodes_to_decide,
    mcnemar_exact,
    paired_success_interval,
)

LEVEL = 0.05
"""A difference is called one when chance alone would show it less often than this."""


@dataclass(frozen=True)
class Comparison:
    """The first policy against the second; differences are first minus second."""

    episodes: int
    """Seeds that both were evaluated on."""
    both: int
    """Episodes in which both succeeded."""
    only_first: int
    only_second: int
    neither: int
    success_difference: float
    success_difference_ci95: tuple[float, float]
    """Newcombe's method 10."""
    mcnemar_p: float
    """McNemar's exact test, two-sided."""
    reward_difference: float
    """In the mean maximum reward."""
    reward_difference_ci95: tuple[float, float]
    """Of the mean of the episodes' differences; seeded bootstrap."""

    def conclusion(self, first: str = "the first", second: str = "the second") -> str:
        """One sentence: what may be concluded, and how many more episodes would decide it."""
        better, worse = (first, second) if self.success_difference > 0 else (second, first)
        if self.mcnemar_p < LEVEL:
            return (
                f"{better} succeeds more often than {worse}: a difference like this would come about by chance in "
                f"{self.mcnemar_p:.2g} of such comparisons."
            )
        needed = episodes_to_decide(self.only_first, self.only_second, self.episodes)
        if needed is None:
            low, high = self.success_difference_ci95
            return (
                f"No difference in success between {first} and {second}, and one larger than "
                f"{max(-low, high):.2f} is not compatible with these {self.episodes} episodes."
            )
        more = max(1, needed - self.episodes)
        return (
            f"These {self.episodes} episodes do not decide between {first} and {second} (p = {self.mcnemar_p:.2g}); if "
            f"the difference is the one seen here, about {more:,} more would show it 4 times of 5."
        )


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Compare what two ``metrics.json`` hold, over the seeds that they share.

    Raises:
        UsageError: other environments, or no seed in common.
    """
    ours = {episode["seed"]: episode for episode in first["episodes"]}
    theirs = {episode["seed"]: episode for episode in second["episodes"]}
    seeds = sorted(shared_seeds(first["evaluated"]["environment"], set(ours), second))
    won = np.array([[ours[s]["success"], theirs[s]["success"]] for s in seeds], bool)  # (N, 2)
    reward = np.array([ours[s]["max_reward"] - theirs[s]["max_reward"] for s in seeds])  # (N,)
    both, only_first, only_second, neither = (
        int((won == pattern).all(axis=1).sum()) for pattern in ([1, 1], [1, 0], [0, 1], [0, 0])
    )
    return Comparison(
        episodes=len(seeds),
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
        success_difference=(only_first - only_second) / len(seeds),
        success_difference_ci95=paired_success_interval(both, only_first, only_second, neither),
        mcnemar_p=mcnemar_exact(only_first, only_second),
        reward_difference=float(reward.mean()),
        reward_difference_ci95=bootstrap_mean_interval(reward),
    )


def shared_seeds(environment: str, seeds: Collection[int], other: Mapping[str, Any]) -> set[int]:
    """The seeds of an evaluation that is to be compared with what ``metrics.json`` of another holds.

    Raises:
        UsageError: the other was done in another environment, or on other seeds.
    """
    if other["evaluated"]["environment"] != environment:
        raise UsageError(
            f"cannot compare an evaluation in {environment} with one in {other['evaluated']['environment']}"
        )
    theirs = {episode["seed"] for episode in other["episodes"]}
    if not (shared := set(seeds) & theirs):
        raise UsageError(
            f"the two evaluations share no seed: {min(seeds)} to {max(seeds)} and {min(theirs)} to {max(theirs)}; "
            "evaluate both with the same --seed and --episodes"
        )
    return shared
