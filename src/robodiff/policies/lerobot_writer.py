"""Policies as folders that LeRobot 0.6.1 loads as its type ``diffusion``: configuration, weights and processors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from robodiff.data.episodes import ACTION
from robodiff.data.normalize import is_still
from robodiff.documents import plain, write_json
from robodiff.errors import UsageError, notice
from robodiff.files import replacing
from robodiff.policies.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.lerobot import ENVIRONMENT, PROCESSORS, STATE, TYPE, lerobot_name
from robodiff.policies.foreign.weights import GROUPS, STATISTICS
from robodiff.policies.lerobot import RENAMED
from robodiff.text import brief

MODES = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ENV": "MIN_MAX", "ACTION": "MIN_MAX"}
"""How LeRobot normalises; with the statistics that make of it what the policy does."""
OPTIONS = (
    "n_obs_steps horizon n_action_steps vision_backbone crop_is_random use_group_norm spatial_softmax_num_keypoints "
    "use_separate_rgb_encoder_per_camera down_dims kernel_size n_groups diffusion_step_embed_dim "
    "use_film_scale_modulation noise_scheduler_type num_train_timesteps beta_schedule beta_start beta_end "
    "prediction_type clip_sample clip_sample_range num_inference_steps do_mask_loss_for_padding learning_rate "
    "optimizer_betas optimizer_eps optimizer_weight_decay scheduler_name scheduler_warmup_steps"
)
"""Options that LeRobot has, too."""
ONLY: dict[str, tuple[Any, ...]] = {
    "noise_scheduler_type": ("DDPM", "DDIM"),
    "prediction_type": ("epsilon", "sample"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "vision_backbone": ("resnet18", "resnet34", "resnet50"),
    "backbone_stride": (None, 32),
    "n_groups": (GROUPS,),
    "variance_type": ("fixed_small",),
    "ddim_eta": (0,),
    "self_conditioning": (False,),
    "frame_stride": (1,),
    "conditioning": ("global",),
    "pred_action_steps_only": (False,),
    "action_rotations": ([],),
    "action_discrete": ([], {}),
    "action_relative_to": ({},),
}
"""Values of options that LeRobot can say."""
WIDE = 1e9
"""Half the range that what is held still here is given there: whatever is observed comes to the same number."""


def write_lerobot(policy: DiffusionPolicy, folder: Path) -> None:
    """Write a policy so that LeRobot acts as it does; where it chooses among several chunks, as it does with one.

    Raises:
        UsageError: LeRobot's diffusion policies cannot say what it does; everything is named.
    """
    if problems := [*_problems(policy)]:
        raise UsageError(
            f"LeRobot's diffusion policies cannot say {'; '.join(problems)}; train one that needs none of it"
        )
    if (drawn := policy.config.best_of) > 1:
        notice(
            f"LeRobot draws one chunk where this policy chooses among {drawn} (best_of): eval --best_of 1 measures that"
        )
    described, statistics = _described(policy), _statistics(policy)
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / CONFIG_FILE, described)
        (temporary / WEIGHTS_FILE).write_bytes(save(_weights(policy)))
        for file, name in PROCESSORS.items():
            _write_processor(temporary / file, name, described, statistics)


def _problems(policy: DiffusionPolicy) -> Iterator[str]:
    """Yield what LeRobot cannot say."""
    config: Any = policy.config
    if type(config) is not DiffusionConfig:
        yield f"a policy of {config.registry_name}; it has the U-Net alone, of DiffusionConfig"
        return
    if config.canonicalize is not None:
        yield f"canonicalize {config.canonicalize}, without which --model.canonicalize null trains one"
    for name, allowed in ONLY.items():
        if (value := getattr(config, name)) not in allowed:
            yield f"{name} {brief(plain(value))}"
    steps, levels = config.inference_steps, config.num_train_timesteps
    if config.timestep_spacing not in (None, "even", "leading") or (
        levels % steps and config.timestep_spacing != "leading"
    ):
        yield f"{steps} of {levels} steps with timestep_spacing {brief(config.timestep_spacing)}, for its is leading"
    if config.horizon % (factor := 2 ** len(config.down_dims)):
        yield f"horizon {config.horizon} with down_dims {list(config.down_dims)}, for it needs a multiple of {factor}"
    cameras = {key: each.shape for key, each in policy.features.items() if each.kind == "image"}
    if cameras and config.spatial_softmax_num_keypoints is None:
        yield "spatial_softmax_num_keypoints null"
    if len({*cameras.values()}) > 1 or any(shape[0] != 3 for shape in cameras.values()):
        yield f"cameras of shapes {', '.join(map(str, cameras.values()))}, for all have one, of three channels"
    if cameras and config.crop_shape and config.resize_shape and _crop_ratio(config) is None:
        yield f"crop_shape {list(config.crop_shape)} of resize_shape {list(config.resize_shape)}, for it has one ratio"
    others = [key for key in policy.observation_keys if key not in (STATE, ENVIRONMENT, *cameras)]
    if others or STATE not in policy.features or not (cameras or ENVIRONMENT in policy.features):
        observed = ", ".join(policy.observation_keys)
        yield f"to observe {observed}, for it observes {STATE} with cameras or {ENVIRONMENT}"


def _crop_ratio(config: Any) -> float | None:
    """Return which share of each side of a resized image is cut out; None where there is not one."""
    resized, cropped = config.resize_shape, config.crop_shape
    shares = [crop / size for crop, size in zip(cropped, resized, strict=True)]
    return next((share for share in shares if tuple(int(size * share) for size in resized) == cropped), None)


def _order(policy: DiffusionPolicy) -> list[str]:
    """Return what is observed in the order in which LeRobot embeds it."""
    cameras = [key for key, each in policy.features.items() if each.kind == "image"]
    return [key for key in (STATE, *cameras, ENVIRONMENT) if key in policy.features]


def _described(policy: DiffusionPolicy) -> dict[str, Any]:
    """Return LeRobot's configuration of a policy."""
    config: Any = policy.config
    there = {ours: theirs for theirs, ours in RENAMED.items()}
    features = {key: {"type": _type(policy, key), "shape": list(policy.features[key].shape)}
                for key in (*_order(policy), ACTION)}  # fmt: skip
    is_cropped = config.crop_shape is not None and config.crop_shape != config.resize_shape
    ratio = _crop_ratio(config) if config.resize_shape and is_cropped else 1.0
    return {
        "type": TYPE,
        "input_features": {key: each for key, each in features.items() if key != ACTION},
        "output_features": {ACTION: features[ACTION]},
        "normalization_mapping": MODES,
        "device": "cpu",
        "push_to_hub": False,
        **{there.get(name, name): plain(getattr(config, name)) for name in OPTIONS.split()},
        "spatial_softmax_num_keypoints": config.spatial_softmax_num_keypoints or 32,
        "pretrained_backbone_weights": None,  # the file has them all
        "resize_shape": plain(config.resize_shape),
        "crop_ratio": ratio,
        "crop_shape": plain(config.crop_shape) if is_cropped else None,
        "drop_n_last_frames": config.horizon - config.n_action_steps - config.n_obs_steps + 1,
    }


def _type(policy: DiffusionPolicy, key: str) -> str:
    if policy.features[key].kind == "image":
        return "VISUAL"
    return {ACTION: "ACTION", ENVIRONMENT: "ENV"}.get(key, "STATE")


def _weights(policy: DiffusionPolicy) -> dict[str, Tensor]:
    """Return the weights by LeRobot's names, for conditions in its order, with the constants that it keeps."""
    cameras = [key for key, each in policy.features.items() if each.kind == "image"]
    weights = {}
    for name, value in policy.state_dict().items():
        if STATISTICS.match(name):
            continue
        value = value[:, _columns(policy, value.shape[1])] if name.endswith("film.1.weight") else value
        theirs = f"diffusion.{lerobot_name(name, cameras)}"
        weights[theirs] = value.cpu().contiguous()
        if name.endswith("pool.maps.weight"):
            weights[theirs.replace("weight", "bias")] = torch.zeros(len(value))
    for encoder in policy.cameras.cameras:
        pool: Any = policy.cameras.encoders[encoder].pool
        y, x = torch.meshgrid(pool.y.cpu(), pool.x.cpu(), indexing="ij")
        name = lerobot_name(f"cameras.encoders.{encoder}.pool.pos_grid", cameras)
        weights[f"diffusion.{name}"] = torch.stack([x.flatten(), y.flatten()], 1)
    return weights


def _columns(policy: DiffusionPolicy, width: int) -> Tensor:
    """Return which column of the weights of a condition (the timestep, then each observation) comes where there."""
    own = policy.observation_keys
    dims = {key: policy.cameras.dims.get(key) or policy.features[key].shape[0] for key in own}
    places = dict(zip(own, torch.arange(policy.embedding_dim).split([*dims.values()]), strict=True))
    step = torch.cat([places[key] for key in _order(policy)])
    first = width - policy.config.n_obs_steps * policy.embedding_dim
    observed = [first + number * policy.embedding_dim + step for number in range(policy.config.n_obs_steps)]
    return torch.cat([torch.arange(first), *observed])


def _statistics(policy: DiffusionPolicy) -> dict[str, Tensor]:
    """Return the statistics by which LeRobot normalises as the policy does."""
    statistics = {}
    for key, feature in policy.features.items():
        if feature.kind == "image":
            mean, std = policy.cameras.pixel_statistics(key)
            statistics |= {f"{key}.mean": mean / 255, f"{key}.std": std / 255}
            continue
        ends = torch.tensor([[-1.0], [1.0]]).expand(2, *feature.shape).to(policy.device)
        kept = policy.normalizer.range(key)
        low, high = policy.normalizer.unnormalize(key, ends)  # of what is still, its centre both times
        if key != ACTION:
            place = policy.normalizer.normalize(key, low)
            still = is_still(*kept)
            low = torch.where(still, low - (place + 1) * WIDE, low)
            high = torch.where(still, low + 2 * WIDE, high)
        statistics |= {f"{key}.min": low, f"{key}.max": high}
    return {name: value.float().cpu().contiguous() for name, value in statistics.items()}


def _write_processor(path: Path, name: str, described: dict[str, Any], statistics: dict[str, Tensor]) -> None:
    """Write what comes before the policy, or after it, as LeRobot's own processors are written."""
    is_before = name == "normalizer_processor"
    outputs = described["output_features"]
    features = {**described["input_features"], **outputs} if is_before else outputs
    state = f"{path.stem}_step_{3 if is_before else 0}_{name}.safetensors"
    rules = {"eps": 1e-8, "features": features, "norm_map": MODES}
    step = {"registry_name": name, "config": rules, "state_file": state}
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
    ]
    write_json(path, {"name": path.stem, "steps": [*before, device, step] if is_before else [step, device]})
    path.with_name(state).write_bytes(save(statistics))
