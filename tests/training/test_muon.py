"""Muon's steps: against the iteration as it was published, and AdamW's for what is no matrix of a hidden layer."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.training.muon import ROWS, Muon, orthogonal
from robodiff.training.optim import make_optimizer


def published(matrix: Tensor) -> Tensor:
    """https://kellerjordan.github.io/posts/muon/, in 32 bits."""
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


def gradients(parameters: list[nn.Parameter], generator: torch.Generator) -> None:
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(
            memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        )


def test_orthogonal() -> None:
    """Of several sizes at once, in any order, however large or small their numbers."""
    generator = torch.Generator().manual_seed(0)
    kinds = [(16, 16, 1.0), (ROWS, 640, 1e-6), (20, 292, 1e6), (16, 16, 1e3), (16, 40, 1.0)]
    matrices = [torch.randn(rows, columns, generator=generator) * size for rows, columns, size in kinds]
    for matrix, near in zip(matrices, orthogonal(matrices), strict=True):
        torch.testing.assert_close(near, published(matrix), atol=2e-4, rtol=0)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        turned = left.T @ near @ right.T
        torch.testing.assert_close(turned, turned.diagonal().diag(), atol=2e-4, rtol=0)  # the same singular vectors
        kept = turned.diagonal()[values > 0.03 * values[0]]
        assert 0.6 < float(kept.min()) <= float(kept.max()) < 1.3
    assert orthogonal([torch.zeros(4, 8)])[0].equal(torch.zeros(4, 8))


@pytest.mark.parametrize("rows", [48, 100, 300])
def test_steps_of_matrices(rows: int) -> None:
    """Of as many rows as a block, of two blocks, and of more rows than columns."""
    generator = torch.Generator().manual_seed(1)
    matrix = nn.Parameter(torch.randn(rows, 160, generator=generator))
    expected, average = matrix.detach().clone(), torch.zeros(rows, 160)
    optimizer = Muon([{"params": [matrix], "orthogonal": True, "weight_decay": 0.5}], lr=1e-2)
    for _ in range(3):
        gradients([matrix], generator)
        optimizer.step()
        assert matrix.grad is not None
        average = 0.95 * average + 0.05 * matrix.grad
        update = 0.05 * matrix.grad + 0.95 * average
        wide = update.T if rows > 160 else update
        step = torch.cat([published(each) for each in wide.chunk(-(-len(wide) // ROWS))])
        step = step * 0.2 * step.shape[1] ** 0.5
        expected = expected * (1 - 1e-2 * 0.5) - 1e-2 * (step.T if rows > 160 else step)
        torch.testing.assert_close(matrix.detach(), expected, atol=1e-4, rtol=0)


def test_kernels_of_images_in_their_own_order_of_memory() -> None:
    kernels = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(2))
    both = [nn.Parameter(kernels.clone()), nn.Parameter(kernels.to(memory_format=torch.channels_last))]
    for parameter in both:
        optimizer = Muon([{"params": [parameter], "orthogonal": True}], lr=1e-2)
        gradients([parameter], torch.Generator().manual_seed(3))
        optimizer.step()
    assert not both[0].detach().equal(kernels)
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize("kind", [DiffusionConfig, DiffusionTransformerConfig])
def test_what_is_stepped_how(small_policy: Callable[..., DiffusionPolicy], kind: type[PolicyConfig]) -> None:
    width = {"down_dims": (16, 32)} if kind is DiffusionConfig else {"n_emb": 32}
    policies = [small_policy(kind, **width, optimizer_type=name, learning_rate=1e-2) for name in ("muon", "adamw")]
    hidden: set[str] = set()
    for policy in policies:
        optimizer = make_optimizer(policy, fused=True)
        hidden |= {
            name
            for group in optimizer.param_groups
            if group.get("orthogonal")
            for name, parameter in policy.named_parameters()
            if any(parameter is each for each in group["params"])
        }
        gradients(list(policy.parameters()), torch.Generator().manual_seed(4))
        optimizer.step()
    theirs = dict(policies[1].named_parameters())
    for name, parameter in policies[0].named_parameters():
        assert parameter.equal(theirs[name]) == (name not in hidden), name
    assert len(hidden) > 5
    few = [theirs[name].flatten(1).shape for name in hidden if min(theirs[name].flatten(1).shape) < 16]
    assert not few
    assert not any("bias" in name or "norm" in name or "position" in name for name in hidden)


def test_what_rests_is_left_alone_and_the_state_is_whole() -> None:
    def make() -> tuple[list[nn.Parameter], Muon]:
        generator = torch.Generator().manual_seed(5)
        made = [nn.Parameter(torch.randn(32, 32, generator=generator)) for _ in range(3)]
        groups = [{"params": made[:2], "orthogonal": True}, {"params": made[2:]}]
        return made, Muon(groups, lr=1e-2)

    (parameters, optimizer), generator = make(), torch.Generator().manual_seed(6)
    resting = parameters[1].detach().clone()
    gradients(parameters, generator)
    parameters[1].grad = None
    optimizer.step()
    assert parameters[1].equal(resting)
    others, again = make()
    for other, parameter in zip(others, parameters, strict=True):
        other.data.copy_(parameter.data)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # which shares its tensors
    for _ in range(2):
        gradients(parameters, generator)
        for other, parameter in zip(others, parameters, strict=True):
            other.grad = parameter.grad
        optimizer.step()
        again.step()
    assert all(other.equal(parameter) for other, parameter in zip(others, parameters, strict=True))
