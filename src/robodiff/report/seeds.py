"""The page of a run with several training seeds: what they were measured at together, and a way to each one's page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, PercentFormatter

from robodiff.evaluation.results import read_result
from robodiff.evaluation.runs import Run, read_run, seed_runs
from robodiff.evaluation.seeds import SUCCESS, SeedMeasured, SeedsComparison, SeedsResult
from robodiff.policies.checkpoint import policy_hash
from robodiff.report import figures
from robodiff.report.answers import is_made, measuring
from robodiff.report.pages import write_page

REPORT_FILE = "report.html"


def write_seeds_report(folder: Path, page: Path, evaluation: Path | None = None) -> Path:
    """Write the page of a run with several training seeds.

    Of its evaluations the latest counts that measured the present policies under their own conditions.

    Args:
        folder: that holds the runs.
        page: the file to write.
        evaluation: the folder of the evaluation to tell of, where it is not inside ``folder``.

    Returns:
        The file.

    Raises:
        RobodiffError: one of its files is broken.
    """
    runs = {seed: read_run(run) for seed, run in seed_runs(folder).items()}
    places = folder.glob(f"eval/*/{SeedsResult.file}") if evaluation is None else [evaluation / SeedsResult.file]
    files = sorted(places, key=lambda path: (-path.stat().st_mtime, path))
    results = {file.parent: read_result(file.parent, SeedsResult) for file in files}
    now = {policy_hash(run.folder / "policy") for run in runs.values() if is_made(run)}
    current = [place for place, result in results.items() if now == {each.policy for each in result.members}]
    place = next((each for each in current if not results[each].what_if), None) if evaluation is None else evaluation
    answer = results[place] if place else None
    measured: Mapping[int, SeedMeasured] = {each.seed: each for each in answer.members} if answer else {}
    some = next(iter(runs.values()))
    return write_page(
        page,
        "seeds.html",
        title=folder.resolve().name,
        answer=answer,
        is_success=answer is not None and answer.measured == SUCCESS,
        figure=_figure(answer) if answer else "",
        comparison=_conclusion(place, answer),
        rows=[(seed, _link(run, page), run, measured.get(int(seed))) for seed, run in runs.items()],
        others=[(each.name, result) for each, result in results.items() if each != place],
        command=measuring(some, some.env).replace(str(some.folder), str(folder), 1),
        curves=figures.curves({f"seed {seed}": run.curves for seed, run in runs.items()}),
        config=some.config,
    )


def _link(run: Run, page: Path) -> str:
    """Return the way from a page to that of a run; empty where it has none."""
    own = run.folder / REPORT_FILE
    return os.path.relpath(own, page.parent) if own.is_file() else ""


def _conclusion(place: Path | None, answer: SeedsResult | None) -> str:
    """Return what a comparison of these policies concluded; empty where there is none."""
    if place is None or answer is None or not (place / SeedsComparison.file).is_file():
        return ""
    paired = read_result(place, SeedsComparison)
    return paired.conclusion if {*paired.policies} <= {each.policy for each in answer.members} else ""


def _figure(result: SeedsResult) -> str:
    """Draw each policy with its interval, and the mean over all with that of the recipe."""

    def draw(axes: Axes) -> None:
        places = range(len(result.members))
        values = [each.value for each in result.members]
        bars = _bars(result.members)
        axes.errorbar(places, values, bars, fmt="o", markersize=5, capsize=3, color=figures.COLOURS[0])
        axes.axhline(result.mean, color=figures.COLOURS[1], linewidth=1.2, label="mean over training seeds")
        if result.mean_ci95 is not None:
            axes.axhspan(*result.mean_ci95, color=figures.COLOURS[1], alpha=0.15, linewidth=0, label="its interval")
        highest = 1.0 if result.measured == SUCCESS else max(*values, *(result.mean_ci95 or ()))
        axes.set_ylim(0, 1.05 * highest)
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(lambda place, _: str(result.members[round(place)].seed))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("training seed")
        axes.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)

    title = "Success" if result.measured == SUCCESS else "Error, as a share of that of holding the last action"
    return figures.panel(draw, f"{title}, by training seed", (7.4, 2.5), above=0.25)


def _bars(members: Sequence[SeedMeasured]) -> list[list[float]] | None:
    """Return how far intervals reach below and above each value; None where there are none."""
    known = [(each.value, each.ci95) for each in members if each.ci95 is not None]
    return [[value - ci[0] for value, ci in known], [ci[1] - value for value, ci in known]] if known else None
