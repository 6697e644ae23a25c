"""The node of ROS 2 and its launch file, against stand-ins of ROS's modules: it is installed nowhere here."""

import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robodiff.data.episodes import Feature
from robodiff.deploy.ros2_config import Ros2Config
from robodiff.deploy.ros2_messages import Float64MultiArray, Image, JointState, JointTrajectoryPoint
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.runtime import Timing

PACKAGE = Path(__file__).parents[2] / "ros2" / "diffusion_policy_inference"
UNITS = (*("deg",) * 6, "percent")
FEATURES = {
    "observation.state": Feature("vector", (7,), "float32", unit=UNITS),
    "observation.images.front": Feature("image", (3, 4, 6), "uint8"),
    "action": Feature("vector", (7,), "float32", unit=UNITS),
}
JOINTS = [*Ros2Config().joints, "gripper_controller"]


class Node:
    """What the node uses of ``rclpy.node.Node``."""

    parameters: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, name: str = "") -> None:
        self.declared: dict[str, Any] = {"use_sim_time": False}
        self.callbacks: dict[str, Callable[[Any], None]] = {}
        self.said: list[str] = []

    def declare_parameter(self, name: str, default: Any) -> None:
        self.declared[name] = default

    def get_parameter(self, name: str) -> Any:
        return SimpleNamespace(value=self.parameters.get(name, self.declared[name]))

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        self.callbacks[topic] = callback

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))

    def get_logger(self) -> Any:
        return SimpleNamespace(**dict.fromkeys(("info", "warning", "fatal"), self.said.append))


class ActionClient:
    """Keeps the goals that it is sent."""

    goals: dict[str, list[Any]] = {}  # noqa: RUF012

    def __init__(self, node: Node, kind: type, name: str) -> None:
        self.name = name
        self.goals[name] = []

    def wait_for_server(self, timeout_sec: float) -> bool:
        return True

    def send_goal_async(self, goal: Any) -> None:
        self.goals[self.name].append(goal)


def load(path: Path, modules: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Run a file where these modules can be imported."""
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    loader = SourceFileLoader(path.stem.replace(".", "_"), str(path))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # pyright: ignore
    loader.exec_module(module)
    return module


@pytest.fixture
def node_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    goal = {"trajectory": SimpleNamespace, "command": SimpleNamespace}
    action = SimpleNamespace(Goal=lambda: SimpleNamespace(**{name: kind() for name, kind in goal.items()}))
    rclpy = {"init": lambda **_: None, "spin": lambda _: None, "try_shutdown": lambda: None}
    modules = {
        "rclpy": rclpy,
        "rclpy.action": {"ActionClient": ActionClient},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {"qos_profile_sensor_data": None},
        "rclpy.signals": {"SignalHandlerOptions": SimpleNamespace(NO=0)},
        "builtin_interfaces": {},
        "builtin_interfaces.msg": {"Duration": SimpleNamespace},
        "control_msgs": {},
        "control_msgs.action": {"FollowJointTrajectory": action, "GripperCommand": action},
        "sensor_msgs": {},
        "sensor_msgs.msg": {"Image": Image, "JointState": JointState},
        "std_msgs": {},
        "std_msgs.msg": {"Float64MultiArray": Float64MultiArray},
        "trajectory_msgs": {},
        "trajectory_msgs.msg": {"JointTrajectoryPoint": JointTrajectoryPoint},
    }
    monkeypatch.setattr(Node, "parameters", {"checkpoint_path": "a/policy"})
    return load(PACKAGE / PACKAGE.name / "model_inference_node.py", modules, monkeypatch)


def speak(node: Node) -> None:
    """What a robot says."""
    position = [*np.radians([1, 2, 3, 4, 5, 6]), -0.7]
    node.callbacks["/joint_states"](JointState(name=JOINTS, position=position))
    image = Image(height=4, width=6, encoding="rgb8", step=18, data=bytes(range(72)))
    node.callbacks["/camera_head/color/image_raw"](image)


def robot_of(module: ModuleType, node: Node) -> Any:
    return module.RosRobot(node, module.Translation(Ros2Config(wait=0.05, timeout=0.2), FEATURES), 0.1)


def test_actions_become_goals_of_a_period(node_module: ModuleType) -> None:
    node = Node()
    robot = robot_of(node_module, node)
    with pytest.raises(RobodiffError, match="image_raw: no message came"):
        robot.connect()
    speak(node)
    robot.connect()
    observation = robot.observe()
    np.testing.assert_allclose(observation["observation.state"], [1, 2, 3, 4, 5, 6, 0], atol=1e-5)
    assert observation["observation.images.front"].shape == (3, 4, 6)
    for opening in (50.0, 50.4, 100.0):
        robot.execute(np.array([10, 20, 30, 40, 50, 60, opening]))
    arm = ActionClient.goals["/arm_controller/follow_joint_trajectory"]
    assert [goal.trajectory.joint_names for goal in arm] == [JOINTS[:6]] * 3
    (point,) = arm[0].trajectory.points
    np.testing.assert_allclose(point.positions, np.radians([10, 20, 30, 40, 50, 60]))
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 100_000_000)
    gripper = ActionClient.goals["/gripper_action_controller/gripper_cmd"]
    assert [goal.command.position for goal in gripper] == pytest.approx([-0.35, 0.0])  # where it is to move
    robot.stop()
    np.testing.assert_allclose(arm[-1].trajectory.points[0].positions, np.radians([1, 2, 3, 4, 5, 6]))
    assert len(gripper) == 2


def test_old_messages_are_not_acted_upon(node_module: ModuleType) -> None:
    node = Node()
    robot = robot_of(node_module, node)
    speak(node)
    robot.observe()
    node_module.time.sleep(0.25)
    with pytest.raises(RobodiffError, match="the last message came 0"):
        robot.observe()


def test_the_node_runs_the_policy_that_its_parameters_name(
    node_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = SimpleNamespace(features=FEATURES, timing=Timing(2, 8, 0.2))
    opened: list[tuple[str, str]] = []
    monkeypatch.setattr(node_module, "open_runtime", lambda *args: opened.append(args) or policy)

    class Loop:
        def __init__(self, policy: Any, robot: Any, config: Any) -> None:
            self.robot = robot

        def run(self) -> Any:
            self.robot.execute(np.zeros(7))
            return SimpleNamespace(failed=True, reason="observe() failed")

    monkeypatch.setattr(node_module, "ControlLoop", Loop)
    create = Node.create_subscription

    def subscribe(node: Node, *args: Any) -> None:
        create(node, *args)
        if len(node.callbacks) == 2:
            speak(node)

    monkeypatch.setattr(Node, "create_subscription", subscribe)
    node, parameters = Node(), {"checkpoint_path": "a/policy", "model_dir": "code"}
    monkeypatch.setattr(Node, "parameters", parameters)
    node.declared |= node_module.PARAMETERS
    with pytest.raises(RobodiffError, match="observe"):
        node_module.run(node)
    assert opened == [("a/policy", "cpu")]
    assert node.said[:2] == [
        "model_dir is not used: no code is imported from there",
        "the policy acts 5 times a second, not 10",
    ]
    assert len(ActionClient.goals["/arm_controller/follow_joint_trajectory"]) == 1
    monkeypatch.setattr(Node, "parameters", {})
    with pytest.raises(UsageError, match="checkpoint_path: name a run"):
        node_module.run(node)
    with pytest.raises(SystemExit) as exit_:
        node_module.main()
    assert exit_.value.code == 2


def test_the_launch_file_has_the_arguments_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(*args: Any, **options: Any) -> Any:
        return SimpleNamespace(args=args, **options)

    modules = {
        "launch": {"LaunchDescription": list},
        "launch.actions": {"DeclareLaunchArgument": keep},
        "launch.substitutions": {"LaunchConfiguration": str},
        "launch_ros": {},
        "launch_ros.actions": {"Node": keep},
        "launch_ros.parameter_descriptions": {"ParameterValue": lambda value, value_type: (value, value_type)},
    }
    module = load(PACKAGE / "launch" / "simulation_inference.launch.py", modules, monkeypatch)
    *arguments, node = module.generate_launch_description()
    defaults = {argument.args[0]: argument.default_value for argument in arguments}
    assert defaults["inference_rate"] == "10.0"
    assert {"checkpoint_path", "model_dir", "use_sim_time", "robot_name", "log_level"} <= {*defaults}
    assert node.parameters[0]["inference_rate"] == ("inference_rate", float)
    assert (node.namespace, node.arguments) == ("robot_name", ["--ros-args", "--log-level", "log_level"])
    source = (PACKAGE / PACKAGE.name / "model_inference_node.py").read_text()
    assert all(f'"{name}"' in source for name in module.PARAMETERS)


def test_the_package_has_our_version_and_installs_what_it_names() -> None:
    version = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert ET.parse(PACKAGE / "package.xml").findtext("version") == version
    setup = (PACKAGE / "setup.py").read_text()
    assert f'version="{version}"' in setup
    assert (PACKAGE / "resource" / PACKAGE.name).exists()
    assert f"{PACKAGE.name}.model_inference_node:main" in setup.replace("{NAME}", PACKAGE.name)
