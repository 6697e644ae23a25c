"""What several denoisers are built of."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


class Mish(nn.Mish):
    """x tanh(softplus(x)) (Misra, 2019), which on a CPU trains in less than half of the time of PyTorch's own."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor to one of its shape."""
        if x.requires_grad and x.device.type == "cpu" and x.dtype == torch.float32:
            return _Mish.apply(x)[0]
        return super().forward(x)


class _Mish(torch.autograd.Function):
    """With e = exp(x), tanh(softplus(x)) is n / (n + 2) of n = e (e + 2): one exponential, and no other for the
    gradient, tanh(softplus(x)) + x (1 - tanh(softplus(x))^2) e / (e + 1).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and the slope."""
        e = x.clamp(max=20.0).exp_()  # beyond, n / (n + 2) is 1
        n = e * (e + 2)
        tanh = n / (n + 2)
        slope = tanh.square().neg_().add_(1).mul_(e.div_(e + 1)).mul_(x).add_(tanh)
        return x * tanh, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keep the slope; apart from ``forward``, as ``torch.func`` needs it."""
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: None) -> Tensor:
        (slope,) = ctx.saved_tensors
        return gradient * slope


def in_parts(denoiser: nn.Module) -> "InParts":
    """Return a denoiser whose timestep and condition are told apart: each is worked out once, for all evaluations.

    Acting evaluates the same timesteps for every chunk, and one observation at all of them. A denoiser need not be made
    so: of one that has no ``denoise`` the parts are what they are made of.
    """
    return denoiser if hasattr(denoiser, "denoise") else _Whole(denoiser)  # pyright: ignore[reportReturnType]


class InParts(Protocol):
    """A denoiser, seen so."""

    def timestep_part(self, timestep: Tensor) -> Tensor:
        """Return what it is told of timesteps (R,), (R, ...)."""
        ...

    def condition_part(self, condition: Tensor) -> Tensor:
        """Return what it is told of the condition (B, To, D), (B, ...)."""
        ...

    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:
        """Predict (B, T, action_dim) as the denoiser itself does; one row of ``timestep_part`` counts for all of B."""
        ...


class _Whole(nn.Module):
    """A denoiser that takes the timestep and the condition as they are."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def timestep_part(self, timestep: Tensor) -> Tensor:
        return timestep

    def condition_part(self, condition: Tensor) -> Tensor:
        return condition

    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:
        return self.denoiser(trajectory, timestep_part.expand(trajectory.shape[0]), condition_part)
