"""``robodiff fit``: train a policy."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Literal

from robodiff import registry
from robodiff.cli.configuration import KINDS, LENGTHS, Draft, find_class, find_config, presets, read_config, to_yaml
from robodiff.cli.foreign import explained
from robodiff.cli.options import Options, description, help_text, options_help, read_options
from robodiff.cli.shards import Numbers, Shard, numbers, of_shard
from robodiff.data.naming import AGENT_FILES
from robodiff.documents import Above, AtMost, FilePath
from robodiff.errors import UsageError, notice
from robodiff.evaluation.runs import AGENT_FOLDER, SEED_FOLDER, agent_runs, config_file, seed_runs
from robodiff.text import counted, duration
from robodiff.training.config import FitConfig, RolloutConfig, TrainerConfig, max_time


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Train a policy, and keep everything of the run in one folder.

    Any option of the configuration can be given here, too: those of the policy as --model.<option>, listed by
    --model.help CLASS, those of the data as --data.<option>, listed by --data.help CLASS, and those below. A
    --trainer.max_* replaces every max_* of the configuration.

    Examples:
      robodiff fit --config pusht_keypoints
      robodiff fit --config generic --data my_recording --minutes 60
      robodiff fit --config generic --data demos.zarr --data takeovers.zarr --data.weights [1,3]
      robodiff fit --config tabletop_state --data lift_barrier.zarr --all_agents --run runs/lift_barrier
      robodiff fit --config pusht_keypoints --seeds 1,2,3 --run runs/three
      robodiff fit --config pusht_keypoints --seeds 1,2,3 --run runs/three --shard $SLURM_ARRAY_TASK_ID/3
      robodiff fit --config pusht_keypoints --model.horizon 32 --trainer.max_steps 20000
      robodiff fit --config runs/first/config.yaml --initial_weights runs/first --data more.zarr --minutes 10
      robodiff fit --resume runs/pusht_keypoints-20260131-120000
    """

    config: FilePath | None = None
    """A preset, or a file."""
    run: FilePath | None = None
    """Folder of the run; runs/<config>-<date>-<time> when not given."""
    resume: FilePath | None = None
    """Go on with this run, or with those of --seeds or --all_agents; only --trainer.max_* may be changed."""
    accept_changed_data: bool = False
    """With --resume: go on although the recording has changed since; what was held out stays so while it is there."""
    minutes: Annotated[float, Above(0), AtMost(525_600)] | None = None
    """Train for about so long, each agent and each of --seeds for itself; short for --trainer.max_time."""
    model: str | None = None
    """Class of the policy, in place of the configuration's."""
    data: list[str] | None = None
    """The recording, whatever its format: a path, builtin:pusht, or a LeRobot data set of the Hugging Face hub; or a
    mapping of it and options, '{path: demos.zarr, episodes: [0, 1]}'. Given several times, they are trained on as one;
    --data.weights then says how often each is seen. Or the class of the data, where --data.<option> says the rest."""
    all_agents: bool = False
    """Train a policy for each agent of the recording, one after another, each in its own run inside --run, agent-<id>.
    Of recordings with a file for each agent, --data is their path with {agent} in place of the id. Without it, one
    policy acts for all agents or, with --data.agent ID, for one."""
    seed_everything: int | None = None
    """Seed of everything random in training; the configuration's, or 42, when not given."""
    initial_weights: FilePath | None = None
    """Train on from this policy, a run's or any other of the same sizes: its weights and its normalizer are where the
    run begins, with a learning rate of its own."""
    seeds: Numbers | None = None
    """Train a policy with each of these seeds, one after another, each in its own run inside --run, seed-<n>. What
    differs between them is chance: robodiff eval measures them together and tells how much that is."""
    shard: Shard | None = None
    """i/n: train only the i-th of each n runs of --seeds or --all_agents, counted from 1. So n processes, also on
    several machines that share the folder, train all of them; with --resume, too."""
    plugin: str | None = None
    """A Python file or module with models, data formats, environments or samplers of your own; may be repeated."""
    print_config: Literal["whole", "skip_null", "comments"] | None = None
    """Print the configuration and stop; =comments adds every option's help, =skip_null leaves out what is null."""

    further = "."
    alone = {"print_config": "whole"}  # noqa: RUF012
    repeated = ("data",)

    @staticmethod
    def explain(option: str) -> str | None:  # noqa: D102
        return explained(option, "--")


def run(arguments: list[str]) -> None:
    """Parse, train, and say where the policy is."""
    if "-h" in arguments or "--help" in arguments:
        print(_help())
        return
    overrides: dict[str, str | None] = {}
    own = read_options(FitOptions, "fit", arguments, overrides)
    for part in KINDS:
        if f"{part}.help" in overrides:
            print(_class_help(part, overrides[f"{part}.help"]))
            return
    if own.accept_changed_data and own.resume is None:
        raise UsageError("--accept_changed_data is for a run that goes on; give --resume RUN, or leave it out")
    if own.minutes is not None:
        overrides["trainer.max_time"] = max_time(own.minutes)
    folder = Path(own.resume or own.run or new_run(Path(own.config or "fit").stem))
    if own.shard is not None and own.run is None and own.resume is None:
        raise UsageError(f"--shard {own.shard}: all processes write to one folder; name it with --run")
    if own.resume is not None:
        configs = _resumed(own, overrides, folder)
    elif own.seeds is not None:
        configs = _of_seeds(own, overrides, folder, own.seeds)
    else:
        configs = _of_agents(own, overrides, folder) if own.all_agents else {folder: begun(own, overrides)}
    if own.print_config is not None:
        print(to_yaml(next(iter(configs.values())), own.print_config), end="")
        return
    origin = {"plugins": registry.plugin_words(), "distributions": registry.distributions()}
    configs = {run: replace(config, **origin) for run, config in configs.items()}
    resume = own.resume is not None
    train(configs, folder, resume, resume and bool(overrides), own.accept_changed_data, own.shard)


def new_run(name: str) -> str:
    """Return a folder that does not exist: runs/<name>-<date>-<time>, numbered if two begin in one second."""
    folder = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (f"{folder}-{number}" for number in count(2))
    return next(each for each in chain([folder], numbered) if not Path(each).exists())


def train(
    configs: Mapping[Path, FitConfig],
    folder: Path,
    resume: bool = False,
    new_length: bool = False,
    accept_changed_data: bool = False,
    shard: str | None = None,
    again: str = "",
) -> None:
    """Train a run or, one after another, those of --seeds or --all_agents; Ctrl-C ends the process with how to go on.

    Args:
        configs: by its folder what each run is made of.
        folder: of the run, or what holds several.
        resume: go on with what was begun.
        new_length: the runs take their length from ``configs``, not from their checkpoints.
        accept_changed_data: go on although the recording has changed.
        shard: which of the runs are this process's; all when None.
        again: what goes on with them, where that is not ``fit --resume``.
    """
    from rich.console import Console

    from robodiff.cli.report import report
    from robodiff.progress import say
    from robodiff.report.run import REPORT_FILE
    from robodiff.training.callbacks import Interrupted
    from robodiff.training.fit import fit
    from robodiff.training.resume import Finished

    if shard is not None and folder in configs:
        raise UsageError(f"--shard {shard}: {folder} is one run; it divides those of --seeds or --all_agents")
    console, primary = Console(), False
    texts = {run: to_yaml(config) for run, config in configs.items()}
    configs = of_shard(configs, shard)
    team = None if folder in configs else {run: texts[run] for run in (configs if resume else texts)}
    if team is not None:
        note_length(configs)
    finished: list[Path] = []
    share = "" if shard is None else f" --shard {shard}"
    go_on = f"go on with: {again or f'robodiff fit --resume {folder}{share}'}"
    try:
        for run, config in configs.items():
            try:
                how = resume, new_length, accept_changed_data
                primary = fit(config, run, texts[run], *how, console, team)
            except Finished as nothing_left:
                finished.append(run)
                if len(finished) == len(configs):
                    raise
                notice(str(nothing_left))
                continue
            resume = True  # the first run of several begins all of them
            if primary:
                say(console, f"policy: {run / 'policy'}\nwriting the report")
                for each in [*(each for each in finished if not (each / REPORT_FILE).exists()), run]:
                    say(console, f"report: {report(each)}")
    except Interrupted as stop:
        say(console, f"{'stopped and saved' if stop.saved else 'stopped; what was saved before stays'}; {go_on}")
        raise SystemExit(128 + stop.number) from None
    except KeyboardInterrupt:  # between two runs
        if team and _runs_in(folder):
            say(console, go_on)
        raise
    if primary and team:
        say(console, f"policies: {folder}\nto measure them together: robodiff eval {folder} --env ENV")


def note_length(configs: Mapping[Path, FitConfig]) -> None:
    """Tell how long the runs of this process train together, where a time is given."""
    seconds = [config.trainer.seconds for config in configs.values() if config.trainer.max_time]
    if not configs:
        notice("fewer runs than shards: nothing is left for this one")
    elif seconds:
        notice(f"{counted(len(seconds), 'run')} of {duration(seconds[0])}: about {duration(sum(seconds))} of training")


def _runs_in(folder: Path) -> list[Path]:
    """Return the runs of a folder that holds several: those of --seeds, or of a team's agents."""
    return [*seed_runs(folder).values(), *agent_runs(folder).values()]


def begun(own: FitOptions, overrides: Mapping[str, str | None]) -> FitConfig:
    """Return what a run is made of: a file or preset, and the options of the command line over it."""
    draft = Draft.of({}) if own.config is None else find_config(own.config)
    draft.set_part("model", own.model)
    if own.data is not None and len(own.data) > 1:
        draft.mix(own.data)
    elif own.data is not None:
        draft.set_part("data", own.data[0])
    for name in ("seed_everything", "initial_weights"):
        if (value := getattr(own, name)) is not None:
            draft.top[name] = value
    return _built(draft, overrides)


def _of_agents(own: FitOptions, overrides: Mapping[str, str | None], team: Path) -> dict[Path, FitConfig]:
    """Return by its folder what each agent's run is made of.

    Raises:
        UsageError: the recording is not one of several agents, or one of them was chosen.
    """
    config = begun(own, overrides)
    if config.data.agent is not None:
        raise UsageError("--all_agents trains every agent and data.agent chooses one; leave out one of them")
    if not (agents := config.data.agents()):
        every = re.sub(r"(?i)(agent_?)\d+", rf"\1{AGENT_FILES}", Path(config.data.source).name)
        every = every if AGENT_FILES in every else f"Task_Agent{AGENT_FILES}_150.zarr"
        reason = f"{config.data.source}: its keys name no agents, as agents.0.action does"
        raise UsageError(f"{reason}\nleave out --all_agents or, for a file of each agent, give --data '{every}'")
    if env := config.rollout.env:
        notice(f"no rollouts: one agent cannot act for all; once all are trained: robodiff eval {team} --env {env}")
    config = replace(config, rollout=replace(config.rollout, env=None))
    return {
        team / f"{AGENT_FOLDER}{agent}": replace(config, data=replace(config.data, agent=agent)) for agent in agents
    }


def _of_seeds(own: FitOptions, overrides: Mapping[str, str | None], folder: Path, seeds: str) -> dict[Path, FitConfig]:
    """Return by its folder what the run of each training seed is made of."""
    for other in ("all_agents", "seed_everything"):
        if getattr(own, other) not in (None, False):
            raise UsageError(f"--seeds and --{other} do not go together; leave out one of them")
    config = begun(own, overrides)
    return {folder / f"{SEED_FOLDER}{seed}": replace(config, seed_everything=seed) for seed in numbers("seeds", seeds)}


def _resumed(own: FitOptions, overrides: Mapping[str, str | None], folder: Path) -> dict[Path, FitConfig]:
    """Return what repeats a run, or each of several, by folder; the only options allowed are those that make them
    longer or shorter."""
    begin = ("config", "run", "model", "data", "all_agents", "seed_everything", "seeds", "initial_weights")
    changed = [name for name in begin if getattr(own, name) not in (None, False)]
    changed += [option for option in overrides if option.removeprefix("trainer.") not in LENGTHS]
    if changed:
        raise UsageError(f"--resume repeats the run as it was; only --trainer.max_* may change, found --{changed[0]}")
    runs = _runs_in(folder) or [folder]
    return {run: _built(read_config(config_file(run)), overrides) for run in runs}


def _built(draft: Draft, overrides: Mapping[str, str | None]) -> FitConfig:
    if any(f"trainer.{name}" in overrides for name in LENGTHS):
        draft.clear_length()
    draft.given |= {option.replace(".init_args", "") for option in overrides}
    for option, text in overrides.items():
        draft.override(option, text)
    return draft.build()


def _help() -> str:
    classes = [f"Classes of {part}: {', '.join(registry.names(kind))}." for part, kind in KINDS.items()]
    lines = [help_text(FitOptions, "fit"), "", f"Presets: {', '.join(presets())}.", *classes]
    for part, kind in (("trainer", TrainerConfig), ("rollout", RolloutConfig)):
        lines += ["", *description(kind)[:1], *options_help(kind, part)]
    return "\n".join(lines)


def _class_help(part: str, name: str | None) -> str:
    if name is None:
        return "\n".join(f"robodiff fit --{part}.help {each}" for each in registry.names(KINDS[part]))
    kind = find_class(part, name)
    return "\n".join([*description(kind), "", f"Options of --{part} {kind.__name__}:", *options_help(kind, part)])
