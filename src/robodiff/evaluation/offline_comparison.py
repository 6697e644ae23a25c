"""Two policies at the same windows of a recording: whose actions are closer to the recorded ones, and how certainly."""

from pathlib import Path

import numpy as np

from robodiff.data.episodes import same_unit
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import check_conditions, titles
from robodiff.evaluation.conditions import TRAINED_ON
from robodiff.evaluation.results import (
    DimensionDifference,
    DimensionErrors,
    Interval,
    OfflineComparison,
    OfflineResult,
    StepDifference,
    read_result,
)
from robodiff.evaluation.statistics import clustered_ratio_interval
from robodiff.evaluation.window_errors import WindowErrors, read_windows

BY_HEART = " Both were trained on these episodes: it tells how well they know them by heart."
"""Added to a conclusion about such episodes."""


def compare_offline(
    first: Path, second: Path, name: str = "the first", against: str = "the second"
) -> OfflineComparison:
    """Compare two evaluations at the windows that they share, over the steps that both execute.

    The noise of a window is the same for both. Dimensions count in units of the mean action's error, as in
    ``offline.relative``, and errors are told as shares of that of holding the last action, which is the same for both.
    Windows of one episode resemble each other: intervals are over episodes (``clustered_ratio_interval``).

    Args:
        first: folder of the evaluation of interest.
        second: that of what it is held against.
        name: of the first, in the conclusion.
        against: the name of the second.

    Raises:
        UsageError: other recordings, episodes, rates, noise or actions, no window in common, or nothing moves.
        RobodiffError: files that are missing or broken.
    """
    result, other = (read_result(folder, OfflineResult) for folder in (first, second))
    check_conditions(result.evaluated, other.evaluated, name, against)
    _check_actions(result.dimensions, other.dimensions, f"{name} against {against}")
    both = list(zip(result.dimensions, other.dimensions, strict=True))
    moving = [place for place, pair in enumerate(both) if all(each.moves for each in pair)]
    sums, recorded = _by_episode(read_windows(first, result), read_windows(second, other), moving)
    scale = [
        sum(each.mean for each in both[place]) / 2 for place in moving
    ]  # theirs may differ: so do training episodes
    scaled = (sums / scale).sum(3)  # (3, K, n)
    ours, theirs, hold = scaled.sum((1, 2)).tolist()
    if not hold > 0:
        raise UsageError(f"{name} against {against}: they share no window in which the recorded actions move")
    interval = clustered_ratio_interval((scaled[0] - scaled[1]).sum(1), scaled[2].sum(1))
    called = titles(result.evaluated, other.evaluated, name, against)
    learnt = BY_HEART if result.evaluated.which == TRAINED_ON else ""
    by_step = scaled.sum(1) / recorded.sum(0) * recorded.sum() / hold  # (3, n)
    return OfflineComparison(
        against=against,
        windows=int(recorded[:, 0].sum()),
        episodes=len(recorded),
        executed=recorded.shape[1],
        first=ours / hold,
        second=theirs / hold,
        difference=(ours - theirs) / hold,
        difference_ci95=interval,
        dimensions=_dimensions([other.dimensions[place] for place in moving], sums.sum(2), recorded.sum(1)),
        steps=[StepDifference(step=k, first=a, second=b, hold=h) for k, (a, b, h) in enumerate(by_step.T.tolist())],
        conclusion=_conclude(*called, ours / hold, theirs / hold, interval, len(recorded)) + learnt,
        evaluated=result.evaluated,
        evaluated_against=other.evaluated,
    )


def _check_actions(first: list[DimensionErrors], second: list[DimensionErrors], pair: str) -> None:
    """Check that errors of the same actions, in the same units, are compared."""
    shapes = [[each.name for each in errors if each.name.startswith("rotation ")] for errors in (first, second)]
    if len(first) != len(second) or shapes[0] != shapes[1]:
        listed = [", ".join(each.name for each in errors) for errors in (first, second)]
        remedy = "train both with the same action_rotations"
        raise UsageError(f"{pair}: cannot compare errors of {listed[0]} with those of {listed[1]}\n{remedy}")
    for one, other in zip(first, second, strict=True):
        if not same_unit(one.unit, other.unit):
            remedy = "train both on data in one unit"
            raise UsageError(f"{pair}: cannot compare {one.name} in {one.unit} with {other.unit}\n{remedy}")


def _by_episode(first: WindowErrors, second: WindowErrors, moving: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return sums over the shared windows of each episode.

    Returns:
        Errors (3, K, n, E) of the first, of the second and of holding, over the n steps that both execute; and the
        windows (K, n) that have a recorded action at each step.
    """
    _, ours, theirs = np.intersect1d(first.frames, second.frames, return_indices=True)
    steps = slice(min(first.policy.shape[1], second.policy.shape[1]))
    each = first.policy[ours], second.policy[theirs], first.hold[ours]
    errors = np.stack([array[:, steps][..., moving] for array in each], axis=1).astype(np.float64)  # (W, 3, n, E)
    numbers, episode = np.unique(first.episodes[ours], return_inverse=True)
    sums, recorded = np.zeros((len(numbers), *errors.shape[1:])), np.zeros((len(numbers), errors.shape[2]))
    np.add.at(sums, episode, np.nan_to_num(errors))
    np.add.at(recorded, episode, np.isfinite(errors[:, 2]).all(2))
    some = recorded.any(0)  # the last steps may lie beyond the end of every episode
    return sums.swapaxes(0, 1)[:, :, some], recorded[:, some]


def _dimensions(moving: list[DimensionErrors], sums: np.ndarray, recorded: np.ndarray) -> list[DimensionDifference]:
    """Return the mean errors in each dimension, from sums (3, K, E) over so many recorded actions (K,)."""
    dimensions = []
    for place, each in enumerate(moving):
        first, second, hold = (sums[:, :, place].sum(1) / recorded.sum()).tolist()
        interval = clustered_ratio_interval(sums[0, :, place] - sums[1, :, place], recorded)
        difference = DimensionDifference(
            name=each.name, unit=each.unit, first=first, second=second, hold=hold, difference_ci95=interval
        )
        dimensions.append(difference)
    return dimensions


def _conclude(name: str, against: str, ours: float, theirs: float, interval: Interval | None, episodes: int) -> str:
    """Say in one sentence which of two is closer to the recorded actions, or that it cannot be said."""
    shares = f"{100 * ours:.1f} % against {100 * theirs:.1f} % of the error of holding the last action"
    if interval is None:
        return f"One episode does not decide between {name} and {against}: {shares}."
    low, high = (100 * end for end in interval)
    points = f"{100 * (ours - theirs):+.1f} points, 95 % interval {low:+.1f} to {high:+.1f} over {episodes} episodes"
    if low <= 0 <= high:
        return f"These {episodes} episodes do not decide between {name} and {against}: {shares} ({points})."
    better, worse = (name, against) if high < 0 else (against, name)
    return f"{better} is closer to the recorded actions than {worse}: {name} errs by {shares} ({points})."
