"""What the denoisers share."""

import torch
from torch import nn

from robodiff.networks.layers import Mish, SinusoidalEmbedding


def test_the_embedding_is_that_of_the_original() -> None:
    # diffusion_policy's SinusoidalPosEmb: frequencies 10000^(-i / (half - 1)), sines first
    out = SinusoidalEmbedding(6)(torch.tensor([0.0, 2.0]))
    expected = torch.tensor([2.0, 0.02, 0.0002])
    torch.testing.assert_close(out[1], torch.cat([expected.sin(), expected.cos()]))
    torch.testing.assert_close(out[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))


def test_mish_and_its_gradient_are_those_of_pytorch() -> None:
    x = torch.linspace(-100, 100, 20_001, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    out, expected = Mish()(x), nn.Mish()(exact)
    out.sum().backward()
    expected.sum().backward()
    assert out.grad_fn is not None
    assert "Mish" in type(out.grad_fn).__name__
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(Mish()(x.detach()), out.detach(), rtol=1e-6, atol=1e-30)


def test_mish_is_differentiated_by_torch_func() -> None:
    x = torch.linspace(-5, 5, 6).reshape(2, 3)
    slope, expected = (torch.func.grad(lambda y, each=each: each(y).sum())(x) for each in (Mish(), nn.Mish()))
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda y: Mish()(y).sum()))(x), expected)
