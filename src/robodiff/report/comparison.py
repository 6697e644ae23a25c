"""One page that sets several runs beside each other, the first being what others are held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.results import Comparison
from robodiff.evaluation.runs import Evaluation, Run, read_run
from robodiff.report import figures
from robodiff.report.pages import write_page
from robodiff.report.run import is_current
from robodiff.text import counted


@dataclass(frozen=True)
class _Row:
    """One run of the page."""

    name: str
    run: Run
    evaluation: Evaluation | None
    """The one that counts; None where its policy was not evaluated."""
    paired: Comparison | None
    """With that of the first run."""
    why_not: str
    """Why it is not compared with the first."""
    scores: str
    """The figure of all episodes."""


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page that compares the policies of several runs with that of the first.

    Of a run's evaluations the largest counts; of the others' one that was done in the same way, if there is one.

    Raises:
        UsageError: one of the folders is not a run, or two are the same.
    """
    names, rows = _names(folders), []
    for name, folder in zip(names, folders, strict=True):
        rows.append(_row(name, read_run(folder), rows[0] if rows else None))
    return write_page(
        out,
        "comparison.html",
        title=" against ".join(names) if len(names) == 2 else f"{len(names)} runs",
        rows=rows,
        curves=figures.curves({row.name: row.run.curves for row in rows}),
        disagreements=_disagreements(rows[1], rows[0]) if len(rows) == 2 and rows[1].paired else "",
        differences=_differences([row.run.options for row in rows]),
    )


def _row(name: str, run: Run, first: _Row | None) -> _Row:
    baseline = None if first is None else first.evaluation
    evaluation, paired = _like(run, baseline), None
    why_not = "the first" if first is None else f"{first.name} was not evaluated"
    if evaluation and first and baseline:
        try:
            paired = compare(evaluation.result, baseline.result, name, first.name)
        except UsageError as error:
            why_not = str(error)
    scores = "" if evaluation is None else figures.scores(evaluation.result.episodes)
    return _Row(name, run, evaluation, paired, why_not, scores)


def _like(run: Run, other: Evaluation | None) -> Evaluation | None:
    """Return the largest evaluation of the run's policy, the latest of those; first of all one done as ``other``."""

    def conditions(evaluation: Evaluation) -> tuple[Any, ...]:
        evaluated = evaluation.result.evaluated
        return evaluated.environment, evaluated.first_seed, evaluated.sampler, evaluated.steps

    return max(
        (evaluation for evaluation in run.evaluations if is_current(run, evaluation.result.evaluated)),
        key=lambda e: (other is not None and conditions(e) == conditions(other), len(e.result.episodes)),
        default=None,
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UsageError("the same run was given twice")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError  # different paths differ somewhere


def _disagreements(second: _Row, first: _Row) -> str:
    pairs = [(row.name, row.evaluation.result.episodes) for row in (first, second) if row.evaluation]
    outcomes = {name: {episode.seed: episode.success for episode in episodes} for name, episodes in pairs}
    sentences = []
    for name, other in ((first.name, second.name), (second.name, first.name)):
        seeds = sorted(
            seed for seed, success in outcomes[name].items() if success and outcomes[other].get(seed) is False
        )
        sentences.append(
            f"{name} alone succeeds on {counted(len(seeds), 'seed')}: {', '.join(map(str, seeds)) or 'none'}."
        )
    return " ".join(sentences)


def _differences(configurations: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Return the options whose values differ, each with its values."""
    flat = [dict(_flatten(configuration)) for configuration in configurations]
    options = dict.fromkeys(option for each in flat for option in each)
    values = {option: [str(each.get(option, "")) for each in flat] for option in options}
    return [(option, row) for option, row in values.items() if len(set(row)) > 1]


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [item for k, v in value.items() for item in _flatten(v, f"{prefix}.{k}" if prefix else str(k))]
