"""The report: one HTML file that answers, shows and explains, and opens without a network.

``write_report`` makes that of one run, ``write_comparison`` sets several beside each other. What a run lacks (an
evaluation, its demonstrations) is left out, and the page says so.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robodiff import documents
from robodiff.data.check import findings_in
from robodiff.data.episodes import Episodes
from robodiff.data.windows import WindowShape
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.runs import COMPARISON_FILE, Evaluation, Run, read_run
from robodiff.files import read_json
from robodiff.policies.checkpoint import policy_hash
from robodiff.report import figures
from robodiff.report.pages import write_page
from robodiff.report.predictions import draw_predictions
from robodiff.report.recording import describe, histograms

REPORT_FILE = "report.html"
SAMPLES = 8
_COMPARE_AGAIN = "compare again with robodiff eval --against"
_MOST_HISTOGRAMS = 8  # of each key
_MOST_ERRORS = 8  # lines in one panel
_MOST_VIDEO_BYTES = 30_000_000


def write_report(
    run: Run,
    episodes: Episodes | None = None,
    trained_on: Sequence[int] = (),
    held_out: Sequence[int] = (),
    no_data: str = "",
    env: str | None = None,
    window: WindowShape | None = None,
) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        run: from ``read_run``, or ``Run.of_evaluation`` for an evaluation without one.
        episodes: the recording; None where it cannot be read any more.
        trained_on: the episodes of it that the policy was trained on.
        held_out: those that were held out, at whose observations the policy is shown; where none were, at those of
            ``trained_on``, and the page says so.
        no_data: why there are no episodes.
        env: the environment that draws scenes; the one of the latest evaluation when None.
        window: the time steps of a training sample, with which the demonstrations are checked; None leaves it out.

    Returns:
        The file.
    """
    measured = _of_this_policy(run)
    answer = _answer(measured[0], run.folder) if measured else None
    env = run.evaluations[0].metrics["evaluated"]["environment"] if env is None and run.evaluations else env
    chunks, denoising, cameras = [], [], []
    if episodes is not None and (run.folder / "policy" / "config.json").is_file():
        shown = held_out or trained_on
        chunks, denoising, cameras = draw_predictions(run.folder / "policy", episodes, shown, env, SAMPLES)
    return write_page(
        run.folder / REPORT_FILE,
        "report.html",
        title=f"{run.name}: {100 * answer['metrics']['success_rate']:.0f} % success" if answer else run.name,
        run=run,
        answer=answer,
        training=_training(run),
        rollouts=_last_rollouts(run),
        others=len(run.evaluations) - len(measured),
        comparisons=_comparisons(measured),
        curves=figures.curves({run.name: run.curves}),
        offline=_offline(run),
        chunks=chunks,
        denoising=denoising,
        cameras=cameras,
        samples=SAMPLES,
        held_out=bool(held_out),
        data=_data(episodes) if episodes is not None else None,
        findings=findings_in(episodes, window) if episodes is not None and window is not None else [],
        no_data=no_data,
        evaluations=run.evaluations,
    )


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page that compares the policies of several runs, the first being what others are held against.

    Of a run's evaluations the largest counts; of the others' one that was done in the same way, if there is one.

    Raises:
        UsageError: one of the folders is not a run, or two are the same.
    """
    runs = [read_run(folder) for folder in folders]
    names = _names(folders)
    rows: list[dict[str, Any]] = []
    disagreements = ""
    for name, run in zip(names, runs, strict=True):
        evaluation = _like(_of_this_policy(run), rows[0]["evaluation"] if rows else None)
        row = {"name": name, "folder": run.folder, "evaluation": evaluation, "paired": None, "sentence": ""}
        row["why_not"] = "the first" if not rows else f"{names[0]} was not evaluated"
        if evaluation is not None:
            row["scores"] = figures.scores(evaluation.metrics["episodes"])
            if rows and rows[0]["evaluation"] is not None:
                try:
                    row["paired"] = compare(evaluation.metrics, rows[0]["evaluation"].metrics)
                    row["sentence"] = row["paired"].conclusion(name, names[0])
                except UsageError as error:
                    row["why_not"] = str(error)
        rows.append(row)
    if len(rows) == 2 and rows[1]["paired"] is not None:
        disagreements = _disagreements(rows[1], rows[0])
    return write_page(
        out,
        "comparison.html",
        title=" against ".join(names) if len(names) == 2 else f"{len(names)} runs",
        rows=rows,
        curves=figures.curves({name: run.curves for name, run in zip(names, runs, strict=True)}),
        disagreements=disagreements,
        differences=_differences([run.config for run in runs]),
    )


def _of_this_policy(run: Run) -> list[Evaluation]:
    """The evaluations of the policy that the run holds now: it may have been trained on, or another been measured."""
    return [evaluation for evaluation in run.evaluations if _is_current(run, evaluation.metrics)]


def _is_current(run: Run, metrics: Mapping[str, Any]) -> bool:
    folder = run.folder / "policy"
    return not (folder / "config.json").is_file() or metrics["evaluated"]["policy"] == policy_hash(folder)


def _offline(run: Run) -> dict[str, Any] | None:
    """The latest comparison with recorded actions, one of the policy that the run holds now before all others."""
    metrics = max(run.offline, key=lambda found: _is_current(run, found), default=None)
    if metrics is None:
        return None
    dimensions, steps = metrics["dimensions"], metrics["steps"]
    scale = {place: each["mean"] for place, each in enumerate(dimensions) if each["moves"]}
    worst = sorted(scale, key=lambda place: -dimensions[place]["mae"] / scale[place])[:_MOST_ERRORS]
    errors = {dimensions[d]["name"]: [step["mae"][d] / scale[d] for step in steps] for d in sorted(worst)}
    holding = [float(np.mean([step["hold"][d] / scale[d] for d in scale])) for step in steps] if scale else []
    executed = sum(step["executed"] for step in steps)
    return {
        "metrics": metrics,
        "current": _is_current(run, metrics),
        "most": _MOST_ERRORS,
        "curves": figures.errors_by_step(errors, holding, executed) if scale else "",
    }


def _answer(evaluation: Evaluation, page: Path) -> dict[str, Any]:
    episodes = evaluation.metrics["episodes"]
    failures = sorted((e for e in episodes if not e["success"]), key=lambda e: -e["max_reward"])
    seeds = [e["seed"] for e in episodes]
    return {
        "metrics": evaluation.metrics,
        "stopped": evaluation.stopped,
        "successes": len(episodes) - len(failures),
        "seeds": f"{min(seeds)} to {max(seeds)}",
        "scores": figures.scores(episodes),
        "failures": failures,
        "median_failed": float(np.median([e["max_reward"] for e in failures])) if failures else 0.0,
        "videos": _videos(evaluation, page),
    }


def _videos(evaluation: Evaluation, page: Path) -> list[dict[str, Any]]:
    """Inside the page while they are small, else as links to the files beside it."""
    by_seed = {e["seed"]: e for e in evaluation.metrics["episodes"]}
    videos, inside = [], sum(path.stat().st_size for path in evaluation.videos) <= _MOST_VIDEO_BYTES
    for path in evaluation.videos:
        outcome, _, seed = path.stem.partition("-")
        episode = by_seed.get(int(seed)) if seed.isdigit() else None
        about = f": maximum reward {episode['max_reward']:.3f}, {episode['length']} steps" if episode else ""
        content = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() if inside else None
        source = content or os.path.relpath(path, page)
        videos.append({"source": source, "success": outcome == "success", "seed": seed, "about": about})
    return videos


def _training(run: Run) -> str:
    facts = run.facts
    if not facts:
        return ""
    rate = f", {facts['samples_per_second']:,.0f} samples/s" if facts.get("samples_per_second") else ""
    trained = (
        f"Trained for {facts['minutes']:.1f} minutes ({facts['steps']:,} optimizer steps{rate}) on {facts['machine']}."
    )
    if run.best is None:
        return f"{trained} The policy is that of the last step."
    step, measured, value = run.best
    return f"{trained} The policy was kept at step {step:,}, the best by {measured} ({value:.4g})."


def _last_rollouts(run: Run) -> str:
    if "rollout/success_rate" not in run.curves:
        return ""
    success, reward = (run.curves[f"rollout/{name}"][1][-1] for name in ("success_rate", "mean_max_reward"))
    _, stopped = run.curves.get("rollout/non_finite_actions", ([], [0.0]))
    ended = f" An action that is not finite stopped {stopped[-1]:.0f} of their episodes." if stopped[-1] else ""
    return f"The last rollouts of training gave success {success:.2f} and mean maximum reward {reward:.3f}.{ended}"


def _comparisons(evaluations: Sequence[Evaluation]) -> list[str]:
    files = [evaluation.folder / COMPARISON_FILE for evaluation in evaluations]
    return [read_json(file, _COMPARE_AGAIN).get("conclusion", "") for file in files if file.is_file()]


def _data(episodes: Episodes) -> dict[str, Any]:
    panels = [figures.histogram(episodes.lengths, "Length of episodes", "frames")]
    for key, feature in episodes.features.items():
        panels += histograms(episodes, key, _MOST_HISTOGRAMS) if feature.kind == "vector" else []
    return {**describe(episodes), "histograms": panels}


def _like(evaluations: Sequence[Evaluation], other: Evaluation | None) -> Evaluation | None:
    """The largest evaluation, the latest of those; one done as ``other`` was comes before all others."""

    def alike(evaluation: Evaluation) -> bool:
        said = [each.metrics["evaluated"] for each in (evaluation, other) if each is not None]
        same = ("environment", "first_seed", "sampler", "steps")
        return len(said) == 2 and all(said[0].get(key) == said[1].get(key) for key in same)

    return max(evaluations, key=lambda e: (alike(e), len(e.metrics["episodes"])), default=None)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UsageError("the same run was given twice")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError  # different paths differ somewhere


def _disagreements(second: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    won = [{e["seed"] for e in row["evaluation"].metrics["episodes"] if e["success"]} for row in (first, second)]
    lost = [{e["seed"] for e in row["evaluation"].metrics["episodes"] if not e["success"]} for row in (first, second)]
    parts = []
    for ours, theirs, name in ((won[0], lost[1], first["name"]), (won[1], lost[0], second["name"])):
        seeds = sorted(ours & theirs)
        parts.append(f"{name} alone succeeds on {len(seeds)} seeds: {', '.join(map(str, seeds)) or 'none'}.")
    return " ".join(parts)


def _differences(configs: Sequence[str]) -> list[tuple[str, list[str]]]:
    flat = [dict(_flatten(documents.load(config))) for config in configs]
    options = dict.fromkeys(option for config in flat for option in config)
    values = {option: [str(config.get(option, "")) for config in flat] for option in options}
    return [(option, found) for option, found in values.items() if len(set(found)) > 1]


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [item for k, v in value.items() for item in _flatten(v, f"{prefix}.{k}" if prefix else str(k))]
