"""A denoiser of one's own: a multilayer perceptron sees the whole trajectory and all observations at once.

robodiff fit --config pusht_keypoints --plugin examples/extending/mlp_denoiser.py --model MlpConfig --minutes 5
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from robodiff.documents import AtLeast
from robodiff.networks.layers import SinusoidalEmbedding
from robodiff.policies.config import PolicyConfig


@dataclass(frozen=True, kw_only=True)
class MlpConfig(PolicyConfig):
    """A multilayer perceptron denoises. Any horizon will do."""

    width: Annotated[int, AtLeast(2)] = 512
    """Numbers in each hidden layer; even."""
    layers: Annotated[int, AtLeast(1)] = 3
    """Hidden layers."""

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> nn.Module:
        """Return the network, with random weights."""
        sizes = self.denoised_steps * trajectory_dim, self.n_obs_steps * condition_dim
        return Mlp(*sizes, self.width, self.layers)


class Mlp(nn.Module):
    """(trajectory (B, n, W), timestep (B,), condition (B, To, D) or None) -> (B, n, W)."""

    def __init__(self, trajectory: int, condition: int, width: int, layers: int) -> None:
        super().__init__()
        self.step_embedding = SinusoidalEmbedding(width)
        sizes = [trajectory + condition + width, *[width] * layers]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Mish())]
        self.network = nn.Sequential(*hidden, nn.Linear(width, trajectory))

    def forward(self, trajectory: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """Return what the noise process asks for: the noise, the clean trajectory, or a velocity."""
        parts = [trajectory.flatten(1), self.step_embedding(timestep)]
        parts += [] if condition is None else [condition.flatten(1)]
        return self.network(torch.cat(parts, dim=-1)).view_as(trajectory)
