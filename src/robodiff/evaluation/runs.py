"""A run's folder, read for people: what it measured, how it was configured, and how it was evaluated."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from robodiff.data.naming import in_order
from robodiff.errors import UsageError
from robodiff.evaluation.conditions import Evaluated, EvaluatedOffline, Sampling
from robodiff.evaluation.results import EnvResult, OfflineResult, RunFacts, SweepResult, read_result
from robodiff.files import read_rows
from robodiff.text import counted, listed
from robodiff.yaml_text import read_yaml

CONFIG_FILE = "config.yaml"
AGENT_FOLDER = "agent-"
"""How the names of the runs begin that a team's folder holds, one of each agent."""
SEED_FOLDER = "seed-"
"""How the names of the runs begin that differ in their training seed alone."""
EPISODES_FOLDER = "episodes-"
"""How the names of the folders begin that a learning curve has, one for each number of demonstrations."""
OWN_SAMPLING = ("noise_scheduler_type", "num_inference_steps", "num_train_timesteps")
"""Options of a model that say how it samples; the last where there is no number of steps."""
NON_FINITE_FOLDER = "non_finite"
"""Beside an evaluation: what the policy observed where an action was not finite."""
VIDEO_FOLDER = "videos"
"""Beside an evaluation: the first successes and failures."""

R = TypeVar("R", EnvResult, OfflineResult)

Curve = tuple[list[float], list[float]]
"""Of one logged quantity the optimizer steps, and the values there."""


@dataclass(frozen=True)
class Evaluation:
    """One ``metrics.json`` and the files beside it."""

    folder: Path
    result: EnvResult

    @property
    def videos(self) -> list[Path]:
        """Successes first."""
        return sorted(video_files(self.folder / VIDEO_FOLDER), key=lambda p: (p.name.startswith("failure"), p.name))

    @property
    def stopped(self) -> str:
        """In a sentence, how many episodes were stopped by an action that is not finite; empty where none was."""
        if (count := self.result.non_finite_actions) == 0:
            return ""
        stopped = (
            f"{count} of {counted(len(self.result.episodes), 'episode')} {'was' if count == 1 else 'were'} stopped"
        )
        place = f"what the policy observed there is in {self.folder / NON_FINITE_FOLDER}"
        return f"{stopped} by an action that is not finite, before it was executed; {place}"


@dataclass(frozen=True)
class OfflineEvaluation:
    """One ``offline.json`` and the files beside it."""

    folder: Path
    result: OfflineResult


@dataclass(frozen=True)
class Run:
    """What is known of a run."""

    folder: Path
    config: str = ""
    """``config.yaml`` as text; of a team those of its runs."""
    options: Any = None
    """What it says; of a team by the name of the run."""
    members: dict[str, "Run"] = field(default_factory=dict)
    """The runs of a team, by agent; empty of one policy."""
    facts: RunFacts | None = None
    """None while the first ``fit`` has not ended."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """By logged quantity."""
    evaluations: list[Evaluation] = field(default_factory=list)
    """The latest first."""
    offline: list[OfflineEvaluation] = field(default_factory=list)
    """The latest first."""
    sweeps: list[SweepResult] = field(default_factory=list)
    """Of ways of acting, the latest first."""

    @classmethod
    def of_evaluation(cls, folder: Path) -> "Run":
        """Read an evaluation of a policy whose run is not known; in one folder there may be one of each kind."""
        is_offline = (folder / OfflineResult.file).is_file()
        offline = [OfflineEvaluation(folder, read_result(folder, OfflineResult))] if is_offline else []
        if offline and not (folder / EnvResult.file).is_file():
            return cls(folder, offline=offline)
        return cls(folder, evaluations=[Evaluation(folder, read_result(folder, EnvResult))], offline=offline)

    @property
    def best(self) -> tuple[int, str, float] | None:
        """The optimizer step that ``policy/`` was kept at, what was measured then, and its value; None: the last step.

        It is what ``fit`` keeps: the highest reward in rollouts or, where there are none, the smallest error.
        """
        for measured, pick in (("rollout/mean_max_reward", max), ("val/action_mse", min)):
            if measured in self.curves:
                steps, values = self.curves[measured]
                value = pick(values)
                return int(steps[values.index(value)]), measured, value
        return None

    def parts(self, name: str = "") -> dict[str, "Run"]:
        """Return what was trained, by what a page calls it: the run by that name, or those of a team's agents."""
        return {f"{name} agent {agent}".strip(): run for agent, run in self.members.items()} or {name: self}

    @property
    def env(self) -> str | None:
        """The environment of the rollouts during training, which is where its policy is measured by default."""
        return nested(self.options, "rollout", "env")

    def what_if(self, evaluated: Evaluated | EvaluatedOffline) -> list[str]:
        """Return in words what is not as the run's policy is measured by default."""
        env = evaluated.environment if isinstance(evaluated, Evaluated) else None
        elsewhere = env is not None and self.env not in (None, env)
        return evaluated.what_if() + ([f"in {env}"] if elsewhere else [])

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read_run(folder: Path) -> Run:
    """Read the folder of a run, or of a team's runs; one that is still going on can be read, too.

    Raises:
        UsageError: it is not a run.
        RobodiffError: one of its files is broken.
    """
    in_env, offline, swept = (_latest_first(folder, kind.file) for kind in (EnvResult, OfflineResult, SweepResult))
    sweeps = [read_result(each, SweepResult) for each in swept]
    if members := {agent: read_run(run) for agent, run in agent_runs(folder).items()}:
        return Run(
            folder,
            "\n".join(f"# {run.name}\n{run.config}" for run in members.values()),
            {run.name: run.options for run in members.values()},
            members,
            evaluations=[Evaluation(each, read_result(each, EnvResult)) for each in in_env],
            sweeps=sweeps,
        )
    config = config_file(folder)
    options = read_yaml(config)  # first: it says what is wrong with the file
    return Run(
        folder,
        config.read_text(encoding="utf-8-sig"),
        options,
        {},
        read_result(folder, RunFacts) if (folder / RunFacts.file).is_file() else None,
        read_curves(folder / "metrics.csv"),
        [Evaluation(each, _read(each, EnvResult, options)) for each in in_env],
        [OfflineEvaluation(each, _read(each, OfflineResult, options)) for each in offline],
        sweeps,
    )


def _read(folder: Path, kind: type[R], options: Any) -> R:
    """Read a result; how the policy samples by itself, which earlier versions did not write, the configuration says."""
    result = read_result(folder, kind)
    sampler, steps, most = (nested(options, "model", "init_args", name) for name in OWN_SAMPLING)
    if result.evaluated.own or not isinstance(sampler, str) or not isinstance(steps or most, int):
        return result
    own = Sampling(sampler=sampler, steps=steps or most)
    return replace(result, evaluated=replace(result.evaluated, own=own))


def config_file(folder: Path) -> Path:
    """Return the file of a run's configuration.

    Raises:
        UsageError: it is not a run.
    """
    if not (folder / CONFIG_FILE).is_file():
        check_alone(folder)
        raise UsageError(f"{folder}: is not the folder of a run (it has no {CONFIG_FILE})")
    return folder / CONFIG_FILE


def agent_runs(team: Path) -> dict[str, Path]:
    """Return by agent, in order, the runs in the folder of a team; none where it is the folder of one run."""
    return _runs_within(team, AGENT_FOLDER)


def seed_runs(folder: Path) -> dict[str, Path]:
    """Return by training seed, in order, the runs that differ in it alone; none where it is the folder of one run."""
    return {seed: run for seed, run in _runs_within(folder, SEED_FOLDER).items() if seed.isdecimal()}


def curve_runs(folder: Path) -> list[Path]:
    """Return the runs of a learning curve that have begun; none where it is the folder of something else."""
    if (folder / CONFIG_FILE).is_file():
        return []
    parts = in_order(part.name for part in folder.glob(f"{EPISODES_FOLDER}*"))
    return [run for part in parts for run in seed_runs(folder / part).values()]


def is_measured(run: Path) -> bool:
    """Tell whether the policy of a run was measured, in an environment or on recorded episodes."""
    return any(_latest_first(run, kind.file) for kind in (EnvResult, OfflineResult))


def check_alone(folder: Path) -> None:
    """Refuse a folder with several runs, of training seeds or of a learning curve, where one policy is asked for."""
    if curve := curve_runs(folder):
        raise UsageError(f"{folder}: holds the runs of a learning curve; name one of them: {listed(curve)}")
    if runs := [*seed_runs(folder).values()]:
        raise UsageError(f"{folder}: holds a run for each training seed; name one of them: {listed(runs)}")


def _runs_within(folder: Path, prefix: str) -> dict[str, Path]:
    """Return by the rest of their names, in order, the runs whose names begin like that."""
    if (folder / CONFIG_FILE).is_file():
        return {}
    runs = {path.parent.name.removeprefix(prefix): path.parent for path in folder.glob(f"{prefix}*/{CONFIG_FILE}")}
    return {name: runs[name] for name in in_order(runs)}


def has_policy(run: Path) -> bool:
    """Tell whether a run has made its best policy."""
    return (run / "policy" / "config.json").is_file()


def run_of(policy: Path) -> Path | None:
    """Return the run that a policy's folder lies in (``policies/epoch-0300`` is two deep), or is; None if in none."""
    folder = policy.resolve() if policy.name in ("", "..") else policy
    return next((run for run in (folder, folder.parent, folder.parent.parent) if (run / CONFIG_FILE).is_file()), None)


def video_files(folder: Path) -> list[Path]:
    """Return the videos that ``eval`` wrote to a folder; others' are not its own."""
    return [path for path in folder.glob("*.mp4") if re.fullmatch(r"(success|failure)-\d+", path.stem)]


def non_finite_files(folder: Path) -> list[Path]:
    """Return the observations that ``eval`` wrote to a folder."""
    return [path for path in folder.glob("*.npz") if re.fullmatch(r"seed-\d+", path.stem)]


def read_curves(path: Path) -> dict[str, Curve]:
    """Read ``metrics.csv``: per quantity the steps and values that are numbers; half a line is left out."""
    curves: dict[str, Curve] = {}
    for row in read_rows(path, "global_step"):
        step = _number(row["global_step"])
        for key, text in row.items():
            value = _number(text)
            if step is not None and value is not None and key not in ("epoch", "global_step"):
                steps, values = curves.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def nested(options: Any, *path: str) -> Any:
    """Return what a configuration says at a path of keys; None where it says nothing."""
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def _latest_first(run: Path, name: str) -> list[Path]:
    """Return the folders of the evaluations that hold a file of that name."""
    files = sorted(run.glob(f"eval/*/{name}"), key=lambda path: (-path.stat().st_mtime, path))
    return [path.parent for path in files]


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
