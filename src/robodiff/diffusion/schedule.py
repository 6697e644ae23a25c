"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps, from clean data (alpha 1, sigma 0) to noise (alpha near 0).

One form serves diffusion and flow matching; objectives and samplers know a schedule by its alpha and sigma alone.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from robodiff.diffusion.samplers import DIFFUSION, FLOW, check_known


def expand_like(values: Tensor, like: Tensor) -> Tensor:
    """Give ``values`` (B,) trailing dimensions of size 1, so that they broadcast against ``like`` (B, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


@dataclass(frozen=True, eq=False)
class NoiseSchedule(ABC):
    """The contract of a noise schedule. Schedules are constants: no parameters, no state, usable on any device.

    A *timestep* is the number that the network embeds: an integer 0 .. N-1 for diffusion, s * N with s in (0, 1] for
    the flow, N being ``num_train_timesteps``. Larger is noisier. Clean data has no timestep.
    """

    beta_schedule: str  # its name
    num_train_timesteps: int  # N

    @abstractmethod
    def timesteps_from_uniform(self, uniform: Tensor) -> Tensor:
        """Map uniform draws in [0, 1) (B,) to training timesteps (B,).

        Training draws its randomness as numbers only, one uniform and one normal, so that a batch can be repeated.
        """

    @abstractmethod
    def coefficients(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at ``timesteps``, each in ``dtype`` with the shape and on the device of these."""

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t = alpha_t x_0 + sigma_t eps (B, ...) for ``x0``, ``noise`` (B, ...) and ``timesteps`` (B,)."""
        alpha, sigma = self.coefficients(timesteps, dtype=x0.dtype)  # (B,), (B,)
        return expand_like(alpha, x0) * x0 + expand_like(sigma, x0) * noise


@dataclass(frozen=True, eq=False)
class DiffusionSchedule(NoiseSchedule):
    """A variance-preserving diffusion (alpha^2 + sigma^2 = 1) at N discrete levels.

    With the betas of Ho et al. 2020 (https://arxiv.org/abs/2006.11239, eq. 4): alpha_t^2 = prod_{i<=t} (1 - beta_i).
    """

    alpha: Tensor  # (N,) float64 on the CPU
    sigma: Tensor  # (N,) float64 on the CPU
    _copies: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    """Alpha and sigma by device and dtype: one transfer for each device, not one for each training step."""

    def timesteps_from_uniform(self, uniform: Tensor) -> Tensor:
        """Return floor(u N), int64 (B,): every level has the same probability."""
        # A float64 draw just below 1 becomes 1 when it is cast to float32.
        return (uniform * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)

    def coefficients(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Look alpha and sigma up in the tables; ``timesteps`` are integers 0 .. N-1."""
        key = (timesteps.device, dtype)
        if key not in self._copies:  # cast before moving: some devices have no float64
            self._copies[key] = (self.alpha.to(dtype).to(key[0]), self.sigma.to(dtype).to(key[0]))
        alpha, sigma = self._copies[key]
        return alpha[timesteps], sigma[timesteps]


@dataclass(frozen=True, eq=False)
class FlowSchedule(NoiseSchedule):
    """The straight line of flow matching and rectified flow: alpha = 1 - s, sigma = s.

    Lipman et al. 2023, https://arxiv.org/abs/2210.02747, eq. 20 with sigma_min = 0, and Liu et al. 2023,
    https://arxiv.org/abs/2209.03003, eq. 1, both with time running the other way: here s = 1 is noise, as in
    diffusers' FlowMatchEulerDiscreteScheduler. N is but the scale of s: the network embeds the range that it does for
    diffusion.
    """

    def timesteps_from_uniform(self, uniform: Tensor) -> Tensor:
        """Return (1 - u) N (B,), in the dtype of ``uniform``: s is uniform in (0, 1], never 0."""
        return (1.0 - uniform) * self.num_train_timesteps

    def coefficients(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return 1 - s and s of ``timesteps`` = s N."""
        s = timesteps.to(dtype) / self.num_train_timesteps
        return 1.0 - s, s


def make_schedule(
    beta_schedule: str, num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NoiseSchedule:
    """Build a schedule by name, all of it in float64. The names and the betas are those of diffusers' DDPMScheduler.

    Args:
        beta_schedule: ``linear`` (Ho et al. 2020), ``scaled_linear`` (Rombach et al. 2022), ``squaredcos_cap_v2``
            (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17, betas capped at 0.999) or ``flow``.
        num_train_timesteps: The number of levels N; for ``flow`` the scale of the embedded time.
        beta_start: The first beta of ``linear`` and ``scaled_linear``; the other two have none.
        beta_end: The last beta of ``linear`` and ``scaled_linear``.

    Raises:
        UsageError: An unknown name.
        ValueError: No level at all, or betas outside 0 < beta_start <= beta_end < 1.
    """
    check_known("beta_schedule", beta_schedule, DIFFUSION.beta_schedules + FLOW.beta_schedules)
    if num_train_timesteps < 1 or not 0.0 < beta_start <= beta_end < 1.0:
        raise ValueError("num_train_timesteps must be at least 1, and betas satisfy 0 < beta_start <= beta_end < 1")
    if beta_schedule == "flow":
        return FlowSchedule(beta_schedule, num_train_timesteps)
    if beta_schedule == "squaredcos_cap_v2":
        betas = _squared_cosine_betas(num_train_timesteps)
    else:
        power = {"linear": 1.0, "scaled_linear": 0.5}[beta_schedule]
        # The device is named because a model may be built under `with torch.device("meta")`.
        ends = beta_start**power, beta_end**power
        betas = torch.linspace(*ends, num_train_timesteps, dtype=torch.float64, device="cpu") ** (1.0 / power)
    alpha_squared = torch.cumprod(1.0 - betas, dim=0)  # (N,)
    return DiffusionSchedule(beta_schedule, num_train_timesteps, alpha_squared.sqrt(), (1.0 - alpha_squared).sqrt())


def _squared_cosine_betas(num_train_timesteps: int, max_beta: float = 0.999) -> Tensor:
    """Return betas (N,) whose alpha_t^2 follows cos^2; capped, because the last would be 1 and alpha would reach 0."""

    def alpha_squared(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    times = [i / num_train_timesteps for i in range(num_train_timesteps + 1)]
    betas = [min(1.0 - alpha_squared(after) / alpha_squared(before), max_beta) for before, after in pairwise(times)]
    return torch.tensor(betas, dtype=torch.float64, device="cpu")
