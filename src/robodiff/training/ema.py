"""The exponential moving average of the weights, which is what acts."""

import torch
from torch import Tensor, nn

from robodiff.policies.base import PolicyConfig


def ema_decay(update: int, config: PolicyConfig) -> float:
    """Decay at update n = 1, 2, ...: 1 - (1 + max(0, n - 1) / inv_gamma)^-power, within its bounds.

    The warm-up of diffusers' ``EMAModel``; the first update takes the weights as they are (unless min_value forbids).
    """
    value = 1 - (1 + max(0, update - 1) / config.ema_inv_gamma) ** -config.ema_power
    return min(max(value, config.ema_min_value), config.ema_max_value)


class Ema:
    """Moves ``average`` towards ``model``, which has the same structure.

    Buffers are averaged, too (batch normalisation keeps statistics in them); integer ones are copied.
    """

    def __init__(self, average: nn.Module, model: nn.Module) -> None:
        self._modules = average, model
        self._pairs: list[tuple[Tensor, Tensor]] | None = None  # looked up once they are on their device

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average + (1 - decay) (model - average)."""
        if self._pairs is None:
            average, model = (module.state_dict(keep_vars=True).values() for module in self._modules)
            self._pairs = list(zip(average, model, strict=True))
        floating = [pair for pair in self._pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [m for _, m in floating], 1 - decay)  # pyright: ignore
        for a, m in self._pairs:
            if not a.is_floating_point():
                a.copy_(m)
