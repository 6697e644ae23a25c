"""``robodiff eval``: measure a policy, in an environment or on recorded episodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from robodiff.cli import outcomes
from robodiff.cli.configuration import read_config, read_run_config
from robodiff.cli.eval_options import EvalOptions, default_folder, read
from robodiff.cli.eval_seeds import evaluate_seeds
from robodiff.cli.report import is_in_run, report_evaluation
from robodiff.cli.sweep import joined, sweep
from robodiff.data.mixture import MixtureConfig
from robodiff.data.naming import in_order
from robodiff.data.recordings import DataConfig, open_path, resolve
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import check_conditions, compare, shared_seeds
from robodiff.evaluation.conditions import OTHERS, OWN_AGAIN
from robodiff.evaluation.config import EvalConfig, OfflineConfig
from robodiff.evaluation.members import ALONE, Members, find_members
from robodiff.evaluation.offline_comparison import compare_offline
from robodiff.evaluation.results import EnvResult, OfflineResult, Result, read_result, write_result
from robodiff.evaluation.runs import Evaluation, config_file, run_of, seed_runs
from robodiff.progress import bar, say


def run(arguments: list[str]) -> Path:
    """Parse, measure, print; return the folder that was written to."""
    options, recording = read(joined(arguments))
    console = Console()
    if len(options.policies) == 1 and (runs := seed_runs(Path(options.policies[0]))):
        if alone := [f"--{name}" for name in ("sweep", "until_decided") if getattr(options, name)]:
            raise UsageError(f"{alone[0]} is for one policy; name one of {options.name}'s: {next(iter(runs.values()))}")
        return evaluate_seeds(
            options,
            lambda each, out: _evaluate(each, recording, out, console, again=False),
            lambda members: default_folder(members, options, recording),
            console,
        )
    if options.shard is not None:
        raise UsageError(f"--shard {options.shard}: divides a run with several training seeds; {options.name} is none")
    if options.against is not None and (others := seed_runs(Path(options.against))):
        advice = f"name one of them, such as {next(iter(others.values()))}, or train both with --seeds"
        raise UsageError(f"--against {options.against}: has {len(others)} training seeds, {options.name} one\n{advice}")
    out = _evaluate(options, recording, Path(options.out) if options.out else None, console)
    if options.sweep is not None and not is_in_run(out):
        return out
    say(console, "writing the report")
    say(console, f"report: {report_evaluation(out)}")
    return out


def _evaluate(
    options: EvalOptions, recording: dict[str, Any], out: Path | None, console: Console, again: bool = True
) -> Path:
    """Measure one policy, or a team's, and tell what came of it; return the folder that was written to."""
    for run in filter(None, (run_of(Path(word)) for word in options.policies)):
        read_config(config_file(run))  # a broken one is told before anything is measured, and plugins are remembered
    members = find_members(options.policies, options.checkpoint, _agents(options))
    out = out or default_folder(members, options, recording)
    config = options.config
    if isinstance(config, EvalConfig) and options.sweep is not None:
        sweep(members, options.sweep, options.write, config, out, console)
    elif isinstance(config, EvalConfig):
        _run_in_env(members, options, config, out, console, again)
    else:
        _run_offline(_alone(members), options, config, recording, out, console, again)
    return out


def _agents(options: EvalOptions) -> list[str]:
    """Return the agents of the environment in the order of their ids, where several policies are given."""
    if options.env is None or len(options.policies) == 1:
        return []
    from robodiff.envs.spec import get_env_spec  # needs gymnasium

    return in_order(get_env_spec(options.env).agents)


def _alone(members: Members) -> str:
    """Return the one policy that is to be measured on recorded episodes.

    Raises:
        UsageError: they are those of a team.
    """
    if ALONE in members:
        return members[ALONE]
    each = f"give --env ENV to measure the team, or one of its policies: robodiff eval {next(iter(members.values()))}"
    raise UsageError(f"the error on recorded actions is measured for each agent by itself\n{each}")


def _run_in_env(
    members: Members, options: EvalOptions, config: EvalConfig, out: Path, console: Console, again: bool
) -> None:
    """Measure in the environment, compare if that was asked for, print what came of it."""
    other = _other_in_env(members, options, config, out) if options.against else None
    if other is not None and config.until_decided:
        result, second = _measure_both(members, options, config, out, other, console)
    else:
        result, second = _measure(members, config, out, console, again), None
    _say_stopped(out, result, console)
    say(console, outcomes.in_env(out, result))
    if other is not None:
        second = second or _second(options, config, other, console)
        _say_stopped(other, second, console)
        paired = compare(result, second, options.name, str(options.against))
        write_result(out, paired)
        say(console, outcomes.against_in_env(paired))


def _measure(members: Members, config: EvalConfig, out: Path, console: Console, again: bool = True) -> EnvResult:
    from robodiff.evaluation.evaluate import evaluate  # needs torch

    then = "measuring how long a chunk takes, and drawing videos"
    with bar(console, "episodes", config.episodes, then) as advance:
        return evaluate(members, out, config, advance, again)


def _measure_both(
    members: Members, options: EvalOptions, config: EvalConfig, out: Path, other: Path, console: Console
) -> tuple[EnvResult, EnvResult]:
    """Measure both policies until it is decided which is better; an evaluation that is made is taken as it is."""
    from robodiff.evaluation.until_decided import evaluate_until_decided  # needs torch

    against = Path(str(options.against))
    second = read_result(other, EnvResult) if against == other else (find_members([str(against)]), other)
    with bar(console, "pairs of episodes", config.episodes) as advance:
        return evaluate_until_decided((members, out), second, config, advance)


def _other_in_env(members: Members, options: EvalOptions, config: EvalConfig, out: Path) -> Path:
    """Return the folder of the evaluation to compare with; it is refused before anything is measured."""
    from robodiff.evaluation.evaluate import prepare  # needs torch

    folder, is_made = _other(options, out, EnvResult, OfflineResult)
    if is_made:
        shared_seeds(range(config.seed, config.seed + config.episodes), read_result(folder, EnvResult))
    against = str(options.against)
    second = read_result(folder, EnvResult).evaluated if is_made else prepare(find_members([against]), config).evaluated
    check_conditions(prepare(members, config).evaluated, second, options.name, against)
    return folder


def _other(
    options: EvalOptions, out: Path, kind: type[Result], unlike: type[Result], recording: Mapping[str, Any] = {}
) -> tuple[Path, bool]:
    """Return the folder of the evaluation to compare with, and whether it is what ``--against`` names."""
    against, folder = f"--against {options.against}", Path(str(options.against))
    is_made = (folder / kind.file).is_file()
    if not is_made and (folder / unlike.file).is_file():
        remedy = "give the --env that it was measured in" if options.env is None else "leave out --env"
        raise UsageError(f"{against}: holds {unlike.file} and no {kind.file}; {remedy}")
    folder = folder if is_made else default_folder(find_members([str(options.against)]), options, recording)
    if folder.resolve() == out.resolve():
        raise UsageError(f"{against}: is the evaluation that would be written; compare another one")
    return folder, is_made


def _second(options: EvalOptions, config: EvalConfig, other: Path, console: Console) -> EnvResult:
    """Return the evaluation to compare with, which is made where there is none yet."""
    against = str(options.against)
    if Path(against) == other:
        return read_result(other, EnvResult)
    return _measure(find_members([against]), config, other, console, again=False)


def _run_offline(
    policy: str, options: EvalOptions, config: OfflineConfig, recording: dict[str, Any], out: Path, console: Console,
    again: bool,
) -> None:  # fmt: skip
    """Measure on the recording that the options name, else on the run's own, compare, and print what came of it."""
    from robodiff.evaluation import offline  # needs torch

    def prepared(policy: str) -> offline.Prepared:
        source = open_path(options.data, **recording) if options.data else _recording_of_run(policy)
        which = offline.OWN if options.data is None else OWN_AGAIN if _is_own(policy, source) else OTHERS
        return offline.prepare(policy, source, config, which, options.accept_changed_data)

    first = prepared(policy)
    if (against := options.against) is None:
        say(console, outcomes.offline(out, offline.run(first, out, console, again)))
        return
    other, is_made = _other(options, out, OfflineResult, EnvResult, recording)
    second = None if is_made else prepared(_alone(find_members([against])))
    conditions = second.evaluated if second else read_result(other, OfflineResult).evaluated
    check_conditions(first.evaluated, conditions, options.name, against)
    say(console, outcomes.offline(out, offline.run(first, out, console, again)))
    if second is not None:
        offline.run(second, other, console, again=False)
    paired = compare_offline(out, other, options.name, against)
    write_result(out, paired)
    say(console, outcomes.against_offline(paired))


def _is_own(policy: str, source: DataConfig) -> bool:
    """Tell whether a recording is the one that the run was trained on in which a policy lies."""
    if (run := run_of(Path(policy))) is None:
        return False
    own = read_run_config(run).data
    is_one = not isinstance(own, MixtureConfig)  # of several, what was trained on is told by the episodes themselves
    return is_one and resolve(own.source).resolve() == resolve(source.source).resolve()


def _recording_of_run(policy: str) -> DataConfig:
    """Return what the run that the policy lies in was trained on."""
    if (run := run_of(Path(policy))) is None:
        raise UsageError(
            f"{policy}: is not part of a run; give --data PATH to compare with recorded actions, or --env ENV"
        )
    return read_run_config(run).data


def _say_stopped(out: Path, result: EnvResult, console: Console) -> None:
    if stopped := Evaluation(out, result).stopped:
        say(console, stopped, "bold red")
