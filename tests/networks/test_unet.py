"""The U-Net: its size, its shapes, and that every part of it matters."""

import pytest
import torch

from robodiff.networks.unet import ConditionalUnet1d


def test_has_the_parameters_of_the_original() -> None:
    net = ConditionalUnet1d(2, 40, (256, 512, 1024), kernel_size=5, step_embed_dim=256)
    assert sum(p.numel() for p in net.parameters()) == 65_783_298


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("film_scale", [True, False])
@pytest.mark.parametrize(("down_dims", "horizon"), [((8,), 5), ((8, 16), 6), ((8, 16, 24), 8), ((8, 8, 8, 8), 16)])
def test_keeps_the_shape_and_uses_all_weights(
    kernel_size: int, film_scale: bool, down_dims: tuple[int, ...], horizon: int
) -> None:
    torch.manual_seed(0)
    net = ConditionalUnet1d(3, 7, down_dims, kernel_size, n_groups=4, step_embed_dim=8, film_scale=film_scale)
    out = net(torch.randn(2, horizon, 3), torch.tensor([0, 9]), torch.randn(2, 7))
    assert out.shape == (2, horizon, 3)
    out.square().sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def test_answers_to_time_condition_and_trajectory_of_each_row_alone() -> None:
    torch.manual_seed(0)
    net = ConditionalUnet1d(2, 4, (8, 16), 3, n_groups=4, step_embed_dim=8).double()
    x, t, c = torch.randn(3, 8, 2).double(), torch.tensor([1, 5, 9]), torch.randn(3, 4).double()
    out = net(x, t, c)
    torch.testing.assert_close(net(x[1:2], t[1:2], c[1:2]), out[1:2])
    assert not torch.allclose(net(x, t + 1, c), out)
    assert not torch.allclose(net(x, t, c + 1), out)
