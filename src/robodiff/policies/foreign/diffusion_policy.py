"""Import checkpoints of real-stanford/diffusion_policy: U-Net and transformer, low-dimensional and image."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robodiff.data.episodes import ACTION, Feature
from robodiff.documents import typed
from robodiff.errors import UsageError
from robodiff.files import reading
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.diffusion_policy_options import (
    POLICIES,
    encoder_fields,
    mapping,
    pixel_constants,
    policy_fields,
    target,
)
from robodiff.policies.foreign.reader import check_weights, plain_values
from robodiff.policies.foreign.weights import (
    RESNET,
    Affine,
    outline_of,
    policy_of,
    renamed,
    set_normalizer,
    unet_name,
)
from robodiff.text import brief

FPS = {"pusht_": 10.0, "robomimic_": 20.0}
"""Frames per second of its tasks, by the prefix of their runner's module."""
PUSHT = {"agent_pos": "observation.state"}
"""Keys of Push-T that have another name here."""
ROBOMIMIC = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "robot1_eef_pos": 3,
             "robot1_eef_quat": 4, "robot1_gripper_qpos": 2}  # fmt: skip
"""Dimensions of robomimic's observations; ``object`` has the rest."""
ROTATIONS = {10: (7, ["3:6"]), 20: (14, ["3:6", "10:13"])}
"""By the dimension of an absolute action: its recorded dimension, and the axis-angle parts, which become 6D."""
UNUSED = (
    r"(.+\.)?_dummy_variable$|normalizer\.|model\.(memory_)?mask$|"
    r"obs_encoder\.obs_nets\.[^.]+\.(nets\.[01]\.|pool\.(nets\.bias|pos_x|pos_y|temperature)$)"
)
"""Redundant weights: masks, duplicates, and a bias in front of a softmax, which cancels it."""


@dataclass
class Checkpoint:
    """The contents of a checkpoint, and the problems: what cannot be represented here."""

    path: Path
    cfg: dict[str, Any]
    weights: dict[str, Tensor]
    problems: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the policy and of its network."""
        policy = mapping(self.cfg.get("policy"))
        return {**mapping(policy.get("model")), **policy}

    @property
    def kind(self) -> str:
        """The class of the policy."""
        if (kind := target(self.options)) not in POLICIES:
            raise UsageError(f"{self.path}: holds a policy of {kind}, which is none of {', '.join(POLICIES)}")
        return kind

    @property
    def task(self) -> dict[str, Any]:
        """Options of the task and of its data set."""
        task = mapping(self.cfg.get("task"))
        return {**mapping(task.get("dataset")), **task}

    @property
    def runner(self) -> str:
        """The module of its environment's runner, such as pusht_image_runner."""
        return ".".join(str(mapping(self.task.get("env_runner")).get("_target_")).split(".")[-2:-1])

    @property
    def is_of_images(self) -> bool:
        """Whether it describes each observed key; otherwise it observes one vector, ``obs``."""
        return "shape_meta" in self.options

    @property
    def names(self) -> dict[str, str]:
        """The name here of each of its keys."""
        task = PUSHT if self.runner.startswith("pusht_") else {}
        return {key: task.get(key) or self._name(key) for key in self.seen}

    def _name(self, key: str) -> str:
        if key == "image" or self.seen[key].get("type") != "rgb":
            return f"observation.{key}"
        return f"observation.images.{key.removesuffix('_image')}"

    @property
    def cameras(self) -> dict[str, str]:
        """The original name of each camera, by the name here."""
        return {ours: key for key, ours in self.names.items() if self.seen[key].get("type") == "rgb"}

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """Shape and type of an image policy's observations, by their original names."""
        return {key: mapping(each) for key, each in mapping(mapping(self.options.get("shape_meta")).get("obs")).items()}

    def affine(self, key: str) -> Affine:
        """Return how a vector is normalised, with its range; if the file lacks that, the range that becomes [-1, 1]."""
        found = self._normalizer(key)
        scale, offset = found["scale"], found["offset"]
        low, high = found.get("input_stats.min"), found.get("input_stats.max")
        if low is None or high is None:
            low, high = (-1 - offset) / scale, (1 - offset) / scale
        return Affine(scale, offset, low, high)

    def pixels(self, key: str) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation that normalise a camera's pixels, from 0 to 255."""
        found, encoder = self._normalizer(key), mapping(self.options.get("obs_encoder"))
        mean, std = map(torch.tensor, pixel_constants(encoder))
        return 255 * (mean - found["offset"]) / found["scale"], 255 * std / found["scale"]

    def _normalizer(self, key: str) -> dict[str, Tensor]:
        prefix = f"normalizer.params_dict.{key}."
        found = {name.removeprefix(prefix): each.float().flatten() for name, each in self.weights.items()
                 if name.startswith(prefix)}  # fmt: skip
        if not {"scale", "offset"} <= found.keys():
            raise UsageError(f"{self.path}: does not hold how {key} is normalised; take the file as it was saved")
        return found


def policy_of_diffusion_policy(path: Path, content: Mapping[str, Any], fps: float | None) -> DiffusionPolicy:
    """Return the policy of a checkpoint, which acts as its ``predict_action`` does.

    Args:
        path: of the file, for messages.
        content: of the file.
        fps: of its training recording; that of its task when None, if known.

    Raises:
        UsageError: it cannot be represented here, or its parts do not fit.
        RobodiffError: it is not such a checkpoint, or broken.
    """
    with reading(path, "a checkpoint of diffusion_policy"):
        return _policy(_checkpoint(path, content), fps)


def _policy(checkpoint: Checkpoint, fps: float | None) -> DiffusionPolicy:
    path, known = checkpoint.path, [rate for start, rate in FPS.items() if checkpoint.runner.startswith(start)]
    if (rate := fps or next(iter(known), None)) is None:
        raise UsageError(f"{path}: does not say how many frames a second it was trained on; give --fps")
    vectors, cameras = _vectors(checkpoint), checkpoint.cameras
    fields, features = _fields(checkpoint, [*vectors]), _features(checkpoint, vectors)
    if checkpoint.problems:
        raise UsageError(f"{path}: cannot be represented here: {'; '.join(checkpoint.problems)}")
    try:
        config = typed(POLICIES[checkpoint.kind][0], fields)
    except UsageError as error:
        raise UsageError(f"{path}: does not describe a policy: {error}") from None
    outline = outline_of(path, config, features, rate)
    weights = renamed(checkpoint.weights, outline, partial(_name, checkpoint), UNUSED)
    policy = policy_of(path, config, features, rate, weights)
    pixels = {camera: checkpoint.pixels(key) for camera, key in cameras.items()}
    set_normalizer(policy, {**vectors, ACTION: checkpoint.affine(ACTION)}, pixels)
    return policy


def _checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """Return the configuration and the weights, the EMA weights if there are any."""
    cfg, states = plain_values(path, content.get("cfg")), mapping(content.get("state_dicts"))
    if not isinstance(cfg, dict):
        raise UsageError(f"{path}: expected cfg, the configuration of diffusion_policy; found {brief(cfg)}")
    is_averaged = mapping(cfg.get("training")).get("use_ema", "ema_model" in states)
    return Checkpoint(path, cfg, check_weights(path, states.get("ema_model" if is_averaged else "model")))


def _vectors(checkpoint: Checkpoint) -> dict[str, Affine]:
    """Return how each observed vector is normalised, by its name here."""
    if checkpoint.is_of_images:
        cameras = checkpoint.cameras
        return {ours: checkpoint.affine(key) for key, ours in checkpoint.names.items() if ours not in cameras}
    whole = checkpoint.affine("obs")
    parts = _parts(checkpoint, len(whole.scale))
    each = [tensor.split([*parts.values()]) for tensor in (whole.scale, whole.offset, whole.low, whole.high)]
    return {key: Affine(*values) for key, *values in zip(parts, *each, strict=True)}


def _parts(checkpoint: Checkpoint, width: int) -> dict[str, int]:
    """Return the parts of the single vector of a policy without images, with their dimensions."""
    if checkpoint.runner.startswith("pusht_keypoints") and width == 20:
        return {"observation.keypoint": 18, "observation.state": 2}
    keys = checkpoint.task.get("obs_keys")
    if isinstance(keys, list):
        known = {str(key): ROBOMIMIC.get(str(key), 0) for key in keys}
        rest = width - sum(known.values())
        if [*known.values()].count(0) == 1 and rest > 0:
            return {f"observation.{key}": size or rest for key, size in known.items()}
    return {"observation.state": width}


def _fields(checkpoint: Checkpoint, vectors: list[str]) -> dict[str, Any]:
    """Return the fields of the configuration here."""
    cameras, problems = checkpoint.cameras, checkpoint.problems
    fields = policy_fields(checkpoint.kind, checkpoint.options, problems)
    fields |= _vision(checkpoint) if cameras else {"crop_shape": None}
    order = [*checkpoint.names.values()] or vectors
    if checkpoint.kind == "DiffusionUnetImagePolicy":
        names = checkpoint.names  # images first, each in the order of their names there
        order = [names[key] for key in sorted(names, key=lambda key: (names[key] not in cameras, key))]
    fields |= {"observation_keys": order, "normalization": dict.fromkeys(cameras, "dataset")}
    if cameras and fields["conditioning"] == "inpaint" and fields["clip_sample"]:
        problems.append("clip_sample with inpainting from images cuts what encoders say")
    if latency := checkpoint.cfg.get("n_latency_steps"):
        problems.append(f"n_latency_steps {brief(latency)} leaves out as many actions")
    if (task := checkpoint.task).get("abs_action"):
        learnt, rotation = len(checkpoint.affine(ACTION).scale), task.get("rotation_rep", "rotation_6d")
        if learnt in ROTATIONS and rotation == "rotation_6d":
            fields["action_rotations"] = ROTATIONS[learnt][1]
        else:
            problems.append(f"abs_action of {learnt} numbers, rotations as {brief(rotation)}")
    return fields


def _vision(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of the encoders of images."""
    keys = [*checkpoint.cameras.values()]
    if checkpoint.kind == "DiffusionUnetImagePolicy":
        images = [checkpoint.seen[key]["shape"] for key in keys]
        return encoder_fields(mapping(checkpoint.options.get("obs_encoder")), images, checkpoint.problems)
    pools = [f"obs_encoder.obs_nets.{key}.pool." for key in keys]
    if any((checkpoint.weights.get(f"{pool}temperature", torch.tensor(1.0)) != 1).any() for pool in pools):
        checkpoint.problems.append("a spatial softmax with a temperature")
    maps = checkpoint.weights.get(f"{pools[0]}nets.weight")
    keypoints = {} if maps is None else {"spatial_softmax_num_keypoints": len(maps)}
    return {"use_separate_rgb_encoder_per_camera": True, **keypoints}


def _features(checkpoint: Checkpoint, vectors: Mapping[str, Affine]) -> dict[str, Feature]:
    """Return what each key holds, as recorded."""
    cameras = {camera: tuple(checkpoint.seen[key].get("shape") or ()) for camera, key in checkpoint.cameras.items()}
    features = {key: Feature("vector", tuple(each.scale.shape), "float32") for key, each in vectors.items()}
    features |= {camera: Feature("image", shape, "uint8") for camera, shape in cameras.items()}
    learnt = len(checkpoint.affine(ACTION).scale)
    recorded = ROTATIONS[learnt][0] if checkpoint.task.get("abs_action") and learnt in ROTATIONS else learnt
    return {**features, ACTION: Feature("vector", (recorded,), "float32")}


def _name(checkpoint: Checkpoint, name: str) -> str:
    """Return the original name of a weight."""
    if name.startswith("denoiser."):
        inner, is_unet = name.removeprefix("denoiser."), "Unet" in checkpoint.kind
        inner = re.sub(r"^((?:down|up)\.\d+\.2)\.", r"\1.conv.", inner) if is_unet else inner
        return f"model.{unet_name(inner, 'blocks.0.block', 'blocks.1.block') if is_unet else inner}"
    _, _, encoder, inner = name.split(".", 3)  # cameras.encoders.<encoder>.
    key = next((key for key, ours in checkpoint.names.items() if ours.replace(".", "/") == encoder), "rgb")
    if checkpoint.kind == "DiffusionUnetImagePolicy":
        return f"obs_encoder.key_model_map.{key}.{inner.removeprefix('backbone.')}"
    part, _, rest = inner.removeprefix("backbone.").partition(".")
    inner = {"pool.maps.weight": "pool.nets.weight"}.get(inner, inner.replace("out.0", "nets.3"))
    inner = f"backbone.nets.{RESNET[part]}.{rest}" if part in RESNET else inner
    return f"obs_encoder.obs_nets.{key}.{inner}"
