"""``robodiff learning-curve``: how success, or the error, depends on the number of demonstrations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from rich.console import Console

from robodiff import registry
from robodiff.cli import eval as evaluation
from robodiff.cli import fit
from robodiff.cli.configuration import to_yaml
from robodiff.cli.eval_seeds import read_current
from robodiff.cli.options import Options, read_options
from robodiff.cli.report import report
from robodiff.cli.shards import Numbers, Shard, numbers, of_shard
from robodiff.data.recordings import DataConfig
from robodiff.documents import Above, AtLeast, AtMost, FilePath
from robodiff.errors import UsageError
from robodiff.evaluation.learning_curve import Cell, LearningCurve, learning_curve
from robodiff.evaluation.members import ALONE
from robodiff.evaluation.results import EnvResult, OfflineResult, RunFacts, write_result
from robodiff.evaluation.runs import CONFIG_FILE, EPISODES_FOLDER, SEED_FOLDER, has_policy
from robodiff.evaluation.seeds import ERROR, SUCCESS, summarise
from robodiff.progress import say
from robodiff.text import counted, table
from robodiff.training.config import FitConfig, max_time

Runs = Mapping[tuple[int, int], Path]
"""By the number of demonstrations and the training seed."""


@dataclass(frozen=True, kw_only=True)
class LearningCurveOptions(Options):
    """Train on fewer and on more demonstrations, measure every policy, and tell what still more would bring.

    Each policy is an ordinary run, OUT/episodes-<n>/seed-<n>. All train equally long, on demonstrations that the seed
    draws: those of a smaller number are among those of a larger one. The episodes that are held out are the same for
    all. The same command goes on where it was stopped. Any option of the configuration can be given here, too, as
    with robodiff fit.

    Examples:
      robodiff learning-curve --config generic --data my_recording --episodes 25,50,100 --minutes 20 --out runs/curve
      robodiff learning-curve --config pusht_keypoints --episodes 50,100,200 --env pusht --minutes 5 --out runs/pusht
      robodiff learning-curve --config pusht_keypoints --episodes 50,100,200 --out runs/pusht --shard 1/3
    """

    further = "."
    repeated = ("data",)

    config: FilePath
    """A preset, or a file."""
    data: list[str] | None = None
    """The recording, as in robodiff fit; several where it is given several times."""
    episodes: Numbers
    """How many demonstrations to train on, such as 25,50,100,200."""
    seeds: Numbers = "1,2,3"
    """Training seeds, a run of each for every number of demonstrations; the seed also draws these."""
    env: str | None = None
    """Measure success in this environment; without one, the error of the actions on the held-out episodes."""
    eval_episodes: Annotated[int, AtLeast(1)] | None = None
    """With --env: episodes in which each policy is measured; 100 when not given."""
    minutes: Annotated[float, Above(0), AtMost(525_600)] | None = None
    """Train every policy for about so long; --trainer.max_steps gives all the same number of steps instead, so that
    the result does not depend on the speed of the machine."""
    shard: Shard | None = None
    """i/n: do only the i-th of each n runs, counted from 1; the process that ends last tells the result."""
    out: FilePath
    """The folder for the runs and the result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_episodes is not None and self.env is None:
            raise UsageError("--eval_episodes is for episodes in an environment; give --env, or leave it out")

    def evaluation(self, run: Path) -> evaluation.EvalOptions:
        """Return how a run's policy is measured."""
        return evaluation.EvalOptions(policies=[str(run)], env=self.env, episodes=self.eval_episodes)


def run(arguments: list[str]) -> None:
    """Parse, train and measure what is not yet, and tell what came of it once all is."""
    overrides: dict[str, str | None] = {}
    options = read_options(LearningCurveOptions, "learning-curve", arguments, overrides)
    if options.env is not None:
        from robodiff.envs.spec import get_env_spec  # needs gymnasium

        options = replace(options, env=get_env_spec(options.env).name)  # an unknown one is told at once
    configs = _configs(options, overrides)
    console, out = Console(), Path(options.out)
    runs = {cell: out / f"{EPISODES_FOLDER}{cell[0]}" / f"{SEED_FOLDER}{cell[1]}" for cell in configs}
    own = of_shard(runs, options.shard)
    for cell, folder in runs.items():
        _check_begun(folder, configs[cell])
    fit.note_length({folder: configs[cell] for cell, folder in own.items()})
    for place, (cell, folder) in enumerate(own.items(), start=1):
        say(console, f"\n{counted(cell[0], 'demonstration')}, seed {cell[1]}: run {place} of {len(own)}", "bold")
        if not (folder / RunFacts.file).is_file():
            is_begun = (folder / CONFIG_FILE).is_file()
            fit.train({folder: configs[cell]}, folder, is_begun, again="the same command")
        if _measured(options, folder) is None:
            evaluation.run(_words(options, folder))
    _tell(options, runs, console)


def _configs(options: LearningCurveOptions, overrides: dict[str, str | None]) -> dict[tuple[int, int], FitConfig]:
    """Return what each run is made of.

    Raises:
        UsageError: epochs say how long to train, or there are too few demonstrations.
    """
    if options.minutes is not None:
        overrides["trainer.max_time"] = max_time(options.minutes)
    config = fit.begun(fit.FitOptions(config=options.config, data=options.data), overrides)
    counts, seeds = (numbers(name, getattr(options, name)) for name in ("episodes", "seeds"))
    if config.trainer.max_epochs is not None:
        rule = "an epoch is shorter the fewer demonstrations there are, and all runs are to train equally long"
        raise UsageError(f"trainer.max_epochs: {rule}\ngive --minutes or --trainer.max_steps in its place")
    origin = {"plugins": registry.plugin_words(), "distributions": registry.distributions()}
    subsets = _subsets(config.data, sorted(counts), seeds, options.env is None)
    return {
        (count, seed): replace(_measuring_alike(config, max(counts) / count), data=data, seed_everything=seed, **origin)
        for (count, seed), data in subsets.items()
    }


def _subsets(
    data: DataConfig, counts: list[int], seeds: list[int], needs_held_out: bool
) -> dict[tuple[int, int], DataConfig]:
    """Return by the number of demonstrations and the seed what is read; all hold the same episodes out."""
    episodes = data.read([])
    training, held_out = ([episodes.number(place) for place in places] for places in data.split(episodes))
    if not 1 <= counts[0] <= counts[-1] <= len(training):
        told = f"{counted(len(training), 'episode')} to train on and {len(held_out)} held out"
        raise UsageError(
            f"--episodes {','.join(map(str, counts))}: {data.source} has {told}; give 1 to {len(training)}"
        )
    if needs_held_out and not held_out:
        raise UsageError(
            f"{data.source}: no episode is held out to measure on; give --data.val_split 0.1, or --env ENV"
        )
    orders = {seed: np.random.default_rng(seed).permutation(training).tolist() for seed in seeds}
    return {
        (count, seed): replace(data, episodes=sorted([*order[:count], *held_out]), val_episodes=held_out)
        for seed, order in orders.items()
        for count in counts
    }


def _measuring_alike(config: FitConfig, epochs: float) -> FitConfig:
    """Return a configuration that measures after as many optimizer steps as one whose epochs are so much longer."""

    def scaled(every: int | None) -> int | None:
        return None if every is None else max(1, round(every * epochs))

    names = ("check_val_every_n_epoch", "sample_every_n_epochs", "keep_every_n_epochs")
    trainer = replace(config.trainer, **{name: scaled(getattr(config.trainer, name)) for name in names})
    rollout = replace(config.rollout, every_n_epochs=scaled(config.rollout.every_n_epochs))
    return replace(config, trainer=trainer, rollout=rollout)


def _check_begun(run: Path, config: FitConfig) -> None:
    """Refuse to go on with a run that was begun in another way."""
    file = run / CONFIG_FILE
    if file.is_file() and file.read_text(encoding="utf-8") != to_yaml(config):
        raise UsageError(f"{run}: was begun with other options\ngive the same ones, or choose another --out")


def _words(options: LearningCurveOptions, run: Path) -> list[str]:
    """Return the arguments of ``robodiff eval`` that measure a run's policy."""
    given = {"env": options.env, "episodes": options.eval_episodes}
    return [str(run), *(f"--{name}={value}" for name, value in given.items() if value is not None)]


def _measured(options: LearningCurveOptions, run: Path) -> EnvResult | OfflineResult | None:
    """Return what a run's policy was measured at; None where it was not."""
    if not has_policy(run):
        return None
    folder = evaluation.default_folder({ALONE: str(run)}, options.evaluation(run))
    return read_current(OfflineResult if options.env is None else EnvResult, run, folder)


def _tell(options: LearningCurveOptions, runs: Runs, console: Console) -> None:
    """Write the result and its page and tell it, once all runs are measured."""
    results = {cell: _measured(options, run) for cell, run in runs.items()}
    measured = {cell: result for cell, result in results.items() if result is not None}
    if len(measured) < len(runs):
        left = counted(len(runs) - len(measured), "run")
        say(console, f"\n{left} of {len(runs)} not measured yet; the process that ends last tells the result")
        return
    counts = sorted({count for count, _ in runs})
    together = {
        count: summarise({seed: result for (each, seed), result in measured.items() if each == count})  # pyright: ignore
        for count in counts
    }
    cells = [
        Cell(demonstrations=count, seed=each.seed, value=each.value)
        for count, summary in together.items()
        for each in summary.members
    ]
    some, out = together[counts[0]], Path(options.out)
    kind = ERROR if options.env is None else SUCCESS
    result = learning_curve(cells, kind, some.where, some.episodes)
    write_result(out, result)
    say(console, f"\n{in_words(result)}\nwritten: {out / result.file}")
    say(console, f"report: {report(out)}")


def in_words(result: LearningCurve) -> str:
    """Tell a learning curve as a table, and what more demonstrations would bring."""
    rows = [["demonstrations", result.measured, "by seed"]]
    for count in sorted({cell.demonstrations for cell in result.cells}):
        values = [cell.value for cell in result.cells if cell.demonstrations == count]
        rows.append([str(count), f"{np.mean(values):.2f}", " ".join(f"{value:.2f}" for value in values)])
    return f"{table(rows)}\n{result.conclusion}"
