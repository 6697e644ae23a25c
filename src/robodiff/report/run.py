"""The report: one HTML file that answers, shows and explains, and opens without a network.

What a run lacks (an evaluation, its demonstrations, the environment) is left out, and the page says so. It is made on
any machine that has the run's folder: neither a simulator nor the recording is needed.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.check import findings_in, in_kinds
from robodiff.data.episodes import Episodes
from robodiff.data.recordings import DataConfig
from robodiff.errors import RobodiffError
from robodiff.evaluation.results import Comparison, OfflineResult, Sampled, read_result
from robodiff.evaluation.runs import Evaluation, Run, read_run
from robodiff.policies.checkpoint import policy_hash
from robodiff.policies.config import PolicyConfig
from robodiff.report import figures
from robodiff.report.pages import write_page
from robodiff.report.predictions import Predictions, draw_predictions
from robodiff.report.recording import describe, movements
from robodiff.text import counted

REPORT_FILE = "report.html"
SAMPLES = 8
_MOST_DIMENSIONS = 9  # of each key, in panels of their own
_MOST_ERRORS = 8  # lines in one panel
_MOST_VIDEO_BYTES = 30_000_000


def write_run_report(folder: Path, model: PolicyConfig, data: DataConfig, env: str | None) -> Path:
    """Write ``report.html`` into a run's folder, with its demonstrations if they can still be read.

    The policy is shown at observations of the episodes that were held out; where none were, at those of the episodes
    that it was trained on, and the page says so.

    Args:
        folder: of the run.
        model: the configuration of its policy.
        data: where its demonstrations are.
        env: the environment that draws scenes; the one of the latest evaluation when None.

    Returns:
        The file.

    Raises:
        UsageError: it is not a run.
        RobodiffError: one of its files is broken.
    """
    run = read_run(folder)
    try:
        episodes = data.read(model.observation_keys)
        trained_on, held_out = (places.tolist() for places in data.split(episodes))
    except RobodiffError as error:
        return _write(run, no_data=f"They cannot be read any more: {error}")
    predictions = Predictions()
    if (folder / "policy" / "config.json").is_file():
        if env is None and run.evaluations:
            env = run.evaluations[0].result.evaluated.environment
        predictions = draw_predictions(folder / "policy", episodes, held_out or trained_on, env, SAMPLES)
    return _write(
        run,
        predictions=predictions,
        held_out=bool(held_out),
        data=_data(episodes),
        findings=in_kinds(findings_in(episodes, model.window)),
    )


def write_evaluation_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of an evaluation whose policy lies in no run."""
    return _write(Run.of_evaluation(folder), no_data="Of a policy without its run they are not known.")


def _write(run: Run, **demonstrations: Any) -> Path:
    """Write the page; what ``demonstrations`` lacks is left out."""
    measured = [evaluation for evaluation in run.evaluations if is_current(run, evaluation.result.evaluated)]
    answer = measured[0] if measured else None
    absent = {"predictions": Predictions(), "held_out": False, "data": None, "findings": [], "no_data": ""}
    return write_page(
        run.folder / REPORT_FILE,
        "report.html",
        title=f"{run.name}: {100 * answer.result.success_rate:.0f} % success" if answer else run.name,
        run=run,
        answer=answer,
        failing=_failing(answer) if answer else None,
        videos=_videos(answer, run.folder) if answer else [],
        others=len(run.evaluations) - len(measured),
        comparisons=_comparisons(measured),
        curves=figures.curves({run.name: run.curves}, answer.result.evaluated.success_reward if answer else None),
        offline=_offline(run),
        samples=SAMPLES,
        evaluations=run.evaluations,
        **{**absent, **demonstrations},
    )


def is_current(run: Run, evaluated: Sampled) -> bool:
    """Tell whether it is the run's present policy that was evaluated: it may have been trained on since."""
    folder = run.folder / "policy"
    return not (folder / "config.json").is_file() or evaluated.policy == policy_hash(folder)


def _offline(run: Run) -> dict[str, Any] | None:
    """Return the latest evaluation on recorded episodes, one of the run's present policy before all others."""
    result = max(run.offline, key=lambda each: is_current(run, each.evaluated), default=None)
    if result is None:
        return None
    return {
        "result": result,
        "current": is_current(run, result.evaluated),
        "most": _MOST_ERRORS,
        "curves": _errors_by_step(result),
    }


def _errors_by_step(result: OfflineResult) -> str:
    dimensions, steps = result.dimensions, result.steps
    scale = {place: each.mean for place, each in enumerate(dimensions) if each.moves}
    if not scale:
        return ""
    worst = sorted(scale, key=lambda place: -dimensions[place].mae / scale[place])[:_MOST_ERRORS]
    errors = {dimensions[d].name: [step.mae[d] / scale[d] for step in steps] for d in sorted(worst)}
    holding = [float(np.mean([step.hold[d] / scale[d] for d in scale])) for step in steps]
    return figures.errors_by_step(errors, holding, executed=sum(step.executed for step in steps))


def _failing(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figure of all episodes, and those that failed, the best first."""
    episodes = evaluation.result.episodes
    failures = sorted((e for e in episodes if not e.success), key=lambda e: -e.max_reward)
    seeds = [episode.seed for episode in episodes]
    return {
        "scores": figures.scores(episodes, evaluation.result.evaluated.success_reward),
        "seeds": f"seeds {min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}",
        "failures": failures,
        "median": float(np.median([e.max_reward for e in failures])) if failures else 0.0,
    }


def _videos(evaluation: Evaluation, page: Path) -> list[dict[str, Any]]:
    """Return the videos, inside the page while they are small, else as links to the files beside it."""
    by_seed = {episode.seed: episode for episode in evaluation.result.episodes}
    videos, inside = [], sum(path.stat().st_size for path in evaluation.videos) <= _MOST_VIDEO_BYTES
    for path in evaluation.videos:
        outcome, _, seed = path.stem.partition("-")
        episode = by_seed.get(int(seed))
        about = f": maximum reward {episode.max_reward:.3f}, {counted(episode.length, 'step')}" if episode else ""
        content = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() if inside else None
        source = content or os.path.relpath(path, page)
        videos.append({"source": source, "success": outcome == "success", "seed": seed, "about": about})
    return videos


def _comparisons(evaluations: Sequence[Evaluation]) -> list[str]:
    folders = [evaluation.folder for evaluation in evaluations if (evaluation.folder / Comparison.file).is_file()]
    return [read_result(folder, Comparison).conclusion for folder in folders]


def _data(episodes: Episodes) -> dict[str, Any]:
    return {**describe(episodes), **movements(episodes, _MOST_DIMENSIONS)}
