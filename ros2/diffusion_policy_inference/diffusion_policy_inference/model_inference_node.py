"""A node that runs a robodiff policy: a robot for robodiff's loop that uses ROS 2 actions.

``robodiff.deploy.ros2`` translates messages and units, and decides when messages are too old.
"""

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Duration
from control_msgs.action import FollowJointTrajectory, GripperCommand
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectoryPoint

from robodiff.deploy.loop import ControlLoop, LoopConfig
from robodiff.deploy.opening import open_runtime
from robodiff.deploy.robot import GuardedRobot
from robodiff.deploy.ros2 import Translation, why_stale
from robodiff.deploy.ros2_config import read_config
from robodiff.errors import RobodiffError, UsageError
from robodiff.files import with_home

ARM_ACTION = "/arm_controller/follow_joint_trajectory"
GRIPPER_ACTION = "/gripper_action_controller/gripper_cmd"
SMALLEST_MOVE = 0.01
"""Smallest change that is sent to the gripper, as a share of its range: each goal cancels the one before."""
PARAMETERS = {
    "checkpoint_path": "",
    "model_dir": "",
    "inference_rate": 10.0,
    "robot_file": "",
    "device": "cpu",
}


class RosRobot:
    """The robot behind a node's subscriptions and action clients; see ``robodiff.deploy.robot.Robot``.

    Args:
        node: spun by another thread.
        translation: between its messages and the policy.
        period: seconds from one action to the next, within which the arm is to reach the target.
    """

    def __init__(self, node: Node, translation: Translation, period: float) -> None:
        self._node, self._translation, self._config = node, translation, translation.config
        self._period = Duration(sec=int(period), nanosec=round(period % 1 * 1e9))
        self._newest: dict[str, tuple[Any, float]] = {}
        self._sent: dict[str, float] = {}
        self._topics: dict[str, Any] = dict.fromkeys(translation.cameras.values(), Image)
        self._topics |= dict.fromkeys(translation.vectors.values(), Float64MultiArray)
        self._topics[self._config.joint_states] = JointState
        for topic, kind in self._topics.items():
            node.create_subscription(kind, topic, partial(self._receive, topic), qos_profile_sensor_data)
        self._arm = ActionClient(node, FollowJointTrajectory, ARM_ACTION)
        self._gripper = ActionClient(node, GripperCommand, GRIPPER_ACTION)

    def connect(self) -> None:
        """Wait for a message on every topic, and for the controllers.

        Raises:
            RobodiffError: what is missing after ``wait`` seconds.
        """
        self._await(self._config.wait)
        clients = {ARM_ACTION: self._arm}
        if self._config.gripper_joint in self._translation.action.names:
            clients[GRIPPER_ACTION] = self._gripper
        for name, client in clients.items():
            if not client.wait_for_server(timeout_sec=self._config.wait):
                raise RobodiffError(f"{name}: no controller answers")

    def observe(self) -> dict[str, np.ndarray]:
        """Return the observation from the newest messages; if one is too old, wait for the next."""
        self._await(self._config.timeout)
        return self._translation.observation({topic: message for topic, (message, _) in self._newest.items()})

    def execute(self, action: np.ndarray) -> None:
        """Send the targets of an action, to be reached within a period."""
        self._send(self._translation.action.on_the_wire(action))

    def stop(self) -> None:
        """Hold the arm at its measured position; the gripper keeps its goal, so that it does not drop anything."""
        if newest := self._newest.get(self._config.joint_states):
            held = self._translation.hold(newest[0], self._sent)
            self._send({joint: position for targets in held.values() for joint, position in targets.items()})

    def _receive(self, topic: str, message: Any) -> None:
        self._newest[topic] = message, time.monotonic()

    def _await(self, patience: float) -> None:
        end = time.monotonic() + patience
        while problem := self._missing():
            if time.monotonic() >= end:
                raise RobodiffError(problem)
            time.sleep(0.002)

    def _missing(self) -> str:
        """Return what keeps the robot from acting; an empty string if nothing does."""
        clock = self._node.get_clock().now().nanoseconds * 1e-9 or None  # 0 before a simulation's first /clock
        for topic in self._topics:
            if topic not in self._newest:
                return f"{topic}: no message came"
            if problem := why_stale(self._config, *self._newest[topic], clock):
                return f"{topic}: {problem}"
        return ""

    def _send(self, positions: Mapping[str, float]) -> None:
        gripper = self._config.gripper_joint
        arm = {joint: position for joint, position in positions.items() if joint != gripper}
        goal = FollowJointTrajectory.Goal()
        goal.trajectory.joint_names = [*arm]
        goal.trajectory.points = [JointTrajectoryPoint(positions=[*arm.values()], time_from_start=self._period)]
        self._arm.send_goal_async(goal)
        way = abs(self._config.gripper_open - self._config.gripper_closed)
        if gripper in positions and abs(positions[gripper] - self._sent.get(gripper, np.inf)) >= SMALLEST_MOVE * way:
            goal = GripperCommand.Goal()
            goal.command.position = positions[gripper]
            self._gripper.send_goal_async(goal)
            self._sent[gripper] = positions[gripper]


def main(args: list[str] | None = None) -> None:
    """Run the node until the policy's loop ends; a signal also ends it, and the arm holds its position."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)  # the loop stops the robot first
    node = Node("model_inference_node")
    for name, default in PARAMETERS.items():
        node.declare_parameter(name, default)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    try:
        run(node)
    except RobodiffError as error:
        node.get_logger().fatal(str(error))
        sys.exit(2 if isinstance(error, UsageError) else 1)
    finally:
        rclpy.try_shutdown()


def run(node: Node) -> None:
    """Open the policy and the robot that the parameters name, and run the policy on the robot.

    Raises:
        RobodiffError: one of them cannot be opened, or the loop ends with a fault.
    """
    values = {name: node.get_parameter(name).value for name in (*PARAMETERS, "use_sim_time")}
    if not values["checkpoint_path"]:
        raise UsageError("checkpoint_path: name a run or a policy of robodiff")
    if values["model_dir"]:
        node.get_logger().warning("model_dir is not used: no code is imported from there")
    policy: Any = open_runtime(with_home(values["checkpoint_path"]), values["device"])
    rate = values["inference_rate"]
    if abs(rate * policy.timing.spacing - 1) > 0.01:
        node.get_logger().warning(f"the policy acts {1 / policy.timing.spacing:g} times a second, not {rate:g}")
    config = replace(read_config(values["robot_file"]), inference_rate=rate, use_sim_time=values["use_sim_time"])
    robot = RosRobot(node, Translation(config, policy.features), 1 / rate)
    robot.connect()
    episode = ControlLoop(policy, GuardedRobot(robot, "the robot"), LoopConfig()).run()
    node.get_logger().info(str(episode))
    if episode.failed:
        raise RobodiffError(episode.reason)


if __name__ == "__main__":
    main()
