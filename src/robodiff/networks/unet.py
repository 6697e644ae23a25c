"""The conditional 1-D U-Net of Diffusion Policy (Chi et al., 2023), a temporal U-Net with FiLM conditioning.

The structure is that of ``ConditionalUnet1D`` in real-stanford/diffusion_policy: the same layers and the same number of
parameters, so that published weights fit.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robodiff.networks.layers import Mish, SinusoidalEmbedding


class ConditionalUnet1d(nn.Module):
    """Denoise an action trajectory, given when in the diffusion it stands and what was observed.

    Args:
        action_dim: numbers per time step of the trajectory.
        condition_dim: numbers that describe the observation, of all its time steps together; 0 for none.
        down_dims: channels of each level; each level but the last halves the trajectory's length.
        kernel_size: of the convolutions over time; odd.
        n_groups: groups of the group normalisations.
        step_embed_dim: size of the embedding of the diffusion timestep.
        film_scale: condition by a scale and a bias for each channel; else by a bias alone.
    """

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        down_dims: tuple[int, ...] = (256, 512, 1024),
        kernel_size: int = 5,
        n_groups: int = 8,
        step_embed_dim: int = 256,
        film_scale: bool = True,
    ) -> None:
        super().__init__()
        self.step_embed_dim = step_embed_dim
        self.step_embedding = nn.Sequential(
            SinusoidalEmbedding(step_embed_dim),
            nn.Linear(step_embed_dim, 4 * step_embed_dim),
            Mish(),
            nn.Linear(4 * step_embed_dim, step_embed_dim),
        )

        def block(c_in: int, c_out: int) -> FilmResidualBlock:
            return FilmResidualBlock(c_in, c_out, step_embed_dim + condition_dim, kernel_size, n_groups, film_scale)

        levels = list(zip((action_dim, *down_dims[:-1]), down_dims, strict=True))  # (channels in, channels out)
        self.down = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(levels):
            shrink = nn.Conv1d(c_out, c_out, 3, stride=2, padding=1) if i < len(levels) - 1 else nn.Identity()
            self.down.append(nn.ModuleList([block(c_in, c_out), block(c_out, c_out), shrink]))
        self.middle = nn.ModuleList([block(down_dims[-1], down_dims[-1]) for _ in range(2)])
        self.up = nn.ModuleList()
        for c_in, c_out in reversed(levels[1:]):
            grow = nn.ConvTranspose1d(c_in, c_in, 4, stride=2, padding=1)
            self.up.append(nn.ModuleList([block(2 * c_out, c_in), block(c_in, c_in), grow]))
        self.final = nn.Sequential(
            ConvNormMish(down_dims[0], down_dims[0], kernel_size, n_groups), nn.Conv1d(down_dims[0], action_dim, 1)
        )
        self._films: list[Any] = [  # in the order in which the blocks are run
            each.film for each in self.modules() if isinstance(each, FilmResidualBlock)
        ]

    def forward(self, trajectory: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the denoising target.

        Args:
            trajectory: (B, T, action_dim), T divisible by 2^(levels - 1).
            timestep: (B,), as the noise schedule counts.
            condition: what was observed, (B, To, condition_dim / To); None if there is none.

        Returns:
            (B, T, action_dim).
        """
        film = self.step_embedding(timestep)  # (B, step_embed_dim)
        if condition is not None:
            film = torch.cat([film, condition.flatten(1)], dim=-1)  # (B, step_embed_dim + condition_dim)
        activation = self._films[0][0]  # all have the same one, of the same input
        activated = activation(film)
        return self._convolve(trajectory, [layer(activated) for _, layer in self._films])

    def timestep_part(self, timestep: Tensor) -> Tensor:
        """Return what the timesteps (R,) add to the scales and biases of all blocks, (R, F)."""
        return self._film(self.step_embedding(timestep), slice(self.step_embed_dim), biased=True)

    def condition_part(self, condition: Tensor) -> Tensor:
        """Return what the observation adds to them, (B, F)."""
        return self._film(condition.flatten(1), slice(self.step_embed_dim, None), biased=False)

    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:
        """Predict as ``forward`` does, from the two parts of the condition; of one row of each for all of B, too."""
        film = timestep_part if condition_part is None else timestep_part + condition_part  # (B, F)
        return self._convolve(trajectory, film.split([layer.out_features for _, layer in self._films], dim=1))

    def _film(self, part: Tensor, columns: slice, biased: bool) -> Tensor:
        """Map a part of the condition, (B, columns), to its share of the scales and biases of all blocks, (B, F)."""
        films = [
            F.linear(activation(part), layer.weight[:, columns], layer.bias if biased else None)
            for activation, layer in self._films
        ]
        return torch.cat(films, dim=1)

    def _convolve(self, trajectory: Tensor, films: Sequence[Tensor]) -> Tensor:
        """Map a trajectory (B, T, action_dim), with the scales and biases of each block, to the prediction."""
        x, film = trajectory.transpose(1, 2), iter(films)  # (B, action_dim, T)
        skips = []
        for first, second, shrink in self.down:  # pyright: ignore[reportGeneralTypeIssues]
            x = second(first(x, next(film)), next(film))
            skips.append(x)
            x = shrink(x)  # (B, C, T / 2), but at the last level
        for block in self.middle:
            x = block(x, next(film))
        for first, second, grow in self.up:  # pyright: ignore[reportGeneralTypeIssues]
            x = torch.cat([x, skips.pop()], dim=1)  # (B, 2 C, T)
            x = grow(second(first(x, next(film)), next(film)))  # (B, C', 2 T)
        return self.final(x).transpose(1, 2)


class FilmResidualBlock(nn.Module):
    """Two convolutions with a residual path; between them the condition scales and shifts the channels (FiLM).

    The scale is used as it is, not as 1 + scale, as in the original.
    """

    def __init__(
        self, c_in: int, c_out: int, condition_dim: int, kernel_size: int, n_groups: int, film_scale: bool
    ) -> None:
        super().__init__()
        self.film_scale = film_scale
        self.first = ConvNormMish(c_in, c_out, kernel_size, n_groups)
        self.film = nn.Sequential(Mish(), nn.Linear(condition_dim, 2 * c_out if film_scale else c_out))
        self.second = ConvNormMish(c_out, c_out, kernel_size, n_groups)
        self.residual = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """Map (B, c_in, T), with what ``film`` makes of the condition, to (B, c_out, T)."""
        h = self.first(x)
        film = film.unsqueeze(-1)  # (B, c_out or 2 c_out, 1)
        if self.film_scale:
            scale, bias = film.chunk(2, dim=1)
            h = scale * h + bias
        else:
            h = h + film
        return self.second(h) + self.residual(x)


class ConvNormMish(nn.Sequential):
    """Convolution over time, group normalisation, Mish: (B, c_in, T) to (B, c_out, T)."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, n_groups: int) -> None:
        super().__init__(
            nn.Conv1d(c_in, c_out, kernel_size, padding=kernel_size // 2), nn.GroupNorm(n_groups, c_out), Mish()
        )
