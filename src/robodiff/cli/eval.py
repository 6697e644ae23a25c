"""``robodiff eval``: measure a policy, in an environment or on recorded episodes."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from robodiff.cli import outcomes
from robodiff.cli.configuration import read_config, read_run_config
from robodiff.cli.eval_seeds import evaluate_seeds
from robodiff.cli.options import Options, name_with, read_options, unknown_option
from robodiff.cli.report import is_in_run, report_evaluation
from robodiff.cli.shards import Shard
from robodiff.cli.sweep import joined, sweep
from robodiff.data.mixture import MixtureConfig
from robodiff.data.naming import in_order
from robodiff.data.recordings import DataConfig, open_path, resolve
from robodiff.documents import Above, AtLeast, Between, FilePath, NotEmpty, hints, parse
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import check_conditions, compare, shared_seeds
from robodiff.evaluation.conditions import OTHERS, OWN_AGAIN
from robodiff.evaluation.config import SWEEP_SEED, EvalConfig, OfflineConfig, SmallestDifference
from robodiff.evaluation.members import ALONE, BEST, Members, find_members, folder_of
from robodiff.evaluation.offline_comparison import compare_offline
from robodiff.evaluation.results import EnvResult, OfflineResult, Result, read_result, write_result
from robodiff.evaluation.runs import Evaluation, config_file, run_of, seed_runs
from robodiff.policies.options import MOST_CHUNKS
from robodiff.progress import bar, say

RECORDING = ("layout", "key_map", "fps", "revision")
"""Options that say of a recording what it does not say itself."""
IN_ENV = ("episodes", "num_envs", "videos", "clips", "best_of", "contrast", "sweep")
OFFLINE = ("data", "windows", *RECORDING)
"""Options that have a meaning only with --env, and only without."""
UNTIL_DECIDED = {"episodes": 500, "num_envs": 20}
"""What is usual with --until_decided in place of a fixed number."""
NOT_SWEPT = ("against", "sampler", "steps", "n_action_steps", "best_of", "contrast")
"""Options that have no meaning with --sweep."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Options):
    """Run episodes of a policy in an environment and tell how many succeed; without --env, tell how far its actions are
    from recorded ones.

    An episode depends on its seed alone: with the same --num_envs, any split of the seeds gives the same records.

    Examples:
      robodiff eval runs/first --env pusht
      robodiff eval runs/first
      robodiff eval runs/second --env pusht --against runs/first
      robodiff eval runs/second --env pusht --against runs/first --until_decided
      robodiff eval runs/second --against runs/first
      robodiff eval runs/first --env pusht --episodes 50 --seed 100000 --sampler flow --steps 3
      robodiff eval runs/first --env pusht --n_action_steps 4 --best_of 8
      robodiff eval runs/first --env pusht --sweep steps=1,2,5,10 n_action_steps=4,8 --write
      robodiff eval runs/first --env pusht --checkpoint epoch-0300
      robodiff eval runs/walk --env biped --env.push_newton 100
      robodiff eval runs/team --env lift_barrier
      robodiff eval runs/team/agent-0 runs/other/agent-1 --env lift_barrier
      robodiff eval runs/three_seeds --env pusht
    """

    positional = ("policies",)
    further = "."

    policies: Annotated[list[FilePath], NotEmpty()]
    """A run, a policy's folder, or a repository of the Hugging Face hub. For a team the folder that holds the runs of
    its agents, or a policy of each: whose it is its run says, else their order does. Of a run with several training
    seeds each policy is measured, and the mean and the spread over them are told."""
    env: str | None = None
    """The environment, such as pusht. --env.NAME sets any option of it: robodiff collect ENV --help lists them. Without
    one, the policy's actions are compared with those of its run's held-out episodes."""
    episodes: Annotated[int, AtLeast(1)] | None = None
    """With --env: how many episodes; 100 when not given, with --until_decided at most 500."""
    seed: Annotated[int, AtLeast(0)] | None = None
    """Seed of the first episode, the others follow; without --env, of the noise; when not given 100000, or 300000 with
    --sweep: what one chooses by some episodes is then measured on others."""
    num_envs: Annotated[int, AtLeast(1)] | None = None
    """With --env: episodes stepped together, with one policy call; 100 when not given, with --until_decided 20."""
    sampler: str | None = None
    """ddpm, ddim, dpmsolver++, flow or flowheun, in place of the policy's own."""
    steps: Annotated[int, Between(1, 10_000)] | None = None
    """Denoising steps, in place of the policy's own number."""
    n_action_steps: Annotated[int, AtLeast(1)] | None = None
    """Actions of each chunk that are executed, in place of the policy's own number."""
    best_of: Annotated[int, Between(1, MOST_CHUNKS)] | None = None
    """With --env: chunks that are drawn at once, in place of the policy's own number; the one that best continues the
    last is executed."""
    contrast: str | None = None
    """With --env and --best_of: a weaker policy that the run kept, such as epoch-0100; chunks are chosen that are also
    unlike its own."""
    sweep: str | None = None
    """With --env: measure every combination of some ways of acting on the same seeds, such as steps=1,2,5,10
    n_action_steps=4,8 best_of=1,8 or sampler=ddim,dpmsolver++, and compare each with the policy's own."""
    write: bool = False
    """With --sweep: make the way of acting that comes off best the policy's own: the cheapest of those whose success is
    within one standard error of the highest."""
    device: str = "cpu"
    """Where the policy runs: cpu, cuda, ..."""
    videos: Annotated[int, AtLeast(0)] | None = None
    """With --env: videos of so many successes and so many failures; when not given 3, or none with --sweep."""
    clips: Annotated[int, Between(0, 1000)] | None = None
    """With --env: how many episodes are kept for the report as small clips, with their actions and rewards, at most
    1,000; when not given 100, or none with --sweep."""
    against: FilePath | None = None
    """Another policy, which is evaluated in the same way, or the folder of an evaluation; the two are compared over the
    same seeds or, without --env, at the same windows of a recording. Of runs with several training seeds, those of the
    same seed are."""
    until_decided: bool = False
    """With --env and --against: measure both policies --num_envs episodes at a time, and stop as soon as it is decided
    which succeeds more often, or after --episodes. The test holds however often one looks."""
    smallest_difference: SmallestDifference | None = None
    """With --until_decided: the smallest difference in success that matters; stop, too, when no such one is left."""
    data: str | None = None
    """Without --env: another recording, all of whose episodes are measured; builtin:pusht is the one inside the
    package. --data.NAME sets any option of its format."""
    layout: str | None = None
    """What the recording's keys are, if it does not say it itself."""
    key_map: dict[str, str] | None = None
    """Key in the recording -> name here, in its place."""
    fps: Annotated[float, Above(0)] | None = None
    """Frames per second, if the recording does not say it itself."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    windows: Annotated[int, AtLeast(1)] | None = None
    """Without --env: how many windows, evenly spread, are measured; 2000 when not given."""
    checkpoint: str = BEST
    """Which policy of a run: best, last, or one that it kept, such as epoch-0300."""
    accept_changed_data: bool = False
    """Without --env: measure although the run's recording has changed since, on episodes it was never trained on."""
    shard: Shard | None = None
    """i/n: of a run with several training seeds, measure only the i-th of each n policies, counted from 1. The process
    that measures the last one tells the mean over all."""
    out: FilePath | None = None
    """Folder to write to; when not given inside the run, or in the folder of a team's runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, remedy = (
            ("episodes in an environment", "give") if self.env is None else ("recorded episodes", "leave out")
        )
        for name in IN_ENV if self.env is None else OFFLINE:
            if getattr(self, name) is not None:
                raise UsageError(f"--{name} is for {kind}; {remedy} --env, or leave it out")

        if self.until_decided and None in (self.env, self.against):
            raise UsageError("--until_decided measures two policies in an environment; give --env and --against")
        if self.smallest_difference is not None and not self.until_decided:
            raise UsageError("--smallest_difference says when to stop; give --until_decided")
        if self.write and self.sweep is None:
            raise UsageError("--write is for a sweep: give --sweep, or leave it out")
        if self.sweep is not None and (clash := [n for n in NOT_SWEPT if getattr(self, n) is not None]):
            raise UsageError(f"--sweep measures many ways of acting, without --{clash[0]}; leave it out")
        if self.accept_changed_data and (self.env is not None or self.data is not None):
            raise UsageError("--accept_changed_data is for the run's own recording; leave it out, or --env and --data")

    @property
    def name(self) -> str:
        """What they are called."""
        checkpoint = "" if self.checkpoint == BEST else f" at {self.checkpoint}"
        return " ".join(self.policies) + checkpoint

    @property
    def config(self) -> EvalConfig | OfflineConfig:
        """What of it says how to measure."""
        kind = OfflineConfig if self.env is None else EvalConfig
        usual: dict[str, Any] = UNTIL_DECIDED if self.until_decided else {}
        if self.sweep is not None:
            usual = {"seed": SWEEP_SEED, "videos": 0, "clips": 0}
        given = {each.name: value for each in fields(kind) if (value := getattr(self, each.name)) is not None}
        return kind(**usual | given)


def run(arguments: list[str]) -> Path:
    """Parse, measure, print; return the folder that was written to."""
    options, recording = _read(joined(arguments))
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


def _read(arguments: list[str]) -> tuple[EvalOptions, dict[str, Any]]:
    """Return the options, and those that say more of the recording.

    Raises:
        UsageError: one that is unknown, out of its range, or without a meaning beside the others.
    """
    dotted: dict[str, Any] = {}
    options = read_options(EvalOptions, "eval", arguments, dotted)
    recording = {name: value for name in RECORDING if (value := getattr(options, name)) is not None}
    of_env = {}
    for option, text in dotted.items():
        part, _, name = option.partition(".")
        if part == "data":
            recording[option] = parse(text or "", Any)
        elif part != "env":
            raise unknown_option(option, hints(EvalOptions))
        elif text is None:
            raise UsageError(f"--{option} needs a value")
        else:
            of_env[name] = text
    if recording and options.data is None:
        raise UsageError(f"--{next(iter(recording))} says more of the recording that --data names; give --data")
    if options.env is not None:
        from robodiff.envs.spec import get_env_spec  # needs gymnasium

        options = replace(options, env=get_env_spec(name_with(options.env, of_env)).name)  # of several spellings one
    elif of_env:
        raise UsageError(f"--env.{next(iter(of_env))} is an option of the environment that --env names; give --env")
    return options, {name.removeprefix("data."): value for name, value in recording.items()}


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


def default_folder(members: Members, options: EvalOptions, recording: Mapping[str, Any] = {}) -> Path:
    """Return ``eval/<what is measured>`` inside the run, beside the policy, or in the folder of a team's runs.

    Args:
        members: which policies.
        options: how it is measured.
        recording: what they say of the recording; of long values the hash is in the name. One layout alone is right, so
            that is not.
    """
    (home, own), config = folder_of(members), options.config
    if isinstance(config, EvalConfig):
        what = [config.env, f"seed{config.seed}", f"{'most' if config.until_decided else 'n'}{config.episodes}"]
    else:
        of_recording = [f"{name}{_brief(value)}" for name, value in sorted(recording.items()) if name != "layout"]
        data = Path(options.data).name if options.data else None
        what = ["offline", data, *of_recording, f"seed{config.seed}", f"n{config.windows}"]
    acting = [options.sampler, options.steps]
    acting += [name + str(n) for name, n in (("act", options.n_action_steps), ("best", options.best_of)) if n]
    acting += [options.contrast] if options.contrast else []
    acting += [] if options.sweep is None else ["sweep"]
    parts = [str(part) for part in [*own, *what, *acting] if part is not None]
    return home / "eval" / re.sub(r"[^\w.+-]", "-", "-".join(parts))


def _brief(value: Any) -> str:
    """Return a value for a folder's name: numbers and short lists of them as they are, of all else a hash."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if re.fullmatch(r"[\w.-]{1,24}", text) else hashlib.sha256(text.encode()).hexdigest()[:8]


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
