"""``robodiff run``: run a policy on a robot."""

import math
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from robodiff.cli.options import ActingOptions, read_options
from robodiff.deploy.config import LoopConfig
from robodiff.deploy.loop import ControlLoop
from robodiff.deploy.robot import GuardedRobot, load_robot
from robodiff.documents import Above, AtLeast, FilePath
from robodiff.errors import RobodiffError


@dataclass(frozen=True, kw_only=True)
class RunOptions(ActingOptions, LoopConfig):
    """Run a policy on a real or simulated robot, at the rate of its recording.

    The next chunk of actions is computed while the previous one is executed. The robot is stopped once, whether time
    runs out, something fails or Ctrl-C is pressed.

    Examples:
      robodiff run runs/first --robot env:pusht
      robodiff run runs/first --robot env:pusht --episodes 10 --mode naive
      robodiff run runs/first --robot my_robot.py --seconds 60 --log what-it-did.zarr
      robodiff run ws://gpu-machine:8000 --robot my_robot.py
    """

    robot: str
    """A Python file that defines make_robot(), which returns the robot, or observe() and execute(action) as functions;
    env:NAME, a simulated environment; or ros2:FILE.yaml, a robot on ROS 2."""
    episodes: Annotated[int, AtLeast(1)] = 1
    """Number of episodes."""
    seconds: Annotated[float, Above(0)] | None = None
    """Length of an episode; when not given, the robot or Ctrl-C ends it."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of the first episode, for the policy's noise and the simulated environment; later episodes count up."""
    log: FilePath | None = None
    """Folder (.zarr) for a recording of what was observed and executed; new episodes are appended to it."""


def run(arguments: list[str]) -> None:
    """Parse, run the episodes, print the outcomes."""
    options = read_options(RunOptions, "run", arguments)

    from rich.console import Console

    from robodiff.progress import say

    console = Console()
    policy = options.open_runtime()
    outcomes = []
    with ExitStack() as stack:
        robot = GuardedRobot(open_robot(options.robot, policy, options.seed), f"the robot {options.robot}")
        stack.callback(robot.close)
        log = None
        if options.log is not None:
            from robodiff.deploy.log import logging_to  # needs zarr

            log = stack.enter_context(logging_to(Path(options.log), policy))
        loop = ControlLoop(policy, robot, options)
        for seed in range(options.seed, options.seed + options.episodes):
            if outcomes and not robot.can_reset and sys.stdin.isatty() and not is_ready():
                break
            try:
                episode = loop.run(options.seconds or math.inf, seed, log and log.add)
            finally:
                if log is not None:
                    log.end(loop.episode, seed)
            outcomes.append(episode.success)
            say(console, f"episode {len(outcomes)}: {episode}")
            if episode.failed:
                raise RobodiffError(episode.reason)
            if episode.interrupted:
                break
    if len(outcomes) > 1 and None not in outcomes:
        say(console, f"{sum(outcomes)} of {len(outcomes)} episodes succeeded")


def is_ready() -> bool:
    """Wait for Enter between two episodes; return false for Ctrl-D."""
    try:
        input("reset the scene, then press Enter ")
    except EOFError:
        return False
    return True


def open_robot(robot: str, policy: Any, seed: int) -> Any:
    """Return the robot that ``--robot`` names, for this policy; a simulated one begins with this seed.

    Raises:
        UsageError: there is no such robot, or the policy does not fit it.
    """
    kind, _, rest = robot.partition(":")
    if kind == "env":
        from robodiff.envs.robot import EnvRobot
        from robodiff.envs.spec import get_env_spec
        from robodiff.evaluation.actor import needed_keys, seen_by

        spec = seen_by(policy, get_env_spec(rest))
        return EnvRobot(spec, needed_keys(policy, spec), seed)
    if kind == "ros2":
        from robodiff.deploy import ros2

        return ros2.open_robot(rest, policy.features, policy.timing.spacing)
    return load_robot(robot)
