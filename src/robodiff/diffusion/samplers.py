"""Samplers as tables of coefficients, and the one loop that runs them all.

A sampler is a list of rows. A row evaluates the network once, at its timestep, and then mixes

    x'  =  a x  +  b x0  +  c eps  +  d z  +  e x0_previous

where x0 is the clean sample that the prediction implies (clipped), eps the noise that it implies (not clipped), z fresh
noise and x0_previous the x0 of the row before. Every row steps to the true next timestep of the grid and the last one
to clean data (alpha 1, sigma 0), so that the last x is the sample. To add a sampler: write the function that lists its
rows, name it in make_table() and in the table of combinations.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robodiff.diffusion.combinations import (
    canonical_sampler,
    check_combination,
    check_options,
    check_steps,
    default_spacing,
)
from robodiff.diffusion.objective import Conversion, conversion
from robodiff.diffusion.schedule import NoiseSchedule


class Row(NamedTuple):
    """One evaluation of the network and the mixture that follows it. Python floats: float64, and no device's."""

    timestep: float  # as the network embeds it: an int for diffusion, a float for the flow
    a: float = 0.0  # weight of x
    b: float = 0.0  # weight of x0, clipped
    c: float = 0.0  # weight of eps, not clipped
    d: float = 0.0  # weight of fresh noise
    e: float = 0.0  # weight of the x0 of the row before, clipped


@dataclass(frozen=True)
class SamplerTable:
    """All that denoise() needs to know of a sampler: R rows, and how each one reads the network's prediction."""

    table: tuple[Row, ...]  # (R,)
    conversions: tuple[Conversion, ...]  # (R,)

    @property
    def rows(self) -> int:
        """The number of rows R: how often the network is evaluated."""
        return len(self.table)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timestep of each row (R,), as the network embeds it."""
        return tuple(row.timestep for row in self.table)

    @property
    def stochastic(self) -> bool:
        """Whether any row adds fresh noise."""
        return any(row.d != 0.0 for row in self.table)

    @property
    def noise_rows(self) -> int:
        """The least leading size of denoise()'s noise: 1 + R where rows add fresh noise, else 1."""
        return 1 + self.rows if self.stochastic else 1


def denoise(
    table: SamplerTable,
    denoiser: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    clip_range: float | Tensor | None = None,
    known: tuple[Tensor, Tensor] | None = None,
    on_row: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Turn noise into a sample. Nothing depends on the data in the tensors, so it exports and fits a CUDA graph.

    Args:
        table: From make_table().
        denoiser: (x (B, ...), timestep (B,)) -> prediction (B, ...). The timestep is int64 for diffusion; for the flow
            it is float32 (float64 if x is).
        noise: Standard normal, (1 + R, B, ...): the start, then the fresh noise of each row. A table that is not
            stochastic reads the start alone and takes (1, B, ...) as well.
        clip_range: The x0 of every row is clipped to [-clip_range, clip_range], which broadcasts to (B, ...); None
            leaves it alone.
        known: Inpainting: clean values and a bool mask, both broadcastable to (B, ...). Where the mask is True, x is
            overwritten before every evaluation and at the end, as in the original diffusion_policy
            (``DiffusionUnetLowdimPolicy.conditional_sample``).
        on_row: Called with (rows done, x (B, ...)), from (0, the noise) on, to watch the sample come about.

    Returns:
        The sample (B, ...), in the dtype of ``noise``.

    Raises:
        ValueError: ``noise`` has the wrong leading size.
    """
    if noise.shape[0] not in (table.noise_rows, 1 + table.rows):
        raise ValueError(
            f"noise must have the leading size {table.noise_rows} for a sampler of {table.rows} rows"
            f"{' that add fresh noise' if table.stochastic else ''}, got {noise.shape[0]} in {tuple(noise.shape)}."
        )

    def overwrite_known(x: Tensor) -> Tensor:
        return x if known is None else torch.where(known[1], known[0].to(x.dtype), x)

    x = x0_previous = noise[0]  # (1 + R, B, ...) -> (B, ...); no first row reads x0_previous
    for index, (row, convert) in enumerate(zip(table.table, table.conversions, strict=True)):
        x = overwrite_known(x)
        if on_row is not None:
            on_row(index, x)
        prediction = denoiser(x, _timestep_batch(row.timestep, x))  # (B, ...)
        x0 = _mix((convert.x0_from_x, x), (convert.x0_from_prediction, prediction))
        if clip_range is not None:
            x0 = x0.clamp(-clip_range, clip_range)  # pyright: ignore[reportCallIssue, reportArgumentType]
        terms = [(row.a, x), (row.b, x0), (row.e, x0_previous)]
        if row.c != 0.0:
            terms.append((row.c, _mix((convert.eps_from_x, x), (convert.eps_from_prediction, prediction))))
        if row.d != 0.0:
            terms.append((row.d, noise[1 + index]))
        x, x0_previous = _mix(*terms), x0
    x = overwrite_known(x)
    if on_row is not None:
        on_row(table.rows, x)
    return x


def _mix(*terms: tuple[float, Tensor]) -> Tensor:
    """The sum of weight times value, of which at least one has a weight other than 0; the others cost nothing."""
    products = [weight * value for weight, value in terms if weight != 0.0]
    return sum(products[1:], start=products[0])


def _timestep_batch(timestep: float, x: Tensor) -> Tensor:
    # Filled on the device, because a copy from the host cannot be captured into a CUDA graph. Half precision would
    # merge neighbouring times of the flow.
    dtype = torch.int64 if isinstance(timestep, int) else torch.promote_types(x.dtype, torch.float32)
    return torch.full((x.shape[0],), timestep, dtype=dtype, device=x.device)  # (B,)


def make_table(
    sampler: str,
    schedule: NoiseSchedule,
    prediction_type: str,
    steps: int,
    spacing: str | None = None,
    eta: float = 0.0,
    variance: str = "fixed_small",
) -> SamplerTable:
    """Build a sampler's table by name, in float64.

    Args:
        sampler: ``DDPM``, ``DDIM``, ``DPMSolver++``, ``Flow`` or ``FlowHeun``, as canonical_sampler() reads it.
        schedule: The one that the network was trained with.
        prediction_type: What the network predicts.
        steps: How many steps from noise to data; the rows, too, except that FlowHeun has 2 steps - 1 of them.
        spacing: ``leading``, ``trailing`` or None for the sampler's own.
        eta: DDIM's share of fresh noise, 0 to 1; the other samplers do not read it.
        variance: DDPM's, ``fixed_small`` or ``fixed_large``; the other samplers do not read it.

    Raises:
        ValueError: An unknown name, a combination or option that cannot be, or more steps than the sampler can take.
    """
    sampler = canonical_sampler(sampler)
    check_combination(sampler, schedule.beta_schedule, prediction_type)
    check_steps(sampler, steps, schedule.num_train_timesteps)
    check_options(sampler, spacing, eta, variance)
    spacing = spacing or default_spacing(sampler) or "uniform"  # the flow's, which has no choice
    builders: dict[str, Callable[[], list[Row]]] = {
        "DDPM": lambda: ddpm(schedule, steps, spacing, variance),
        "DDIM": lambda: ddim(schedule, steps, spacing, eta),
        "DPMSolver++": lambda: dpmsolver_plus_plus(schedule, steps, spacing),
        "Flow": lambda: flow_euler(schedule, steps),
        "FlowHeun": lambda: flow_heun(schedule, steps),
    }
    table = builders[sampler]()
    levels = _levels(schedule, [row.timestep for row in table])[:-1]
    return SamplerTable(
        table=tuple(table),
        conversions=tuple(conversion(prediction_type, level.alpha, level.sigma) for level in levels),
    )


class _Level(NamedTuple):
    """A point of the time grid."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        return math.log(self.alpha / self.sigma)


_CLEAN = _Level(timestep=math.nan, alpha=1.0, sigma=0.0)  # where every sampler ends; the network never sees it


def _levels(schedule: NoiseSchedule, timesteps: Sequence[float]) -> list[_Level]:
    """Return the grid (n + 1): the levels of the timesteps (n,), noisiest first, and then clean data."""
    dtype = torch.int64 if isinstance(timesteps[0], int) else torch.float64
    alpha, sigma = schedule.coefficients(torch.tensor(timesteps, dtype=dtype, device="cpu"), dtype=torch.float64)
    return [*map(_Level, timesteps, alpha.tolist(), sigma.tolist()), _CLEAN]


def diffusion_timesteps(num_train_timesteps: int, steps: int, spacing: str) -> list[int]:
    """Choose ``steps`` of the N training timesteps, noisiest first (Lin et al. 2024, arXiv 2305.08891, table 2).

    ``leading`` counts up from 0 by N // steps and so may start below the last timestep; ``trailing`` counts down from
    N - 1. Both are those of diffusers' DDPMScheduler with steps_offset 0, but for a single leading step: there
    diffusers starts at timestep 0, which takes pure noise for nearly clean data, and this starts at N - 1.
    """
    if spacing == "trailing" or steps == 1:
        grid = np.arange(num_train_timesteps, 0, -num_train_timesteps / steps)[:steps]  # rounding may append a 0
        return [int(time) - 1 for time in np.round(grid)]
    return [i * (num_train_timesteps // steps) for i in reversed(range(steps))]


def ddpm(schedule: NoiseSchedule, steps: int, spacing: str, variance: str) -> list[Row]:
    """Ancestral sampling: x' is drawn from the posterior q(x' | x, x0).

    Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 7 with beta taken between the two timesteps of the grid, as
    in diffusers' DDPMScheduler. ``fixed_small`` is the posterior's own variance, ``fixed_large`` is beta.
    """
    timesteps = diffusion_timesteps(schedule.num_train_timesteps, steps, spacing)
    rows = []
    for now, then in pairwise(_levels(schedule, timesteps)):
        alpha_step = now.alpha / then.alpha
        beta_step = 1.0 - alpha_step**2
        shrink = then.sigma**2 / now.sigma**2
        step_variance = shrink * beta_step if variance == "fixed_small" else beta_step
        rows.append(
            Row(
                now.timestep,
                a=alpha_step * shrink,
                b=then.alpha * beta_step / now.sigma**2,
                d=0.0 if then is _CLEAN else math.sqrt(step_variance),
            )
        )
    return rows


def ddim(schedule: NoiseSchedule, steps: int, spacing: str, eta: float) -> list[Row]:
    """Move along the implied noise; ``eta`` replaces part of it by fresh noise.

    Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16; diffusers' DDIMScheduler with
    use_clipped_model_output=False, where clipping changes x0 but not eps.
    """
    timesteps = diffusion_timesteps(schedule.num_train_timesteps, steps, spacing)
    rows = []
    for now, then in pairwise(_levels(schedule, timesteps)):
        fresh = eta * then.sigma / now.sigma * math.sqrt(1.0 - (now.alpha / then.alpha) ** 2)
        along = math.sqrt(max(0.0, then.sigma**2 - fresh**2))  # max: rounding, with eta 1
        rows.append(Row(now.timestep, b=then.alpha, c=along, d=fresh))
    return rows


def dpmsolver_plus_plus(schedule: NoiseSchedule, steps: int, spacing: str) -> list[Row]:
    """DPM-Solver++(2M), midpoint: a line through the last two x0, integrated exactly in the log signal-to-noise ratio.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2; diffusers' DPMSolverMultistepScheduler with
    solver_order 2 and final_sigmas_type zero. The first row has no x0 before it and the last one goes to an infinite
    ratio: these two are of first order (which is DDIM).
    """
    timesteps = diffusion_timesteps(schedule.num_train_timesteps, steps, spacing)
    levels = _levels(schedule, timesteps)
    rows = []
    for before, now, then in zip([None, *levels[:-2]], levels[:-1], levels[1:], strict=True):
        a = then.sigma / now.sigma
        b = then.alpha - a * now.alpha  # the paper's -alpha (exp(-h) - 1), finite where h is not
        if before is None or then is _CLEAN:
            rows.append(Row(now.timestep, a=a, b=b))
        else:
            r = (now.log_ratio - before.log_ratio) / (then.log_ratio - now.log_ratio)
            rows.append(Row(now.timestep, a=a, b=b * (1.0 + 0.5 / r), e=-b * 0.5 / r))
    return rows


def _flow_levels(schedule: NoiseSchedule, steps: int) -> list[_Level]:
    return _levels(schedule, [(1.0 - i / steps) * schedule.num_train_timesteps for i in range(steps)])


def _euler_row(now: _Level, then: _Level) -> Row:
    """x' = x + (s' - s) v with v = (x - x0) / s: the straight line from x to x0, followed to s'."""
    ratio = then.sigma / now.sigma
    return Row(now.timestep, a=ratio, b=1.0 - ratio)


def flow_euler(schedule: NoiseSchedule, steps: int) -> list[Row]:
    """Euler's method on dx/ds = velocity over the grid s_i = 1 - i / steps.

    Liu et al. 2023, https://arxiv.org/abs/2209.03003, section 2.2; diffusers' FlowMatchEulerDiscreteScheduler.
    """
    return [_euler_row(now, then) for now, then in pairwise(_flow_levels(schedule, steps))]


def flow_heun(schedule: NoiseSchedule, steps: int) -> list[Row]:
    """Heun's method, of second order with two evaluations a step; 2 steps - 1 rows, for the last step is Euler's.

    The last step ends at s' = 0, where there is no velocity (x - x0) / s to evaluate, as in Karras et al. 2022,
    https://arxiv.org/abs/2206.00364, algorithm 1. A step over h = s' - s is two rows. The first is Euler's,
    x_e = x + h v1. It moves along the line through x0_1, so v1 = (x_e - x0_1) / s' as well, and with the second
    evaluation v2 = (x_e - x0_2) / s' Heun's x + h (v1 + v2) / 2 becomes x_e + h / (2 s') (x0_1 - x0_2).
    """
    rows = []
    for now, then in pairwise(_flow_levels(schedule, steps)):
        rows.append(_euler_row(now, then))
        if then is not _CLEAN:
            half_step = (then.sigma - now.sigma) / (2.0 * then.sigma)
            rows.append(Row(then.timestep, a=1.0, b=-half_step, e=half_step))
    return rows
