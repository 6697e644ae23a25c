"""Samplers: their names, their rows, and what goes together with them. Imports no torch.

A sampler is a list of rows. A row evaluates the network once, at its timestep, and then mixes

    x'  =  a x  +  b x0  +  c eps  +  d z  +  e x0_previous

where x0 is the clean sample that the prediction implies (clipped), eps the noise that it implies (not clipped), z fresh
noise and x0_previous the x0 of the row before. Every row steps to the true next level of the grid and the last one to
clean data (alpha 1, sigma 0), so that the last x is the sample.

To add a sampler, write the function that lists its rows, and one line: here in BUILTIN, elsewhere
``robodiff.register(Sampler("MySampler", my_rows, DIFFUSION, "trailing"))``.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from robodiff.errors import UsageError, nearest


class Level(NamedTuple):
    """A point of the time grid: x_t = alpha x_0 + sigma eps."""

    timestep: float  # as the network embeds it: an int for diffusion, a float for the flow
    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        """The logarithm of alpha / sigma, half the log signal-to-noise ratio."""
        return math.log(self.alpha / self.sigma)


CLEAN = Level(timestep=math.nan, alpha=1.0, sigma=0.0)
"""Clean data, on which every sampler ends; the network never sees it."""


class Row(NamedTuple):
    """One evaluation of the network and the mixture that follows it. Python floats: float64, on no device."""

    timestep: float  # of the level that the network is evaluated at
    a: float = 0.0  # weight of x
    b: float = 0.0  # weight of x0, clipped
    c: float = 0.0  # weight of eps, not clipped
    d: float = 0.0  # weight of fresh noise
    e: float = 0.0  # weight of the x0 of the row before, clipped; 0 in the first row


def ddpm(levels: Sequence[Level], variance: str) -> list[Row]:
    """Draw x' from the posterior q(x' | x, x0): ancestral sampling.

    Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 7 with beta taken between the two levels of the grid, as in
    diffusers' DDPMScheduler. ``fixed_small`` is the posterior's own variance, ``fixed_large`` is beta.
    """
    rows = []
    for now, then in pairwise(levels):
        alpha_step = now.alpha / then.alpha
        beta_step = 1.0 - alpha_step**2
        shrink = then.sigma**2 / now.sigma**2
        step_variance = shrink * beta_step if variance == "fixed_small" else beta_step
        noise = 0.0 if then is CLEAN else math.sqrt(step_variance)
        rows.append(Row(now.timestep, a=alpha_step * shrink, b=then.alpha * beta_step / now.sigma**2, d=noise))
    return rows


def ddim(levels: Sequence[Level], eta: float) -> list[Row]:
    """Move along the implied noise; ``eta`` replaces part of it by fresh noise.

    Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16; diffusers' DDIMScheduler with
    use_clipped_model_output=False, where clipping changes x0 but not eps.
    """
    rows = []
    for now, then in pairwise(levels):
        fresh = eta * then.sigma / now.sigma * math.sqrt(1.0 - (now.alpha / then.alpha) ** 2)
        along = math.sqrt(max(0.0, then.sigma**2 - fresh**2))  # max: rounding, with eta 1
        rows.append(Row(now.timestep, b=then.alpha, c=along, d=fresh))
    return rows


def dpmsolver_plus_plus(levels: Sequence[Level]) -> list[Row]:
    """Integrate a line through the last two x0 exactly in the log signal-to-noise ratio: DPM-Solver++(2M), midpoint.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2; diffusers' DPMSolverMultistepScheduler with
    solver_order 2 and final_sigmas_type zero. The first row has no x0 before it and the last one goes to an infinite
    ratio: these two are of first order (which is DDIM).
    """
    rows = []
    for before, now, then in zip([None, *levels[:-2]], levels[:-1], levels[1:], strict=True):
        a = then.sigma / now.sigma
        b = then.alpha - a * now.alpha  # the paper's -alpha (exp(-h) - 1), finite where h is not
        if before is None or then is CLEAN:
            rows.append(Row(now.timestep, a=a, b=b))
        else:
            r = (now.log_ratio - before.log_ratio) / (then.log_ratio - now.log_ratio)
            rows.append(Row(now.timestep, a=a, b=b * (1.0 + 0.5 / r), e=-b * 0.5 / r))
    return rows


def flow_euler(levels: Sequence[Level]) -> list[Row]:
    """Take Euler's steps x' = x + (s' - s) v on the velocity v = (x - x0) / s: along the straight line from x to x0.

    Liu et al. 2023, https://arxiv.org/abs/2209.03003, section 2.2; diffusers' FlowMatchEulerDiscreteScheduler.
    """
    rows = []
    for now, then in pairwise(levels):
        ratio = then.sigma / now.sigma
        rows.append(Row(now.timestep, a=ratio, b=1.0 - ratio))
    return rows


def flow_heun(levels: Sequence[Level]) -> list[Row]:
    """Take Heun's steps, of second order with two evaluations each; 2 steps - 1 rows, for the last step is Euler's.

    The last step ends at s' = 0, where there is no velocity (x - x0) / s to evaluate, as in Karras et al. 2022,
    https://arxiv.org/abs/2206.00364, algorithm 1. A step over h = s' - s is two rows. The first is Euler's,
    x_e = x + h v1. It moves along the line through x0_1, so v1 = (x_e - x0_1) / s' as well, and with the second
    evaluation v2 = (x_e - x0_2) / s' Heun's x + h (v1 + v2) / 2 becomes x_e + h / (2 s') (x0_1 - x0_2).
    """
    rows = []
    for euler, (now, then) in zip(flow_euler(levels), pairwise(levels), strict=True):
        rows.append(euler)
        if then is not CLEAN:
            half_step = (then.sigma - now.sigma) / (2.0 * then.sigma)
            rows.append(Row(then.timestep, a=1.0, b=-half_step, e=half_step))
    return rows


def timestep_grid(num_train_timesteps: int, steps: int, spacing: str) -> list[float]:
    """Return the timesteps (steps,) of a grid, noisiest first.

    ``leading`` counts up from 0 by N // steps, ``trailing`` down from N - 1 (Lin et al. 2024,
    https://arxiv.org/abs/2305.08891, table 2). Both are those of diffusers' DDPMScheduler with steps_offset 0. Where
    steps do not divide N, ``leading`` leaves the noisiest levels out, 49 of 100 with 51 steps, and takes pure noise for
    half clean data. ``even`` counts up by N / steps: it is ``leading`` where steps divide N, and else starts less than
    N / steps + 1 below N. A single step of either starts at N - 1 (in diffusers at 0, where data are clean).
    ``uniform`` is the flow's s_i = 1 - i / steps, times N.
    """
    if spacing == "uniform":
        return [(1.0 - i / steps) * num_train_timesteps for i in range(steps)]
    if spacing == "leading" and steps > 1:
        return [i * (num_train_timesteps // steps) for i in reversed(range(steps))]
    if spacing == "even" and steps > 1:
        return [i * num_train_timesteps // steps for i in reversed(range(steps))]
    stride = num_train_timesteps - (num_train_timesteps - num_train_timesteps / steps)  # rounded as in numpy.arange
    return [round(num_train_timesteps - i * stride) - 1 for i in range(steps)]


@dataclass(frozen=True)
class Process:
    """What goes together: every schedule of a process with every prediction type, sampler and spacing of it."""

    beta_schedules: tuple[str, ...]
    prediction_types: tuple[str, ...]
    spacings: tuple[str, ...]

    @property
    def samplers(self) -> tuple[str, ...]:
        """The names of its samplers, registered ones included."""
        return tuple(sampler.name for sampler in SAMPLERS.values() if sampler.process == self)

    def __str__(self) -> str:
        """Return the process as one line of an error message."""
        return (
            f"beta_schedule {' | '.join(self.beta_schedules)} with sampler {' | '.join(self.samplers)}, "
            f"prediction_type {' | '.join(self.prediction_types)} and spacing {' | '.join(self.spacings)}"
        )


DIFFUSION = Process(
    beta_schedules=("linear", "scaled_linear", "squaredcos_cap_v2"),
    prediction_types=("epsilon", "sample", "v_prediction"),
    spacings=("even", "leading", "trailing"),
)
# "sample" is sound for the flow at s = 1 too: eps = (x - (1 - s) x0) / s divides by s, and the grid never reaches 0.
# "epsilon" is not: x0 = (x - s eps) / (1 - s) divides by zero where sampling starts.
FLOW = Process(beta_schedules=("flow",), prediction_types=("velocity", "sample"), spacings=("uniform",))
PROCESSES = (DIFFUSION, FLOW)


@dataclass(frozen=True)
class Sampler:
    """A sampler as it is registered: its name, the function that lists its rows, and what that is given."""

    registry_kind: ClassVar[str] = "samplers"

    name: str
    rows: Callable[..., list[Row]]
    """``rows(levels, **options)`` lists the rows over the grid's levels (steps + 1,): noisiest first, CLEAN last."""
    process: Process
    """DIFFUSION or FLOW."""
    spacing: str
    """The spacing of its grid unless another is asked for."""
    options: tuple[str, ...] = ()
    """Which of ``eta`` and ``variance`` the function takes by name."""
    spellings: tuple[str, ...] = ()
    """Its other names. Case, blanks, ``-`` and ``_`` make no difference to a name."""

    @property
    def registry_name(self) -> str:
        """The name that it is registered by."""
        return self.name

    def on_register(self) -> None:
        """Make it known where samplers are looked up."""
        add_sampler(self)


BUILTIN = (
    Sampler("DDPM", ddpm, DIFFUSION, "even", options=("variance",)),
    Sampler("DDIM", ddim, DIFFUSION, "even", options=("eta",)),
    Sampler("DPMSolver++", dpmsolver_plus_plus, DIFFUSION, "trailing", spellings=("DPMSolver", "DPM++")),
    Sampler("Flow", flow_euler, FLOW, "uniform", spellings=("Euler", "FlowEuler")),
    Sampler("FlowHeun", flow_heun, FLOW, "uniform", spellings=("Heun",)),
)
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in BUILTIN}
"""The samplers by name: the built-in ones, and those that add_sampler() adds."""


def add_sampler(sampler: Sampler) -> None:
    """Make a sampler known by its name and spellings; the latest of a name counts.

    Raises:
        UsageError: A built-in sampler, or one of another name, has one of them.
    """
    taken = _by_spelling(other for other in SAMPLERS.values() if other in BUILTIN or other.name != sampler.name)
    if clashes := sorted(_by_spelling([sampler]).keys() & taken):
        raise UsageError(f"sampler={sampler.name!r} cannot be added: {clashes[0]!r} is {taken[clashes[0]]} already")
    SAMPLERS[sampler.name] = sampler


def find_sampler(name: str) -> Sampler:
    """Return the sampler of a name in any spelling: ``ddim`` -> DDIM, ``heun`` -> FlowHeun.

    Raises:
        UsageError: No sampler has this name; lists the known ones and suggests the nearest.
    """
    name = _by_spelling(SAMPLERS.values()).get(_fold(name), name)
    check_known("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def _by_spelling(samplers: Iterable[Sampler]) -> dict[str, str]:
    return {_fold(spelling): sampler.name for sampler in samplers for spelling in (sampler.name, *sampler.spellings)}


def _fold(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "-_ ")


def check_known(option: str, value: str, known: Collection[str]) -> None:
    """Refuse a value that is not one of the known ones.

    Raises:
        UsageError: Lists the known values and suggests the nearest.
    """
    if value not in known:
        hint = nearest(value.lower(), map(str.lower, known))
        raise UsageError(f"{option}={value!r} is not known. Known: {', '.join(known)}.{hint}")


def check_sampling(
    sampler: str,
    beta_schedule: str,
    prediction_type: str,
    steps: int,
    num_train_timesteps: int,
    spacing: str | None = None,
    eta: float = 0.0,
    variance: str = "fixed_small",
) -> Sampler:
    """Return the sampler of this name, or refuse options that are unknown or do not go together.

    Args:
        sampler: Its name, in any spelling.
        beta_schedule: See make_schedule().
        prediction_type: See target().
        steps: A diffusion sampler visits some of the levels that the network was trained on, so it can take no more
            steps than there are levels. The flow is trained on continuous time: any number of steps will do.
        num_train_timesteps: The number of levels N.
        spacing: ``even``, ``leading`` or ``trailing``, for the flow ``uniform``; None for the sampler's own.
        eta: DDIM's share of fresh noise, 0 (deterministic) to 1 (as much as DDPM). Read by DDIM alone.
        variance: DDPM's variance, ``fixed_small`` or ``fixed_large``. Read by DDPM alone.

    Raises:
        UsageError: Names the option, its value, and what it can be.
    """
    found = find_sampler(sampler)
    process = found.process
    chosen = (
        ("beta_schedule", beta_schedule, process.beta_schedules),
        ("prediction_type", prediction_type, process.prediction_types),
        ("spacing", spacing or found.spacing, process.spacings),
    )
    misfits = " and ".join(f"{option}={value!r}" for option, value, choices in chosen if value not in choices)
    table = "".join(f"\n  {process}" for process in PROCESSES)
    if misfits:
        raise UsageError(f"sampler={found.name!r} does not go with {misfits}. These go together:{table}")
    check_known("variance", variance, ("fixed_small", "fixed_large"))
    limits = f"1 to {num_train_timesteps} steps (num_train_timesteps)" if process == DIFFUSION else "1 step or more"
    if steps < 1 or (process == DIFFUSION and steps > num_train_timesteps):
        raise UsageError(f"{found.name} takes {limits}, got steps={steps}")
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"eta must lie between 0 (deterministic) and 1 (as DDPM), got {eta}")
    return found
