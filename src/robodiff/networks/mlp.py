"""Multi-layer perceptrons that denoise a short trajectory as one vector: a single action, or a chunk of a few.

The plain one has the layers, and parameters of the names and shapes, of ``DiffusionPolicyModel`` in the myCobot
diffusion policy (FedVLA), without its image encoder. The residual one is for chunks.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from robodiff.networks.layers import Mish, SinusoidalEmbedding

ACTIVATIONS = {"relu": nn.ReLU, "mish": Mish}


class _Perceptron(nn.Module, ABC):
    """What both have: the timestep and the observation are told as two parts, which are made apart."""

    time_mlp: nn.Module

    def forward(self, trajectory: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the denoising target.

        Args:
            trajectory: (B, n, action_dim).
            timestep: (B,), as the noise schedule counts.
            condition: what was observed, (B, To, condition_dim / To); None if there is none.

        Returns:
            (B, n, action_dim).
        """
        return self.denoise(trajectory, self.timestep_part(timestep), self.condition_part(condition))

    def timestep_part(self, timestep: Tensor) -> Tensor:
        """Return what the network is told of timesteps (R,), (R, step_embed_dim)."""
        return self.time_mlp(timestep)

    def condition_part(self, condition: Tensor | None) -> Tensor | None:
        """Return what it is told of the observation, (B, condition_dim)."""
        return None if condition is None else condition.flatten(1)

    @abstractmethod
    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:
        """Predict as ``forward`` does, from the two parts; of one timestep for all of B, too."""


class Mlp(_Perceptron):
    """Denoise an action trajectory, given when in the diffusion it stands and what was observed.

    Args:
        action_dim: numbers per time step of the trajectory.
        horizon: time steps of the trajectory, n.
        condition_dim: numbers that describe the observation, of all its time steps together; 0 for none.
        residual: blocks that add to what they are given; else layers one after the other.
        hidden_dim: width of the layers.
        n_layer: hidden layers, or residual blocks.
        activation: between the layers.
        p_drop: dropout after each activation.
        step_embed_dim: size of the embedding of the diffusion timestep; even, at least 4.
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        condition_dim: int,
        residual: bool = False,
        hidden_dim: int = 256,
        n_layer: int = 4,
        activation: Literal["relu", "mish"] = "relu",
        p_drop: float = 0.1,
        step_embed_dim: int = 64,
    ) -> None:
        super().__init__()

        def layer(width: int) -> list[nn.Module]:
            return [nn.Linear(width, hidden_dim), ACTIVATIONS[activation](), nn.Dropout(p_drop)]

        def block() -> nn.Module:
            return Residual(nn.LayerNorm(hidden_dim), *layer(hidden_dim), nn.Linear(hidden_dim, hidden_dim))

        self.time_mlp = _time_mlp(step_embed_dim, Mish())
        width = action_dim * horizon
        first = width + step_embed_dim + condition_dim
        if residual:
            blocks = [block() for _ in range(n_layer)]
            hidden = [nn.Linear(first, hidden_dim), *blocks, nn.LayerNorm(hidden_dim)]
        else:
            hidden = [each for i in range(n_layer) for each in layer(hidden_dim if i else first)]
        self.mlp = nn.Sequential(*hidden, nn.Linear(hidden_dim, width))

    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:  # noqa: D102
        told = [timestep_part] if condition_part is None else [timestep_part, condition_part]
        parts = [trajectory.flatten(1), *(part.expand(trajectory.shape[0], -1) for part in told)]
        return self.mlp(torch.cat(parts, dim=-1)).view_as(trajectory)  # (B, n action_dim), in time steps again


class Residual(nn.Sequential):
    """Layers whose output is added to their input: (B, dim) to (B, dim)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + super().forward(x)


class TimedMlp(_Perceptron):
    """Denoise as ``Mlp`` does, by the later network of the myCobot diffusion policy: its layers are normalised, and all
    but the first are told the timestep.

    Args:
        action_dim, horizon, condition_dim, hidden_dim, n_layer, step_embed_dim: as in ``Mlp``.
    """

    def __init__(
        self, action_dim: int, horizon: int, condition_dim: int, hidden_dim: int, n_layer: int, step_embed_dim: int
    ) -> None:
        super().__init__()

        def layer(width: int) -> nn.Module:
            return nn.Sequential(nn.Linear(width, hidden_dim), nn.LayerNorm(hidden_dim), nn.GELU())

        self.time_mlp = _time_mlp(step_embed_dim, nn.GELU())
        width = action_dim * horizon
        self.first = layer(width + condition_dim)
        self.layers = nn.ModuleList(layer(hidden_dim + step_embed_dim) for _ in range(n_layer))
        self.last = nn.Linear(hidden_dim, width)

    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:  # noqa: D102
        parts = [trajectory.flatten(1)] if condition_part is None else [trajectory.flatten(1), condition_part]
        time, x = timestep_part.expand(trajectory.shape[0], -1), self.first(torch.cat(parts, dim=-1))
        for layer in self.layers:
            x = layer(torch.cat([x, time], dim=-1))
        return self.last(x).view_as(trajectory)


def _time_mlp(dim: int, activation: nn.Module) -> nn.Sequential:
    """Return what embeds a diffusion timestep: (B,) to (B, dim)."""
    return nn.Sequential(SinusoidalEmbedding(dim), nn.Linear(dim, 2 * dim), activation, nn.Linear(2 * dim, dim))
