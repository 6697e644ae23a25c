"""The page of a blind trial: its answer, how the interval narrowed, and every episode in the order of play."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robodiff.evaluation.results import read_result
from robodiff.evaluation.sequential import anytime_interval, tally
from robodiff.evaluation.trial import Answer, Trial
from robodiff.report import figures
from robodiff.report.pages import write_page

REPORT_FILE = "report.html"
POINTS = 200
"""Pairs after which the figure has an interval."""


def write_trial_report(folder: Path, page: Path | None = None) -> Path:
    """Write the page of a trial; until it has ended, nothing on it says which policy acted.

    Args:
        folder: of the trial.
        page: the file to write; ``report.html`` in the folder when None.

    Returns:
        The file.

    Raises:
        RobodiffError: ``trial.json`` is missing or broken.
    """
    trial = read_result(folder, Trial)
    names = [policy.name for policy in trial.setup.policies]
    episodes = [
        (each, names[trial.setup.actor(each.pair, each.turn)] if trial.answer else "") for each in trial.attempts
    ]
    return write_page(
        page or folder / REPORT_FILE,
        "trial.html",
        title=" against ".join(names),
        trial=trial,
        episodes=episodes,
        figure=_figure(trial.answer, trial.stopping.smallest_difference) if trial.answer else "",
    )


def _figure(answer: Answer, smallest: float | None) -> str:
    """Draw the difference in success, with its interval, as it was known after each pair."""
    every = -(-len(answer.pairs) // POINTS)
    counts = [*range(every, len(answer.pairs), every), len(answer.pairs)]
    means, lows, highs = [], [], []
    for count in counts:
        first, second = ({each.pair: each.successes[which] for each in answer.pairs[:count]} for which in (0, 1))
        only_first, only_second, pairs = tally(first, second)
        low, high = anytime_interval(only_first, only_second, pairs)
        means.append((only_first - only_second) / pairs)
        lows.append(low)
        highs.append(high)

    def draw(axes: Axes) -> None:
        axes.fill_between(counts, lows, highs, color=figures.COLOURS[0], alpha=0.2, linewidth=0, label="95 % interval")
        axes.plot(counts, means, "o-", markersize=3, color=figures.COLOURS[0], label="so far")
        axes.axhline(0, color="grey", linewidth=1)
        for place in () if smallest is None else (-smallest, smallest):
            label = "smallest that matters" if place > 0 else None
            axes.axhline(place, color="grey", linestyle="--", linewidth=1, label=label)
        axes.set_ylim(-1, 1)
        axes.set_xlabel("pairs of episodes")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)

    return figures.panel(draw, "Difference in success, after each pair", (7.4, 2.5), above=0.25)
