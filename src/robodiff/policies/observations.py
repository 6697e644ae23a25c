"""What a policy takes of a recording or of a robot, and the encoders of its cameras."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robodiff.data.episodes import ACTION, Feature
from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.images import Preparation
from robodiff.networks.vision import CameraEncoders
from robodiff.policies.config import PolicyConfig


def policy_features(config: PolicyConfig, features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return what a policy observes, in the order in which it is embedded, and ``action``.

    Raises:
        UsageError: a key that is not among the features or is no observation, an action that is no vector, or a
            normalisation of images.
    """
    keys = config.observation_keys
    if keys is None:
        keys = [key for key in features if key.startswith("observation.")]
    if not keys:
        raise UsageError("a policy must observe something; observation_keys names nothing, or nothing was recorded")
    if others := [key for key in keys if not key.startswith("observation.")]:
        raise UsageError(f"observation_keys must name observations, such as observation.state; found {others[0]!r}")
    for key in [*keys, ACTION]:
        if key not in features:
            raise UsageError(f"the policy needs {key!r}; there is {', '.join(features)}")
        if features[key].kind == "image" and key in config.normalization:
            raise UsageError(f"normalization is for vectors, and {key} holds images; with pretrained weights they are "
                             "normalised by ImageNet's statistics, else to [-1, 1]")  # fmt: skip
    if features[ACTION].kind != "vector":
        raise UsageError(f"{ACTION} must be a vector; found {features[ACTION].kind}s of shape {features[ACTION].shape}")
    return {key: features[key] for key in [*keys, ACTION]}


def make_cameras(config: PolicyConfig, features: Mapping[str, Feature]) -> CameraEncoders:
    """Return the encoders of all cameras among the features, with random weights.

    Raises:
        UsageError: images that do not go with the configuration, or with each other.
    """
    c, shapes = config, {key: feature.shape for key, feature in features.items() if feature.kind == "image"}
    preparation = Preparation(c.resize_shape, c.crop_shape, c.crop_is_random, c.color_jitter)
    weights = c.use_group_norm, c.pretrained_backbone_weights, c.freeze_backbone
    network = c.vision_backbone, c.spatial_softmax_num_keypoints, *weights
    return CameraEncoders(shapes, preparation, *network, c.use_separate_rgb_encoder_per_camera)


def first_steps(
    observation: Mapping[str, Tensor],
    features: Mapping[str, Feature],
    keys: Sequence[str],
    steps: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the first ``steps`` time steps of the observations ``keys`` on a device: vectors float32, images uint8.

    Raises:
        UsageError: one is missing.
        RobodiffError: images of another form than the policy was made for.
    """
    taken = {}
    for key in keys:
        if key not in observation:
            raise UsageError(f"the policy observes {key!r}; the observation has {', '.join(observation)}")
        value, feature = observation[key][:, :steps], features[key]
        if feature.kind == "vector":
            taken[key] = value.to(device, torch.float32)
            continue
        if value.dtype != torch.uint8 or value.shape[2:] != feature.shape:
            raise RobodiffError(f"{key}: expected torch.uint8 images (B, To, {str(feature.shape)[1:]}, "
                                f"found {value.dtype} {tuple(value.shape)}")  # fmt: skip
        taken[key] = value.to(device)
    return taken
