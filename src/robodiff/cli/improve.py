"""``robodiff improve``: rounds of letting the expert take over and training on what it did."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import numpy as np
from rich.console import Console

from robodiff.cli import collect, fit, outcomes
from robodiff.cli import eval as evaluation
from robodiff.cli.configuration import read_run_config
from robodiff.cli.options import Options, read_options
from robodiff.cli.report import report_evaluation
from robodiff.data.episodes import ACTION, INTERVENTION
from robodiff.data.mixture import OF_TRAINING, MixtureConfig
from robodiff.data.provenance import read_trained_on
from robodiff.data.recordings import DataConfig
from robodiff.documents import Above, AtLeast, AtMost, Between, FilePath, plain
from robodiff.errors import UsageError
from robodiff.evaluation.config import TAKE_OVER_SEED
from robodiff.evaluation.members import find_members
from robodiff.evaluation.results import EnvResult, RunFacts, read_result, write_result
from robodiff.evaluation.runs import CONFIG_FILE, agent_runs
from robodiff.files import locked
from robodiff.progress import bar, say
from robodiff.training.config import FitConfig
from robodiff.training.improve import Improvement, Round, minutes_of, round_of, table

SEEDS_A_ROUND = 100_000
"""From the first seed of a round's episodes to that of the next."""
LATER = 0.5
"""The learning rate of a round, as a share of the run's."""
OF_ALL_ROUNDS = ("env", "minutes", "episodes", "random", "num_envs", "weight", "learning_rate", "measure")
"""Options that may not change from one call to the next."""


@dataclass(frozen=True, kw_only=True)
class ImproveOptions(Options):
    """Make a policy better where it fails: let the expert of an environment take over, train on, measure, again.

    A round collects episodes that the policy begins and the expert ends (robodiff collect --policy), trains on from the
    policy's weights on the run's own recording and all such episodes (robodiff fit --initial_weights), and measures the
    new policy on the same seeds as the first, acting in the same way. Every step is an ordinary command, which is
    printed. The same command goes on where an earlier one was stopped; with more --rounds it adds some.

    Examples:
      robodiff improve runs/first --env pusht
      robodiff improve runs/first --env pusht --rounds 3 --minutes 10 --episodes 50 --out runs/better
    """

    positional = ("run",)

    run: FilePath
    """The run whose policy is to become better."""
    env: str
    """The environment, such as pusht, whose expert can take over."""
    rounds: Annotated[int, AtLeast(1)] = 2
    """How many."""
    minutes: Annotated[float, Above(0), AtMost(525_600)] = 5.0
    """How long each round trains; collecting and measuring come on top."""
    episodes: Annotated[int, AtLeast(1)] = 30
    """Episodes that the expert takes over in each round."""
    random: Annotated[float, Between(0, 1)] | None = None
    """Share of the seeds on which it does so at a random moment; see robodiff collect --help."""
    num_envs: Annotated[int, AtLeast(1)] | None = None
    """Episodes that begin together; see robodiff collect --help."""
    weight: Annotated[float, Above(0)] = 1.0
    """How often the windows of taken over episodes come in an epoch: with 3 three times, with 0.5 half of them."""
    learning_rate: Annotated[float, Above(0)] | None = None
    """Of each round, after its warm-up; it then falls as that of the run did. Half of the run's when not given."""
    measure: Annotated[int, AtLeast(1)] = 100
    """Episodes to measure each policy in, from seed 100000 on."""
    workers: Annotated[int, AtLeast(1)] = 1
    """Processes that collect; nothing depends on it."""
    out: FilePath | None = None
    """Folder of the rounds; RUN-improved when not given."""


def run(arguments: list[str]) -> None:
    """Parse, go through the rounds, print."""
    options = read_options(ImproveOptions, "improve", arguments)
    first = Path(options.run)
    if agent_runs(first):
        raise UsageError(f"{first}: is the folder of a team's runs; improve one policy, which may act for the team")
    from robodiff.evaluation.takeover import check_expert  # needs torch

    config = read_run_config(first)
    check_expert(options.env)
    rate = options.learning_rate or LATER * config.model.learning_rate
    folder, console = Path(options.out or f"{first}-improved"), Console()
    with locked(folder):
        asked = {**{name: plain(options)[name] for name in OF_ALL_ROUNDS}, "run": str(first.resolve())}
        _check_asked(folder, asked)
        results, rounds, policies = [_measured(first, options, console)], list[Round](), [first]
        taken_over = list[Path]()
        for number in range(options.rounds + 1):
            if number:
                latest, place = policies[-1], folder / f"round-{number}"
                taken_over.append(folder / f"takeovers-{number}.zarr")
                _do(console, number, "collect", collect.run, _collecting(options, latest, taken_over[-1], number))
                if not (place / RunFacts.file).is_file():
                    data = _data(config.data, taken_over, options.weight)
                    data += [*_divided(config.data, number * options.episodes), *_observed(first, config)]
                    data += ["--minutes", f"{options.minutes:g}"]
                    training = _training(first, latest, place, data, rate)
                    _do(console, number, "fit", fit.run, training)
                _act_alike(first, place, console)
                policies.append(place)
                results.append(_measured(place, options, console))
            minutes = sum(map(minutes_of, policies))
            rounds.append(round_of(policies[-1], config.data, taken_over, minutes, results))
            write_result(folder, Improvement(asked=asked, rounds=rounds))
        say(console, f"\n{table(rounds)}\nwritten: {folder / Improvement.file}")


def _check_asked(folder: Path, asked: dict[str, object]) -> None:
    """Refuse to go on with rounds that were asked for in another way."""
    if not (folder / Improvement.file).is_file():
        return
    before = read_result(folder, Improvement).asked
    if changed := [name for name, value in asked.items() if before.get(name) != value]:
        was = f"--{changed[0]} was {before.get(changed[0])} in the rounds there"
        raise UsageError(f"{folder}: {was}; give it as it was, or choose another --out")


def _do(console: Console, number: int, command: str, run: Callable[[list[str]], object], words: list[str]) -> None:
    """Run a command, and say which."""
    say(console, f"\nround {number}: robodiff {shlex.join([command, *words])}", "bold")
    try:
        run(words)
    except SystemExit:  # stopped, and saved
        say(console, "the same robodiff improve goes on from there, too")
        raise


def _collecting(options: ImproveOptions, policy: Path, out: Path, number: int) -> list[str]:
    """Return the command line that collects what a round learns from."""
    shared = {name: getattr(options, name) for name in ("episodes", "random", "num_envs", "workers")}
    words = {"policy": policy, "out": out, "seed": TAKE_OVER_SEED + SEEDS_A_ROUND * (number - 1), **shared}
    given = [(f"--{name}", str(value)) for name, value in words.items() if value is not None]
    return [options.env, *(word for pair in given for word in pair)]


def _training(first: Path, latest: Path, place: Path, data: Sequence[str], rate: float) -> list[str]:
    """Return the command line that trains a round on data, or goes on with it."""
    if (place / CONFIG_FILE).is_file():
        return ["--resume", str(place)]
    words = ["--config", str(first / CONFIG_FILE), "--run", str(place), "--initial_weights", str(latest)]
    return [*words, *data, "--model.learning_rate", f"{rate:g}"]


def _data(data: DataConfig, taken_over: Sequence[Path], weight: float) -> list[str]:
    """Return the options that name a run's own recordings and the taken over episodes, and how each is trained on."""
    words = [word for recording in [*map(_word, data.parts), *map(str, taken_over)] for word in ("--data", recording)]
    own = getattr(data, "weights", None) or [1.0] * len(data.parts)
    if {*(weights := [*own, *[weight] * len(taken_over)])} != {1.0}:
        words += ["--data.weights", json.dumps(weights)]
    return words if data.symmetries is None else [*words, "--data.symmetries", data.symmetries]


def _word(part: DataConfig) -> str:
    """Return a recording, with its options, as ``fit --data`` takes it."""
    place = "path", "root", "repo_id"
    named = ((each.name, getattr(part, each.name), each.default) for each in fields(part))
    given = {
        name: plain(value) for name, value, usual in named if value != usual and name not in (*place, *OF_TRAINING)
    }
    return json.dumps({"path": part.source, **given}) if given else part.source


def _divided(data: DataConfig, taken_over: int) -> list[str]:
    """Return the options that hold out what the run held out, and train on all taken over episodes.

    Otherwise the rounds would be validated on episodes that the policy, from whose weights they begin, has seen.
    """
    episodes, words = data.read([]), list[str]()
    chosen, (_, held_out) = data.chosen(episodes), data.split(episodes)
    if isinstance(data, MixtureConfig) and data.episodes is not None:
        count = len(episodes)
        words = ["--data.episodes", json.dumps([*chosen.tolist(), *range(count, count + taken_over)])]
    else:  # those that are not used are not among those of several recordings
        held_out = np.searchsorted(chosen, held_out)
    return [*words, "--data.val_episodes", json.dumps(held_out.tolist())]


def _observed(run: Path, config: FitConfig) -> list[str]:
    """Return the option that reads what the run read, where it observes whatever was recorded: more is now."""
    recorded = read_trained_on(run)
    if recorded is None or config.model.observation_keys is not None:
        return []
    return ["--data.keys", json.dumps([key for key in recorded.features if key not in (ACTION, INTERVENTION)])]


def _act_alike(first: Path, latest: Path, console: Console) -> None:
    """Make a round's policy act as the first does: a sweep may have made another way its own than the run's
    configuration says, by which rounds are trained."""
    from robodiff.evaluation.chunks import sampling_of  # needs torch
    from robodiff.policies.checkpoint import change_acting, find_policy, load_policy, save_policy

    policy = load_policy(latest)
    if (way := sampling_of(load_policy(first))) != sampling_of(policy):
        asked = {"n_action_steps": way.n_action_steps, "best_of": way.best_of}
        change_acting(policy, sampler=way.sampler, steps=way.steps, **asked)
        save_policy(policy, find_policy(latest))
        say(console, f"{latest}: acts as the first policy does: {way}")


def _measured(run: Path, options: ImproveOptions, console: Console) -> EnvResult:
    """Return an evaluation of a run's policy, which is made where there is none yet."""
    from robodiff.evaluation.evaluate import evaluate  # needs torch

    asked = evaluation.EvalOptions(policies=[str(run)], env=options.env, episodes=options.measure)
    members, config = find_members(asked.policies), asked.config
    out = evaluation.default_folder(members, asked)
    before = read_result(out, EnvResult) if (out / EnvResult.file).is_file() else None
    with bar(console, "episodes", options.measure, "measuring how long a chunk takes, and drawing videos") as advance:
        result = evaluate(members, out, config, advance, again=False)  # pyright: ignore[reportArgumentType]
    if result != before:
        say(console, f"{run}: {outcomes.in_env(out, result)}\nreport: {report_evaluation(out)}")
    return result
