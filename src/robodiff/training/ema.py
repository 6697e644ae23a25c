"""The exponential moving average of the weights, which is what acts."""

import torch
from torch import Tensor, nn

from robodiff.policies.config import PolicyConfig


def ema_decay(update: int, config: PolicyConfig) -> float:
    """Return the decay at update n = 1, 2, ...: 1 - (1 + max(0, n - 1) / inv_gamma)^-power, within its bounds.

    The warm-up of diffusers' ``EMAModel``; the first update takes the weights as they are (unless min_value forbids).
    """
    value = 1 - (1 + max(0, update - 1) / config.ema_inv_gamma) ** -config.ema_power
    return min(max(value, config.ema_min_value), config.ema_max_value)


class Ema:
    """Moves ``average`` towards ``model``, which has the same structure.

    Buffers are averaged, too (batch normalisation keeps statistics in them); integer ones are copied. What is trained
    is named by how the names of its tensors begin; tensors that both have in common are left alone.
    """

    def __init__(self, average: nn.Module, model: nn.Module) -> None:
        self._modules = average, model
        self._named: dict[str, tuple[Tensor, Tensor]] = {}  # looked up once they are on their device

    @torch.no_grad()
    def update(self, decay: float, trained: tuple[str, ...] = ("",)) -> None:
        """Set average + (1 - decay) (model - average)."""
        pairs = [pair for name, pair in self._pairs() if name.startswith(trained)]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [m for _, m in floating], 1 - decay)  # pyright: ignore
        for a, m in pairs:
            if not a.is_floating_point():
                a.copy_(m)

    @torch.no_grad()
    def settle(self, trained: tuple[str, ...]) -> None:
        """Give the model its average wherever it is not trained: others learn to live with what will act."""
        for name, (a, m) in self._pairs():
            if not name.startswith(trained):
                m.copy_(a)

    def _pairs(self) -> list[tuple[str, tuple[Tensor, Tensor]]]:
        if not self._named:
            average, model = (module.state_dict(keep_vars=True) for module in self._modules)
            pairs = {name: (average[name], model[name]) for name in average}
            self._named = {name: (a, m) for name, (a, m) in pairs.items() if a is not m}
        return list(self._named.items())
