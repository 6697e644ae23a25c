"""How success, or the error, depends on the number of demonstrations, and what more of them would bring.

The curve is a power law with an asymptote, y = c + a n^-b, in n demonstrations: y is the error or, of success, its
log-odds, so that it stays between 0 and 1. The exponent b goes from 0, where the law becomes c + a log n, to
``STEEPEST``. For each b the rest is linear; the interval of what the curve predicts is that of all curves which the
measurements do not exclude (the profile likelihood), so it is wide where an asymptote cannot be told from a slow rise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robodiff.evaluation.conditions import Count, Number
from robodiff.evaluation.results import Interval, Result
from robodiff.evaluation.seeds import SUCCESS
from robodiff.evaluation.statistics import student_quantile
from robodiff.text import counted

STEEPEST = 2.0
"""The largest exponent of the power law."""
EXPONENTS = np.linspace(0, STEEPEST, 41)
PARAMETERS = 3
"""Of the curve: a, b and c."""
NORMAL = 1.959963984540054
"""The quantile of the normal distribution that 95 of 100 lie within, in either direction."""
MORE = 50
"""Demonstrations of which the conclusion says what they would bring."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a learning curve."""

    demonstrations: Count
    seed: Count
    value: Number
    """Success, or the error as a share of that of holding the last action."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a number of demonstrations would lead to, as the mean over training seeds."""

    demonstrations: Count
    value: Number
    ci95: Interval


@dataclass(frozen=True, kw_only=True)
class LearningCurve(Result):
    """Success, or the error, against the number of demonstrations."""

    file = "learning_curve.json"
    advice = "make it again with robodiff learning-curve"

    measured: Literal["success", "error"]
    where: str
    """The environment, or the recording."""
    episodes: Count
    """On which each run was measured."""
    cells: list[Cell]
    predictions: list[Prediction]
    """For the largest number that was measured, for ``MORE`` more, and for twice as many; none where the cells are too
    few."""
    conclusion: str
    """In a sentence or two: what more demonstrations would bring."""


class FittedCurve:
    """The power law that fits some cells, and all that they do not exclude.

    Args:
        cells: at least ``PARAMETERS`` + 1, of two numbers of demonstrations or more.
        episodes: on which each was measured, where that was success; None of an error.
    """

    def __init__(self, cells: Sequence[Cell], episodes: int | None) -> None:
        counts = np.array([each.demonstrations for each in cells], np.float64)
        values = np.array([each.value for each in cells], np.float64)
        self.largest, self.is_success = counts.max(), episodes is not None
        if episodes is not None:
            values = (values * episodes + 0.5) / (episodes + 1)  # their log-odds are finite
        means = np.array([values[counts == count].mean() for count in counts])
        if self.is_success:
            targets, weights = np.log(values / (1 - values)), means * (1 - means)  # log-odds vary with its inverse
        else:
            targets, weights = values, np.maximum(means, 1e-9) ** -2  # chance varies an error in proportion
        root = np.sqrt(weights / weights.mean())  # (N,)
        design = self._basis(counts) * root[:, None]  # (B, N, 2), B exponents
        inverse = np.linalg.pinv(design)  # (B, 2, N)
        self._theta = inverse @ (targets * root)  # (B, 2)
        self._covariance = inverse @ inverse.swapaxes(1, 2)  # (B, 2, 2)
        misfits = ((design @ self._theta[..., None])[..., 0] - targets * root) ** 2
        squares = misfits.sum(1)  # (B,)
        freedom = len(cells) - PARAMETERS
        # Of success, chance is at least that of so many episodes, which is known.
        least = 0.0 if episodes is None else NORMAL**2 / (episodes * weights.mean())
        allowed = squares.min() + max(student_quantile(freedom) ** 2 * squares.min() / freedom, least)
        self._best = int(squares.argmin())
        self._within = squares <= allowed
        self._room = np.maximum(allowed - squares, 0)  # (B,)

    def at(self, demonstrations: int) -> Prediction:
        """Return what so many demonstrations lead to."""
        value, low, high = self._ends(self._basis(np.array([float(demonstrations)]))[:, 0])
        if self.is_success:
            value, low, high = (1 / (1 + math.exp(-min(max(end, -30.0), 30.0))) for end in (value, low, high))
        else:
            value, low, high = (max(0.0, end) for end in (value, low, high))
        return Prediction(demonstrations=demonstrations, value=value, ci95=(low, high))

    def helps(self, few: int, many: int) -> bool:
        """Tell whether the cells show that many demonstrations are better than few."""
        _, low, high = self._ends(np.subtract(*self._basis(np.array([many, few], np.float64)).swapaxes(0, 1)))
        return low > 0 if self.is_success else high < 0

    def _basis(self, counts: np.ndarray) -> np.ndarray:
        """Return (B, N, 2): 1, and (1 - n^-b) / b, which is log n where b is 0."""
        logs = np.log(counts / self.largest)
        rises = [logs if b == 0 else -np.expm1(-b * logs) / b for b in EXPONENTS]
        return np.stack([np.ones((len(EXPONENTS), len(counts))), np.array(rises)], axis=-1)

    def _ends(self, rows: np.ndarray) -> tuple[float, float, float]:
        """Return the best value of what rows (B, 2) combine of the parameters, and the ends of its interval."""
        values = (rows * self._theta).sum(1)
        half = np.sqrt(np.einsum("bi,bij,bj->b", rows, self._covariance, rows) * self._room)
        low, high = (values - half)[self._within].min(), (values + half)[self._within].max()
        return float(values[self._best]), float(low), float(high)


def fit_curve(cells: Sequence[Cell], episodes: int | None) -> FittedCurve | None:
    """Return the curve that fits some cells; None where they are too few, or of one number of demonstrations."""
    is_enough = len(cells) > PARAMETERS and len({each.demonstrations for each in cells}) > 1
    return FittedCurve(cells, episodes) if is_enough else None


def learning_curve(
    cells: Sequence[Cell], measured: Literal["success", "error"], where: str, episodes: int
) -> LearningCurve:
    """Return a learning curve, with what more demonstrations would bring."""
    curve = fit_curve(cells, episodes if measured == SUCCESS else None)
    few, most = (end(each.demonstrations for each in cells) for end in (min, max))
    predictions = [] if curve is None else [curve.at(number) for number in (most, most + MORE, 2 * most)]
    return LearningCurve(
        measured=measured,
        where=where,
        episodes=episodes,
        cells=list(cells),
        predictions=predictions,
        conclusion=_conclude(predictions, measured, curve is not None and curve.helps(few, most), few, len(cells)),
    )


def _conclude(predictions: Sequence[Prediction], measured: str, helps: bool, few: int, cells: int) -> str:
    if not predictions:
        return (
            f"{counted(cells, 'run')} cannot say what more demonstrations would bring: it takes more than "
            f"{PARAMETERS}, with two numbers of --episodes or more."
        )
    now, more, twice = predictions
    if helps:
        shown = f"From {few} to {now.demonstrations} demonstrations, more are better."
    else:
        shown = (
            f"These {cells} runs do not show that {now.demonstrations} demonstrations are better than {few}: "
            "more --seeds, or --episodes farther apart, would tell."
        )
    return (
        f"{shown} The fitted {measured} is {_told(now)} with {now.demonstrations}; {MORE} more would make it "
        f"{_told(more)}, twice as many {_told(twice)}, if the curve goes on as it does."
    )


def _told(prediction: Prediction) -> str:
    return f"{prediction.value:.2f} (95 % interval {prediction.ci95[0]:.2f} to {prediction.ci95[1]:.2f})"
