"""Configuration files of getiaction, and classes that a file may not name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from robodiff.cli.fit import FitOptions
from robodiff.cli.foreign import ELSEWHERE
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.formats.mycobot import MycobotConfig
from robodiff.errors import notice
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig
from robodiff.training.config import RolloutConfig, TrainerConfig

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
    assert kept["model"]["class_path"] == "DiffusionConfig"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("drop_n_last_frames: 7", "drop_n_last_frames: 31"), "model.drop_n_last_frames follows from horizon"),
        (("drop_n_last_frames: 7", "drop_last: 7"), "unknown option model.drop_last"),
        (("precision: 32-true", "precision: 64"), "trainer.precision: expected one of 32-true, bf16-mixed, 16-mixed"),
        (("enable_checkpointing", "enable_checkpoints"), "unknown option trainer.enable_checkpoints"),
        (("trainer:", "ckpt_path: last.ckpt\ntrainer:"), "unknown option ckpt_path"),
        (("getiaction.data.lerobot", "this"), "unknown data format 'this.LeRobotDataModule'"),
    ],
)
def test_refused(robodiff: Run, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "theirs.yaml").write_text(THEIRS.replace(*change))
    code, _, err = robodiff("fit", "--config", tmp_path / "theirs.yaml", "--run", tmp_path / "run")
    assert (code, "Traceback" in err) == (2, False), err
    assert message in err


LIGHTNINGS = """
seed_everything: true
ckpt_path: null
model:
  class_path: physicalai.policies.lerobot.Diffusion
  init_args: {compile_model: true, compile_mode: reduce-overhead, optimizer_lr: 2.0e-4}
data:
  class_path: physicalai.data.lerobot.LeRobotDataModule
  init_args: {repo_id: lerobot/pusht, dataset: null, state_columns: null}
trainer:
  max_epochs: -1
  max_steps: 5
  min_epochs: 1
  min_steps: null
  precision: PRECISION
  log_every_n_steps: null
  limit_test_batches: 3
  val_check_interval: null
  profiler: null
"""


def printed(robodiff: Run, file: Path, text: str) -> tuple[dict[str, Any], str]:
    """The configuration that is made of a file, and what is told of it."""
    notice.cache_clear()
    file.write_text(text)
    code, out, err = robodiff("fit", "--config", file, "--print_config")
    assert code == 0, err
    return yaml.safe_load(out), err


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("32", "32-true"), ("16", "16-mixed"), ("bf16", "bf16-mixed"), ('"16-mixed"', "16-mixed"), ("null", "32-true")],
)
def test_lightnings_options_are_read_as_ours_or_left_out(robodiff: Run, tmp_path: Path, theirs: str, ours: str) -> None:
    config, err = printed(robodiff, tmp_path / "theirs.yaml", LIGHTNINGS.replace("PRECISION", theirs))
    assert config["trainer"]["precision"] == ours
    assert (config["trainer"]["max_epochs"], config["trainer"]["max_steps"]) == (None, 5)
    assert (config["trainer"]["compile"], config["seed_everything"]) == (True, 42)
    assert config["model"]["init_args"]["learning_rate"] == 2e-4
    told = [line.removeprefix("robodiff: note: ") for line in err.splitlines()]
    assert told == [
        "what the configuration leaves out is as in getiaction: model.crop_shape [84, 84], model.down_dims "
        "[512, 1024, 2048], model.diffusion_step_embed_dim 128, model.optimizer_type adam, data.train_batch_size 16, "
        "trainer.gradient_clip_val null",
        "seed_everything is a number here, and true and false are none; taken as 42",
        "model.compile_mode has no use here and is left out",
        "trainer.limit_test_batches has no use here and is left out",
        "trainer.min_epochs has no use here and is left out",
    ]


def test_defaults_are_those_of_their_classes(robodiff: Run, tmp_path: Path) -> None:
    config, _ = printed(robodiff, tmp_path / "theirs.yaml", LIGHTNINGS.replace("PRECISION", "32"))
    model = config["model"]["init_args"]
    assert (model["crop_shape"], model["down_dims"]) == ([84, 84], [512, 1024, 2048])
    assert (model["diffusion_step_embed_dim"], model["optimizer_type"]) == (128, "adam")
    assert (config["data"]["init_args"]["train_batch_size"], config["trainer"]["gradient_clip_val"]) == (16, None)
    config, err = printed(robodiff, tmp_path / "theirs.yaml", THEIRS)
    assert (config["model"]["init_args"]["crop_shape"], config["data"]["init_args"]["train_batch_size"]) == (
        [40, 40],
        4,
    )
    assert "getiaction: model.diffusion_step_embed_dim 128, model.optimizer_type adam, trainer.gradient" in err
    without = LIGHTNINGS.replace("{compile_model", "{crop_shape: null, compile_model").replace("PRECISION", "32")
    config, _ = printed(robodiff, tmp_path / "theirs.yaml", without + "  gradient_clip_val: 0\n")
    assert (config["model"]["init_args"]["crop_shape"], config["trainer"]["gradient_clip_val"]) == (None, None)


def test_what_is_only_read_in_files_of_theirs(robodiff: Run, tmp_path: Path) -> None:
    ours = "model: {class_path: DiffusionConfig}\ndata: {class_path: ZarrDataModule, init_args: {path: x}}\n"
    for line, message in (("trainer: {precision: 32}", "trainer.precision: expected one of 32-true"),
                          ("trainer: {min_epochs: 3}", "unknown option trainer.min_epochs"),
                          ("seed_everything: true", "seed_everything: expected int"),
                          ("ckpt_path: null", "unknown option ckpt_path")):  # fmt: skip
        (tmp_path / "own.yaml").write_text(ours + line)
        code, _, err = robodiff("fit", "--config", tmp_path / "own.yaml")
        assert (code, message in err) == (2, True), err


def test_a_configuration_of_diffusion_policy_is_told_where_to_go(robodiff: Run, tmp_path: Path) -> None:
    for text in ("policy:\n  _target_: a.b\n  horizon: 10", "_target_: a.b\ndefaults: [_self_]"):
        (tmp_path / "theirs.yaml").write_text(text)
        code, _, err = robodiff("fit", "--config", tmp_path / "theirs.yaml")
        assert (code, "diffusion_policy" in err, "docs/coming-from.md" in err) == (2, True, True), err


def test_the_table_of_other_names_leads_to_options_that_there_are() -> None:
    parts = {"model": (DiffusionConfig, DiffusionMlpConfig), "data": (LeRobotConfig, MycobotConfig),
             "trainer": (TrainerConfig,), "rollout": (RolloutConfig,)}  # fmt: skip
    known = {f"{part}.{field.name}" for part, kinds in parts.items() for kind in kinds
             for field in dataclasses.fields(kind)}  # fmt: skip
    own = {field.name for field in dataclasses.fields(FitOptions)}
    assert {ours.partition(" ")[0] for ours in ELSEWHERE.values()} <= known | own


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--batch_size", 16), "unknown option --batch_size; it is --data.train_batch_size here"),
        (("--data_dir", "eps"), "unknown option --data_dir; it is --data here"),
        (("--use_amp",), "unknown option --use_amp; it is --trainer.precision (bf16-mixed or 16-mixed) here"),
        (("--state_dim=7",), "unknown option --state_dim; it has no use here: it follows from the recording"),
        (("--num_workers", 8), "unknown option --num_workers; it has no use here: batches are gathered from memory"),
        (("--trainer.learning_rate", 1), "unknown option trainer.learning_rate; it is model.learning_rate here"),
    ],
)
def test_options_of_the_mycobot_code_base_are_told_what_they_are_here(
    robodiff: Run, option: tuple[object, ...], message: str
) -> None:
    code, _, err = robodiff("fit", "--config", "mycobot", *option, "--data.path", "none")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert message in err


def test_no_module_is_imported_because_it_is_named(robodiff: Run, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model: {class_path: this.d}\ndata: {class_path: ZarrDataModule}")
    for arguments in (
        ("--config", tmp_path / "own.yaml"),
        ("--config", "pusht_keypoints", "--model", "this.d"),
        ("--config", "pusht_keypoints", "--data.class_path", "this.d"),
    ):
        code, out, err = robodiff("fit", *arguments, "--run", tmp_path / "run")
        assert (code, "'this.d'" in err, out) == (2, True, ""), err
