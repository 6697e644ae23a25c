"""The conditional 1-D U-Net of Diffusion Policy (Chi et al., 2023), a temporal U-Net with FiLM conditioning.

The structure is that of ``ConditionalUnet1D`` in real-stanford/diffusion_policy: the same layers and the same number of
parameters, so that published weights fit.
"""

import torch
from torch import Tensor, nn

from robodiff.networks.layers import SinusoidalEmbedding


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
        self.step_embedding = nn.Sequential(
            SinusoidalEmbedding(step_embed_dim),
            nn.Linear(step_embed_dim, 4 * step_embed_dim),
            nn.Mish(),
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
        x = trajectory.transpose(1, 2)  # (B, action_dim, T)
        skips = []
        for first, second, shrink in self.down:  # pyright: ignore[reportGeneralTypeIssues]
            x = second(first(x, film), film)
            skips.append(x)
            x = shrink(x)  # (B, C, T / 2), but at the last level
        for block in self.middle:
            x = block(x, film)
        for first, second, grow in self.up:  # pyright: ignore[reportGeneralTypeIssues]
            x = torch.cat([x, skips.pop()], dim=1)  # (B, 2 C, T)
            x = grow(second(first(x, film), film))  # (B, C', 2 T)
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
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * c_out if film_scale else c_out))
        self.second = ConvNormMish(c_out, c_out, kernel_size, n_groups)
        self.residual = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, c_in, T) and (B, condition_dim) to (B, c_out, T)."""
        h = self.first(x)
        film = self.film(condition).unsqueeze(-1)  # (B, c_out or 2 c_out, 1)
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
            nn.Conv1d(c_in, c_out, kernel_size, padding=kernel_size // 2), nn.GroupNorm(n_groups, c_out), nn.Mish()
        )
