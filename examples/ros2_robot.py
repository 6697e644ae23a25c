"""A simulated myCobot 280 behind ROS 2 topics, without a ROS installation: a stand-in for the real robot.

python examples/ros2_robot.py --episodes 3          # in one terminal
robodiff run POLICY --robot ros2:robot.yaml         # in another; see docs/ros2.md
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from cyclonedds.domain import DomainParticipant

from robodiff.data.episodes import Feature
from robodiff.data.ros import joint_positions
from robodiff.deploy.dds import Subscription, as_stamp, message_kinds, writer_of
from robodiff.deploy.ros2 import STATE, Translation, domain_id
from robodiff.deploy.ros2_config import Ros2Config, read_config
from robodiff.deploy.ros2_messages import Clock, Float64MultiArray, Header, Image, JointState, JointTrajectory, Time
from robodiff.envs.spec import AnyEnv, get_env_spec
from robodiff.errors import UsageError, notice
from robodiff.text import listed


class Simulated(Protocol):
    """The interface of a robot for ``serve_robot``."""

    def observe(self) -> Mapping[str, np.ndarray]:
        """Return the current observation, including ``observation.state``."""
        ...

    def execute(self, action: np.ndarray) -> None:
        """Act for one step."""
        ...


def serve_robot(
    robot: Simulated,
    features: Mapping[str, Feature],
    config: Ros2Config | None = None,
    *,
    rate: float = 10.0,
    timeout: float = 0.5,
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """Serve a simulated robot on ROS 2: publish its observations, and execute trajectories.

    It acts in steps of ``1 / rate`` from the first command on, and goes straight to the last point of the newest
    trajectory. When commands stop arriving it holds still, whatever the reason.

    Args:
        robot: in the units of ``features``.
        features: of its observations, including ``observation.state``, and ``action``.
        config: topics and conventions. With ``use_sim_time`` it publishes ``/clock``, which counts its steps.
        rate: steps per second.
        timeout: seconds without a command after which the arm holds where it is.
        goes_on: asked before every step.
    """
    translation = Translation(config or Ros2Config(), features)
    if (state := translation.state) is None:
        raise UsageError(f"a robot on ROS 2 observes {STATE}; found {listed(features)}")
    peer = _RobotPeer(translation)
    commanded: dict[str, float] = {}
    holds = False
    start, step = time.monotonic(), 0
    while goes_on():
        step += 1
        observation = robot.observe()
        measured = state.on_the_wire(observation[STATE])
        peer.publish(observation, measured, step / rate)
        targets, age = peer.commands()
        if targets and age <= timeout:
            commanded, holds = commanded | targets, False
        elif commanded and age > timeout and not holds:
            notice(f"no command for {timeout:g} s: the arm holds where it is")
            holds = True
            gripper = translation.config.gripper_joint
            commanded = measured | {joint: commanded[joint] for joint in [gripper] if joint in commanded}
        if commanded:
            values = measured | commanded
            robot.execute(translation.action.recorded("commands", [*values], [*values.values()]))
        time.sleep(max(0.0, start + step / rate - time.monotonic()))


class _RobotPeer:
    """The robot's side of the topics."""

    def __init__(self, translation: Translation) -> None:
        config = self._config = translation.config
        participant = DomainParticipant(domain_id())
        kinds = message_kinds(translation)
        kinds |= {"/clock": Clock} if config.use_sim_time else {}
        self._translation = translation
        self._writers = {topic: writer_of(participant, topic, kind) for topic, kind in kinds.items()}
        self._commands = [Subscription(participant, topic, JointTrajectory) for topic in translation.commands]

    def publish(self, observation: Mapping[str, np.ndarray], positions: Mapping[str, float], clock: float) -> None:
        """Publish an observation, stamped with wall-clock time or, with ``use_sim_time``, with ``clock``."""
        stamp = Time(*as_stamp(clock if self._config.use_sim_time else time.time()))
        if self._config.use_sim_time:
            self._writers["/clock"].write(Clock(stamp))
        joints = JointState(Header(stamp), name=[*positions], position=[*positions.values()])
        self._writers[self._config.joint_states].write(joints)
        for key, topic in self._translation.vectors.items():
            self._writers[topic].write(Float64MultiArray(data=observation[key].tolist()))
        for key, topic in self._translation.cameras.items():
            image = observation[key].transpose(1, 2, 0)  # CHW -> HWC
            height, width, channels = image.shape
            encoding = "rgb8" if channels == 3 else "mono8"
            values = height, width, encoding, 0, width * channels, image.tobytes()
            self._writers[topic].write(Image(Header(stamp), *values))

    def commands(self) -> tuple[dict[str, float], float]:
        """Return the target of each joint from the newest trajectories, and the age of the last one in seconds."""
        messages = [each.newest() for each in self._commands]
        sent = [message for message in messages if message is not None and message.points]
        targets: dict[str, float] = {}
        for message in sent:
            targets |= joint_positions("a trajectory", message.joint_names, message.points[-1].positions)
        return targets, time.monotonic() - max(each.arrived for each in self._commands)


class SimulatedArm:
    """An environment that runs episode after episode."""

    def __init__(self, env: AnyEnv, seed: int, episodes: int) -> None:
        self.env, self.seed, self.left = env, seed, episodes
        self.observation, _ = env.reset(seed=seed)

    def observe(self) -> dict[str, np.ndarray]:
        return self.observation

    def execute(self, action: np.ndarray) -> None:
        self.observation, _, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            print(f"episode {self.seed}: {'success' if info['is_success'] else 'no success'}", flush=True)
            self.seed, self.left = self.seed + 1, self.left - 1
            self.observation, _ = self.env.reset(seed=self.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="stack_cube_mycobot", help="an environment with observation.state")
    parser.add_argument("--robot", default="", help="the robot's file, the same as for the policy; see docs/ros2.md")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=0.5, help="seconds without a command until the arm holds")
    options = parser.parse_args()
    config, spec = read_config(options.robot), get_env_spec(options.env)
    cameras = ["observation.images.front"] if config.cameras is None else config.cameras
    keys = ["observation.state", *cameras, *config.vectors]
    arm = SimulatedArm(spec.make(keys), options.seed, options.episodes)
    print("ready", flush=True)
    serve_robot(
        arm,
        {key: spec.features[key] for key in [*keys, "action"]},
        config,
        rate=spec.fps,
        timeout=options.timeout,
        goes_on=lambda: arm.left > 0,
    )


if __name__ == "__main__":
    main()
