"""Import checkpoints of the myCobot diffusion policy (FedVLA)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.formats.mycobot import CAMERA, FPS, NAMES, UNITS
from robodiff.documents import typed
from robodiff.errors import UsageError, notice
from robodiff.policies.denoisers import DiffusionMlpConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.reader import AS_SAVED, check_weights, plain_values
from robodiff.policies.foreign.weights import RESNET, policy_of
from robodiff.text import brief

WEIGHTS = "model_state_dict"
PARTS = {place: part for part, place in RESNET.items()}
MYCOBOT = {"image_size": 224, "diffusion_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
"""Options that do not follow from the weights, with the defaults of its code where ``args`` lack them."""
MYCOBOT_FIXED = {
    "horizon": 1,
    "n_obs_steps": 1,
    "n_action_steps": 1,
    "normalization": {CAMERA: "imagenet", ACTION: "identity"},
    "vision_backbone": "resnet34",
    "use_group_norm": False,
    "spatial_softmax_num_keypoints": None,
    "residual": False,
    "beta_schedule": "linear",
    "clip_sample": False,
}
"""Common to all of its policies: they denoise a single action, not normalised, with DDPM."""


def mycobot_policy(
    path: Path, content: Mapping[str, Any], camera_size: tuple[int, int], activation: str | None = None
) -> DiffusionPolicy:
    """Return the policy of a checkpoint of the myCobot code base, which acts as its ``p_sample_loop`` does.

    Args:
        path: of the file, for messages.
        content: of the file; its weights alone will do.
        camera_size: height and width of the camera's images.
        activation: relu or mish, if the weights do not determine it; relu when None.

    Raises:
        UsageError: it is not such a checkpoint, or its parts contradict each other.
    """
    weights = check_weights(path, content.get(WEIGHTS, content))
    args = plain_values(path, content.get("args")) or {}
    if not isinstance(args, dict):
        raise UsageError(f"{path}: expected args by their names; found {brief(args)}")
    action = Feature("vector", (len(NAMES),), "float32", NAMES, UNITS)
    features = {CAMERA: Feature("image", (3, *camera_size), "uint8"), ACTION: action}
    fields = MYCOBOT_FIXED | _fields(path, weights, args, activation)
    try:
        config = typed(DiffusionMlpConfig, fields)
    except UsageError as error:
        raise UsageError(f"{path}: does not describe a policy: {error}") from None
    return policy_of(path, config, features, FPS, {_name(key): value for key, value in weights.items()})


def _fields(
    path: Path, weights: Mapping[str, Tensor], args: Mapping[str, Any], activation: str | None
) -> dict[str, Any]:
    """Return the fields of the configuration that differ from policy to policy."""
    is_timed = "output_projection.weight" in weights
    sizes = _sizes(path, weights, is_timed)
    said = {**sizes, **MYCOBOT, **args}
    wrong = {name: size for name, size in sizes.items() if repr(said[name]) != str(size)}
    if wrong:
        texts = [f"{name} is {brief(said[name])}, {size} in the weights" for name, size in wrong.items()]
        raise UsageError(f"{path}: args contradict the weights: {'; '.join(texts)}; {AS_SAVED}")
    if missing := [f"{name} {value}" for name, value in MYCOBOT.items() if name not in args]:
        notice(f"{path}: not in args, and taken as its code base has them: {', '.join(missing)}")
    if activation is None and not is_timed:
        notice(
            f"{path}: does not say its activation; taken as relu. If its model.py has nn.Mish, give --activation mish"
        )
    return {
        "hidden_dim": sizes["hidden_dim"],
        "num_mlp_layers": sizes["num_mlp_layers"],
        "diffusion_step_embed_dim": sizes["time_emb_dim"],
        "time_in_each_layer": is_timed,
        "activation": activation or "relu",
        "resize_shape": (said["image_size"], said["image_size"]),
        "num_train_timesteps": said["diffusion_timesteps"],
        "beta_start": said["beta_start"],
        "beta_end": said["beta_end"],
    }


def _sizes(path: Path, weights: Mapping[str, Tensor], is_timed: bool) -> dict[str, int]:
    """Return what the weights say of the sizes in ``args``, by their names there."""
    first = "input_projection.layers.0.bias" if is_timed else "mlp.0.bias"
    layer = r"layers\.\d+\.layers\.0\.bias" if is_timed else r"mlp\.[1-9]\d*\.bias"
    try:
        hidden, time = (len(weights[name]) for name in (first, "time_mlp.3.bias"))
    except (KeyError, TypeError):
        found = ", ".join(map(str, [*weights][:3])) or "nothing"
        raise UsageError(
            f"{path}: expected weights of the myCobot code base, such as {first} and time_mlp.3.bias; found {found}"
        ) from None
    layers = sum(bool(re.fullmatch(layer, str(name))) for name in weights)
    sizes = {"hidden_dim": hidden, "time_emb_dim": time, "state_dim": len(NAMES), "image_feature_dim": 512}
    return sizes | {"num_mlp_layers": layers, "num_layers": layers}


def _name(key: str) -> str:
    """Return our name of a weight."""
    network, _, rest = key.partition(".")
    if network in ("image_encoder", "image_backbone"):
        part, dot, rest = rest.partition(".")
        return f"cameras.encoders.shared.backbone.{PARTS.get(part, part)}{dot}{rest}"
    for name, here in (("input_projection.layers", "first"), ("output_projection", "last")):
        key = key.replace(name, here)
    return "denoiser." + re.sub(r"^layers\.(\d+)\.layers", r"layers.\1", key)
