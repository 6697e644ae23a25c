"""What a policy takes of a recording or of a robot, and the encoders of its cameras."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robodiff.data.episodes import ACTION, Feature
from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.backbones import BackboneConfig
from robodiff.networks.images import Preparation
from robodiff.networks.vision import PIXELS, CameraEncoders, EncoderConfig
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
    if not keys or not all(key.startswith("observation.") for key in keys):
        raise UsageError(f"observation_keys must name observations, such as observation.state; found {keys}")
    if missing := [key for key in [*keys, ACTION] if key not in features]:
        raise UsageError(f"the policy needs {missing[0]!r}; there is {', '.join(features)}")
    chosen = {key: features[key] for key in [*keys, ACTION]}
    for key, mode in config.normalization.items():
        if key in chosen and chosen[key].kind == "image" and mode not in list(PIXELS):
            modes = ", ".join(PIXELS)
            raise UsageError(f"{mode} normalization is for vectors, and {key} holds images; choose one of {modes}")
    if chosen[ACTION].kind != "vector":
        raise UsageError(f"{ACTION} must be a vector; found {chosen[ACTION].kind}s of shape {chosen[ACTION].shape}")
    return chosen


def make_cameras(config: PolicyConfig, features: Mapping[str, Feature]) -> CameraEncoders:
    """Return the encoders of all cameras among the features, with random weights.

    Raises:
        UsageError: images that do not go with the configuration, or with each other.
    """
    c, shapes = config, {key: feature.shape for key, feature in features.items() if feature.kind == "image"}
    preparation = Preparation(c.resize_shape, c.crop_shape, c.crop_is_random, c.color_jitter)
    weights = c.use_group_norm, c.pretrained_backbone_weights
    backbone = BackboneConfig(c.vision_backbone, c.backbone_stride, *weights)
    network = EncoderConfig(backbone, c.freeze_backbone, c.spatial_softmax_num_keypoints)
    pixels = {key: str(mode) for key, mode in c.normalization.items() if key in shapes}
    return CameraEncoders(shapes, preparation, network, c.use_separate_rgb_encoder_per_camera, pixels)


def check_observation(
    observation: Mapping[str, Tensor], features: Mapping[str, Feature], encoded: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse an observation of another form than the policy was made for.

    Args:
        observation: per key (B, steps, ...).
        features: what is observed.
        encoded: per camera the shape of what a frozen backbone gives of a frame, which may be in an image's place.

    Raises:
        UsageError: one of the features is missing.
        RobodiffError: images of another dtype or shape.
    """
    if missing := [key for key in features if key not in observation]:
        raise UsageError(f"the policy observes {missing[0]!r}; the observation has {', '.join(observation)}")
    for key, feature in features.items():
        form, expected = (observation[key].dtype, *observation[key].shape[2:]), (torch.uint8, *feature.shape)
        is_encoded = key in encoded and form == (torch.float16, *encoded[key])
        if feature.kind == "image" and form != expected and not is_encoded:
            raise RobodiffError(f"{key}: images of each step must be {expected}, found {form}")
