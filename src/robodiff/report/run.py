"""The report: one HTML file that answers, shows and explains, and opens without a network.

What a run lacks (an evaluation, its demonstrations, the environment) is left out, and the page says so. It is made on
any machine that has the run's folder: neither a simulator nor the recording is needed.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.check import findings_in, in_kinds
from robodiff.data.episodes import Episodes, Finding
from robodiff.data.provenance import Planning, divide, read_trained_on
from robodiff.data.recordings import DataConfig
from robodiff.deploy.artefact import EXPORT_FILE, ExportFile
from robodiff.documents import read_json
from robodiff.errors import RobodiffError
from robodiff.evaluation.conditions import Evaluated
from robodiff.evaluation.results import OfflineResult
from robodiff.evaluation.runs import Evaluation, Run, read_run
from robodiff.policies.checkpoint import policy_hash
from robodiff.policies.config import PolicyConfig
from robodiff.report import figures
from robodiff.report.answers import answer, command, conclusion, current, is_current, is_made, what_ifs
from robodiff.report.clips import Clips, clips_of
from robodiff.report.nearest import Demonstrations, nearest
from robodiff.report.pages import write_page
from robodiff.report.predictions import Predictions, draw_predictions, find_canvas
from robodiff.report.recording import describe, movements
from robodiff.text import counted

REPORT_FILE = "report.html"
SAMPLES = 8
_MOST_DIMENSIONS = 9  # of each key, in panels of their own
_MOST_ERRORS = 8  # lines in one panel
_MOST_VIDEO_BYTES = 30_000_000


def write_run_report(
    folder: Path, configs: Mapping[str, tuple[PolicyConfig, DataConfig]], env: str | None, page: Path | None = None
) -> Path:
    """Write the page of a run or of a team's runs, with its demonstrations if they can still be read.

    The policy is shown at observations of the episodes that were held out; where none were, at those of the episodes
    that it was trained on, and the page says so.

    Args:
        folder: of the run, or of the team.
        configs: by agent, or by ``ALONE`` of a run, the configuration of the policy, and where its demonstrations are.
        env: the environment that draws scenes; the one of the latest evaluation when None.
        page: the file to write; ``report.html`` in the run's folder when None.

    Returns:
        The file.

    Raises:
        UsageError: it is not a run.
        RobodiffError: one of its files is broken.
    """
    run, page = read_run(folder), page or folder / REPORT_FILE
    if env is None and run.evaluations:
        env = run.evaluations[0].result.evaluated.environment
    parts, clips = [], clips_of(answer(run, run.evaluations))
    for agent, (title, each), config in zip(configs, run.parts().items(), configs.values(), strict=True):
        has_page = bool(title) and (each.folder / REPORT_FILE).is_file()
        own_page = os.path.relpath(each.folder / REPORT_FILE, page.parent) if has_page else ""
        part = _part(each, *config, env, agent)
        parts.append(replace(part, title=title, own_page=own_page))
    return _write(run, page, parts, clips, env)


@dataclass(frozen=True)
class _Part:
    """What a page says of one policy and its demonstrations."""

    title: str = ""
    """Whose they are, in a team."""
    own_page: str = ""
    """Where more is said of an agent's demonstrations."""
    predictions: Predictions = field(default_factory=Predictions)
    recording: Demonstrations | None = None
    """What it was trained on; None where that cannot be read."""
    held_out: bool = False
    """Whether the demonstrations that are shown were."""
    planning: Planning | None = None
    data: dict[str, Any] | None = None
    """None where they cannot be read."""
    findings: Sequence[tuple[Finding, str]] = ()
    no_data: str = ""
    """Why they cannot be read."""


def _part(run: Run, model: PolicyConfig, data: DataConfig, env: str | None, agent: str) -> _Part:
    part = _Part()
    try:
        recorded = read_trained_on(run.folder)
        part = replace(part, planning=recorded and recorded.planning)
        episodes = data.read(model.observation_keys)
        division = divide(data, episodes, recorded)
        trained_on, held_out = division.seen.tolist(), division.unseen.tolist()
    except RobodiffError as error:
        return replace(part, no_data=f"They cannot be read any more: {error}")
    predictions = Predictions()
    if is_made(run):
        predictions = draw_predictions(run.folder / "policy", episodes, held_out or trained_on, env, SAMPLES)
    return replace(
        part,
        predictions=predictions,
        recording=Demonstrations(episodes, trained_on, agent),
        held_out=bool(held_out),
        data=_data(episodes),
        findings=in_kinds(findings_in(episodes, model.window)),
    )


def _nearest(recordings: Sequence[Demonstrations], clips: Clips, env: str | None) -> dict[str, Any] | None:
    """Return the demonstrations that began most like each measured episode, see ``nearest``."""
    if not recordings:
        return None
    episodes = recordings[0].episodes
    canvas = find_canvas(env, episodes, 0)
    return nearest(recordings, clips.traces, lambda frame: canvas.picture(episodes, frame))


def write_evaluation_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of an evaluation whose policy lies in no run."""
    unknown = _Part(no_data="Of a policy without its run they are not known.")
    run = Run.of_evaluation(folder)
    return _write(run, folder / REPORT_FILE, [unknown], clips_of(answer(run, run.evaluations)))


def _write(run: Run, page: Path, parts: Sequence[_Part], clips: Clips | None, env: str | None = None) -> Path:
    """Write the page; what a part lacks is left out."""
    recordings = [part.recording for part in parts if part.recording]
    measured, offline = answer(run, run.evaluations), answer(run, run.offline)
    trials = [each for each in current(run, run.evaluations) if _is_trial(run, each.result.evaluated)]
    shown = offline or max(run.offline, key=lambda each: each in current(run, run.offline), default=None)
    return write_page(
        page,
        "report.html",
        title=f"{run.name}: {100 * measured.result.success_rate:.0f} % success" if measured else run.name,
        run=run,
        answer=measured,
        failing=_failing(measured) if measured else None,
        wall=clips and {**clips.wall(clips.panels()), "nearest": _nearest(recordings, clips, env)},
        traces=clips and clips.info,
        videos=_videos(measured, page.parent) if measured else [],
        others=len(run.evaluations) - len(current(run, run.evaluations)),
        comparisons=[sentence for each in (measured, offline, *trials) if (sentence := conclusion(each))],
        command=command(run, readable=all(part.data for part in parts)),
        what_ifs=what_ifs(run),
        sweeps=[(sweep, is_current(run, sweep.evaluated)) for sweep in run.sweeps],
        conditions=[] if measured is None else run.what_if(measured.result.evaluated),
        trained=run.parts(),
        parts=parts,
        curves=figures.curves(
            {title: each.curves for title, each in run.parts().items()},
            measured.result.evaluated.success_reward if measured else None,
        ),
        exported=_exported(run),
        offline=None if shown is None else _offline(shown.result, run, is_answer=shown is offline),
        samples=SAMPLES,
        evaluations=[each for each in current(run, run.evaluations) if not run.what_if(each.result.evaluated)],
    )


def _is_trial(run: Run, evaluated: Evaluated) -> bool:
    """Tell whether the policy was measured under its own conditions, but until a trial was decided."""
    return evaluated.stopping is not None and not run.what_if(replace(evaluated, stopping=None))


def _exported(run: Run) -> list[dict[str, Any]]:
    """Return the exported policies in a run's folder that were compared with the one in torch, by their names."""
    described = {
        path.parent.name: read_json(path, ExportFile, "export again with robodiff export")
        for path in sorted(run.folder.glob(f"exported/*/{EXPORT_FILE}"))
    }
    now = policy_hash(run.folder / "policy") if described and is_made(run) else None
    return [
        {"name": name, "export": each, "verified": each.verified, "current": now in (None, each.policy)}
        for name, each in described.items()
        if each.verified is not None
    ]


def _offline(result: OfflineResult, run: Run, is_answer: bool) -> dict[str, Any]:
    """Return what the page says of an evaluation on recorded episodes."""
    return {
        "result": result,
        "is_answer": is_answer,
        "current": is_current(run, result.evaluated),
        "conditions": run.what_if(result.evaluated),
        "most": _MOST_ERRORS,
        "curves": _errors_by_step(result),
    }


def _errors_by_step(result: OfflineResult) -> str:
    dimensions, steps = result.dimensions, result.steps
    scale = {place: each.scale for place, each in enumerate(dimensions) if each.moves}
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


def _data(episodes: Episodes) -> dict[str, Any]:
    return {**describe(episodes), **movements(episodes, _MOST_DIMENSIONS)}
