"""What the denoisers share."""

import torch

from robodiff.networks.layers import SinusoidalEmbedding


def test_the_embedding_is_that_of_the_original() -> None:
    # diffusion_policy's SinusoidalPosEmb: frequencies 10000^(-i / (half - 1)), sines first
    out = SinusoidalEmbedding(6)(torch.tensor([0.0, 2.0]))
    expected = torch.tensor([2.0, 0.02, 0.0002])
    torch.testing.assert_close(out[1], torch.cat([expected.sin(), expected.cos()]))
    torch.testing.assert_close(out[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
