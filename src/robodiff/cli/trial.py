"""``robodiff trial``: which of two policies succeeds more often on a robot, without telling which one acts."""

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from robodiff.cli.options import Options, read_options
from robodiff.cli.report import report
from robodiff.cli.run import open_robot
from robodiff.deploy.config import LoopConfig
from robodiff.deploy.episode import Episode
from robodiff.deploy.loop import ControlLoop
from robodiff.deploy.robot import GuardedRobot
from robodiff.documents import Above, AtLeast, FilePath
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.config import SEED, SmallestDifference, Stopping
from robodiff.evaluation.results import write_result
from robodiff.evaluation.trial import Attempt, Contender, Setup, Trial, open_trial
from robodiff.files import locked
from robodiff.text import counted, for_terminal

RECORDINGS = "first.zarr", "second.zarr"
"""Of each policy, in the folder of the trial."""
ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "a": None, "again": None}


@dataclass(frozen=True, kw_only=True)
class TrialOptions(Options, LoopConfig):
    """Find out which of two policies succeeds more often on a robot, without telling which one acts.

    Both act once in each pair of episodes, from the same start, in random order. You restore the start, press Enter,
    and say whether the episode succeeded. The trial ends as soon as it is decided, and then tells which policy was
    which. All is on disk after each episode: after Ctrl-C or a crash the same command goes on.

    Examples:
      robodiff trial runs/second runs/first --robot my_robot.py --seconds 30
      robodiff trial runs/second runs/first --robot my_robot.py --seconds 30 --episodes 20 --smallest_difference 0.2
      robodiff trial runs/second runs/first --robot env:pusht --success auto
    """

    positional = ("first", "second")

    first: FilePath
    """A run, a policy's folder, an exported policy, a repository of the Hugging Face hub, or a server's address."""
    second: FilePath
    """The policy that it is compared with."""
    robot: str
    """As for robodiff run: a Python file; env:NAME, a simulated environment; or ros2:FILE.yaml."""
    episodes: Annotated[int, AtLeast(1)] = 50
    """The most episodes of each policy. It may be changed when the trial goes on: as many as there are end it."""
    smallest_difference: SmallestDifference | None = None
    """The smallest difference in success that matters: the trial ends, too, when no such one is left."""
    success: Literal["asked", "auto"] = "asked"
    """Who says whether an episode succeeded: asked, you do; auto, the robot's own success, or the environment."""
    seconds: Annotated[float, Above(0)] | None = None
    """Length of an episode; when not given, the robot ends it."""
    seed: Annotated[int, AtLeast(0)] = SEED
    """Seed of the order; from it on, one a pair, those of the policies' noise and of the simulated environment."""
    device: str = "cpu"
    """Device that computes the policies: cpu, cuda, ..."""
    out: FilePath = "trial"
    """Folder of the trial: trial.json, a recording of each policy's episodes, first.zarr and second.zarr, and at the
    end its page, report.html."""


@dataclass(frozen=True)
class _Actor:
    """One of the policies, ready to act."""

    loop: ControlLoop
    log: Any
    world: Any
    """The robot if it is simulated, of each policy one of its own; else None."""


def run(arguments: list[str]) -> None:
    """Parse, run the episodes, print the answer."""
    options = read_options(TrialOptions, "trial", arguments)
    if options.success == "asked" and not sys.stdin.isatty():
        raise UsageError("--success asked needs a terminal to ask in; give --success auto where the robot can tell")

    from rich.console import Console

    from robodiff.deploy.opening import open_runtime
    from robodiff.progress import say

    console, folder = Console(), Path(options.out)
    policies = [open_runtime(path, options.device) for path in (options.first, options.second)]
    setup = _setup(options, policies)
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        stopping = Stopping(most=options.episodes, smallest_difference=options.smallest_difference)
        trial = open_trial(folder, setup, stopping)
        if trial.next() is not None:
            say(console, _header(trial))
            actors = _open_actors(options, policies, folder, stack)
            try:
                while (due := trial.next()) is not None:
                    trial = replace(trial, attempts=[*trial.attempts, _attempt(options, setup, actors, *due)])
                    write_result(folder, trial)
            except KeyboardInterrupt:
                pairs = len(trial.attempts) // 2
                ends = f", and with --episodes {pairs} ends the trial" if pairs else ""
                say(console, f"stopped after {counted(pairs, 'whole pair')}; the same command goes on{ends}")
                raise
        if trial.answer is None:
            trial = trial.ended()
            write_result(folder, trial)
    say(console, _outcome(trial, folder))
    say(console, f"report: {report(folder)}")


def _setup(options: TrialOptions, policies: Sequence[Any]) -> Setup:
    """Return what stays as it is to the end of the trial.

    Raises:
        UsageError: both are the same policy.
    """
    if options.first == options.second:
        raise UsageError(f"{options.first}: is to be compared with itself; name two policies")
    means = "the robot says so" if options.success == "auto" else "a person who does not know which policy acts says so"
    if options.success == "auto" and options.robot.startswith("env:"):
        from robodiff.envs.spec import get_env_spec  # needs gymnasium

        means = get_env_spec(options.robot.removeprefix("env:")).success
    return Setup(
        policies=(
            Contender(name=options.first, policy=policies[0].policy_hash or ""),
            Contender(name=options.second, policy=policies[1].policy_hash or ""),
        ),
        robot=options.robot,
        seed=options.seed,
        seconds=options.seconds,
        success_means=means,
        loop=LoopConfig(**{each.name: getattr(options, each.name) for each in fields(LoopConfig)}),
    )


def _open_actors(options: TrialOptions, policies: Sequence[Any], folder: Path, stack: ExitStack) -> list[_Actor]:
    """Return both policies, ready to act: on one robot or, where that is simulated or on ROS 2, each by its own door.

    Raises:
        UsageError: there is no such robot, a policy does not fit it, or it lacks what the options need.
    """
    from robodiff.deploy.log import logging_to  # needs zarr

    by_policy = options.robot.startswith(("env:", "ros2:"))
    opened = [open_robot(options.robot, policy, options.seed) for policy in policies[: 1 + by_policy]]
    robots = [GuardedRobot(each, f"the robot {options.robot}") for each in opened]
    for robot in robots:
        stack.callback(robot.close)
    if options.success == "auto" and not hasattr(opened[0], "success"):
        raise UsageError(f"--success auto: the robot {options.robot} has no success; give --success asked")
    if options.seconds is None and not hasattr(opened[0], "ended"):
        raise UsageError(f"the robot {options.robot} does not end an episode (it has no ended); give --seconds")
    if not robots[0].can_reset and not sys.stdin.isatty():
        raise UsageError(f"the robot {options.robot} has no reset(): somebody at a terminal must restore each start")
    return [
        _Actor(
            ControlLoop(policy, robot, options),
            stack.enter_context(logging_to(folder / name, policy)),
            world if options.robot.startswith("env:") else None,
        )
        for policy, robot, world, name in zip(
            policies, (robots[0], robots[-1]), (opened[0], opened[-1]), RECORDINGS, strict=True
        )
    ]


def _attempt(options: TrialOptions, setup: Setup, actors: Sequence[_Actor], pair: int, turn: int) -> Attempt:
    """Run an episode until one counts: that of which the person says ``again`` does not.

    Raises:
        KeyboardInterrupt: Ctrl-C, or the end of the input; the robot is stopped, and the episode does not count.
        RobodiffError: nobody can say whether it succeeded.
    """
    actor, seed, title = actors[setup.actor(pair, turn)], setup.seed + pair, f"pair {pair + 1}, episode {turn + 1} of 2"
    while True:
        if options.success == "asked" or not actor.loop.robot.can_reset:
            start = "restore the start of this pair" if turn else "choose a start, which you can restore"
            _ask(f"{title}: {start}, then press Enter ")
        if actor.world is not None:
            actor.world.next_seed = seed
        success = None
        try:
            episode = actor.loop.run(options.seconds or math.inf, seed, actor.log.add)
            if episode.interrupted:
                raise KeyboardInterrupt
            print(for_terminal(f"{title}: ended after {counted(len(episode.steps), 'step')}: {episode.reason}"))
            success = _ask_success() if options.success == "asked" else _told(episode)
        finally:
            actor.loop.episode.success = success
            actor.log.end(actor.loop.episode, seed, pair=pair, counts=success is not None)
        if success is not None:
            return Attempt(pair=pair, turn=turn, success=success, steps=len(episode.steps), reason=episode.reason)


def _ask_success() -> bool | None:
    while (answer := _ask("did it succeed? y(es), n(o), or a(gain) if it must not count: ").lower()) not in ANSWERS:
        pass
    return ANSWERS[answer]


def _ask(prompt: str) -> str:
    """Return what a person types; the end of the input stops the trial as Ctrl-C does."""
    try:
        return input(prompt).strip()
    except EOFError:
        raise KeyboardInterrupt from None


def _told(episode: Episode) -> bool:
    """Return whether an episode succeeded, as the robot says it."""
    goes_on = "the episode does not count; the same command goes on with it"
    if episode.failed:
        raise RobodiffError(f"{episode.reason}\n{goes_on}")
    if episode.success is None:
        raise RobodiffError(f"the robot does not say whether the episode succeeded (its success is None)\n{goes_on}")
    return episode.success


def _header(trial: Trial) -> str:
    first, second = (policy.name for policy in trial.setup.policies)
    so_far = f" It goes on after {counted(len(trial.attempts), 'episode')}." if trial.attempts else ""
    return (
        f"{first} against {second} on {trial.setup.robot}: at most {counted(trial.stopping.most, 'pair')} of episodes. "
        f"Which of them acts is told at the end.{so_far}"
    )


def _outcome(trial: Trial, folder: Path) -> str:
    """Tell which policy was which, and what may be concluded."""
    answer, pairs = trial.answer, len(trial.attempts) // 2
    assert answer is not None
    (low, high), names = answer.success_difference_ci95, [policy.name for policy in trial.setup.policies]
    shares = [
        f"{name}: {successes} of {counted(pairs, 'episode')} succeeded ({folder / recording})"
        for name, successes, recording in zip(names, answer.successes, RECORDINGS, strict=True)
    ]
    return "\n".join(
        [
            *shares,
            f"difference in success {answer.success_difference:+.2f} (95 % interval {low:+.2f} to {high:+.2f})",
            answer.conclusion,
            f"written: {folder / trial.file}",
        ]
    )
