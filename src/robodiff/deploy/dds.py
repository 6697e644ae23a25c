"""ROS 2 topics over DDS, without a ROS installation: the robot that a policy acts on.

ROS 2's topic ``/joint_states`` is ``rt/joint_states`` in DDS. ROS_DOMAIN_ID sets the domain, CYCLONEDDS_URI the network
interfaces. Each middleware encodes services and actions in its own way, so they are not supported, and trajectories are
sent on topics. rmw_zenoh does not use DDS, so it cannot be reached.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from robodiff.data.ros import seconds
from robodiff.deploy.ros2 import Translation, domain_id, why_stale
from robodiff.deploy.ros2_messages import (
    Clock,
    Duration,
    Float64MultiArray,
    Image,
    JointState,
    JointTrajectory,
    JointTrajectoryPoint,
)
from robodiff.errors import RobodiffError, notice
from robodiff.text import listed

POLL = 0.002
"""Seconds between two polls."""
_READS = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(1))
"""Only the newest, from any publisher: a reliable subscriber does not match camera drivers, which are best effort."""
_WRITES = Qos(
    Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.Durability.Volatile, Policy.History.KeepLast(1)
)


def dds_name(topic: str) -> str:
    """Return the DDS name of a ROS 2 topic."""
    return f"rt/{topic.lstrip('/')}"


class Subscription:
    """The newest message of one topic, and the earliest time at which it may have arrived.

    It polls on request, because the listeners of cyclonedds can crash Python.
    """

    def __init__(self, participant: DomainParticipant, topic: str, kind: Any) -> None:
        self.topic, self.kind = topic, kind
        self.message: Any = None
        self.arrived = self._looked = time.monotonic()
        """Earliest time of arrival, by ``time.monotonic``: that of the poll before."""
        self._reader = DataReader(participant, Topic(participant, dds_name(topic), kind), qos=_READS)

    def newest(self) -> Any:
        """Return the newest message; None if none has arrived.

        Raises:
            RobodiffError: the bytes are not such a message.
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
    """A robot on ROS 2 topics; see ``robot.py`` for the interface.

    Args:
        translation: between its messages and the policy.
        period: seconds from one action to the next, within which the robot is to reach the target.
    """

    def __init__(self, translation: Translation, period: float) -> None:
        config = self.config = translation.config
        self._translation, self._period = translation, Duration(*as_stamp(period))
        self._participant = DomainParticipant(domain_id())
        self._seen = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        kinds = message_kinds(translation)
        self._topics = {topic: Subscription(self._participant, topic, kind) for topic, kind in kinds.items()}
        self._clock = Subscription(self._participant, "/clock", Clock) if config.use_sim_time else None
        self._writers = {topic: writer_of(self._participant, topic, JointTrajectory) for topic in translation.commands}
        self._sent: dict[str, float] = {}

    def connect(self) -> None:
        """Wait for a message on every topic, and for a subscriber to the commands.

        Raises:
            RobodiffError: what is missing after ``wait`` seconds.
        """
        self._await(self.config.wait)

    def observe(self) -> dict[str, np.ndarray]:
        """Return the observation from the newest messages, by the policy's keys; if one is too old, wait for the next.

        Raises:
            RobodiffError: a message is missing, too old or does not fit, or nobody subscribes to the commands.
        """
        self._await(self.config.timeout)
        return self._translation.observation({topic: each.message for topic, each in self._topics.items()})

    def execute(self, action: np.ndarray) -> None:
        """Send the targets of an action, to be reached within a period."""
        self._send(self._translation.targets(action))

    def stop(self) -> None:
        """Hold the arm at its measured position; the gripper keeps its command, so that it does not drop anything."""
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
        """Return what keeps the robot from acting; an empty string if nothing does."""
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
        if not self._writers[self.config.command].get_matched_subscriptions():
            kind = _ros_name(JointTrajectory.__idl__.idl_transformed_typename)
            return f"{self.config.command} ({kind}): nobody listens to it in domain {domain_id()} (ROS_DOMAIN_ID)"
        return ""

    def _in_words(self, subscription: Subscription, problem: str) -> str:
        """Return a problem of a topic, with what is published instead."""
        topic, own = subscription.topic, subscription.kind.__idl__.idl_transformed_typename
        seen = {
            each.topic_name: each.type_name
            for each in self._seen.read(1000)
            if (each.topic_name or "").startswith("rt/")
        }
        others = sorted({f"/{name.removeprefix('rt/')}" for name in seen} - {*self._writers})  # without our own
        published = seen.get(dds_name(topic))
        if published == own:
            peers = "it is published"
        elif published:
            peers = f"it is published as {_ros_name(published)}"
        else:
            peers = f"nobody publishes it; {listed(others)} are" if others else "no topics are seen"
        return f"{topic} ({_ros_name(own)}): {problem}; {peers} in domain {domain_id()} (ROS_DOMAIN_ID)"


def message_kinds(translation: Translation) -> dict[str, Any]:
    """Return the message type of each observed topic."""
    kinds: dict[str, Any] = dict.fromkeys(translation.cameras.values(), Image)
    kinds |= dict.fromkeys(translation.vectors.values(), Float64MultiArray)
    return kinds | {translation.config.joint_states: JointState}


def writer_of(participant: DomainParticipant, topic: str, kind: Any) -> DataWriter[Any]:
    """Return a writer of messages of a type."""
    return DataWriter(participant, Topic(participant, dds_name(topic), kind), qos=_WRITES)


def as_stamp(moment: float) -> tuple[int, int]:
    """Return a time in seconds as whole seconds and nanoseconds."""
    whole, rest = divmod(round(moment * 1e9), 10**9)
    return int(whole), int(rest)


def _ros_name(typename: str) -> str:
    """Return the ROS name of a DDS type: sensor_msgs/msg/Image for sensor_msgs::msg::dds_::Image_."""
    return typename.replace("::dds_::", "::").removesuffix("_").replace("::", "/")
