"""What a robot needs: the core alone acts, serves and runs, and an exported policy needs no torch either."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy

TRAIN = (
    "lightning", "tensorboard", "zarr", "pyarrow", "h5py", "av", "gymnasium", "gym_pusht", "matplotlib", "jinja2",
    "timm", "mujoco", "onnx", "cyclonedds", "rosbags",
)  # fmt: skip
"""What no extra that a robot needs brings."""
BLOCK = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {absent}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Absent())
"""


def run_without(absent: tuple[str, ...], code: str, *arguments: object) -> str:
    """Run Python code where some packages are not installed; return what it prints."""
    text = textwrap.dedent(BLOCK.format(absent=set(absent))) + textwrap.dedent(code)
    command = [sys.executable, "-c", text, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


ACT = """
    import numpy as np
    from robodiff import PolicyRunner
    from robodiff.deploy.opening import open_runtime

    policy = open_runtime(sys.argv[1])
    runner = PolicyRunner(policy)
    seen = {key: np.zeros(each.shape, np.float32) for key, each in policy.features.items() if key != "action"}
    print(runner.act(seen).shape, "torch" in sys.modules)
"""


@pytest.mark.parametrize("command", ["serve", "run", "export", "import", "report", "data"])
def test_a_command_explains_itself_without_the_extras(command: str) -> None:
    main = "from robodiff.cli.main import main; main(sys.argv[1:])"
    assert f"usage: robodiff {command}" in run_without((*TRAIN, "torch", "websockets"), main, command, "--help")


def test_the_core_lets_a_policy_act(tmp_path: Path, small_policy: Callable[..., DiffusionPolicy]) -> None:
    save_policy(small_policy(), tmp_path / "policy")
    assert run_without((*TRAIN, "websockets", "openvino", "onnxruntime"), ACT, tmp_path / "policy") == "(2,) True\n"


ROBOT = """
class Robot:
    def observe(self):
        return {"observation.state": [0, 0], "observation.environment_state": [0] * 16}

    def execute(self, action):
        pass


make_robot = Robot
"""


def test_the_core_runs_a_robot(tmp_path: Path, small_policy: Callable[..., DiffusionPolicy]) -> None:
    save_policy(small_policy(), tmp_path / "policy")
    (tmp_path / "robot.py").write_text(ROBOT)
    main = "from robodiff.cli.main import main; main(sys.argv[1:])"
    words = "run", tmp_path / "policy", "--robot", tmp_path / "robot.py", "--seconds", 1
    assert "1 s are over" in run_without((*TRAIN, "websockets", "openvino", "onnxruntime"), main, *words)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE 3000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
    ],
)
def test_how_threads_wait_is_set_unless_the_user_says_it(given: dict[str, str], expected: str) -> None:
    names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    code = f"import os, robodiff; print(*map(os.environ.get, {names}))"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == f"{expected}\n"
