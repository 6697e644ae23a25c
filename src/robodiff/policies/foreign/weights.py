"""Map weights of other code bases to our names, and build policies from them.

The mapping goes from our names to theirs, which serves both to read weights and to write them.
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
"""Index of each part of a ResNet in an ``nn.Sequential``."""
UNET = {
    r"^step_embedding": "diffusion_step_encoder",
    r"^middle": "mid_modules",
    r"^(down|up)\.": r"\1_modules.",
    r"\.film\.": ".cond_encoder.",
    r"\.residual\.": ".residual_conv.",
    r"^final\.0": "final_conv.0.block",
    r"^final\.1": "final_conv.1",
}
"""Names of a U-Net's parts in diffusion_policy and in LeRobot."""
GROUPS = 8
"""Of the normalisation in the last block of their U-Nets, whatever ``n_groups`` says of the others."""
STATISTICS = re.compile(r"normalizer\.|representation\.|cameras\.encoders\.[^.]+\.(mean|std)$")
"""Not weights, but statistics, which are set separately."""


@dataclass(frozen=True)
class Affine:
    """How a vector is normalised, x * scale + offset, and the range of its training data, each (D,)."""

    scale: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "Affine":
        """Return the map of a range to [-1, 1]; an empty range becomes -1, and is held still.

        A range that is not empty but smaller than robodiff's ``SMALLEST_RANGE`` is widened, so that it can move.
        """
        still = low == high
        scale = 2 / torch.where(still, 2.0, high - low)
        short = torch.where(still | (high - low >= SMALLEST_RANGE), 0.0, SMALLEST_RANGE)
        return cls(scale, -1 - low * scale, low - short, high + short)


def unet_name(name: str, first: str, second: str) -> str:
    """Return the foreign name of a U-Net weight; ``first`` and ``second`` name the convolutions of a block."""
    for ours, theirs in {**UNET, r"\.first\.": f".{first}.", r"\.second\.": f".{second}."}.items():
        name = re.sub(ours, theirs, name)
    return name


def renamed(
    stored: Mapping[str, Tensor], ours: Iterable[str], theirs: Callable[[str], str], unused: str
) -> dict[str, Tensor]:
    """Return stored weights by our names; unknown ones keep their names, those that ``unused`` matches are dropped."""
    names = {name: theirs(name) for name in ours if not STATISTICS.match(name)}
    named = {name: stored[other] for name, other in names.items() if other in stored}
    known = {*names.values()}
    return named | {name: value for name, value in stored.items() if name not in known and not re.match(unused, name)}


def outline_of(path: Path, config: PolicyConfig, features: Mapping[str, Feature], fps: float) -> dict[str, Tensor]:
    """Return the tensors of a policy without values: they take no memory, whatever sizes a file claims.

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
    """Return a policy with these weights, by our names; tensors that ``unset`` matches are set later.

    Raises:
        UsageError: the weights do not fit.
        RobodiffError: some weights are not finite.
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
    """Set a policy's normalisation to that of the original.

    Args:
        policy: with ``dataset`` normalisation of its cameras.
        vectors: the normalisation of each key.
        pixels: per camera mean and standard deviation (1,) or (3,) of its pixels, from 0 to 255.
    """
    for key, each in vectors.items():
        policy.normalizer.set(key, scale=each.scale, offset=each.offset, min=each.low, max=each.high)
    for camera, statistics in pixels.items():
        policy.cameras.set_pixels(camera, *statistics)
