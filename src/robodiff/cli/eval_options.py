"""The options of ``robodiff eval``, and the folder that an evaluation is written to."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from robodiff.cli.options import Options, name_with, read_options, unknown_option
from robodiff.cli.shards import Shard
from robodiff.documents import Above, AtLeast, Between, FilePath, NotEmpty, hints, parse
from robodiff.errors import UsageError
from robodiff.evaluation.config import SWEEP_SEED, EvalConfig, OfflineConfig, SmallestDifference
from robodiff.evaluation.members import BEST, Members, folder_of
from robodiff.policies.options import MOST_CHUNKS

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


def read(arguments: list[str]) -> tuple[EvalOptions, dict[str, Any]]:
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
