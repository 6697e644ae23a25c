"""``robodiff eval``: measure a policy, in an environment or on recorded episodes."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from robodiff.cli.configuration import read_config, read_run_config
from robodiff.cli.options import Options, read_options
from robodiff.cli.report import report_evaluation
from robodiff.data.recordings import DataConfig, open_path
from robodiff.documents import AtLeast, parse
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare, shared_seeds
from robodiff.evaluation.config import EvalConfig, OfflineConfig
from robodiff.evaluation.results import EnvResult, OfflineResult, read_result, write_result
from robodiff.evaluation.runs import VIDEO_FOLDER, Evaluation, config_file, run_of
from robodiff.progress import bar, say
from robodiff.text import counted

RECORDING = ("layout", "key_map", "fps", "revision")
"""Options that say of a recording what it does not say itself."""
IN_ENV = ("episodes", "num_envs", "videos", "against")
OFFLINE = ("data", "windows", *RECORDING)
"""Options that have a meaning only with --env, and only without."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Options):
    """Run episodes of a policy in an environment and tell how many succeed; without --env, tell how far its actions are
    from recorded ones.

    An episode depends on its seed alone: with the same --num_envs, any split of the seeds gives the same records.

    Examples:
      robodiff eval runs/first --env pusht
      robodiff eval runs/first
      robodiff eval runs/second --env pusht --against runs/first
      robodiff eval runs/first --env pusht --episodes 50 --seed 100000 --sampler flow --steps 3
    """

    positional = ("policy",)
    further = "data."

    policy: str
    """A run, a policy's folder, or a repository of the Hugging Face hub."""
    env: str | None = None
    """The environment, such as pusht. Without one, the policy's actions are compared with those of its run's held-out
    episodes."""
    episodes: Annotated[int, AtLeast(1)] | None = None
    """With --env: how many episodes; 100 when not given."""
    seed: Annotated[int, AtLeast(0)] | None = None
    """Seed of the first episode, the others follow; without --env, of the noise; 100000 when not given."""
    num_envs: Annotated[int, AtLeast(1)] | None = None
    """With --env: episodes stepped together, with one policy call; 100 when not given."""
    sampler: str | None = None
    """ddpm, ddim, dpmsolver++, flow or flowheun, in place of the policy's own."""
    steps: int | None = None
    """Denoising steps, in place of the policy's own number."""
    device: str = "cpu"
    """Where the policy runs: cpu, cuda, ..."""
    videos: Annotated[int, AtLeast(0)] | None = None
    """With --env: videos of so many successes and so many failures; 3 when not given."""
    against: str | None = None
    """With --env: another policy, which is evaluated on the same seeds, or the folder of an evaluation; the two are
    compared episode by episode."""
    data: str | None = None
    """Without --env: another recording, all of whose episodes are measured; builtin:pusht is the one inside the
    package. --data.NAME sets any option of its format."""
    layout: str | None = None
    """What the recording's keys are, if it does not say it itself."""
    key_map: dict[str, str] | None = None
    """Key in the recording -> name here, in its place."""
    fps: float | None = None
    """Frames per second, if the recording does not say it itself."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    windows: Annotated[int, AtLeast(1)] | None = None
    """Without --env: how many windows, evenly spread, are measured; 2000 when not given."""
    out: str | None = None
    """Folder to write to; inside the run when not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, remedy = (
            ("episodes in an environment", "give") if self.env is None else ("recorded episodes", "leave out")
        )
        for name in IN_ENV if self.env is None else OFFLINE:
            if getattr(self, name) is not None:
                raise UsageError(f"--{name} is for {kind}; {remedy} --env, or leave it out")

    @property
    def config(self) -> EvalConfig | OfflineConfig:
        """What of it says how to measure."""
        kind = OfflineConfig if self.env is None else EvalConfig
        values = {each.name: getattr(self, each.name) for each in fields(kind)}
        return kind(**{name: value for name, value in values.items() if value is not None})


def run(arguments: list[str]) -> Path:
    """Parse, measure, print; return the folder that was written to."""
    options, recording = _read(arguments)
    out = Path(options.out).expanduser() if options.out else default_folder(options.policy, options)
    if (run := run_of(Path(options.policy))) is not None:
        read_config(config_file(run))  # a broken one is told before anything is measured, and plugins are remembered
    console = Console()
    if isinstance(config := options.config, EvalConfig):
        _run_in_env(options, config, out, console)
    else:
        _run_offline(options, config, recording, out, console)
    say(console, f"report: {report_evaluation(out)}")
    return out


def _read(arguments: list[str]) -> tuple[EvalOptions, dict[str, Any]]:
    """Return the options, and those that say more of the recording.

    Raises:
        UsageError: one that is unknown, out of its range, or without a meaning beside the others.
    """
    dotted: dict[str, Any] = {}
    options = read_options(EvalOptions, "eval", arguments, dotted)
    recording = {name: value for name in RECORDING if (value := getattr(options, name)) is not None}
    recording |= {option: parse(text or "", Any) for option, text in dotted.items()}
    if recording and options.data is None:
        raise UsageError(f"--{next(iter(recording))} says more of the recording that --data names; give --data")
    return options, {name.removeprefix("data."): value for name, value in recording.items()}


def default_folder(policy: str, options: EvalOptions) -> Path:
    """Return ``eval/<what is measured>`` inside the run, or beside the policy."""
    folder = Path(policy)
    if not folder.is_dir():
        raise UsageError(f"{policy}: no such folder; name that of a policy, or --out FOLDER for one from the hub")
    if folder.name in ("", ".."):
        folder = folder.resolve()
    run, config = run_of(folder) or (folder.parent if (folder / "config.json").is_file() else folder), options.config
    if isinstance(config, EvalConfig):
        what = [config.env, f"seed{config.seed}", f"n{config.episodes}"]
    else:
        recording = Path(options.data).name if options.data else None
        what = ["offline", recording, f"seed{config.seed}", f"n{config.windows}"]
    own = [folder.name] if folder != run and folder.name != "policy" else []
    parts = [str(part) for part in [*own, *what, options.sampler, options.steps] if part is not None]
    return run / "eval" / re.sub(r"[^\w.+-]", "-", "-".join(parts))


def _run_in_env(options: EvalOptions, config: EvalConfig, out: Path, console: Console) -> None:
    """Measure in the environment, compare if that was asked for, print what came of it."""
    other = _other(options, config) if options.against else None
    if other is not None and other.resolve() == out.resolve():
        raise UsageError(f"--against {options.against}: is the evaluation that would be written; compare another one")
    result = _measure(options.policy, config, out, console)
    _say_stopped(out, result, console)
    low, high = result.success_rate_ci95
    extra = ", ".join(f"{name} {value:.4g}" for name, value in result.extra.items())
    means = f"means over the episodes: {extra}\n" if extra else ""
    videos = f", and {VIDEO_FOLDER}/ beside it" if Evaluation(out, result).videos else ""
    say(
        console,
        f"success {result.success_rate:.2f} (95 % interval {low:.2f} to {high:.2f}) in "
        f"{counted(config.episodes, 'episode')} of {config.env} from seed {config.seed}\n"
        f"mean maximum reward {result.mean_max_reward:.3f}, mean length {result.mean_episode_length:.0f} steps\n"
        f"{means}{_latency(result)}\n"
        f"written: {out / result.file}{videos}",
    )
    if other is not None:
        _compare(options, config, result, out, other, console)


def _measure(policy: str, config: EvalConfig, out: Path, console: Console, again: bool = True) -> EnvResult:
    from robodiff.evaluation.evaluate import evaluate  # needs torch

    with bar(console, "episodes", config.episodes) as advance:
        return evaluate(policy, out, config, advance, again)


def _other(options: EvalOptions, config: EvalConfig) -> Path:
    """Return the folder of the evaluation to compare with; it is refused before anything is measured."""
    folder = Path(str(options.against))
    if not (folder / EnvResult.file).is_file():
        return default_folder(str(options.against), options)
    shared_seeds(config.env, range(config.seed, config.seed + config.episodes), read_result(folder, EnvResult))
    return folder


def _compare(
    options: EvalOptions, config: EvalConfig, result: EnvResult, out: Path, other: Path, console: Console
) -> None:
    """Compare with the other evaluation, which is made first where there is none yet."""
    against = str(options.against)
    is_made = Path(against) == other
    second = read_result(other, EnvResult) if is_made else _measure(against, config, other, console, again=False)
    _say_stopped(other, second, console)
    paired = compare(result, second, options.policy, against)
    write_result(out, paired)
    success, reward = paired.success_difference_ci95, paired.reward_difference_ci95
    say(
        console,
        f"against {against}, over the same {counted(paired.episodes, 'seed')}:\n"
        f"success {paired.success_difference:+.2f} (95 % interval {success[0]:+.2f} to {success[1]:+.2f}); "
        f"{counted(paired.only_first, 'episode')} {'succeeds' if paired.only_first == 1 else 'succeed'} here alone, "
        f"{paired.only_second} there alone "
        f"(McNemar's exact test: p = {paired.mcnemar_p:.2g})\n"
        f"mean maximum reward {paired.reward_difference:+.3f} (95 % interval {reward[0]:+.3f} to {reward[1]:+.3f})\n"
        f"{paired.conclusion}",
    )


def _run_offline(
    options: EvalOptions, config: OfflineConfig, recording: dict[str, Any], out: Path, console: Console
) -> None:
    """Measure on the recording that the options name, else on the run's own, and print what came of it."""
    from robodiff.evaluation.offline import evaluate_offline  # needs torch

    own = options.data is None
    source = open_path(options.data, **recording) if options.data else _recording_of_run(options.policy)
    result = evaluate_offline(options.policy, source, out, config, own, console)
    evaluated = result.evaluated
    say(
        console,
        f"{_errors(result)}\n"
        f"measured at {evaluated.windows:,} of {counted(evaluated.of_windows, 'window')} in "
        f"{counted(len(evaluated.episodes), 'episode')} of {evaluated.data}, {evaluated.which}\n"
        f"{_latency(result)}\n"
        f"written: {out / result.file}",
    )


def _recording_of_run(policy: str) -> DataConfig:
    """Return what the run that the policy lies in was trained on."""
    if (run := run_of(Path(policy))) is None:
        raise UsageError(f"{policy}: lies in no run; give --data PATH to compare with recorded actions, or --env ENV")
    return read_run_config(run).data


def _errors(result: OfflineResult) -> str:
    """Tell the error over all dimensions, and that of the worst one at the first executed step and at the last."""
    place, mean, hold = result.worst_dimension, result.relative_to_mean, result.relative_to_hold
    if place is None or mean is None:
        return "the recorded actions do not move: there is nothing to compare with"
    worst = result.dimensions[place]
    held = "" if hold is None else f"{100 * hold:.0f} % of that of holding the last action, "
    unit = f" {worst.unit}" if worst.unit else ""
    executed = [step.mae[place] for step in result.steps if step.executed]
    return (
        f"error of the executed actions: {held}{100 * mean:.0f} % of that of the mean action\n"
        f"worst is {worst.name}: {worst.mae:.3g}{unit} on average, {executed[0]:.3g} at the first step and "
        f"{executed[-1]:.3g} at the last; holding errs by {worst.hold:.3g}, the mean action by {worst.mean:.3g}, and "
        f"two samples differ by {worst.spread:.3g}"
    )


def _latency(result: EnvResult | OfflineResult) -> str:
    latency, how = result.latency_ms, result.evaluated
    spread = f"{latency.p50:.1f} ms (p95 {latency.p95:.1f} ms)"
    return f"one chunk takes {spread} on {how.device} with {how.sampler}, {counted(how.steps, 'step')}"


def _say_stopped(out: Path, result: EnvResult, console: Console) -> None:
    if stopped := Evaluation(out, result).stopped:
        say(console, stopped, "bold red")
