"""ROS 2's topics over DDS, without an installation of ROS: a robot that a policy acts on, and one that is simulated.

ROS 2's topic ``/joint_states`` is DDS's ``rt/joint_states``, its domain ROS_DOMAIN_ID; CYCLONEDDS_URI says by which
networks. Services and actions are each middleware's own matter and not spoken here, so that trajectories are sent on
topics; with rmw_zenoh there is no DDS to speak to.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from robodiff.data.episodes import Feature
from robodiff.data.ros import joint_positions, seconds
from robodiff.deploy.ros2 import STATE, Ros2Config, Translation, domain_id, why_stale
from robodiff.deploy.ros2_messages import (
    Clock,
    Duration,
    Float64MultiArray,
    Header,
    Image,
    JointState,
    JointTrajectory,
    JointTrajectoryPoint,
    Time,
)
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.text import listed

POLL = 0.002
"""Seconds between two looks for what is waited for."""
_READS = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(1))
"""The newest alone, of any publisher: cameras' drivers are best effort, which no reliable subscriber may hear."""
_WRITES = Qos(
    Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.Durability.Volatile, Policy.History.KeepLast(1)
)


def dds_name(topic: str) -> str:
    """Return what DDS calls a topic of ROS 2."""
    return f"rt/{topic.lstrip('/')}"


class Subscription:
    """The newest message of one topic, and since when it may have been there.

    It looks for messages when it is asked: listeners of cyclonedds, which are called at once, may crash Python.
    """

    def __init__(self, participant: DomainParticipant, topic: str, kind: Any) -> None:
        self.topic, self.kind = topic, kind
        self.message: Any = None
        self.arrived = self._looked = time.monotonic()
        """When the message came at the earliest, by ``time.monotonic``: there was none at the look before."""
        self._reader = DataReader(participant, Topic(participant, dds_name(topic), kind), qos=_READS)

    def newest(self) -> Any:
        """Return the newest message; None where none has come.

        Raises:
            RobodiffError: bytes that are none.
        """
        now = time.monotonic()
        try:
            messages = [each for each in self._reader.take(8) if isinstance(each, self.kind)]
        except Exception as error:  # whatever the decoder meets
            problem = f"what came is no {self.kind.__name__}, or a broken one"
            raise RobodiffError(f"{self.topic}: {problem}: {error}") from None
        if messages:
            self.message, self.arrived = messages[-1], self._looked
        self._looked = now
        return self.message


class Ros2Robot:
    """A robot whose topics a policy reads and writes; see ``robot.py`` for what the loop asks of one.

    Args:
        translation: between its messages and the policy.
        period: seconds from one action to the next, within which the robot is to get where an action says.
    """

    def __init__(self, translation: Translation, period: float) -> None:
        config = self.config = translation.config
        self._translation, self._period = translation, Duration(*_split(period))
        self._participant = DomainParticipant(domain_id())
        self._seen = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        kinds = _observed(translation)
        self._topics = {topic: Subscription(self._participant, topic, kind) for topic, kind in kinds.items()}
        self._clock = Subscription(self._participant, "/clock", Clock) if config.use_sim_time else None
        self._writers = {topic: _writer(self._participant, topic, JointTrajectory) for topic in translation.commands}
        self._sent: dict[str, float] = {}

    def connect(self) -> None:
        """Wait until there is a message of every topic, and someone who listens to the commands.

        Raises:
            RobodiffError: what is missing after ``wait`` seconds.
        """
        self._await(self.config.wait)

    def observe(self) -> dict[str, np.ndarray]:
        """Return what the newest messages say, by the policy's keys; where one is too old, wait for the next.

        Raises:
            RobodiffError: a message is missing or too old, nobody listens to the commands, or a message does not fit.
        """
        self._await(self.config.timeout)
        return self._translation.observation({topic: each.message for topic, each in self._topics.items()})

    def execute(self, action: np.ndarray) -> None:
        """Send the robot where an action says, to be there within a period."""
        self._send(self._translation.targets(action))

    def stop(self) -> None:
        """Send the arm to where it is; the gripper keeps its command, so that it lets nothing fall."""
        if (message := self._topics[self.config.joint_states].newest()) is not None:
            self._send(self._translation.hold(message, self._sent))

    def close(self) -> None:
        """Leave the domain."""
        self._topics.clear()
        self._writers.clear()
        del self._seen, self._clock, self._participant

    def _await(self, patience: float) -> None:
        end = time.monotonic() + patience
        while problem := self._missing():
            if time.monotonic() >= end:
                raise RobodiffError(problem)
            time.sleep(POLL)

    def _send(self, targets: Mapping[str, Mapping[str, float]]) -> None:
        for topic, positions in targets.items():
            if not self._writers[topic].get_matched_subscriptions():
                notice(f"nobody listens to {topic}: {listed(positions)} will not move")
            point = JointTrajectoryPoint(positions=[*positions.values()], time_from_start=self._period)
            self._writers[topic].write(JointTrajectory(joint_names=[*positions], points=[point]))
            self._sent |= positions

    def _missing(self) -> str:
        """Return what keeps the robot from acting; nothing where nothing does."""
        clock: float | None = time.time()
        if self._clock is not None:
            if (message := self._clock.newest()) is None:
                return self._in_words(self._clock, "no message came, and use_sim_time is set")
            clock = seconds(message.clock)
        for each in self._topics.values():
            message = each.newest()
            problem = "no message came" if message is None else why_stale(self.config, message, each.arrived, clock)
            if problem:
                return self._in_words(each, problem)
        if not self._writers[next(iter(self._writers))].get_matched_subscriptions():
            topic, kind = next(iter(self._writers)), _ros_name(JointTrajectory.__idl__.idl_transformed_typename)
            return f"{topic} ({kind}): nobody listens to it in domain {domain_id()} (ROS_DOMAIN_ID)"
        return ""

    def _in_words(self, subscription: Subscription, problem: str) -> str:
        """Return a problem of a topic, and what is seen of others: who publishes it, as what, or what else there is."""
        topic, own = subscription.topic, subscription.kind.__idl__.idl_transformed_typename
        seen = {
            each.topic_name: each.type_name
            for each in self._seen.read(1000)
            if (each.topic_name or "").startswith("rt/")
        }
        others = sorted(f"/{name.removeprefix('rt/')}" for name in seen)
        published = seen.get(dds_name(topic))
        if published == own:
            peers = "it is published"
        elif published:
            peers = f"it is published as {_ros_name(published)}"
        else:
            peers = f"nobody publishes it; {listed(others)} are" if others else "no topics are seen"
        return f"{topic} ({_ros_name(own)}): {problem}; {peers} in domain {domain_id()} (ROS_DOMAIN_ID)"


class Simulated(Protocol):
    """What ``serve_robot`` needs of a robot."""

    def observe(self) -> Mapping[str, np.ndarray]:
        """Return what is seen now, ``observation.state`` among it."""
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
    """Let a simulated robot be one of ROS 2: publish what it sees, and do what trajectories say.

    It acts in steps of ``1 / rate`` from the first command on, and goes at once where the last point of the newest
    trajectory is. When commands stop to come it holds, whatever became of who sent them.

    Args:
        robot: what observes and acts, in the units of ``features``.
        features: of what it observes, ``observation.state`` and cameras, and ``action``.
        config: its topics and conventions. With ``use_sim_time`` it publishes ``/clock``, which counts its steps.
        rate: steps per second.
        timeout: seconds without a command after which the arm holds where it is.
        goes_on: asked before every step.
    """
    translation = Translation(config or Ros2Config(), features)
    if (state := translation.state) is None:
        raise UsageError(f"a robot on ROS 2 observes {STATE}; found {listed(features)}")
    peer = _RobotPeer(translation)
    commanded: dict[str, float] = {}
    start, step = time.monotonic(), 0
    while goes_on():
        step += 1
        observation = robot.observe()
        measured = state.on_the_wire(observation[STATE])
        peer.publish(observation, measured, step / rate)
        targets, age = peer.commands()
        if targets and age <= timeout:
            commanded |= targets
        elif commanded and age > timeout:
            notice(f"no command for {timeout:g} s: the arm holds where it is")
            peer.forget()
            commanded = measured | {joint: commanded[joint] for joint in peer.grippers if joint in commanded}
        if commanded:
            values = measured | commanded
            robot.execute(translation.action.recorded("commands", [*values], [*values.values()]))
        time.sleep(max(0.0, start + step / rate - time.monotonic()))


class _RobotPeer:
    """The robot's side of the topics."""

    def __init__(self, translation: Translation) -> None:
        config = self._config = translation.config
        participant = DomainParticipant(domain_id())
        kinds = _observed(translation)
        kinds |= {"/clock": Clock} if config.use_sim_time else {}
        self._translation, self.grippers = translation, [config.gripper_joint]
        self._writers = {topic: _writer(participant, topic, kind) for topic, kind in kinds.items()}
        self._commands = [Subscription(participant, topic, JointTrajectory) for topic in translation.commands]

    def publish(self, observation: Mapping[str, np.ndarray], positions: Mapping[str, float], clock: float) -> None:
        """Send what is seen now; stamps are of the wall's clock or, with ``use_sim_time``, of this one."""
        stamp = Time(*_split(clock if self._config.use_sim_time else time.time()))
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
        """Return by joint where the newest trajectories end, and how many seconds ago the last of them came."""
        messages = [each.newest() for each in self._commands]
        sent = [message for message in messages if message is not None and message.points]
        targets: dict[str, float] = {}
        for message in sent:
            targets |= joint_positions("a trajectory", message.joint_names, message.points[-1].positions)
        return targets, time.monotonic() - max(each.arrived for each in self._commands)

    def forget(self) -> None:
        """Forget what was commanded."""
        for each in self._commands:
            each.message = None


def _observed(translation: Translation) -> dict[str, Any]:
    """Return by topic the types of the messages that are observed."""
    kinds: dict[str, Any] = dict.fromkeys(translation.cameras.values(), Image)
    kinds |= dict.fromkeys(translation.vectors.values(), Float64MultiArray)
    return kinds | {translation.config.joint_states: JointState}


def _writer(participant: DomainParticipant, topic: str, kind: Any) -> DataWriter[Any]:
    return DataWriter(participant, Topic(participant, dds_name(topic), kind), qos=_WRITES)


def _split(moment: float) -> tuple[int, int]:
    """Return seconds as whole ones and nanoseconds."""
    whole, rest = divmod(round(moment * 1e9), 10**9)
    return int(whole), int(rest)


def _ros_name(typename: str) -> str:
    """Return what ROS calls a type of DDS: sensor_msgs/msg/Image for sensor_msgs::msg::dds_::Image_."""
    return typename.replace("::dds_::", "::").removesuffix("_").replace("::", "/")
