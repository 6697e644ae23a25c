"""Translate options of diffusion_policy: classes that it names are looked up here, and never imported.

The functions collect what cannot be represented here, so that all of it is reported at once.
"""

from collections.abc import Mapping
from dataclasses import fields
from operator import lt
from typing import Any

from robodiff.errors import notice
from robodiff.networks.backbones import IMAGENET
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionTransformerConfig
from robodiff.policies.foreign.weights import GROUPS
from robodiff.text import brief

UNET = {"diffusion_step_embed_dim": 256, "down_dims": [256, 512, 1024], "n_groups": 8}
IMAGE_UNET = {**UNET, "kernel_size": 5, "cond_predict_scale": True, "obs_as_global_cond": True}
HYBRID = {"crop_shape": [76, 76], "obs_encoder_group_norm": False, "eval_fixed_crop": False}
POLICIES: dict[str, tuple[type[PolicyConfig], dict[str, Any]]] = {
    "DiffusionUnetLowdimPolicy": (
        DiffusionConfig,
        {**UNET, "kernel_size": 3, "cond_predict_scale": False, "oa_step_convention": False},
    ),
    "DiffusionUnetImagePolicy": (DiffusionConfig, IMAGE_UNET),
    "DiffusionUnetHybridImagePolicy": (DiffusionConfig, {**IMAGE_UNET, **HYBRID}),
    "DiffusionTransformerLowdimPolicy": (
        DiffusionTransformerConfig,
        {"n_layer": 12, "n_head": 12, "n_emb": 768, "p_drop_emb": 0.1, "p_drop_attn": 0.1, "causal_attn": False},
    ),
    "DiffusionTransformerHybridImagePolicy": (DiffusionTransformerConfig, {**HYBRID, "obs_as_cond": True}),
}
"""By the original class of a policy, its configuration here, and its defaults where they differ."""
RENAMED = {"cond_predict_scale": "use_film_scale_modulation", "obs_encoder_group_norm": "use_group_norm"}
FOLLOWS = ("_target_", "model", "noise_scheduler", "obs_encoder", "shape_meta", "input_dim", "output_dim", "obs_dim",
           "action_dim", "cond_dim", "global_cond_dim", "local_cond_dim", "obs_as_global_cond", "obs_as_cond",
           "obs_as_local_cond", "oa_step_convention", "eval_fixed_crop")  # fmt: skip
"""Options without a counterpart: they follow from others or from the weights, or are handled separately."""
SAMPLERS = {"DDPMScheduler": "DDPM", "DDIMScheduler": "DDIM"}
SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
             "variance_type": "fixed_small", "clip_sample": True, "clip_sample_range": 1.0,
             "prediction_type": "epsilon"}  # fmt: skip
"""Options of diffusers' schedulers that are options here, with their defaults there."""
SCHEDULER_FIXED = {"set_alpha_to_one": True, "steps_offset": 0, "trained_betas": None, "thresholding": False,
                   "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}  # fmt: skip
"""Options of theirs that have a fixed value here."""
ENCODER = {"rgb_model": {}, "resize_shape": None, "crop_shape": None, "random_crop": True, "use_group_norm": False,
           "share_rgb_model": False, "imagenet_norm": False}  # fmt: skip
"""Options of the encoder of several images, with their defaults."""


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping, an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def target(options: Any) -> str:
    """Return the name of the class or function that makes something of options, without its module."""
    return str(mapping(options).get("_target_")).rpartition(".")[2]


def policy_fields(kind: str, given: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the fields of a policy's configuration here, but for those of its encoder.

    Args:
        kind: of ``POLICIES``.
        given: the options of the policy and of its network.
        problems: a list to which what cannot be represented here is appended.
    """
    config, defaults = POLICIES[kind]
    options, known = {**defaults, **given}, {each.name for each in fields(config)}
    named = {RENAMED.get(name, name): value for name, value in options.items() if name not in FOLLOWS}
    problems += [f"policy.{name} {brief(value)} is not known" for name, value in named.items() if name not in known]
    if options.get("obs_as_local_cond") or options.get("local_cond_dim") is not None:
        problems.append("obs_as_local_cond is a part of the network that is not there")
    if not options.get("oa_step_convention", True):
        problems.append("oa_step_convention false executes actions from one step later on")
    if options.get("crop_shape") and not options.get("eval_fixed_crop", True):
        notice("eval_fixed_crop is false: the original also crops at random at inference; robodiff crops at the centre")
    if options.get("n_groups", GROUPS) != GROUPS:
        problems.append(f"n_groups {brief(options['n_groups'])}, but the original's last block has {GROUPS}")
    is_global = options.get("obs_as_global_cond") or options.get("obs_as_cond")
    named["conditioning"] = "global" if is_global else "inpaint"
    if config is DiffusionTransformerConfig and options.get("pred_action_steps_only") and options.get("causal_attn", 1):
        named["mask_first_step"] = 0
    return named | _process(mapping(options.get("noise_scheduler")), named.get("num_inference_steps"), problems)


def _process(scheduler: Mapping[str, Any], steps: int | None, problems: list[str]) -> dict[str, Any]:
    """Return the fields of the noise process."""
    name, options = target(scheduler), {**SCHEDULER, **scheduler}
    other = [each for each, value in SCHEDULER_FIXED.items() if options.get(each, value) != value]
    unknown = [each for each in scheduler if each not in (*SCHEDULER, *SCHEDULER_FIXED, "_target_")]
    problems += [f"noise_scheduler.{each} {brief(options[each])} has no counterpart" for each in other + unknown]
    if name not in SAMPLERS:
        problems.append(f"noise_scheduler {name} is none of {', '.join(SAMPLERS)}")
    elif name == "DDPMScheduler" and steps not in (None, options["num_train_timesteps"]):
        problems.append(f"num_inference_steps {brief(steps)} of {options['num_train_timesteps']} with DDPM")
    spacing = {"timestep_spacing": "leading"} if name == "DDIMScheduler" else {}
    return {each: options[each] for each in SCHEDULER} | {"noise_scheduler_type": SAMPLERS.get(name, "DDPM")} | spacing


def encoder_fields(encoder: Mapping[str, Any], images: list[list[int]], problems: list[str]) -> dict[str, Any]:
    """Return the fields of an encoder of several images, ``MultiImageObsEncoder``.

    Args:
        encoder: its options.
        images: (C, H, W) of each.
        problems: a list to which what cannot be represented here is appended.
    """
    options = {**ENCODER, **encoder}
    model, resize = mapping(options["rgb_model"]), options["resize_shape"]
    if target(encoder) != "MultiImageObsEncoder" or target(model) != "get_resnet" or model.get("weights") == "r3m":
        made_of = ", ".join(each for each in (target(encoder), target(model), model.get("weights")) if each)
        problems.append(f"an encoder of {made_of} is none of MultiImageObsEncoder with get_resnet of torchvision")
    unknown = [name for name in encoder if name not in (*ENCODER, "_target_", "shape_meta")]
    problems += [f"obs_encoder.{name} {brief(options[name])} is not known" for name in unknown]
    if isinstance(resize, list) and all(image[1:] == resize for image in images):
        resize = None
    elif isinstance(resize, list) and any(any(map(lt, resize, image[1:])) for image in images):
        problems.append(f"obs_encoder.resize_shape {resize} makes images smaller without smoothing them")
    return {
        "vision_backbone": model.get("name"),
        "resize_shape": resize,
        "crop_shape": options["crop_shape"] if options["random_crop"] else None,  # else it crops nothing there
        "use_group_norm": bool(options["use_group_norm"] and not options["share_rgb_model"]),  # which skips it
        "use_separate_rgb_encoder_per_camera": not options["share_rgb_model"],
        "spatial_softmax_num_keypoints": None,
    }


def pixel_constants(encoder: Mapping[str, Any]) -> Any:
    """Return mean and standard deviation by which an encoder normalises images that are normalised already."""
    return IMAGENET if encoder.get("imagenet_norm") else ((0.0,), (1.0,))
