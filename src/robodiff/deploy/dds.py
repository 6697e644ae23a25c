"""ROS 2's topics over DDS, without an installation of ROS: a robot that a policy acts on, and one that is simulated.

ROS 2's topic ``/joint_states`` is DDS's ``rt/joint_states``, its domain ROS_DOMAIN_ID; CYCLONEDDS_URI says by which
networks. Services and actions are each middleware's own matter and not spoken here, so that trajectories are sent on
topics; with rmw_zenoh there is no DDS to speak to.
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
        self._translation, self._period = translation, Duration(*as_stamp(period))
        self._participant = DomainParticipant(domain_id())
        self._seen = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        kinds = message_kinds(translation)
        self._topics = {topic: Subscription(self._participant, topic, kind) for topic, kind in kinds.items()}
        self._clock = Subscription(self._participant, "/clock", Clock) if config.use_sim_time else None
        self._writers = {topic: writer_of(self._participant, topic, JointTrajectory) for topic in translation.commands}
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
        if not self._writers[self.config.command].get_matched_subscriptions():
            kind = _ros_name(JointTrajectory.__idl__.idl_transformed_typename)
            return f"{self.config.command} ({kind}): nobody listens to it in domain {domain_id()} (ROS_DOMAIN_ID)"
        return ""

    def _in_words(self, subscription: Subscription, problem: str) -> str:
        """Return a problem of a topic, and what is seen of others: who publishes it, as what, or what else there is."""
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
    """Return by topic the types of the messages that are observed."""
    kinds: dict[str, Any] = dict.fromkeys(translation.cameras.values(), Image)
    kinds |= dict.fromkeys(translation.vectors.values(), Float64MultiArray)
    return kinds | {translation.config.joint_states: JointState}


def writer_of(participant: DomainParticipant, topic: str, kind: Any) -> DataWriter[Any]:
    """Return what publishes messages of a type."""
    return DataWriter(participant, Topic(participant, dds_name(topic), kind), qos=_WRITES)


def as_stamp(moment: float) -> tuple[int, int]:
    """Return seconds as whole ones and nanoseconds."""
    whole, rest = divmod(round(moment * 1e9), 10**9)
    return int(whole), int(rest)


def _ros_name(typename: str) -> str:
    """Return what ROS calls a type of DDS: sensor_msgs/msg/Image for sensor_msgs::msg::dds_::Image_."""
    return typename.replace("::dds_::", "::").removesuffix("_").replace("::", "/")
