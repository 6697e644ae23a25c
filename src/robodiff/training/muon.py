"""``Muon``: an optimizer whose steps are orthogonal matrices."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 64
"""Of the blocks that are made orthogonal each by itself: the work grows with their Gram matrices."""
_MOMENTUM, _ITERATIONS = 0.95, 5
_LIKE_ADAM = 0.2
"""Root mean square of the entries of a step of Adam, in learning rates (https://arxiv.org/abs/2502.16982)."""
_LAYERS = (nn.Linear, nn.MultiheadAttention, nn.modules.conv._ConvNd)
_SMALLEST = 16
"""Inputs and outputs of a hidden layer have at least so many numbers."""


class Muon(torch.optim.AdamW):
    """Muon for the matrices of hidden layers, AdamW for everything else.

    The step of a matrix is its averaged gradient with all singular values brought near to 1 (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/), scaled to the size of a step of Adam, so that both have one learning
    rate. ``torch.optim.Muon`` is for matrices alone, one after the other, and multiplies them as bfloat16, which a CPU
    is slow at. Here kernels of convolutions are flattened to matrices, these are cut into blocks of few rows, and the
    iteration goes over the small Gram matrices of all blocks at once.

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
            if group.get("orthogonal"):
                self._step_matrices(group["params"], group["lr"], group["weight_decay"])
        return loss

    def _step_matrices(self, parameters: list[Tensor], rate: float, weight_decay: float) -> None:
        updates: list[tuple[Tensor, Tensor]] = []  # parameters and matrices
        for parameter in parameters:
            if (gradient := parameter.grad) is not None:
                average = self._average(parameter).lerp_(gradient, 1 - _MOMENTUM)
                updates.append((parameter, gradient.lerp(average, _MOMENTUM).flatten(1)))  # Nesterov's
        blocks = [block for _, matrix in updates for block in _blocks(matrix)]
        for block, step in zip(blocks, orthogonal(blocks), strict=True):
            block.copy_(step).mul_(_LIKE_ADAM * math.sqrt(block.shape[1]))
        for parameter, matrix in updates:
            parameter.mul_(1 - rate * weight_decay).sub_(matrix.view_as(parameter), alpha=rate)

    def _average(self, parameter: Tensor) -> Tensor:
        """Return the average of a parameter's gradients."""
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}  # Adam looks for its step
        return state["momentum"]


def is_hidden(layer: nn.Module, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is the matrix of a hidden layer, which has neither few inputs nor few outputs."""
    return isinstance(layer, _LAYERS) and parameter.ndim > 1 and min(parameter.flatten(1).shape) >= _SMALLEST


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return matrices with the same singular vectors, and singular values near 1 (between 0.7 and 1.2, mostly).

    Newton's and Schulz's iteration X <- (a I + b X X^T + c (X X^T)^2) X, of which only the product P of its factors
    and the Gram matrix are kept, and X <- P X is at its end.

    Args:
        matrices: (rows, columns) each, not more rows than columns.
    """
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        alike[matrix.shape].append(place)
    found = [*matrices]
    for rows in {shape[0] for shape in alike}:
        groups = [places for shape, places in alike.items() if shape[0] == rows]
        stacks = [torch.stack([matrices[place] for place in places]) for places in groups]
        products = _products(torch.cat([stack @ stack.mT for stack in stacks])).split([len(stack) for stack in stacks])
        for places, product, stack in zip(groups, products, stacks, strict=True):
            for place, result in zip(places, (product @ stack).unbind(), strict=True):
                found[place] = result
    return found


def _products(grams: Tensor) -> Tensor:
    """Return by what matrices are to be multiplied, of their Gram matrices: both (M, rows, rows)."""
    sizes = grams.diagonal(dim1=1, dim2=2).sum(-1).clamp(min=1e-30)[:, None, None]  # Frobenius norms, squared
    grams = grams / sizes
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)

    def factor_of(grams: Tensor) -> Tensor:
        return torch.baddbmm(grams, grams, grams, beta=-4.775, alpha=2.0315) + 3.4445 * identity

    product = factor = factor_of(grams)
    for _ in range(_ITERATIONS - 1):
        grams = factor @ grams @ factor
        factor = factor_of(grams)
        product = factor @ product
    return product / sizes.sqrt()


def _blocks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return views of a matrix, at most ``ROWS`` rows each and not more rows than columns."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return wide.chunk(-(-wide.shape[0] // ROWS))
