"""The page of a learning curve: every run, the fitted curve, and what more demonstrations would bring."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from robodiff.evaluation.learning_curve import Cell, LearningCurve, fit_curve
from robodiff.evaluation.results import read_result
from robodiff.evaluation.runs import EPISODES_FOLDER, SEED_FOLDER
from robodiff.evaluation.seeds import SUCCESS
from robodiff.report import figures
from robodiff.report.pages import write_page

REPORT_FILE = "report.html"
POINTS = 60
"""Of the fitted curve."""
ENDS = ("95 % interval from", "to")
"""What the ends of the interval are called where their values are told."""


def write_learning_curve_report(folder: Path, page: Path | None = None) -> Path:
    """Write the page of a learning curve.

    Args:
        folder: of the learning curve.
        page: the file to write; ``report.html`` in the folder when None.

    Returns:
        The file.

    Raises:
        RobodiffError: ``learning_curve.json`` is missing or broken.
    """
    page, result = page or folder / REPORT_FILE, read_result(folder, LearningCurve)
    rows: dict[int, list[tuple[Cell, str]]] = {}
    for cell in result.cells:
        own = folder / f"{EPISODES_FOLDER}{cell.demonstrations}" / f"{SEED_FOLDER}{cell.seed}" / REPORT_FILE
        link = os.path.relpath(own, page.parent) if own.is_file() else ""
        rows.setdefault(cell.demonstrations, []).append((cell, link))
    return write_page(
        page,
        "learning_curve.html",
        title=folder.resolve().name,
        result=result,
        is_success=result.measured == SUCCESS,
        figure=_figure(result),
        rows=[(count, float(np.mean([cell.value for cell, _ in cells])), cells) for count, cells in rows.items()],
    )


def _figure(result: LearningCurve) -> str:
    """Draw every run and the fitted curve with its interval, on to twice as many demonstrations."""
    means = _means(result.cells)
    few, most = min(means), max(means)
    curve = fit_curve(result.cells, result.episodes if result.measured == SUCCESS else None)
    counts = np.unique([*np.geomspace(few, 2 * most, POINTS).round().astype(int), *means]).tolist()
    fitted = [curve.at(count) for count in counts] if curve else []

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        if fitted:
            colour, (low, high) = figures.COLOURS[1], ([each.ci95[end] for each in fitted] for end in (0, 1))
            axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0, label="95 % interval")
            axes.plot(counts, [each.value for each in fitted], color=colour, label="fitted")
            for values, label in zip((low, high), ENDS, strict=True):
                axes.plot(counts, values, color=colour, linewidth=0, label=label)
        axes.plot(
            *zip(*((cell.demonstrations, cell.value) for cell in result.cells), strict=True),
            "o", markersize=3, alpha=0.6, color=figures.COLOURS[0], label="one run",
        )  # fmt: skip
        axes.plot([*means], [*means.values()], "D", markersize=5, color=figures.COLOURS[0], label="mean over seeds")
        ticks = [*means, 2 * most] if fitted else [*means]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:.0f}")
        highest = 1.0 if result.measured == SUCCESS else 1.3 * max(cell.value for cell in result.cells)
        axes.set_ylim(0, highest)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("demonstrations")
        named = [artist for artist in axes.get_legend_handles_labels()[0] if artist.get_label() not in ENDS]
        axes.legend(handles=named, fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)

    title = "Success" if result.measured == SUCCESS else "Error, as a share of that of holding the last action"
    title = f"{title}, by number of demonstrations"
    return figures.panel(draw, title, (7.4, 3.2), above=0.25, hover="{} demonstrations")


def _means(cells: Sequence[Cell]) -> Mapping[int, float]:
    counts = sorted({cell.demonstrations for cell in cells})
    return {count: float(np.mean([cell.value for cell in cells if cell.demonstrations == count])) for count in counts}
