"""Configuration files of getiaction, and classes that a file may not name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from robodiff.data.formats.lerobot_writer import LeRobotWriter
from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]
THEIRS = """
model:
  class_path: getiaction.policies.lerobot.diffusion.Diffusion
  init_args:
    n_obs_steps: 2
    horizon: 16
    n_action_steps: 8
    drop_n_last_frames: 7
    vision_backbone: "resnet18"
    crop_shape: [40, 40]
    down_dims: [8, 16]
    n_groups: 4
    noise_scheduler_type: "DDPM"
    num_train_timesteps: 4
    learning_rate: 1e-4
data:
  class_path: getiaction.data.lerobot.LeRobotDataModule
  init_args:
    repo_id: "lerobot/pusht"
    root: ROOT
    train_batch_size: 4
    num_workers: 4
    video_backend: pyav
    delta_timestamps:
      action: [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
trainer:
  max_epochs: 3000
  accelerator: cpu
  devices: 1
  precision: 32-true
  enable_checkpointing: false
"""


def test_their_file_loads_unchanged(robodiff: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    writer = LeRobotWriter(tmp_path / "set", 10, images="png")
    for _ in range(3):
        images = random.integers(0, 256, (20, 3, 48, 48), np.uint8)
        vectors = {key: random.normal(size=(20, 2)) for key in ("observation.state", "action")}
        writer.append({"observation.image": images, **vectors})
    writer.close()
    (tmp_path / "theirs.yaml").write_text(THEIRS.replace("ROOT", str(tmp_path / "set")))
    command = ("fit", "--config", tmp_path / "theirs.yaml", "--run", tmp_path / "run", "--trainer.fast_dev_run", "true",
               "--model.init_args.learning_rate", "5e-4", "--model.init_args.down_dims", "[8,16,32]",
               "--data.init_args.train_batch_size", 3)  # fmt: skip
    code, _, err = robodiff(*command)
    assert code == 0, err
    for said in ("data.video_backend has no use here", "trainer.enable_checkpointing has no use here",
                 "delta_timestamps.action starts at 0.0"):  # fmt: skip
        assert said in err
    config = load_policy(tmp_path / "run").config
    assert (config.learning_rate, config.down_dims, config.crop_shape) == (5e-4, (8, 16, 32), (40, 40))
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["data"]["init_args"]["train_batch_size"] == 3
    assert kept["model"]["class_path"] == "robodiff.policies.config.DiffusionConfig"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("drop_n_last_frames: 7", "drop_n_last_frames: 31"), "model.drop_n_last_frames follows from horizon"),
        (("drop_n_last_frames: 7", "drop_last: 7"), "unknown option model.drop_last"),
        (("getiaction.data.lerobot", "this"), "data: unknown class 'this.LeRobotDataModule'; there is ZarrDataModule"),
    ],
)
def test_refused(robodiff: Run, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "theirs.yaml").write_text(THEIRS.replace(*change))
    code, _, err = robodiff("fit", "--config", tmp_path / "theirs.yaml", "--run", tmp_path / "run")
    assert (code, "Traceback" in err) == (2, False), err
    assert message in err


def test_no_module_is_imported_because_it_is_named(robodiff: Run, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model: {class_path: this.d}\ndata: {class_path: ZarrDataModule}")
    for arguments in (
        ("--config", tmp_path / "own.yaml"),
        ("--config", "pusht_keypoints", "--model", "this.d"),
        ("--config", "pusht_keypoints", "--data.class_path", "this.d"),
    ):
        code, out, err = robodiff("fit", *arguments, "--run", tmp_path / "run")
        assert (code, "unknown class 'this.d'" in err, out) == (2, True, ""), err
