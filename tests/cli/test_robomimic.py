"""A robomimic file from the command line: looked into, checked, and trained on with two cameras."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from tests.conftest import write_robomimic_file

from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]
SHAPE_META = """
obs:
  agentview_image: {shape: [3, 40, 40], type: rgb}
  robot0_eye_in_hand_image: {shape: [3, 40, 40], type: rgb}
  robot0_eef_pos: {shape: [3]}
  robot0_eef_quat: {shape: [4]}
  robot0_gripper_qpos: {shape: [2]}
action: {shape: [7]}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    return write_robomimic_file(tmp_path / "square.hdf5")


@pytest.mark.slow
def test_two_cameras_are_trained_on(robodiff: Run, file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = robodiff(
        "fit", "--config", "transformer_hybrid_image", "--data.path", file, "--run", run, "--data.filter_key", "train",
        "--data.val_filter_key", "valid", "--data.train_batch_size", 4, "--data.shape_meta", SHAPE_META,
        "--model.n_layer", 1, "--model.n_emb", 16, "--model.num_inference_steps", 2, "--model.crop_shape", "[36,36]",
        "--model.action_rotations", "['3:6']", "--model.normalization.action",
        "{'0:3': limits, '3:9': identity, '9:10': limits}", "--trainer.max_steps", 2, "--trainer.accelerator", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert f"{file}: 10 episodes" in out  # to train on
    policy = load_policy(run)
    assert policy.fps == 20.0
    assert policy.features["observation.images.agentview"].shape == (3, 40, 40)
    assert policy.noise_shape(1)[2:] == (10, 10)  # horizon 10; position, rotation as six numbers, gripper
    code, _, err = robodiff("fit", "--resume", run, "--trainer.max_steps", 3)
    assert code == 0, err
    code, out, err = robodiff("eval", run, "--windows", 6)
    assert code == 0, err
    assert "in 2 episodes of" in out
    measured = json.loads(next(run.glob("eval/*/offline.json")).read_text())
    assert [each["name"] for each in measured["dimensions"]] == [
        "action 0", "action 1", "action 2", "rotation 3:6", "action 6"
    ]  # fmt: skip
    assert [step["executed"] for step in measured["steps"]] == [True] * 8 + [False]
    page = (run / "report.html").read_text()
    assert "Error of its actions on recorded episodes" in page
    assert "agentview: Frame" in page
    assert "robot0_eye_in_hand: Frame" in page
    kept = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert kept["class_path"] == "RobomimicConfig"
    assert kept["init_args"]["shape_meta"] == yaml.safe_load(SHAPE_META)


def test_info_check_and_view(robodiff: Run, file: Path, tmp_path: Path) -> None:
    code, out, _ = robodiff("data", "info", file)
    assert code == 0
    for said in ("12 episodes, 108 frames at 20 Hz", "mask.train: 10 of 12", "observation.images.agentview"):
        assert said in out
    assert robodiff("data", "check", file, "--horizon", 8, "--n_action_steps", 4)[0] == 0
    assert robodiff("data", "view", file, "--out", tmp_path / "data.html")[0] == 0
    assert "robot0_eye_in_hand" in (tmp_path / "data.html").read_text()
    with h5py.File(file, "a") as opened:
        for number, frame in ((3, 5), (10, 0)):
            opened[f"data/demo_{number}/actions"][frame, 1] = np.inf  # type: ignore[index]
    code, out, _ = robodiff("data", "check", file, "--json")
    assert (code, out.count('"check": "finite"')) == (1, 2)
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data", "RobomimicConfig", "--data.path", file,
                            "--model.observation_keys", "[observation.object]", "--rollout.env", "null",
                            "--data.fps", 20, "--run", tmp_path / "run")  # fmt: skip
    assert code == 1
    assert "actions is not finite at frame 5 of demo_3" in err
    assert err.splitlines()[-1] == f"all that is wrong with it: robodiff data check {file} --fps 20"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--data.filter_key", "trian"), 2, "has no filter key 'trian'; there is train, valid. Did you mean 'train'?"),
        (("--data.shape_meta", "{obs: {object: {shape: [9]}}}"), 1, "object is low_dim of shape [10], but shape_meta"),
        (("--data.shape_meta", "{obs: []}"), 2, "data.shape_meta: obs: expected mapping; found []"),
        (("--data.shape_meta", "{obs: {}}"), 2, "data.shape_meta: obs: expected mapping of length >= 1; found {}"),
        (("--data.shape_meta", "{action: {shape: [7]}}"), 2, "data.shape_meta: missing required field obs"),
        (("--data.shape_meta", "{obs: {object: {shape: [9], as: rgb}}}"), 2, "contains unknown field as"),
        (("--data.path", "nowhere.hdf5"), 1, "nowhere.hdf5: no such file"),
        (("--data.filter_kye", "train"), 2, "unknown option data.filter_kye. Did you mean 'filter_key'?"),
    ],
)
def test_mistakes(robodiff: Run, file: Path, tmp_path: Path, options: tuple[str, str], code: int, message: str) -> None:
    run = tmp_path / "run"
    got, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data", "RobomimicConfig", "--data.path", file,
                           "--model.observation_keys", "[observation.object]", "--rollout.env", "null", "--run", run,
                           *options)  # fmt: skip
    assert (got, message in err, run.exists()) == (code, True, False), err
    assert len(err.strip().splitlines()) <= 2


@pytest.mark.slow
def test_the_small_one_is_trained_on_the_table_and_acts_there(robodiff: Run, tmp_path: Path) -> None:
    data, run, env = tmp_path / "cube.zarr", tmp_path / "run", "lift_cube?action_space=eef_delta&size=48x48"
    pytest.importorskip("mujoco")
    cameras = ("--cameras", "agentview,robot0_eye_in_hand")
    code, _, err = robodiff("collect", env, "--episodes", 3, *cameras, "--out", data)
    if "cannot draw" in err or "has neither" in err:
        pytest.skip(err)
    assert code == 0, err
    code, _, err = robodiff(
        "fit", "--config", "transformer_hybrid_image_cpu", "--data", data, "--run", run, "--data.train_batch_size", 4,
        "--model.n_layer", 1, "--model.n_emb", 16, "--trainer.max_steps", 2,
    )  # fmt: skip
    assert code == 0, err
    code, out, err = robodiff("eval", run, "--env", env, "--episodes", 1, "--videos", 0)
    assert code == 0, err
    assert "in 1 episode of lift_cube" in out
