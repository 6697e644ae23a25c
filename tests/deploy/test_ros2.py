"""A robot on ROS 2: units and grippers, messages on the wire, and closed loops over DDS on this machine alone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclonedds.domain import DomainParticipant
from examples.ros2_robot import serve_robot
from rosbags.typesys import Stores, get_typestore

from robodiff.cli.main import main
from robodiff.data.episodes import Feature
from robodiff.deploy import ros2_messages
from robodiff.deploy.dds import Ros2Robot, Subscription, dds_name
from robodiff.deploy.ros2 import Translation, open_robot
from robodiff.deploy.ros2_config import Ros2Config
from robodiff.deploy.ros2_messages import Header, Image, JointState, JointTrajectory, JointTrajectoryPoint, Time
from robodiff.errors import RobodiffError, UsageError

STATE, CAMERA = "observation.state", "observation.images.front"
JOINTS = tuple(Ros2Config().joints)
NAMES = (*(f"joint{number}" for number in range(1, 7)), "gripper")
DEGREES, RADIANS = (*("deg",) * 6, "percent"), (*("rad",) * 6, "share")
LOOPBACK = (
    "<CycloneDDS><Domain><General><Interfaces><NetworkInterface address='127.0.0.1'/></Interfaces>"
    "<AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex>"
    "<Peers><Peer address='127.0.0.1'/></Peers></Discovery></Domain></CycloneDDS>"
)
SIZE = (24, 42)
DOMAINS = count()


def vector(unit: Any = DEGREES, names: tuple[str, ...] | None = NAMES, size: int = 7) -> Feature:
    return Feature("vector", (size,), "float32", names, unit)


def features(unit: Any = DEGREES, camera: bool = True) -> dict[str, Feature]:
    images = {CAMERA: Feature("image", (3, *SIZE), "uint8")} if camera else {}
    return {STATE: vector(unit), **images, "action": vector(unit)}


def joint_state(positions: list[float], names: tuple[str, ...] = (*JOINTS, "gripper_controller")) -> JointState:
    return JointState(name=[*names], position=positions)


def image(pixels: np.ndarray, encoding: str = "rgb8", pad: int = 0) -> Image:
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, pad)))
    return Image(height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes())


PICTURE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)


# Units and conventions


def test_degrees_and_per_cent_are_radians_on_the_wire_and_come_back() -> None:
    translation = Translation(Ros2Config(), features())
    message = joint_state([*np.radians([10, -20, 30, -40, 50, -60]), -0.35])
    message.name.reverse(), message.position.reverse()  # by name, not by place
    observation = translation.observation({"/joint_states": message, "/camera_head/color/image_raw": image(PICTURE)})
    np.testing.assert_allclose(observation[STATE], [10, -20, 30, -40, 50, -60, 50], rtol=1e-6)
    targets = translation.targets(np.array([10, -20, 30, -40, 50, -60, 100.0]))
    arm = targets["/arm_controller/joint_trajectory"]
    assert tuple(arm) == JOINTS
    np.testing.assert_allclose([*arm.values()], np.radians([10, -20, 30, -40, 50, -60]))
    assert targets["/gripper_controller/joint_trajectory"] == {"gripper_controller": pytest.approx(0.0)}


def test_a_gripper_may_count_the_other_way_and_is_not_pressed_beyond_its_ends() -> None:
    config = Ros2Config(recorded_closed=100, recorded_open=0, gripper_command=None)
    translation = Translation(config, features())
    for value, wire in [(100, -0.7), (0, 0.0), (50, -0.35), (130, -0.7), (-30, 0.0)]:
        targets = translation.targets(np.array([*[0.0] * 6, value]))["/arm_controller/joint_trajectory"]
        assert targets["gripper_controller"] == pytest.approx(wire)
    message = joint_state([*[0.0] * 6, -0.7])
    state = Translation(config, features(camera=False)).observation({"/joint_states": message})[STATE]
    assert state[-1] == pytest.approx(100)


def test_shares_and_radians_need_no_conversion_but_of_the_gripper() -> None:
    translation = Translation(Ros2Config(), features(RADIANS))
    targets = translation.targets(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0]))
    assert [*targets["/arm_controller/joint_trajectory"].values()] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert targets["/gripper_controller/joint_trajectory"]["gripper_controller"] == pytest.approx(-0.7)


def test_a_policy_that_was_trained_on_bags_has_its_own_order_of_joints() -> None:
    names = ("gripper_controller", *reversed(JOINTS))
    feature = vector(("rad",) * 7, names)
    targets = Translation(Ros2Config(), {"action": feature}).targets(np.arange(7) / 10 - 0.5)
    assert targets["/arm_controller/joint_trajectory"][JOINTS[0]] == pytest.approx(0.1)
    assert targets["/gripper_controller/joint_trajectory"]["gripper_controller"] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("config", "unit", "message"),
    [
        ({"unit": "rad"}, DEGREES, "was recorded in deg, and the robot's file says unit: rad"),
        ({}, None, "in a unit that is not known; write unit: deg or unit: rad"),
        ({}, (*("px",) * 6, "percent"), "was recorded in px"),
        ({"unit": "deg"}, None, "does not say in what the gripper was recorded; write recorded_closed"),
        ({"recorded_closed": 0, "recorded_open": 1}, DEGREES, "from 0 to 100; found recorded_closed 0"),
        ({"joints": ["a", "b"]}, DEGREES, "has 7 dimensions; expected 2 joints, and perhaps a gripper"),
    ],
)
@pytest.mark.kind("another unit or convention")
def test_units_that_are_unknown_or_contradict_are_refused(config: dict[str, Any], unit: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Translation(Ros2Config(**config), {"action": vector(unit)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recorded_closed": 0}, "go together"),
        ({"joint_states": "/a-b"}, "joint_states: expected the name of a topic, such as /joint_states; found '/a-b'"),
        ({"joint_states": "/objects", "vectors": {"observation.x": "/objects"}}, "/objects: a topic has messages of"),
        ({"joints": ["a", "b", "a"]}, "joints and gripper_joint name a twice"),
        ({"gripper_closed": 1, "gripper_open": 1}, "are the same"),
        ({"gripper": 1}, "unknown option gripper"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("\n".join(f"{key}: {value}" for key, value in values.items()))
    with pytest.raises(UsageError, match=message) as raised:
        open_robot(str(file), features())
    assert str(file) in str(raised.value)


def test_what_no_topic_says_is_refused() -> None:
    objects = {"action": vector(), "observation.objects": vector(None, None, 3)}
    with pytest.raises(UsageError, match=r"observes observation.objects; name the topic of each under vectors"):
        Translation(Ros2Config(), objects)
    translation = Translation(Ros2Config(vectors={"observation.objects": "/objects"}), objects)
    seen = translation.observation({"/objects": ros2_messages.Float64MultiArray(data=[1.0, 2.0, 3.0])})
    assert seen["observation.objects"].tolist() == [1, 2, 3]
    two = {"observation.images.a": Feature("image", (3, 8, 8), "uint8"), CAMERA: Feature("image", (3, 8, 8), "uint8")}
    with pytest.raises(UsageError, match="several cameras; name the topic of each"):
        Translation(Ros2Config(), {"action": vector(), **two})
    with pytest.raises(UsageError, match="no such file"):
        open_robot("nowhere.yaml", features())


def test_the_gripper_keeps_its_command_when_the_arm_is_held() -> None:
    translation = Translation(Ros2Config(), features())
    held = translation.hold(joint_state([0.1] * 6 + [-0.3]), {"gripper_controller": -0.7, JOINTS[0]: 3.0})
    assert set(held["/arm_controller/joint_trajectory"].values()) == {0.1}
    assert held["/gripper_controller/joint_trajectory"] == {"gripper_controller": -0.7}
    alone = translation.hold(joint_state([0.1] * 6, JOINTS), {})  # nothing is known of the gripper
    assert alone == {"/arm_controller/joint_trajectory": dict.fromkeys(JOINTS, 0.1)}


# Pictures


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [("rgb8", PICTURE), ("bgr8", PICTURE[..., ::-1]), ("rgba8", np.pad(PICTURE, ((0, 0), (0, 0), (0, 1))))],
)
@pytest.mark.parametrize("pad", [0, 7])
def test_pictures_are_red_green_blue_whatever_the_encoding(encoding: str, pixels: np.ndarray, pad: int) -> None:
    translation = Translation(Ros2Config(), {CAMERA: Feature("image", (3, *SIZE), "uint8"), "action": vector()})
    seen = translation.observation(
        {"/joint_states": None, "/camera_head/color/image_raw": image(pixels, encoding, pad)}
    )[CAMERA]
    np.testing.assert_array_equal(seen, PICTURE.transpose(2, 0, 1))


def test_a_larger_picture_of_the_same_shape_is_averaged_and_another_shape_refused() -> None:
    translation = Translation(Ros2Config(), {CAMERA: Feature("image", (3, *SIZE), "uint8"), "action": vector()})

    def seen(message: Image) -> np.ndarray:
        return translation.observation({"/joint_states": None, "/camera_head/color/image_raw": message})[CAMERA]

    large = PICTURE.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(seen(image(large)), PICTURE.transpose(2, 0, 1), atol=1)
    for wrong in (np.zeros((24, 24, 3), np.uint8), PICTURE[:12, :21]):
        with pytest.raises(RobodiffError, match=r"for observation.images.front expected 3 channels of 24x42 pixels"):
            seen(image(wrong))
    with pytest.raises(RobodiffError, match="found 1 of 24x42"):
        seen(image(PICTURE[..., 0], "mono8"))
    with pytest.raises(RobodiffError, match="expected an encoding of rgb8"):
        seen(image(PICTURE, "bayer_rggb8"))
    broken = image(PICTURE)
    broken.data = broken.data[:-1]
    with pytest.raises(RobodiffError, match="found 3023 bytes in rows of 126"):
        seen(broken)


# Messages


def test_messages_have_the_bytes_that_ros_has() -> None:
    types = get_typestore(Stores.ROS2_HUMBLE)
    header = Header(Time(5, 7), "base")
    point = JointTrajectoryPoint([1.0, 2.0], time_from_start=ros2_messages.Duration(0, 10**8))
    messages = {
        "sensor_msgs/msg/Image": Image(header, *SIZE, "rgb8", 0, SIZE[1] * 3, PICTURE.tobytes()),
        "sensor_msgs/msg/JointState": JointState(header, ["a", "bc"], [1.0, 2.0], [], [0.5]),
        "trajectory_msgs/msg/JointTrajectory": JointTrajectory(header, ["a", "bc"], [point, point]),
        "std_msgs/msg/Float64MultiArray": ros2_messages.Float64MultiArray(data=[1.0, 2.0]),
        "rosgraph_msgs/msg/Clock": ros2_messages.Clock(Time(3, 4)),
    }
    for kind, message in messages.items():
        encoded = message.serialize()
        assert encoded == type(message).__idl__.serialize(message)  # as cyclonedds would have it
        assert bytes(types.serialize_cdr(types.deserialize_cdr(encoded, kind), kind)) == encoded
        assert (
            type(message).__idl__.idl_transformed_typename
            == kind.replace("/msg/", "::msg::dds_::").replace("/", "::") + "_"
        )
        assert type(message).deserialize(encoded).header.stamp.sec == 5 if hasattr(message, "header") else True


# Over DDS, on this machine


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain that no other test of this machine uses, and that nothing leaves the machine of."""
    number = 1 + (10 * os.getpid() + next(DOMAINS)) % 99  # above that, ports are those of other programs
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("CYCLONEDDS_URI", LOOPBACK)
    return number


class Puppet:
    """A robot that is at once where it is sent, in degrees and per cent."""

    def __init__(self) -> None:
        self.state = np.array([1, 2, 3, 4, 5, 6, 70], np.float32)
        self.executed: list[np.ndarray] = []
        self.sag = np.zeros(7, np.float32)
        """How far it falls below where it is sent."""
        self.seen = threading.Event()

    def observe(self) -> dict[str, np.ndarray]:
        self.seen.set()
        return {STATE: self.state, CAMERA: PICTURE.transpose(2, 0, 1)}

    def execute(self, action: np.ndarray) -> None:
        self.executed.append(action)
        self.state = action + self.sag


@contextmanager
def served(puppet: Puppet, config: Ros2Config | None = None, **options: Any) -> Iterator[threading.Event]:
    end = threading.Event()
    options = {"rate": 50.0, "timeout": 0.3, "goes_on": lambda: not end.is_set(), **options}
    thread = threading.Thread(target=serve_robot, args=(puppet, features(), config), kwargs=options)
    thread.start()
    try:
        assert puppet.seen.wait(20)  # before another of this process joins: cyclonedds makes topics one at a time
        yield end
    finally:
        end.set()
        thread.join()


def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.mark.parametrize("sim_time", [False, True])
def test_a_loop_is_closed_and_ends_in_a_hold(domain: int, sim_time: bool) -> None:
    config, puppet = Ros2Config(use_sim_time=sim_time, timeout=5), Puppet()
    translation = Translation(config, features())

    with served(puppet, config):
        robot = Ros2Robot(translation, 0.1)
        robot.connect()
        observation = robot.observe()
        np.testing.assert_allclose(observation[STATE], [1, 2, 3, 4, 5, 6, 70], rtol=1e-5)
        np.testing.assert_array_equal(observation[CAMERA], PICTURE.transpose(2, 0, 1))
        assert puppet.executed == []  # it waits for the first command
        action = np.array([10, 20, 30, 40, 50, 60, 0.0])
        until(lambda: robot.execute(action) or np.allclose(robot.observe()[STATE], action, atol=1e-3))
        time.sleep(0.6)  # nothing is sent: it holds by itself, the gripper as it was told
        np.testing.assert_allclose(puppet.executed[-1], action, atol=1e-3)
        robot.stop()
        robot.close()


def test_a_hold_stays_where_it_began_though_the_arm_sags(domain: int) -> None:
    puppet = Puppet()
    with served(puppet):
        robot = Ros2Robot(Translation(Ros2Config(timeout=5), features()), 0.1)
        robot.connect()
        until(lambda: robot.execute(np.full(7, 20.0)) or len(puppet.executed) > 2)
        puppet.sag[:] = -0.5
        time.sleep(1.0)
        assert puppet.executed[-1][0] == pytest.approx(19.5, abs=1e-3)
        robot.close()


def test_a_trajectory_is_one_point_a_period(domain: int) -> None:
    with served(Puppet()):
        robot = Ros2Robot(Translation(Ros2Config(timeout=5), features()), 0.125)
        listener = Subscription(DomainParticipant(domain), "/arm_controller/joint_trajectory", JointTrajectory)
        robot.connect()
        until(lambda: robot.execute(np.zeros(7)) or listener.newest() is not None)
        (point,) = listener.message.points
        assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 125_000_000)
        assert listener.message.header.stamp.sec == 0  # from now on, whatever the clocks say
        robot.close()


def test_what_is_missing_is_named_with_what_is_seen(domain: int) -> None:

    alone = Ros2Robot(Translation(Ros2Config(wait=0.1), features()), 0.1)
    with pytest.raises(
        RobodiffError, match=rf"camera_head.*\(sensor_msgs/msg/Image\): no message came; .* domain {domain}"
    ):
        alone.connect()
    alone.close()
    other = Ros2Config(cameras={CAMERA: "/joint_states"}, joint_states="/nothing", wait=1.0)
    with served(Puppet()):
        robot = Ros2Robot(Translation(other, features()), 0.1)
        with pytest.raises(RobodiffError, match="it is published as sensor_msgs/msg/JointState"):
            robot.connect()
        robot.close()
        robot = Ros2Robot(Translation(Ros2Config(joint_states="/nothing", wait=1.0), features()), 0.1)
        with pytest.raises(RobodiffError, match=r"/nothing .*: no message came; nobody publishes it; .*/joint_states"):
            robot.connect()
        robot.close()


def test_old_messages_are_not_acted_upon(domain: int) -> None:

    with served(Puppet()) as end:
        robot = Ros2Robot(Translation(Ros2Config(timeout=0.5), features()), 0.1)
        robot.connect()
        end.set()
        time.sleep(0.8)
        with pytest.raises(RobodiffError, match=r"the last message came \d\.\d\d s ago"):
            robot.observe()
        robot.close()
    with served(Puppet(), Ros2Config(use_sim_time=True)):  # stamped from 0 on, and read by the wall's clock
        robot = Ros2Robot(Translation(Ros2Config(wait=1.0), features()), 0.1)
        with pytest.raises(RobodiffError, match=r"is stamped .* s ago though it came .* set use_sim_time"):
            robot.connect()
        robot.close()


def test_a_domain_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "x")
    with pytest.raises(UsageError, match="ROS_DOMAIN_ID: expected a whole number from 0 to 232; found 'x'"):
        open_robot("", features())


def test_topics_are_called_as_ros_calls_them() -> None:
    assert dds_name("/joint_states") == "rt/joint_states"


# Processes of their own

POLICY = """
import sys, time
import numpy as np
from robodiff.deploy.ros2 import open_robot
from robodiff.envs.spec import get_env_spec
from robodiff.policies.denoisers import DiffusionMlpConfig
from robodiff.policies.runner import PolicyRunner

spec = get_env_spec("stack_cube_mycobot")
features = {key: spec.features[key] for key in ("observation.state", "action")}
config = DiffusionMlpConfig(observation_keys=["observation.state"], hidden_dim=32, num_mlp_layers=1)
robot, runner = open_robot(sys.argv[1], features), PolicyRunner(config.make_policy(features, spec.fps))
while True:
    runner.act(robot.observe())
    robot.execute(np.append(np.full(6, 0.5 + np.sin(3 * time.monotonic())), 1.0))
    print("acted", flush=True)
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_robot_holds_within_its_time_out_when_the_policy_is_killed(domain: int, tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("cameras: {}\ntimeout: 5\nwait: 60\n")
    example = Path(__file__).parents[2] / "examples" / "ros2_robot.py"
    robot = subprocess.Popen([sys.executable, example, "--robot", file, "--timeout", "0.5", "--episodes", "99"])
    policy = subprocess.Popen([sys.executable, "-c", POLICY, file], stdout=subprocess.PIPE, text=True)
    listener = Subscription(DomainParticipant(domain), "/joint_states", JointState)

    def positions() -> np.ndarray:
        time.sleep(0.25)
        return np.array(listener.newest().position)

    try:
        assert policy.stdout is not None
        assert [policy.stdout.readline() for _ in range(40)] == ["acted\n"] * 40
        until(lambda: listener.newest() is not None)
        assert max(np.abs(positions() - positions()).max() for _ in range(4)) > 0.05  # it moves
        policy.kill()  # -9
        policy.wait()
        time.sleep(2.0)  # the time-out, and for the arm to settle on a busy machine
        held = positions()
        assert all(np.abs(positions() - held).max() < 0.01 for _ in range(4))
        assert robot.poll() is None
    finally:
        policy.kill()
        robot.kill()
        policy.wait()
        robot.wait()


@pytest.mark.slow
def test_a_policy_acts_on_the_simulated_robot_as_the_page_says(domain: int, tmp_path: Path) -> None:
    file, demos, run = tmp_path / "cubes.yaml", tmp_path / "cubes.zarr", tmp_path / "run"
    topics = "{observation.environment_state: /objects, observation.objects_from_tool: /seen}"
    file.write_text(f"cameras: {{}}\nwait: 60\ntimeout: 5\nvectors: {topics}\n")
    main(["collect", "stack_cube_mycobot", "--episodes", "2", "--out", str(demos), "--workers", "1"])
    main(["fit", "--config", "tabletop_state", "--data", str(demos), "--run", str(run), "--trainer.max_steps", "2",
          "--model.down_dims", "[16,32]", "--data.train_batch_size", "8"])  # fmt: skip
    example = Path(__file__).parents[2] / "examples" / "ros2_robot.py"
    robot = subprocess.Popen([sys.executable, example, "--robot", file, "--episodes", "9"])
    act = [
        sys.executable,
        "-m",
        "robodiff",
        "run",
        run,
        "--robot",
        f"ros2:{file}",
        "--seconds",
        "3",
        "--patience",
        "60",
    ]
    try:
        done = subprocess.run(act, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "episode 1: ended after" in done.stdout
        assert robot.poll() is None
    finally:
        robot.kill()
        robot.wait()
