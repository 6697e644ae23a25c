"""``robodiff import`` as it is typed: the folder acts like any other policy, and mistakes are told in a line or two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.foreign.test_diffusion_policy import CAN, small
from tests.policies.foreign.test_mycobot import ARGS, Evil, Original

from robodiff.cli.main import main
from robodiff.errors import UsageError
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.runner import PolicyRunner

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path, args = tmp_path_factory.mktemp("checkpoint") / "model_best.pth", {**ARGS, "diffusion_timesteps": 20}
    content = {"epoch": 300, "model_state_dict": Original().state_dict(), "optimizer_state_dict": {}, "args": args}
    torch.save({**content, "train_loss": 0.0123}, path)
    return path


@pytest.fixture(scope="module")
def policy(checkpoint: Path) -> Path:
    out = checkpoint.with_name("cube")
    main(["import", str(checkpoint), "--out", str(out)])
    return out


def test_says_what_was_read_and_how_to_go_on(robodiff: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, text, err = robodiff("import", checkpoint, "--out", tmp_path / "cube", "--camera_size", "[48,64]")
    assert code == 0, err
    assert "epoch 300, train_loss 0.0123; 21,649,927 parameters" in text
    assert "samples with DDPM in all 20 steps" in text
    assert f"robodiff eval {tmp_path / 'cube'} --env stack_cube_mycobot --sampler ddim --steps 20" in text
    assert "does not say its activation; taken as relu" in err
    assert load_policy(tmp_path / "cube").features["observation.images.front"].shape == (3, 48, 64)


@pytest.mark.parametrize("sampling", [{}, {"sampler": "ddim", "steps": 5}])
def test_acts_on_a_robot(sampling: dict[str, Any], policy: Path) -> None:
    loaded = load_policy(policy, **sampling)
    assert loaded.features["action"].units == (*["deg"] * 6, "percent")
    action = PolicyRunner(loaded).act({"observation.images.front": np.zeros((3, 240, 424), np.uint8)})
    assert action.shape == (7,)
    assert np.isfinite(action).all()


def test_samples_no_other_steps_than_those_it_was_trained_on(policy: Path) -> None:
    with pytest.raises(UsageError, match="1 to 20 steps"):
        load_policy(policy, sampler="ddim", steps=100)


@pytest.mark.slow
def test_eval_measures_it_in_the_environment(robodiff: Run, policy: Path, tmp_path: Path) -> None:
    small = ("--env", "stack_cube_mycobot", "--episodes", "1", "--num_envs", "1", "--videos", "0")
    code, _, err = robodiff("eval", policy, *small, "--sampler", "ddim", "--steps", "2", "--out", tmp_path / "eval")
    assert code == 0, err
    assert len(json.loads((tmp_path / "eval" / "metrics.json").read_text())["episodes"]) == 1


def test_mistakes(robodiff: Run, checkpoint: Path, tmp_path: Path) -> None:
    evil, marker = tmp_path / "evil.pth", tmp_path / "marker"
    torch.save({"model_state_dict": Evil(marker)}, evil)
    for words, problem in (
        ((evil, "--out", tmp_path / "new"), "names posix.system"),
        ((checkpoint, "--out", tmp_path), "exists already; choose another --out"),
        ((checkpoint,), "--out is missing"),
        ((checkpoint, "--out", tmp_path / "new", "--camera_size", "[0,4]"), "--camera_size: "),
        ((checkpoint, "--out", tmp_path / "new", "--activation", "gelu"), "--activation: "),
    ):
        code, _, err = robodiff("import", *words)
        assert (code, problem in err, len(err.splitlines()) <= 2) == (2, True, True), err
    assert not marker.exists()
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_diffusion_policy(robodiff: Run, tmp_path: Path) -> None:
    path, out = small(tmp_path, 23, 10, task={**CAN, "abs_action": True}), tmp_path / "can"
    code, text, err = robodiff("import", path, "--out", out)
    assert code == 0, err
    observed = "observation.object (14), observation.robot0_eef_pos (3), observation.robot0_eef_quat (4), "
    assert f"observes 2 steps of {observed}observation.robot0_gripper_qpos (2)\n" in text
    assert "executes 4 actions (7) at 20 Hz" in text
    assert "samples with DDPM in all 6 steps" in text
    assert f"robodiff eval {out} --data RECORDING" in text
    zeros = {key: np.zeros(each.shape) for key, each in load_policy(out).features.items() if key != "action"}
    assert PolicyRunner(load_policy(out)).act(zeros).shape == (7,)
    code, _, err = robodiff("import", small(tmp_path, policy={"eta": 1}), "--out", tmp_path / "new", "--fps", 10)
    assert (code, "cannot be represented here: policy.eta 1 is not known" in err, len(err.splitlines())) == (2, True, 1)
