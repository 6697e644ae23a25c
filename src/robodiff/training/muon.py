"""``Muon``: an optimizer whose steps are orthogonal matrices."""

import math
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 64
"""Of the blocks that are made orthogonal each by itself; whole matrices cost three times as much and gain nothing."""
_MOMENTUM, _ITERATIONS = 0.95, 5
_LIKE_ADAM = 0.2
"""Root mean square of the entries of a step of Adam, in learning rates (https://arxiv.org/abs/2502.16982)."""
_LAYERS = (nn.Linear, nn.MultiheadAttention, nn.modules.conv._ConvNd)
_SMALLEST = 16


class Muon(torch.optim.AdamW):
    """Muon for the matrices of hidden layers, AdamW for everything else.

    The step of a matrix is its averaged gradient with all singular values brought near to 1 (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/), scaled to the size of a step of Adam, so that both have one learning
    rate. ``torch.optim.Muon`` is for matrices alone, one after the other, and multiplies them as bfloat16, which a CPU
    is slow at. Here kernels of convolutions are flattened to matrices, all blocks of a shape are one batch, and the
    iteration goes over their small Gram matrices.

    Muon takes the groups of parameters in which ``orthogonal`` is true; these have at least two dimensions.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of both; the closure computes the gradient."""
        with torch.enable_grad():
            loss = closure() if closure else None
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("orthogonal")]
        super().step()
        self.param_groups = groups
        for group in groups:
            trained = [each for each in group["params"] if each.grad is not None]
            if group.get("orthogonal") and trained:
                self._step_matrices(trained, group["lr"], group["weight_decay"])
        return loss

    def _step_matrices(self, parameters: list[Tensor], rate: float, weight_decay: float) -> None:
        gradients = [each.grad for each in parameters]
        averages = [self._average(each) for each in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - _MOMENTUM)
        matrices = [each.flatten(1) for each in torch._foreach_lerp(gradients, averages, _MOMENTUM)]  # Nesterov's
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for block in chain.from_iterable(map(_blocks, matrices)):
            alike[block.shape].append(block)
        for (_, columns), blocks in alike.items():
            steps = orthogonal(torch.stack(blocks)) * (_LIKE_ADAM * math.sqrt(columns))
            torch._foreach_copy_(blocks, steps.unbind())
        torch._foreach_mul_(parameters, 1 - rate * weight_decay)
        for parameter, matrix in zip(parameters, matrices, strict=True):
            parameter.sub_(matrix.view_as(parameter), alpha=rate)

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}  # Adam looks for its step
        return state["momentum"]


def is_hidden(layer: nn.Module, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is the matrix of a hidden layer: no bias, norm or table, no few inputs or outputs."""
    return isinstance(layer, _LAYERS) and parameter.ndim > 1 and min(parameter.flatten(1).shape) >= _SMALLEST


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices with the same singular vectors, and singular values near 1 (between 0.7 and 1.2, mostly).

    Newton's and Schulz's iteration X <- (a I + b X X^T + c (X X^T)^2) X, of which only the product P of its factors
    and the Gram matrix are kept: X <- P X at its end.

    Args:
        matrices: (M, rows, columns), not more rows than columns.
    """
    gram = matrices @ matrices.mT
    size = gram.diagonal(dim1=1, dim2=2).sum(-1).clamp(min=1e-30)[:, None, None]  # of Frobenius, squared
    gram = gram / size
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = identity.expand_as(gram)
    for _ in range(_ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315) + 3.4445 * identity
        product = product @ factor
        gram = gram @ factor @ factor
    return (product / size.sqrt()) @ matrices


def _blocks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return views of a matrix, at most ``ROWS`` rows each and not more rows than columns."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return wide.chunk(-(-wide.shape[0] // ROWS))
