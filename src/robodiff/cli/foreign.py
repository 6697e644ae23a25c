"""Configuration files of getiaction (now physicalai): its class names and options, read as robodiff's."""

from typing import Any

from robodiff.errors import UsageError, notice

THEIRS = {
    "getiaction.policies.lerobot.diffusion.Diffusion": "DiffusionConfig",
    "getiaction.policies.lerobot.Diffusion": "DiffusionConfig",
    "physicalai.policies.lerobot.Diffusion": "DiffusionConfig",
    "getiaction.data.lerobot.LeRobotDataModule": "LeRobotDataModule",
    "physicalai.data.lerobot.LeRobotDataModule": "LeRobotDataModule",
}
"""Their classes, and those that stand for them here."""
RENAMED = {"optimizer_lr": "learning_rate"}
NOT_NEEDED = {
    "model": {"compile_model", "compile_mode"},
    "data": {"tolerance_s", "force_cache_sync", "download_videos", "video_backend", "batch_encoding_size",
             "data_format", "pin_memory", "persistent_workers", "val_persistent_workers", "val_gym", "test_gym",
             "num_rollouts_val", "num_rollouts_test", "max_episode_steps"},
    "trainer": {"enable_checkpointing", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps",
                "logger", "callbacks", "benchmark", "deterministic", "gradient_clip_algorithm", "default_root_dir",
                "use_distributed_sampler"},
}  # fmt: skip
"""Options that have no use here: a gathering loader has no workers and no video backend, runs keep what they need."""


def translate(content: dict[str, Any]) -> bool:
    """Put a configuration into robodiff's words, in place; returns whether it was not in them.

    Raises:
        UsageError: a value that contradicts what follows from others.
    """
    foreign = False
    for part in ("model", "data"):
        given = content.get(part)
        if isinstance(given, dict) and isinstance(name := given.get("class_path"), str) and name in THEIRS:
            given["class_path"], foreign = THEIRS[name], True
    for part, options in NOT_NEEDED.items() if foreign else ():
        given = content.get(part)
        given = given.get("init_args", given) if isinstance(given, dict) else given
        if isinstance(given, dict):
            _adapt(part, given, options)
    return foreign


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
