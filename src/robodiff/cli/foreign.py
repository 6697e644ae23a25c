"""Configuration files of getiaction (now physicalai): its class names and options, read as robodiff's."""

from collections.abc import Sequence
from typing import Any

from robodiff.errors import UsageError, notice
from robodiff.policies.denoisers import DiffusionConfig

CLASSES = {
    "getiaction.policies.lerobot.diffusion.Diffusion": "DiffusionConfig",
    "getiaction.policies.lerobot.Diffusion": "DiffusionConfig",
    "physicalai.policies.lerobot.Diffusion": "DiffusionConfig",
    "getiaction.data.lerobot.LeRobotDataModule": "LeRobotConfig",
    "physicalai.data.lerobot.LeRobotDataModule": "LeRobotConfig",
}
"""Their classes, and those that stand for them here."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {
        "crop_shape": [84, 84],
        "down_dims": [512, 1024, 2048],
        "diffusion_step_embed_dim": 128,
        "optimizer_type": "adam",
    },
    "data": {"train_batch_size": 16},
    "trainer": {"gradient_clip_val": None},
}
"""What their classes and Lightning take where a file says nothing, and robodiff takes something else."""
PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Lightning's short spellings."""
NOT_NEEDED = {
    "model": "compile_mode",
    "data": "tolerance_s force_cache_sync download_videos video_backend batch_encoding_size data_format pin_memory "
    "persistent_workers val_persistent_workers val_gym test_gym num_rollouts_val num_rollouts_test max_episode_steps",
    "trainer": "enable_checkpointing enable_progress_bar enable_model_summary num_sanity_val_steps logger callbacks "
    "benchmark deterministic gradient_clip_algorithm default_root_dir use_distributed_sampler min_epochs min_steps "
    "limit_test_batches limit_predict_batches overfit_batches val_check_interval inference_mode profiler "
    "detect_anomaly barebones plugins reload_dataloaders_every_n_epochs enable_autolog_hparams model_registry",
}
"""Options that have no use here: a gathering loader has no workers and no video backend, runs keep what they need."""
ELSEWHERE = {
    "obs_as_cond": "model.conditioning (global or inpaint)",
    "obs_as_global_cond": "model.conditioning (global or inpaint)",
    "obs_encoder_group_norm": "model.use_group_norm",
    "optimizer_lr": "model.learning_rate",
    "lr": "model.learning_rate",
    "betas": "model.optimizer_betas",
    "lr_scheduler": "model.scheduler_name",
    "lr_warmup_steps": "model.scheduler_warmup_steps",
    "warmup_steps": "model.scheduler_warmup_steps",
    "num_vae_training_steps": "model.n_vae_training_steps",
    "inv_gamma": "model.ema_inv_gamma",
    "power": "model.ema_power",
    "min_value": "model.ema_min_value",
    "max_value": "model.ema_max_value",
    "abs_action": "model.action_rotations",
    "batch_size": "data.train_batch_size",
    "num_epochs": "trainer.max_epochs",
    "max_train_steps": "trainer.limit_train_batches",
    "max_val_steps": "trainer.limit_val_batches",
    "gradient_accumulate_every": "trainer.accumulate_grad_batches",
    "val_every": "trainer.check_val_every_n_epoch",
    "sample_every": "trainer.sample_every_n_epochs",
    "checkpoint_every": "trainer.keep_every_n_epochs",
    "rollout_every": "rollout.every_n_epochs",
    "debug": "trainer.fast_dev_run",
    "device": "trainer.accelerator",
    "compile_model": "trainer.compile",
    "seed": "seed_everything",
    "minutes": "trainer.max_time",
    "data_dir": "data",
    "output_dir": "run",
    "resume_from": "resume",
    "image_size": "model.resize_shape (two numbers)",
    "frame_skip": "data.frame_skip",
    "hidden_dim": "model.hidden_dim",
    "num_mlp_layers": "model.num_mlp_layers",
    "num_layers": "model.num_mlp_layers",
    "time_emb_dim": "model.diffusion_step_embed_dim",
    "use_pretrained_resnet": "model.pretrained_backbone_weights",
    "freeze_resnet": "model.freeze_backbone",
    "learning_rate": "model.learning_rate",
    "weight_decay": "model.optimizer_weight_decay",
    "diffusion_timesteps": "model.num_train_timesteps",
    "beta_start": "model.beta_start",
    "beta_end": "model.beta_end",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "use_amp": "trainer.precision (bf16-mixed or 16-mixed)",
    "save_interval": "trainer.keep_every_n_epochs",
    "eval_interval": "trainer.sample_every_n_epochs",
}
"""Options that other code bases have, and what they are called here."""
NO_USE = {
    "state_dim": "it follows from the recording",
    "image_feature_dim": "it follows from model.vision_backbone",
    "num_workers": "batches are gathered from memory",
    "pin_memory": "batches are gathered from memory",
}
"""Options of theirs that have no use here, and why."""


def explained(option: str, prefix: str = "") -> str | None:
    """Say what an option of another code base is called here, or why it has no use; None where it is not known."""
    if option in NO_USE:
        return f"it has no use here: {NO_USE[option]}"
    return f"it is {prefix}{ELSEWHERE[option]} here" if option in ELSEWHERE else None


def check_origin(content: dict[str, Any]) -> None:
    """Raise ``UsageError`` for a configuration of diffusion_policy, which no translation is made of."""
    if any("_target_" in values for values in (content, *content.values()) if isinstance(values, dict)):
        raise UsageError("a configuration of diffusion_policy (_target_); write it anew with docs/coming-from.md")


def translate(values: dict[str, dict[str, Any]], top: dict[str, Any], foreign: Sequence[str]) -> None:
    """Put the options of a configuration of getiaction into robodiff's words, in place.

    Args:
        values: by part its options.
        top: options that belong to no part.
        foreign: the parts that named a class of getiaction.

    Raises:
        UsageError: a value that contradicts what follows from others.
    """
    model, data, trainer = (values.setdefault(part, {}) for part in NOT_NEEDED)
    absent = {
        part: {name: value for name, value in DEFAULTS[part].items() if name not in values[part]}
        for part in (*foreign, "trainer")
    }
    for part, defaults in absent.items():
        values[part] |= defaults
    if filled := [
        f"{part}.{name} {'null' if value is None else value}"
        for part, each in absent.items()
        for name, value in each.items()
    ]:
        notice(f"what the configuration leaves out is as in getiaction: {', '.join(filled)}")
    for options in (top, data, trainer):
        # Null is the default of all of them, there as here; some have no name here.
        for option in [name for name, value in options.items() if value is None and name != "gradient_clip_val"]:
            del options[option]
    if isinstance(top.get("seed_everything"), bool):
        del top["seed_everything"]
        notice("seed_everything is a number here, and true and false are none; taken as 42")
    _translate_model(model)
    if model.pop("compile_model", False):
        trainer["compile"] = True
    if (precision := str(trainer.get("precision"))) in PRECISION:
        trainer["precision"] = PRECISION[precision]
    for option in ("max_epochs", "max_steps"):
        if trainer.get(option) == -1:  # Lightning's word for no limit
            del trainer[option]
    if trainer.get("gradient_clip_val") == 0:
        trainer["gradient_clip_val"] = None
    for part, not_needed in NOT_NEEDED.items():
        for option in sorted(values[part].keys() & not_needed.split()):
            del values[part][option]
            notice(f"{part}.{option} has no use here and is left out")


def _translate_model(model: dict[str, Any]) -> None:
    if "optimizer_lr" in model:
        model["learning_rate"] = model.pop("optimizer_lr")
    sizes = [model.get(name, getattr(DiffusionConfig, name)) for name in ("horizon", "n_action_steps", "n_obs_steps")]
    frames = model.pop("drop_n_last_frames", None)
    if frames is not None and all(isinstance(size, int) for size in sizes):
        derived = sizes[0] - sizes[1] - sizes[2] + 1
        if frames != derived:
            raise UsageError(f"model.drop_n_last_frames follows from horizon and the steps: {derived}; found {frames}")
