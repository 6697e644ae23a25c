"""What several denoisers are built of."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

PLAIN_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of numbers that can be taken for each other; eight bits and fewer mean nothing without their scale."""


def shape_misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return in words, by name, which tensors are missing, unexpected, or of another shape or type than expected."""
    found, wanted = ({key: _form(value) for key, value in each.items()} for each in (tensors, expected))
    names = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return [f"{key} should be {wanted.get(key, 'absent')}, is {found.get(key, 'absent')}" for key in names]


def _form(tensor: Tensor) -> str:
    dtype = "" if tensor.dtype in PLAIN_FLOATS else f" {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{dtype}"


class SinusoidalEmbedding(nn.Module):
    """Sines, then cosines, of a number at frequencies from 1 down to 1/10,000 (Vaswani et al., 2017).

    Constants of networks name their device, because a network may be built under ``torch.device("meta")``.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        exponents = torch.arange(half, device="cpu") * (-math.log(10_000) / (half - 1))
        self.register_buffer("frequencies", torch.exp(exponents), persistent=False)

    def forward(self, timestep: Tensor) -> Tensor:
        """Map (B,) to (B, dim)."""
        angles = timestep.to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies  # (B, dim / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
