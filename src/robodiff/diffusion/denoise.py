"""The one loop that runs every sampler, on the table of coefficients that a sampler and a schedule make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robodiff.diffusion.objective import Conversion, conversion
from robodiff.diffusion.samplers import CLEAN, Level, Row, check_sampling, timestep_grid
from robodiff.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class SamplerTable:
    """All that denoise() needs to know of a sampler: R rows, and how each one reads the network's prediction.

    The network is evaluated once for each row.
    """

    rows: tuple[Row, ...]  # (R,)
    conversions: tuple[Conversion, ...]  # (R,)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timestep of each row (R,), as the network embeds it."""
        return tuple(row.timestep for row in self.rows)

    @property
    def stochastic(self) -> bool:
        """True if any row adds fresh noise."""
        return any(row.d != 0.0 for row in self.rows)

    @property
    def noise_rows(self) -> int:
        """The least leading size of denoise()'s noise: 1 + R where rows add fresh noise, else 1."""
        return 1 + len(self.rows) if self.stochastic else 1


def denoise(
    table: SamplerTable,
    denoiser: Callable[..., Tensor],
    noise: Tensor,
    clip_range: float | Tensor | None = None,
    known: tuple[Tensor, Tensor] | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
    on_row: Callable[[int, Tensor], None] | None = None,
    self_conditioning: bool = False,
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
        known: What the sample is to be: clean values and weights from 0 (free) to 1 (given), both broadcastable to (B,
            ...). The x0 of every row, and its eps, are moved towards them by that weight, so that what is given has
            the noise that it has in training, and comes out as it is.
        seen: What the denoiser is shown clean, as it was in training: values and a bool mask, both broadcastable to (B,
            ...). Where the mask is True, x is overwritten before every evaluation and at the end, as in the original
            diffusion_policy (``DiffusionUnetLowdimPolicy.conditional_sample``).
        on_row: Called with (rows done, x (B, ...)), from (0, the noise) on, to watch the sample come about.
        self_conditioning: The denoiser takes a third argument, the x0 (B, ...) of the row before, at first 0.

    Returns:
        The sample (B, ...), in the dtype of ``noise``.

    Raises:
        ValueError: ``noise`` has the wrong leading size.
    """
    if noise.shape[0] not in (table.noise_rows, 1 + len(table.rows)):
        raise ValueError(f"noise must have the leading size {table.noise_rows}, got {tuple(noise.shape)}.")

    def overwrite_seen(x: Tensor) -> Tensor:
        return x if seen is None else torch.where(seen[1], seen[0].to(x.dtype), x)

    x = noise[0]  # (1 + R, B, ...) -> (B, ...)
    known = None if known is None else (known[0].to(x.dtype).expand_as(x), known[1].to(x.dtype))
    x0_previous = torch.zeros_like(x)  # which no first row reads
    for index, (row, convert) in enumerate(zip(table.rows, table.conversions, strict=True)):
        x = overwrite_seen(x)
        if on_row is not None:
            on_row(index, x)
        told = (x0_previous,) if self_conditioning else ()
        prediction = denoiser(x, _timestep_batch(row.timestep, x), *told)  # (B, ...)
        x0 = _mix((convert.x0_from_x, x), (convert.x0_from_prediction, prediction))
        if clip_range is not None:
            x0 = x0.clamp(-clip_range, clip_range)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if known is not None:
            x0 = x0.lerp(*known)
        terms = [(row.a, x), (row.b, x0), (row.e, x0_previous)]
        if row.c != 0.0:
            eps = _mix((convert.eps_from_x, x), (convert.eps_from_prediction, prediction))
            if known is not None:
                eps = eps.lerp(convert.eps_of(x, known[0]), known[1])
            terms.append((row.c, eps))
        if row.d != 0.0:
            terms.append((row.d, noise[1 + index]))
        x, x0_previous = _mix(*terms), x0
    x = overwrite_seen(x)
    if on_row is not None:
        on_row(len(table.rows), x)
    return x


def _mix(*terms: tuple[float, Tensor]) -> Tensor:
    """Return the sum of weight times value, of which at least one weight is not 0; those that are cost nothing."""
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
        sampler: Its name, in any spelling that find_sampler() knows.
        schedule: The one that the network was trained with.
        prediction_type: What the network predicts.
        steps: The steps from noise to data. There are as many rows, except that FlowHeun has 2 steps - 1.
        spacing: See check_sampling(), as for the two below.
        eta: DDIM's share of fresh noise.
        variance: DDPM's variance.

    Raises:
        UsageError: Options that are unknown or do not go together.
    """
    options, trained = {"eta": eta, "variance": variance}, schedule.num_train_timesteps
    found = check_sampling(sampler, schedule.beta_schedule, prediction_type, steps, trained, spacing, **options)
    timesteps = timestep_grid(trained, steps, spacing or found.spacing)
    rows = found.rows([*_levels(schedule, timesteps), CLEAN], **{name: options[name] for name in found.options})
    levels = _levels(schedule, [row.timestep for row in rows])
    return SamplerTable(tuple(rows), tuple(conversion(prediction_type, alpha, sigma) for _, alpha, sigma in levels))


def _levels(schedule: NoiseSchedule, timesteps: Sequence[float]) -> list[Level]:
    """Return the schedule's levels (n,) at the timesteps (n,)."""
    dtype = torch.int64 if isinstance(timesteps[0], int) else torch.float64
    alpha, sigma = schedule.coefficients(torch.tensor(timesteps, dtype=dtype, device="cpu"), dtype=torch.float64)
    return [*map(Level, timesteps, alpha.tolist(), sigma.tolist())]
