"""Opening the file of a robot, and a robot whose policy is killed."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.processes import Running

from robodiff.deploy.robot import GuardedRobot, load_robot
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy

ROBOT = """
import socket
import drivers

class Robot:
    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def observe(self):
        return drivers.observation()

    def execute(self, action):
        self.socket.sendto(action.tobytes(), ("127.0.0.1", {port}))

def make_robot():
    return Robot()
"""
DRIVERS = """
import numpy as np

def observation():
    return {"observation.state": np.full(2, 256.0), "observation.environment_state": np.full(16, 256.0)}
"""


def write_robot(folder: Path, port: int = 9) -> Path:
    (folder / "drivers.py").write_text(DRIVERS)
    (folder / "my_robot.py").write_text(ROBOT.format(port=port))
    return folder / "my_robot.py"


def test_a_file_makes_the_robot(tmp_path: Path) -> None:
    robot = GuardedRobot(load_robot(str(write_robot(tmp_path))), "the robot")
    robot.reset()
    assert robot.observe()["observation.state"].shape == (2,)
    robot.stop()
    robot.close()
    assert (robot.can_reset, robot.ended, robot.success) == (False, False, None)


def test_a_file_is_the_robot(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("def observe():\n    return {'a': 1}\n\ndef execute(action):\n    pass\n")
    robot = GuardedRobot(load_robot(str(tmp_path / "plain.py")), "the robot")
    assert robot.observe() == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message", "kind"),
    [
        (None, "no such file", UsageError),
        ("x = 1", "expected make_robot() that returns the robot, or observe() and execute(action)", UsageError),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError", RobodiffError),
        ("def make_robot(:", "cannot be imported: SyntaxError", RobodiffError),
        ("def make_robot():\n    raise OSError('no arm')", "failed: OSError: no arm (my.py, line 2)", RobodiffError),
        ("def make_robot():\n    return 1", "needs observe() and execute(action); it has no observe()", UsageError),
    ],
)  # fmt: skip
def test_a_file_that_makes_none(tmp_path: Path, text: str | None, message: str, kind: type[Exception]) -> None:
    file = tmp_path / "my.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(kind) as error:
        GuardedRobot(load_robot(str(file)), "the robot")
    assert message in str(error.value)


def test_what_is_no_robot_at_all() -> None:
    with pytest.raises(UsageError, match="expected a Python file, env:NAME or ros2"):
        load_robot("pusht")


def test_when_the_policy_is_killed_the_robot_side_stops_by_itself(
    tmp_path: Path, small_policy: Callable[..., DiffusionPolicy]
) -> None:
    """The robot's own side here: what receives commands, and stops where none has come for half a second."""
    save_policy(small_policy(num_inference_steps=1, noise_scheduler_type="DDIM"), tmp_path / "policy")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as driver:
        driver.bind(("127.0.0.1", 0))
        robot = write_robot(tmp_path, driver.getsockname()[1])
        acting = Running("run", tmp_path / "policy", "--robot", robot, "--seconds", 300)
        driver.settimeout(120)
        for _ in range(5):
            assert len(driver.recv(100)) == 8
        acting.kill().killed()
        driver.settimeout(0.5)
        begun, is_moving = time.monotonic(), True
        while is_moving:
            try:
                driver.recv(100)
            except TimeoutError:
                is_moving = False
    assert time.monotonic() - begun < 30
