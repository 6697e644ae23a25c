"""Import LeRobot policies: its type ``diffusion``, and ``hybrid_diffusion``, which a plugin trains there.

A folder holds ``config.json``, ``model.safetensors`` and, since LeRobot 0.4, two processors with the normalisation;
older ones keep its statistics with the weights.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load
from torch import Tensor

from robodiff.data.episodes import ACTION
from robodiff.documents import Document, decode_json, read_json, typed
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.files import is_repository, reading
from robodiff.policies.checkpoint import CONFIG_FILE, WEIGHTS_FILE, download
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.weights import (
    GROUPS,
    RESNET,
    Affine,
    outline_of,
    policy_of,
    renamed,
    set_normalizer,
    unet_name,
)
from robodiff.policies.lerobot import RENAMED, LeRobotFeature, Recorded, config_from_lerobot, recorded_from_lerobot
from robodiff.policies.lerobot import TYPE as HYBRID
from robodiff.policies.options import NotNegative

TYPE = "diffusion"
PREFIX = "policy."
"""Prefix of a hybrid policy's weights; the plugin stores its training state beside them."""
PROCESSORS = {"policy_preprocessor.json": "normalizer_processor", "policy_postprocessor.json": "unnormalizer_processor"}
"""Files of a policy, and which of their steps normalises."""
HARMLESS = ("rename_observations_processor", "to_batch_processor", "device_processor")
"""Steps that do not change values."""
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
"""The statistics that become -1 and 1, by the mode of normalisation."""
UNUSED = r"(un)?normalize_(inputs|targets|outputs)\.|rgb_encoder(\.\d+)?\.pool\.(pos_grid|nets\.bias)$"
"""Redundant weights: constants, and a bias in front of a softmax, which cancels it."""
_REMEDY = "copy the whole folder again from where it comes from"


@dataclass(frozen=True, kw_only=True)
class Rules(Document):
    """How keys are normalised."""

    norm_map: dict[str, Literal["MIN_MAX", "MEAN_STD", "IDENTITY", "QUANTILES", "QUANTILE10"]]
    """Mode by the type of a feature; identity for types that are not named."""
    features: dict[str, LeRobotFeature]
    """What is normalised."""
    normalize_observation_keys: list[str] | None = None
    """Which of these are normalised; all when null."""
    eps: NotNegative = 1e-8
    """Added to a standard deviation."""

    def mode(self, key: str) -> str:
        """Return how a key is normalised."""
        if key == ACTION:
            return self.norm_map.get("ACTION", "IDENTITY")
        chosen = self.features if self.normalize_observation_keys is None else self.normalize_observation_keys
        known = key in chosen and key in self.features
        return self.norm_map.get(self.features[key].type, "IDENTITY") if known else "IDENTITY"


def lerobot_policy(path: str | Path, fps: float | None = None, revision: str | None = None) -> DiffusionPolicy:
    """Return the policy of a checkpoint, which acts as it does in LeRobot.

    Args:
        path: ``pretrained_model``, the checkpoint's folder with it, or a repository of the hub.
        fps: of its training data set, which a policy of type diffusion does not store.
        revision: of the hub repository.

    Raises:
        RobodiffError: there is no such checkpoint, or it is broken.
        UsageError: the policy has another type, or cannot be represented here.
    """
    folder = download(str(path), revision, ["*.json", "*.safetensors"]) if is_repository(str(path)) else Path(path)
    folder = folder / "pretrained_model" if (folder / "pretrained_model").is_dir() else folder
    file = folder / CONFIG_FILE
    with reading(file, "a policy's config.json"):
        content = file.read_bytes()
    values = decode_json(file, content, dict[str, Any], _REMEDY)
    if (kind := values.get("type")) == HYBRID:
        return _hybrid_policy(file, values)
    if kind != TYPE:
        raise UsageError(f"{file}: expected a policy of type {TYPE} or {HYBRID}; found {kind!r}")
    if fps is None:
        remedy = "give --data with its folder, or --fps with what its meta/info.json says"
        raise UsageError(f"{file}: does not say how many frames a second the data set has; {remedy}")
    with reading(file, "a policy of LeRobot"):
        return _policy(file, values, fps)


def _policy(file: Path, values: dict[str, Any], fps: float) -> DiffusionPolicy:
    """Return the policy of type diffusion that a config.json describes."""
    recorded = _recorded(file, values, fps)
    cameras = [key for key, each in recorded.input_features.items() if each.type == "VISUAL"]
    config = _config(file, values, cameras, recorded)
    stored = {
        re.sub(r"^diffusion\.|(?<=\.)_orig_mod\.", "", key): value
        for key, value in _tensors(file.with_name(WEIGHTS_FILE)).items()
    }
    outline = outline_of(file, config, recorded.features, fps)
    weights = renamed(stored, outline, lambda name: lerobot_name(name, cameras), UNUSED)
    policy = policy_of(file.with_name(WEIGHTS_FILE), config, recorded.features, fps, weights)
    affines = _affines(file, values, recorded, stored)
    pixels = {camera: _pixels(affines.pop(camera)) for camera in cameras}
    set_normalizer(policy, affines, pixels)
    return policy


def _hybrid_policy(file: Path, values: dict[str, Any]) -> DiffusionPolicy:
    """Return the policy of type hybrid_diffusion, which is robodiff's own, that a config.json describes."""
    try:
        config, recorded = config_from_lerobot(values), recorded_from_lerobot(values)
    except UsageError as error:
        raise RobodiffError(f"{file}: does not describe a policy: {error}") from None
    stored = _tensors(file.with_name(WEIGHTS_FILE))
    weights = {key.removeprefix(PREFIX): value for key, value in stored.items() if key.startswith(PREFIX)}
    policy = policy_of(file.with_name(WEIGHTS_FILE), config, recorded.features, recorded.fps, weights, unset=None)
    stage, *later = config.stages()
    if later and int(stored.get("step", 0)) < (stage.steps or 0):
        notice(f"{file}: is of the stage {stage.name}, before anything was learnt of continuous actions")
    return policy


def _tensors(path: Path) -> dict[str, Tensor]:
    with reading(path, "a safetensors file"):
        return load(path.read_bytes())


def _pixels(affine: Affine) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of pixels from 0 to 255 that are normalised so from 0 to 1."""
    return -255 * affine.offset / affine.scale, 255 / affine.scale


def lerobot_name(name: str, cameras: list[str]) -> str:
    """Return LeRobot's name of a weight; its encoders are numbered in the order of the cameras."""
    if name.startswith("denoiser."):
        return f"unet.{unet_name(name.removeprefix('denoiser.'), 'conv1.block', 'conv2.block')}"
    _, _, encoder, inner = name.split(".", 3)  # cameras.encoders.<encoder>.
    number = "" if encoder == "shared" else f".{[each.replace('.', '/') for each in cameras].index(encoder)}"
    part, _, rest = inner.removeprefix("backbone.").partition(".")
    inner = f"backbone.{RESNET[part]}.{rest}" if part in RESNET else inner
    return f"rgb_encoder{number}.{inner.replace('pool.maps', 'pool.nets').replace('out.0', 'out')}"


def _recorded(file: Path, values: Mapping[str, Any], fps: float) -> Recorded:
    """Return what is said of the data set: the keys that the policy reads, in the order in which it embeds them."""
    try:
        told = {name: values.get(name) for name in ("input_features", "output_features")}
        recorded = typed(Recorded, {**told, "fps": fps})
    except UsageError as error:
        raise RobodiffError(f"{file}: does not describe a policy: {error}; {_REMEDY}") from None
    given = recorded.input_features
    order = [STATE, *(key for key, each in given.items() if each.type == "VISUAL"), ENVIRONMENT]
    if missing := [key for key in (STATE, ACTION) if key not in {**given, **recorded.output_features}]:
        raise UsageError(f"{file}: has no {missing[0]}, which LeRobot's diffusion policies have")
    return Recorded(
        input_features={key: given[key] for key in order if key in given},
        output_features={ACTION: recorded.output_features[ACTION]},
        fps=fps,
    )


def _config(file: Path, values: dict[str, Any], cameras: list[str], recorded: Recorded) -> DiffusionConfig:
    """Return the configuration."""
    named = {RENAMED.get(name, name): value for name, value in values.items()}
    known = {each.name for each in fields(DiffusionConfig)}
    own = {name: value for name, value in named.items() if name in known}
    if values.get("use_peft"):
        raise UsageError(f"{file}: use_peft: its weights are a change of others; merge them in LeRobot first")
    if own.get("n_groups", GROUPS) != GROUPS:
        raise UsageError(
            f"{file}: n_groups {own['n_groups']}: cannot be represented here, because LeRobot's last block has {GROUPS}"
        )
    if own.get("resize_shape") is not None and "crop_ratio" in values:  # else of a LeRobot that has no crop_ratio
        share = float(values["crop_ratio"])
        own["crop_shape"] = [int(size * share) for size in own["resize_shape"]] if share < 1 else None
    own |= {
        "observation_keys": [*recorded.input_features],
        "normalization": dict.fromkeys(cameras, "dataset"),
        "timestep_spacing": "leading",
        "optimizer_type": "adam",
        "pretrained_backbone_weights": None,  # the checkpoint holds its own
    }
    try:
        config = typed(DiffusionConfig, own | {"n_action_steps": 1})
        steps = config.horizon - config.n_obs_steps + 1
        if own["n_action_steps"] > steps:
            notice(f"{file}: n_action_steps reaches beyond the horizon; LeRobot executes {steps} actions")
        return replace(config, n_action_steps=min(own["n_action_steps"], steps))
    except UsageError as error:
        raise UsageError(f"{file}: does not describe a policy: {error}") from None


def _affines(
    file: Path, values: Mapping[str, Any], recorded: Recorded, stored: Mapping[str, Tensor]
) -> dict[str, Affine]:
    """Return how each key is normalised, images per channel, from 0 to 1."""
    names, features = [*recorded.features], recorded.input_features
    if any(file.with_name(name).exists() for name in PROCESSORS):
        before, after = (_step(file.with_name(name), step) for name, step in PROCESSORS.items())
        sources = {key: after if key == ACTION else before for key in names}
    else:
        rules = {"norm_map": values.get("normalization_mapping"), "features": features}
        read = _rules(file, rules), _buffers(stored, names)
        sources = dict.fromkeys(names, read)
    return {key: _affine(file, key, recorded.features[key].shape[0], *sources[key]) for key in names}


def _step(path: Path, name: str) -> tuple[Rules, dict[str, Tensor]]:
    """Return rules and statistics of the step that normalises, of a processor's file."""
    processor = read_json(path, dict[str, Any], _REMEDY)
    steps = {step.get("registry_name") or step.get("class"): step for step in processor.get("steps", ())}
    if unknown := [str(each) for each in steps if each not in (*HARMLESS, name)]:
        raise UsageError(f"{path}: has the step {unknown[0]}, which cannot be represented here")
    if (step := steps.get(name)) is None:
        raise UsageError(f"{path}: has no {name}; take the policy with its processors as LeRobot wrote them")
    state = step.get("state_file")
    statistics = {} if state is None else _tensors(path.with_name(Path(str(state)).name))
    return _rules(path, dict(step.get("config") or {})), statistics


def _rules(path: Path, values: dict[str, Any]) -> Rules:
    try:
        return typed(Rules, {each.name: values[each.name] for each in fields(Rules) if each.name in values})
    except UsageError as error:
        raise RobodiffError(f"{path}: does not say how keys are normalised: {error}; {_REMEDY}") from None


def _buffers(stored: Mapping[str, Tensor], keys: list[str]) -> dict[str, Tensor]:
    """Return the statistics that policies before LeRobot 0.4 keep with the weights."""
    places = {key: f"normalize_inputs.buffer_{key.replace('.', '_')}." for key in keys}
    places[ACTION] = "unnormalize_outputs.buffer_action."
    return {
        f"{key}.{name.removeprefix(place)}": value
        for key, place in places.items()
        for name, value in stored.items()
        if name.startswith(place)
    }


def _affine(path: Path, key: str, dim: int, rules: Rules, statistics: Mapping[str, Tensor]) -> Affine:
    """Return the map that LeRobot's normalizer is: of (D,) numbers, or of the channels of images."""
    named = {name.rpartition(".")[2]: value for name, value in statistics.items() if name.rpartition(".")[0] == key}
    found = {name: value.float().flatten() for name, value in named.items()}
    mode = rules.mode(key) if found else "IDENTITY"
    ends = found.get("min", torch.full((dim,), -1.0)), found.get("max", torch.full((dim,), 1.0))
    needed = ENDS.get(mode, ("mean", "std") if mode == "MEAN_STD" else ())
    if wrong := [name for name in needed if found.get(name, torch.zeros(0)).shape != (dim,) or
                 not found[name].isfinite().all()]:  # fmt: skip
        raise RobodiffError(f"{path}: {mode} of {key} needs {wrong[0]}, {dim} finite numbers; {_REMEDY}")
    if mode == "IDENTITY":
        return Affine(torch.ones(dim), torch.zeros(dim), *ends)
    if mode == "MEAN_STD":
        mean, std = found["mean"], found["std"]
        scale = 1 / torch.where(std == 0, 1.0, std + rules.eps)
        return Affine(scale, -mean * scale, *ends)
    return Affine.between(*(found[name] for name in needed))
