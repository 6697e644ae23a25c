"""The MLPs: the size and the names of the plain one, the shapes of both, and that every part of them matters."""

import pytest
import torch

from robodiff.networks.mlp import Mlp


def test_the_plain_one_has_the_parameters_of_the_original() -> None:
    net = Mlp(action_dim=7, horizon=1, condition_dim=512)  # ResNet-34 says 512 numbers of an image
    timestep = (64 * 128 + 128) + (128 * 64 + 64)
    layers = ((7 + 64 + 512) * 256 + 256) + 3 * (256 * 256 + 256) + (256 * 7 + 7)
    assert sum(p.numel() for p in net.parameters()) == timestep + layers == 365_255
    names = [f"{layer}.{kind}" for layer in ("time_mlp.1", "time_mlp.3", "mlp.0", "mlp.3", "mlp.6", "mlp.9", "mlp.12")
             for kind in ("weight", "bias")]  # fmt: skip
    assert list(net.state_dict()) == names


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("horizon", "condition"), [(1, (2, 1, 7)), (8, (2, 2, 5)), (3, None)])
def test_keeps_the_shape_and_uses_all_weights(residual: bool, horizon: int, condition: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    size = condition[1] * condition[2] if condition else 0
    net = Mlp(3, horizon, size, residual, hidden_dim=16, n_layer=2, activation="mish", step_embed_dim=8)
    out = net(torch.randn(2, horizon, 3), torch.tensor([0, 9]), torch.randn(condition) if condition else None)
    assert out.shape == (2, horizon, 3)
    out.square().sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@pytest.mark.parametrize("residual", [True, False])
def test_answers_to_time_condition_and_trajectory_of_each_row_alone(residual: bool) -> None:
    torch.manual_seed(0)
    net = Mlp(2, 4, 6, residual, hidden_dim=16, n_layer=2, step_embed_dim=8).double().eval()
    x, t, c = torch.randn(3, 4, 2).double(), torch.tensor([1, 5, 9]), torch.randn(3, 2, 3).double()
    out = net(x, t, c)
    torch.testing.assert_close(net(x[1:2], t[1:2], c[1:2]), out[1:2])
    assert not torch.allclose(net(x + 1, t, c), out)
    assert not torch.allclose(net(x, t + 1, c), out)
    assert not torch.allclose(net(x, t, c + 1), out)
    assert not torch.equal(net.train()(x, t, c), out)  # dropout


def test_the_plain_one_is_the_originals_sequence_of_state_time_and_image() -> None:
    torch.manual_seed(0)
    net = Mlp(7, 1, 5, hidden_dim=8, n_layer=1, step_embed_dim=4).eval()
    x, t, c = torch.randn(2, 1, 7), torch.tensor([3, 999]), torch.randn(2, 1, 5)
    weights = net.state_dict()
    angles = t.float()[:, None] * torch.tensor([1.0, 1e-4])
    time = torch.cat([angles.sin(), angles.cos()], -1) @ weights["time_mlp.1.weight"].T + weights["time_mlp.1.bias"]
    time = torch.nn.functional.mish(time) @ weights["time_mlp.3.weight"].T + weights["time_mlp.3.bias"]
    h = torch.cat([x[:, 0], time, c[:, 0]], -1) @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]
    expected = h.clamp(min=0) @ weights["mlp.3.weight"].T + weights["mlp.3.bias"]
    torch.testing.assert_close(net(x, t, c)[:, 0], expected)
