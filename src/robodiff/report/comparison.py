"""One page that sets several runs beside each other, the first being what others are held against."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.comparison import compare, not_alike, unequal
from robodiff.evaluation.conditions import AGAIN, ANOTHER, SAME_SEEDS, STRIDE, Condition
from robodiff.evaluation.offline_comparison import compare_offline
from robodiff.evaluation.results import OfflineComparison
from robodiff.evaluation.runs import Evaluation, OfflineEvaluation, Run, read_run
from robodiff.report import figures
from robodiff.report.answers import E, answer, command, current, measuring, size
from robodiff.report.clips import MOST_VALUES, clips_of
from robodiff.report.pages import write_page
from robodiff.text import counted, shortened

_MOST_PAIRS = 100
"""Of episodes on one page."""


@dataclass(frozen=True)
class _Row(Generic[E]):
    """One run of the page, measured in one of the two ways."""

    name: str
    run: Run
    measured: Sequence[E]
    """The evaluations of its present policy."""
    evaluation: E | None = None
    """The one that counts; None where there is none."""
    paired: Any = None
    """The ``Comparison`` or ``OfflineComparison`` with that of the first run."""

    @property
    def conditions(self) -> str:
        """In words, under which it was measured if not under its own."""
        return "; ".join(self.run.what_if(self.evaluation.result.evaluated)) if self.evaluation else ""


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page that compares the policies of several runs with that of the first.

    Success in an environment and the error on recorded episodes are compared each for itself. Of each run the
    evaluation counts that stands for its policy; where these were not made under equal conditions, others that were.

    Raises:
        UsageError: one of the folders is not a run, two are the same, or there are evaluations of two, but none that
            were made under equal conditions; of the error on recorded episodes the page says so, if the rest can be
            compared.
    """
    names = _names(folders)
    runs = {name: read_run(folder) for name, folder in zip(names, folders, strict=True)}
    in_env = _compared([_Row(name, run, current(run, run.evaluations)) for name, run in runs.items()])
    offline, why_not = [_Row(name, run, current(run, run.offline)) for name, run in runs.items()], ""
    try:
        offline = _compared(offline)
    except RobodiffError as error:
        if not any(row.paired for row in in_env):
            raise
        offline, why_not = [], str(error)
    env = _environment(in_env[0].evaluation)
    return write_page(
        out,
        "comparison.html",
        title=" against ".join(names) if len(names) == 2 else f"{len(names)} runs",
        rows=in_env,
        offline=offline,
        why_not=why_not,
        commands={name: command(run, env) for name, run in runs.items()},
        pairs=_pairs(in_env),
        scores={row.name: _scores(row.evaluation) for row in in_env if row.evaluation},
        steps={row.name: _by_step(row.paired, row.name, names[0]) for row in offline if row.paired},
        curves=figures.curves(
            {part: each.curves for name, run in runs.items() for part, each in run.parts(name).items()},
            _success(in_env),
        ),
        disagreements=_disagreements(in_env),
        differences=_differences([run.options for run in runs.values()]),
    )


def _compared(rows: Sequence[_Row[E]]) -> list[_Row[E]]:
    """Return the rows, each with an evaluation, those of all made under equal conditions, and its comparison.

    Raises:
        UsageError: there are evaluations of two, but none that were.
    """
    first, *others = rows
    if not first.measured:
        return [replace(row, evaluation=answer(row.run, row.measured)) for row in rows]
    bases = _standing_first(first)
    for base in bases:
        chosen = [next((one for one in _standing_first(row) if _differing(one, base) is None), None) for row in others]
        if all(one or not row.measured for one, row in zip(chosen, others, strict=True)):
            compared = [_paired(row, one, first.name, base) for row, one in zip(others, chosen, strict=True)]
            return [replace(first, evaluation=base), *compared]
    misfits = [
        (row, pair) for row in others if row.measured and (pair := _differing(_standing_first(row)[0], bases[0]))
    ]
    row, pair = misfits[0]
    raise not_alike(pair, row.name, first.name, _remedy(pair, row.run, first.run, _environment(bases[0])))


def _environment(evaluation: Evaluation | OfflineEvaluation | None) -> str | None:
    return evaluation.result.evaluated.environment if isinstance(evaluation, Evaluation) else None


def _scores(evaluation: Evaluation) -> str:
    """Return the figure of an evaluation's episodes."""
    return figures.scores(evaluation.result.episodes, evaluation.result.evaluated.success_reward)


def _success(rows: Sequence[_Row[Evaluation]]) -> float | None:
    """Return the reward that counts as success in the first evaluation."""
    return next((row.evaluation.result.evaluated.success_reward for row in rows if row.evaluation), None)


def _standing_first(row: _Row[E]) -> list[E]:
    """Return the evaluations of a run, the one that stands for its policy first and then the largest."""
    standing = answer(row.run, row.measured)
    return sorted(row.measured, key=lambda each: (each is standing, size(each)), reverse=True)


def _differing(one: E, other: E) -> tuple[Condition, Condition] | None:
    """Return a condition that two evaluations do not share: of episodes also their seeds, where they share none, and
    whether each policy sampled in its own way, for the page shows what stands for each."""
    both = one.result.evaluated, other.result.evaluated
    if pair := unequal(one.result.evaluated, other.result.evaluated):
        return pair
    ways = [Condition(each.is_own, f"sampled by {each.way}", AGAIN) for each in both]
    if isinstance(one, Evaluation) and isinstance(other, Evaluation):
        seeds = [{episode.seed for episode in each.result.episodes} for each in (one, other)]
        if not seeds[0] & seeds[1]:
            ways = [Condition(each, f"on seeds {min(each)} to {max(each)}", SAME_SEEDS) for each in seeds]
    return (ways[0], ways[1]) if ways[0].value != ways[1].value else None


def _remedy(pair: tuple[Condition, Condition], run: Run, first: Run, env: str | None) -> str:
    """Return what to do where two runs were measured under other conditions; the command, where one helps."""
    if pair[0].remedy in (ANOTHER, STRIDE):
        return pair[0].remedy
    return f"measure both in one way: {measuring(run, env, '--against', str(first.folder))}"


def _paired(row: _Row[E], one: E | None, against: str, base: E) -> _Row[E]:
    """Return the row with an evaluation of its run, and its comparison with that of the first run."""
    paired = None
    if isinstance(one, Evaluation) and isinstance(base, Evaluation):
        paired = compare(one.result, base.result, row.name, against)
    elif one is not None:
        paired = compare_offline(one.folder, base.folder, row.name, against)
    return replace(row, evaluation=one, paired=paired)


def _pairs(rows: Sequence[_Row[Evaluation]]) -> dict[str, Any] | None:
    """Return what ``comparison.js`` shows: of each run the episodes of seeds that it and the first were measured on.

    Where there are many, those on which they disagree and then those whose rewards differ most.
    """
    of_rows = [(shortened(row.name, 40), clips_of(row.evaluation)) for row in rows]
    clips = [(name, kept) for name, kept in of_rows if kept]
    if of_rows[0][1] is None or len(clips) < 2:
        return None
    first, walls = of_rows[0][1], []
    panels = [(name, unit, lines[-1:]) for name, unit, lines in first.panels(MOST_VALUES // len(clips))]
    of_first = {each.seed: each for each in first.episodes}
    for name, other in clips[1:]:
        both = [(of_first[each.seed], each) for each in other.episodes if each.seed in of_first]
        both.sort(key=lambda pair: (pair[0].success == pair[1].success, -abs(pair[0].max_reward - pair[1].max_reward)))
        seeds = [one.seed for one, _ in both[: _MOST_PAIRS // (len(clips) - 1)]]
        walls.append((name, seeds, other.of(seeds)))
    shown = {seed for _, seeds, _ in walls for seed in seeds}
    if not shown:
        return None
    return {
        "first": {"name": clips[0][0], **first.of(shown).wall(panels, len(clips))},
        "others": [{"name": name, "seeds": seeds, **other.wall(panels, len(clips))} for name, seeds, other in walls],
    }


def _by_step(paired: OfflineComparison, name: str, against: str) -> str:
    """Return the figure of the errors of two policies at each step."""
    errors = {name: [step.first for step in paired.steps], against: [step.second for step in paired.steps]}
    return figures.errors_by_step(errors, [step.hold for step in paired.steps], executed=paired.executed)


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


def _disagreements(rows: Sequence[_Row[Evaluation]]) -> str:
    """Say on which seeds one of two alone succeeds; empty where they are not compared, or are more than two."""
    pairs = [(row.name, row.evaluation.result.episodes) for row in rows if row.evaluation]
    if len(rows) != 2 or len(pairs) != 2:
        return ""
    outcomes = [{episode.seed: episode.success for episode in episodes} for _, episodes in pairs]
    sentences = []
    for (name, _), own, other in zip(pairs, outcomes, reversed(outcomes), strict=True):
        seeds = sorted(seed for seed, success in own.items() if success and other.get(seed) is False)
        which = f"{counted(len(seeds), 'seed')}: {', '.join(map(str, seeds))}" if seeds else "no seed"
        sentences.append(f"{name} alone succeeds on {which}.")
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
