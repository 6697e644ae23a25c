"""Values of presets that are not ours to choose: those of the configurations and descriptions that they stand for."""

import dataclasses
import json
import re
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.training.config import RolloutConfig, TrainerConfig

CONFIGS = Path(str(files("robodiff.configs")))

# getiaction's collection; pusht_advanced has the values of pusht_basic.
WINDOW = {"n_obs_steps": 2, "horizon": 16, "n_action_steps": 8}
BASIC = {
    "model": {**WINDOW, "vision_backbone": "resnet18", "down_dims": [256, 512, 1024], "noise_scheduler_type": "DDPM",
              "num_train_timesteps": 100, "learning_rate": 1e-4},
    "data": {"repo_id": "lerobot/pusht", "train_batch_size": 64},
    "trainer": {"max_epochs": 3000, "devices": 1, "gradient_clip_val": 10.0},
}  # fmt: skip
FAST = {
    "model": {**WINDOW, "down_dims": [128, 256, 512], "noise_scheduler_type": "DDIM", "num_train_timesteps": 50,
              "num_inference_steps": 5},
    "data": {"repo_id": "lerobot/pusht", "train_batch_size": 128},
    "trainer": {"devices": 1, "keep_every_n_epochs": None},
}  # fmt: skip
CPU = {
    "model": WINDOW,
    "data": {"repo_id": "lerobot/pusht", "episodes": [0, 1, 2, 3, 4], "train_batch_size": 16},
    "trainer": {"accelerator": "cpu", "precision": "32-true"},
}
MULTIGPU = {  # a step of 64 x 4 x 2 = 512 windows, and the learning rate of four GPUs
    "model": {**WINDOW, "vision_backbone": "resnet50", "down_dims": [512, 1024, 2048], "learning_rate": 4e-4,
              "use_group_norm": False},
    "data": {"repo_id": "lerobot/pusht", "train_batch_size": 64},
    "trainer": {"accelerator": "gpu", "devices": 4, "strategy": "ddp", "sync_batchnorm": True,
                "accumulate_grad_batches": 2},
}  # fmt: skip
ALOHA = {
    "model": {**WINDOW, "vision_backbone": "resnet34", "crop_shape": [224, 224], "spatial_softmax_num_keypoints": 64,
              "use_separate_rgb_encoder_per_camera": True},
    "data": {"repo_id": "lerobot/aloha_sim_transfer_cube_human"},
    "trainer": {"devices": 1},
}  # fmt: skip

# The widespread summary of the transformer policy, of which docs/coming-from.md tells what is wrong in it.
TRANSFORMER = {
    "model": {
        "observation_keys": ["observation.images.agentview", "observation.images.robot0_eye_in_hand",
                             "observation.robot0_eef_pos", "observation.robot0_eef_quat",
                             "observation.robot0_gripper_qpos"],
        "horizon": 10, "n_obs_steps": 2, "n_action_steps": 8, "crop_shape": [76, 76],
        "conditioning": "global", "time_as_cond": True, "pred_action_steps_only": False,
        "n_layer": 8, "n_cond_layers": 0, "n_head": 4, "n_emb": 256, "causal_attn": True,
        "p_drop_emb": 0.0, "p_drop_attn": 0.3,
        "noise_scheduler_type": "DDPM", "num_train_timesteps": 100, "num_inference_steps": 100,
        "beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02, "variance_type": "fixed_small",
        "prediction_type": "epsilon", "clip_sample": True,
        "optimizer_type": "adamw", "learning_rate": 1e-4, "optimizer_betas": [0.9, 0.95],
        "transformer_weight_decay": 1e-3, "obs_encoder_weight_decay": 1e-6,
        "scheduler_name": "cosine", "scheduler_warmup_steps": 10,
        "ema_inv_gamma": 1.0, "ema_power": 0.75, "ema_min_value": 0.0, "ema_max_value": 0.9999,
    },
    "data": {"train_batch_size": 64, "val_batch_size": 64},
    "trainer": {"max_epochs": 100, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1,
                "sample_every_n_epochs": 5, "keep_every_n_epochs": 10, "limit_train_batches": None,
                "limit_val_batches": None},
    "rollout": {"every_n_epochs": 10},
}  # fmt: skip

# The description of RoboFactory's policy.
ROBOFACTORY = {
    "model": {**WINDOW, "vision_backbone": "resnet18", "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
              "optimizer_type": "adam", "learning_rate": 1e-4},
    "data": {"train_batch_size": 64},
    "trainer": {"max_epochs": 300, "check_val_every_n_epoch": 10, "early_stopping_patience": None,
                "keep_every_n_epochs": 150},
    "rollout": {"env": None},
}  # fmt: skip

# The description of the myCobot diffusion policy; it acts with fewer steps of a deterministic sampler here.
MYCOBOT = {
    "model": {"observation_keys": ["observation.images.front"], "n_obs_steps": 1, "horizon": 1, "n_action_steps": 1,
              "vision_backbone": "resnet34", "pretrained_backbone_weights": "IMAGENET1K_V1", "freeze_backbone": True,
              "use_group_norm": False, "resize_shape": [224, 224], "spatial_softmax_num_keypoints": None,
              "residual": False, "hidden_dim": 256, "num_mlp_layers": 4, "activation": "relu",
              "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
              "prediction_type": "epsilon", "optimizer_type": "adam", "optimizer_betas": [0.9, 0.999],
              "optimizer_weight_decay": 1e-5, "learning_rate": 1e-4, "scheduler_name": "constant",
              "scheduler_warmup_steps": 0},
    "data": {"train_batch_size": 32, "frame_skip": 2},
    "trainer": {"max_epochs": 1000, "keep_every_n_epochs": 100, "gradient_clip_val": None},
}  # fmt: skip

PRESETS = {"pusht_basic": BASIC, "pusht_fast": FAST, "pusht_cpu": CPU, "pusht_multigpu": MULTIGPU, "aloha": ALOHA,
           "transformer_hybrid_image": TRANSFORMER, "robofactory": ROBOFACTORY,
           "mycobot": MYCOBOT}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_values_of_what_they_stand_for(
    robodiff: Callable[..., tuple[int, str, str]], preset: str
) -> None:
    data = {"robofactory": ("--data", "builtin:pusht"), "mycobot": ("--data.path", "eps")}.get(preset, ())
    code, printed, err = robodiff("fit", "--config", preset, *data, "--print_config")
    assert code == 0, err
    loaded: dict[str, Any] = yaml.safe_load(printed)
    assert loaded["seed_everything"] == (100 if preset == "robofactory" else 42)
    for part, wanted in PRESETS[preset].items():
        values = loaded[part].get("init_args", loaded[part])
        assert {name: values[name] for name in wanted} == wanted


def test_the_advanced_preset_is_the_basic_one_with_every_option() -> None:
    basic, advanced = (yaml.safe_load((CONFIGS / f"pusht_{name}.yaml").read_text()) for name in ("basic", "advanced"))
    for part, kind in (("model", DiffusionConfig), ("data", LeRobotConfig), ("trainer", TrainerConfig),
                       ("rollout", RolloutConfig)):  # fmt: skip
        given, all_of_them = (config[part].get("init_args", config[part]) for config in (basic, advanced))
        assert list(all_of_them) == [field.name for field in dataclasses.fields(kind)]
        assert json.dumps(dataclasses.asdict(kind(**all_of_them))) == json.dumps(dataclasses.asdict(kind(**given)))
    lines = (CONFIGS / "pusht_advanced.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r" +\w+: ", line) and "class_path" not in line:
            assert before.lstrip().startswith("#"), f"{line}: has no comment"
