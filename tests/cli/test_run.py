"""``robodiff run``: a policy on a simulated robot, and on a robot's file; the log, and mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.test_robot import write_robot

from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.recordings import open_path
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy(small_policy: Callable[..., DiffusionPolicy], tmp_path: Path) -> Path:
    save_policy(small_policy(num_inference_steps=2, noise_scheduler_type="DDIM"), tmp_path / "policy")
    return tmp_path / "policy"


def test_a_simulated_robot_and_a_log_that_can_be_trained_on(robodiff: Run, policy: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.zarr"
    patient = "--patience", 100  # whatever else the machine does
    for episodes, more in ((2, ()), (1, ("--mode", "synchronous"))):
        code, out, err = robodiff("run", policy, "--robot", "env:pusht", "--seconds", 0.5, "--episodes", episodes,
                                  "--log", log, *patient, *more)  # fmt: skip
        assert code == 0, err
        assert "no success; ended after" in out
        assert "10 Hz; period error p50" in out
        assert ("0 of 2 episodes succeeded" in out) == (episodes == 2)
    episodes = open_path(str(log)).read_chosen()
    assert len(episodes) == 3
    assert episodes.fps == 10
    assert {*episodes.arrays} == {"observation.state", "observation.environment_state", "action"}
    assert np.ptp(episodes.arrays["action"]) > 0
    assert robodiff("data", "check", log)[0] == 0
    small = ("--model.down_dims", "[8,16]", "--model.n_groups", 4, "--data.train_batch_size", 4)
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data", log, "--rollout.env", "null",
                            "--run", tmp_path / "again", "--trainer.max_steps", 1, *small)  # fmt: skip
    assert code == 0, err


def test_what_a_robot_did_until_it_failed_is_kept(robodiff: Run, policy: Path, tmp_path: Path) -> None:
    robot, log = write_robot(tmp_path), tmp_path / "log.zarr"
    robot.write_text(
        robot.read_text().replace(
            "def execute(self, action):",
            """def execute(self, action):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 4:
            raise OSError("joint 3 is too hot")""",
        )
    )
    code, out, err = robodiff("run", policy, "--robot", robot, "--log", log, "--patience", 100)
    assert code == 1
    assert "execute() failed: OSError: joint 3 is too hot" in err
    assert "Traceback" not in err
    assert len(open_path(str(log)).read_chosen().arrays["action"]) == 3
    assert "ended after 3 steps" in out


def test_the_end_of_the_input_ends_the_episodes(
    robodiff: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    robot = write_robot(tmp_path)
    robot.write_text(robot.read_text().replace("def reset(", "def prepare("))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ended)
    code, out, err = robodiff("run", policy, "--robot", robot, "--episodes", 2, "--seconds", 0.2, "--patience", 100)
    assert code == 0, err
    assert "episode 1: " in out
    assert "episode 2: " not in out


def test_a_log_of_what_another_policy_observes_is_refused_before_the_robot_moves(
    robodiff: Run, policy: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.zarr"
    writer = ZarrWriter(log, 10, recipe={"by": "robodiff run"})
    writer.append({"observation.state": np.ones((3, 2), np.float32), "action": np.ones((3, 2), np.float32)})
    writer.close()
    code, out, err = robodiff("run", policy, "--robot", write_robot(tmp_path), "--log", log)
    assert code == 1
    assert "observation.environment_state: not in every episode; record it in all, or choose another path" in err
    assert "ended after" not in out
    assert len(open_path(str(log)).read_chosen()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--robot is missing"),
        (("--robot", "env:puscht"), "puscht"),
        (("--robot", "env:pusht", "--mode", "fast"), "--mode"),
        (("--robot", "env:lift_cube"), "lift_cube"),
        (("--robot", "robot.py"), "--robot robot.py: no such file"),
        (("--robot", "env:pusht", "--patience", "1e9"), "--patience: expected float >= 0.1 and <= 3600"),
        (("--robot", "my_arm"), "expected a Python file, env:NAME or ros2:FILE.yaml"),
    ],
)
def test_mistakes_get_a_line(robodiff: Run, policy: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = robodiff("run", policy, *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) <= 2
