"""Weights of other code bases by the names that they have here, and policies that are made of them.

Each name here is said in the words of the other code base, which serves both ways: to read weights and to write them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robodiff.data.episodes import SMALLEST_RANGE, Feature
from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.layers import shape_misfits
from robodiff.policies.checkpoint import first_not_finite
from robodiff.policies.config import PolicyConfig
from robodiff.policies.diffusion import DiffusionPolicy

RESNET = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
"""Where an ``nn.Sequential`` of a ResNet's parts has each of them."""
UNET = {
    r"^step_embedding": "diffusion_step_encoder",
    r"^middle": "mid_modules",
    r"^(down|up)\.": r"\1_modules.",
    r"\.film\.": ".cond_encoder.",
    r"\.residual\.": ".residual_conv.",
    r"^final\.0": "final_conv.0.block",
    r"^final\.1": "final_conv.1",
}
"""What the parts of a U-Net are called in diffusion_policy and in LeRobot."""
GROUPS = 8
"""Of the normalisation in the last block of their U-Nets, whatever ``n_groups`` says of the others."""
STATISTICS = re.compile(r"normalizer\.|representation\.|cameras\.encoders\.[^.]+\.(mean|std)$")
"""What is no weight: it is set by itself."""


@dataclass(frozen=True)
class Affine:
    """How a vector is normalised, x * scale + offset, and the range of its training data, each (D,)."""

    scale: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "Affine":
        """Return the map of a range to [-1, 1]; what has no extent is -1, and is held still.

        A range too small to be learnt by robodiff's own measure, but not by the other's, is stretched so as to move.
        """
        still = low == high
        scale = 2 / torch.where(still, 2.0, high - low)
        short = torch.where(still | (high - low >= SMALLEST_RANGE), 0.0, SMALLEST_RANGE)
        return cls(scale, -1 - low * scale, low - short, high + short)


def unet_name(name: str, first: str, second: str) -> str:
    """Return what a weight of the U-Net is called elsewhere; the convolutions of a block are called so."""
    for ours, theirs in {**UNET, r"\.first\.": f".{first}.", r"\.second\.": f".{second}."}.items():
        name = re.sub(ours, theirs, name)
    return name


def renamed(
    stored: Mapping[str, Tensor], ours: Iterable[str], theirs: Callable[[str], str], unused: str
) -> dict[str, Tensor]:
    """Return stored weights by our names; what has no name here keeps its own, what ``unused`` matches is left out."""
    names = {name: theirs(name) for name in ours if not STATISTICS.match(name)}
    named = {name: stored[other] for name, other in names.items() if other in stored}
    known = {*names.values()}
    return named | {name: value for name, value in stored.items() if name not in known and not re.match(unused, name)}


def outline_of(path: Path, config: PolicyConfig, features: Mapping[str, Feature], fps: float) -> dict[str, Tensor]:
    """Return the tensors of a policy without their values: they take no memory, whatever sizes a file says.

    Raises:
        UsageError: there is no such policy; the message names the file.
    """
    try:
        with torch.device("meta"):
            return config.make_policy(features, fps).state_dict()
    except UsageError as error:
        raise UsageError(f"{path}: does not describe a policy: {error}") from None


def policy_of(
    path: Path,
    config: PolicyConfig,
    features: Mapping[str, Feature],
    fps: float,
    weights: Mapping[str, Tensor],
    unset: re.Pattern[str] | None = STATISTICS,
) -> DiffusionPolicy:
    """Return the policy with these weights, by our names, ready to act but for what ``unset`` matches.

    Raises:
        UsageError: they do not fit.
        RobodiffError: some are not finite.
    """
    outline = outline_of(path, config, features, fps)
    outline = {name: value for name, value in outline.items() if unset is None or not unset.match(name)}
    if misfits := shape_misfits(weights, outline):
        raise UsageError(f"{path}: its weights do not fit: {misfits[0]}; take the file as it was saved")
    if (broken := first_not_finite(dict(weights))) is not None:
        raise RobodiffError(f"{path}: {broken} holds values that are not finite; take an earlier checkpoint")
    policy = config.make_policy(features, fps)
    policy.load_state_dict(dict(weights), strict=False)
    return policy.eval()


def set_normalizer(
    policy: DiffusionPolicy, vectors: Mapping[str, Affine], pixels: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Make a policy normalise as it did elsewhere.

    Args:
        policy: whose cameras are normalised as a data set's.
        vectors: per key how it is normalised.
        pixels: per camera mean and standard deviation (1,) or (3,) of its pixels, from 0 to 255.
    """
    for key, each in vectors.items():
        policy.normalizer.set(key, scale=each.scale, offset=each.offset, min=each.low, max=each.high)
    for camera, statistics in pixels.items():
        policy.cameras.set_pixels(camera, *statistics)
