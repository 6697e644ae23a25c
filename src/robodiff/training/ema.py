"""The exponential moving average of the weights, which is what acts."""

import torch
from torch import nn

from robodiff.policies.config import DiffusionConfig


def ema_decay(update: int, config: DiffusionConfig) -> float:
    """Decay at update n = 1, 2, ...: 1 - (1 + max(0, n - 1) / inv_gamma)^-power, within its bounds.

    The warm-up of diffusers' ``EMAModel``; the first update takes the weights as they are (unless min_value forbids).
    """
    value = 1 - (1 + max(0, update - 1) / config.ema_inv_gamma) ** -config.ema_power
    return min(max(value, config.ema_min_value), config.ema_max_value)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``model``: average + (1 - decay) (model - average).

    Buffers are averaged, too (batch normalisation keeps statistics in them); integer ones are copied.
    """
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floating = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floating], [m for _, m in floating], 1 - decay)  # pyright: ignore
    for a, m in pairs:
        if not a.is_floating_point():
            a.copy_(m)
