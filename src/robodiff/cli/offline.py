"""``robodiff eval`` without ``--env``: how far a policy's actions are from recorded ones."""

from pathlib import Path
from typing import Any

from robodiff.cli.parser import RECORDING, recording_of
from robodiff.data.config import DataModule
from robodiff.errors import UsageError
from robodiff.evaluation.runs import OFFLINE_FILE, run_of
from robodiff.progress import say


def run_offline(options: Any, out: Path, console: Any) -> None:
    """Measure on the recording that the options name, else on the run's own, and print what was found."""
    from robodiff.evaluation.offline import evaluate_offline

    if options.data is None and (given := [name for name in RECORDING if options[name] is not None]):
        raise UsageError(f"--{given[0]} tells more of the recording that --data names; give --data, or leave it out")
    metrics = evaluate_offline(
        options.policy,
        recording_of(options.data, options) if options.data else _recording_of_run(options.policy),
        out,
        own=options.data is None,
        windows=options.windows,
        seed=options.seed,
        sampler=options.sampler,
        steps=options.steps,
        device=options.device,
        console=console,
    )
    for line in [*_found(metrics), f"written: {out / OFFLINE_FILE}"]:
        say(console, line)


def _recording_of_run(policy: str) -> DataModule:
    """What the run that the policy lies in was trained on."""
    from robodiff.cli.fit import configuration

    run = run_of(Path(policy))
    if run is not None:
        return configuration(run).data
    raise UsageError(f"{policy}: lies in no run whose config.yaml would name a recording; give --data PATH to compare "
                     "its actions with recorded ones, or --env ENV to let it act")  # fmt: skip


def _found(metrics: dict[str, Any]) -> list[str]:
    evaluated, latency = metrics["evaluated"], metrics["latency_ms"]
    return [
        *_answer(metrics),
        f"measured at {evaluated['windows']:,} of {evaluated['of_windows']:,} windows in {len(evaluated['episodes'])} "
        f"episodes of {evaluated['data']}, {evaluated['which']}",
        f"one chunk takes {latency['p50']:.1f} ms (p95 {latency['p95']:.1f} ms) on {evaluated['device']} "
        f"with {evaluated['sampler']}, {evaluated['steps']} steps",
    ]


def _answer(metrics: dict[str, Any]) -> list[str]:
    """The error over all dimensions, and of the worst one in its own unit, at the first executed step and the last."""
    place = metrics["worst_dimension"]
    if place is None:
        return ["the recorded actions do not move: there is nothing to compare with"]
    hold, worst = metrics["relative_to_hold"], metrics["dimensions"][place]
    held = "" if hold is None else f"{100 * hold:.0f} % of that of holding the last action, "
    unit = f" {worst['unit']}" if worst["unit"] else ""
    executed = [step["mae"][place] for step in metrics["steps"] if step["executed"]]
    return [
        f"error of the executed actions: {held}{100 * metrics['relative_to_mean']:.0f} % of that of the mean action",
        f"worst is {worst['name']}: {worst['mae']:.3g}{unit} on average, {executed[0]:.3g} at the first step and "
        f"{executed[-1]:.3g} at the last; holding errs by {worst['hold']:.3g}, the mean action by {worst['mean']:.3g}, "
        f"and two samples differ by {worst['spread']:.3g}",
    ]
