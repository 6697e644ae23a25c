"""Configuration files of getiaction (now physicalai): its class names and options, read as robodiff's."""

from typing import Any

from robodiff.errors import UsageError, notice

CLASSES = {
    "getiaction.policies.lerobot.diffusion.Diffusion": "DiffusionConfig",
    "getiaction.policies.lerobot.Diffusion": "DiffusionConfig",
    "physicalai.policies.lerobot.Diffusion": "DiffusionConfig",
    "getiaction.data.lerobot.LeRobotDataModule": "LeRobotConfig",
    "physicalai.data.lerobot.LeRobotDataModule": "LeRobotConfig",
}
"""Their classes, and those that stand for them here."""
RENAMED = {"optimizer_lr": "learning_rate"}
DEFAULTS = {
    "model": {"crop_shape": [84, 84], "down_dims": [512, 1024, 2048], "diffusion_step_embed_dim": 128,
              "optimizer_type": "adam"},
    "data": {"train_batch_size": 16},
    "trainer": {"gradient_clip_val": None},
}  # fmt: skip
"""What their classes and Lightning take where a file says nothing, and robodiff takes something else."""
PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Lightning's short spellings."""
NOT_NEEDED = {
    "model": {"compile_mode"},
    "data": {"tolerance_s", "force_cache_sync", "download_videos", "video_backend", "batch_encoding_size",
             "data_format", "pin_memory", "persistent_workers", "val_persistent_workers", "val_gym", "test_gym",
             "num_rollouts_val", "num_rollouts_test", "max_episode_steps"},
    "trainer": {"enable_checkpointing", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps",
                "logger", "callbacks", "benchmark", "deterministic", "gradient_clip_algorithm", "default_root_dir",
                "use_distributed_sampler", "min_epochs", "min_steps", "limit_test_batches", "limit_predict_batches",
                "overfit_batches", "val_check_interval", "inference_mode", "profiler", "detect_anomaly", "barebones",
                "plugins", "reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "model_registry"},
}  # fmt: skip
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
}
"""Options that other code bases have, and what they are called here."""


def translate(content: dict[str, Any]) -> None:
    """Put a configuration into robodiff's words, in place.

    Raises:
        UsageError: a value that contradicts what follows from others, or a configuration of diffusion_policy.
    """
    if any("_target_" in values for values in (content, *content.values()) if isinstance(values, dict)):
        raise UsageError(
            "this is a configuration of Hydra (_target_), as diffusion_policy has them, and must be written anew; "
            "docs/coming-from.md says what its keys are called"
        )
    foreign = [part for part in ("model", "data") if _rename_class(content.get(part))]
    if foreign:
        _translate(content, foreign)


def _rename_class(given: Any) -> bool:
    """Name robodiff's class where a part names one of theirs; tell whether it did."""
    name = given.get("class_path") if isinstance(given, dict) else None
    if not isinstance(name, str) or name not in CLASSES:
        return False
    given["class_path"] = CLASSES[name]
    return True


def _translate(content: dict[str, Any], foreign: list[str]) -> None:
    """Put a configuration into robodiff's words, in place.

    Args:
        content: the configuration; the parts that name a class name one of robodiff's.
        foreign: which parts named one of theirs.
    """
    _lay_out(content)
    _fill_in(content, foreign)
    model, data, trainer = (_options(content, part) for part in NOT_NEEDED)
    for options in (content, data, trainer):
        # Null is the default of all of them, there as here; some have no name here.
        for option in [name for name, value in options.items() if value is None and name != "gradient_clip_val"]:
            del options[option]
    if model.pop("compile_model", False):
        trainer["compile"] = True
    if isinstance(content.get("seed_everything"), bool):
        del content["seed_everything"]
        notice("seed_everything is a number here, and true and false are none; taken as 42")
    _adapt_trainer(trainer)
    for part, options in NOT_NEEDED.items():
        _adapt(part, _options(content, part), options)


def _lay_out(content: dict[str, Any]) -> None:
    """Give the trainer, and each class that is named, a place for its options."""
    if content.get("trainer") is None:
        content["trainer"] = {}
    for part in ("model", "data"):
        if isinstance(given := content.get(part), dict) and "class_path" in given and given.get("init_args") is None:
            given["init_args"] = {}


def _options(content: dict[str, Any], part: str) -> dict[str, Any]:
    """The options of a part; where they are none, the parser says what is wrong with them."""
    given = content.get(part)
    given = given.get("init_args", given) if isinstance(given, dict) else given
    return given if isinstance(given, dict) else {}


def _fill_in(content: dict[str, Any], foreign: list[str]) -> None:
    filled = []
    for part in (*foreign, "trainer"):
        options = _options(content, part)
        absent = {name: value for name, value in DEFAULTS[part].items() if name not in options}
        options.update(absent)
        filled += [f"{part}.{name} {'null' if value is None else value}" for name, value in absent.items()]
    if filled:
        notice(f"what the configuration leaves out is as in getiaction: {', '.join(filled)}")


def _adapt_trainer(given: dict[str, Any]) -> None:
    if (precision := str(given.get("precision"))) in PRECISION:
        given["precision"] = PRECISION[precision]
    for option in ("max_epochs", "max_steps"):
        if given.get(option) == -1:  # Lightning's word for no limit
            del given[option]
    if given.get("gradient_clip_val") == 0:
        given["gradient_clip_val"] = None


def _adapt(part: str, given: dict[str, Any], not_needed: set[str]) -> None:
    for theirs, ours in RENAMED.items():
        if part == "model" and theirs in given:
            given[ours] = given.pop(theirs)
    if part == "model" and "drop_n_last_frames" in given:
        given_frames = given.pop("drop_n_last_frames")
        defaults = {"horizon": 16, "n_action_steps": 8, "n_obs_steps": 2}
        horizon, executed, observed = (given.get(name, default) for name, default in defaults.items())
        if not all(isinstance(size, int) for size in (horizon, executed, observed)):
            return  # the parser says what is wrong with it
        derived = horizon - executed - observed + 1
        if given_frames != derived:
            raise UsageError(
                f"model.drop_n_last_frames follows from horizon, n_action_steps and n_obs_steps: {derived}; "
                f"found {given_frames}, leave it out"
            )
    for option in sorted(not_needed & given.keys()):
        del given[option]
        notice(f"{part}.{option} has no use here and is left out")
