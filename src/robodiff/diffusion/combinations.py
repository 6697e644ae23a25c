"""Which noise schedule, prediction type and sampler go together: the one table, and the checks that read it.

Nothing here imports torch, so that a configuration can be checked before torch is loaded.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One row of the table: within it, every schedule goes with every prediction type and every sampler."""

    beta_schedules: tuple[str, ...]
    prediction_types: tuple[str, ...]
    samplers: tuple[str, ...]

    def __str__(self) -> str:
        """Return the row as one line of an error message."""
        return (
            f"beta_schedule {' | '.join(self.beta_schedules)}"
            f" with prediction_type {' | '.join(self.prediction_types)}"
            f" and sampler {' | '.join(self.samplers)}"
        )


DIFFUSION = Process(
    beta_schedules=("linear", "scaled_linear", "squaredcos_cap_v2"),
    prediction_types=("epsilon", "sample", "v_prediction"),
    samplers=("DDPM", "DDIM", "DPMSolver++"),
)
# "sample" is sound for the flow at s = 1 too: eps = (x - (1 - s) x0) / s divides by s, and the grid never reaches 0.
# "epsilon" is not: x0 = (x - s eps) / (1 - s) divides by zero where sampling starts.
FLOW = Process(
    beta_schedules=("flow",),
    prediction_types=("velocity", "sample"),
    samplers=("Flow", "FlowHeun"),
)
COMBINATIONS = (DIFFUSION, FLOW)

BETA_SCHEDULES = DIFFUSION.beta_schedules + FLOW.beta_schedules
PREDICTION_TYPES = tuple(dict.fromkeys(DIFFUSION.prediction_types + FLOW.prediction_types))
SAMPLERS = DIFFUSION.samplers + FLOW.samplers
SPACINGS = ("leading", "trailing")
VARIANCES = ("fixed_small", "fixed_large")

_DEFAULT_SPACING = {"DDPM": "leading", "DDIM": "leading", "DPMSolver++": "trailing", "Flow": None, "FlowHeun": None}

# Keys are lower case without "-", "_" and blanks, as canonical_sampler() makes them.
_SPELLINGS = {name.lower(): name for name in SAMPLERS} | {
    "dpmsolver": "DPMSolver++",
    "dpm++": "DPMSolver++",
    "euler": "Flow",
    "floweuler": "Flow",
    "heun": "FlowHeun",
}


def canonical_sampler(name: str) -> str:
    """Return the sampler's name as the table writes it: ``ddim`` -> ``DDIM``, ``heun`` -> ``FlowHeun``.

    Raises:
        ValueError: No sampler has this name.
    """
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    if key not in _SPELLINGS:
        raise ValueError(f"sampler={name!r} is not known. Known samplers: {', '.join(SAMPLERS)}.")
    return _SPELLINGS[key]


def check_combination(sampler: str, beta_schedule: str, prediction_type: str) -> None:
    """Refuse a sampler, schedule and prediction type that do not go together.

    Raises:
        ValueError: Names the value that is unknown or does not fit, and prints the table.
    """
    sampler = canonical_sampler(sampler)
    table = "\n".join(["These go together:", *(f"  {process}" for process in COMBINATIONS)])
    if beta_schedule not in BETA_SCHEDULES:
        raise ValueError(f"beta_schedule={beta_schedule!r} is not known. {table}")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type={prediction_type!r} is not known. {table}")
    process = FLOW if beta_schedule in FLOW.beta_schedules else DIFFUSION
    if prediction_type not in process.prediction_types:
        raise ValueError(
            f"prediction_type={prediction_type!r} does not go with beta_schedule={beta_schedule!r}. {table}"
        )
    if sampler not in process.samplers:
        raise ValueError(f"sampler={sampler!r} does not go with beta_schedule={beta_schedule!r}. {table}")


def check_steps(sampler: str, steps: int, num_train_timesteps: int) -> None:
    """Refuse a number of sampling steps that the sampler cannot take.

    A diffusion sampler visits some of the ``num_train_timesteps`` levels that the network was trained on, so it can
    take no more steps than there are levels. The flow is trained on continuous time: any number of steps will do.

    Raises:
        ValueError: Says which numbers are possible.
    """
    sampler = canonical_sampler(sampler)
    if steps < 1:
        raise ValueError(f"{sampler} needs at least 1 step, got steps={steps}.")
    if sampler in DIFFUSION.samplers and steps > num_train_timesteps:
        raise ValueError(
            f"{sampler} can take 1 to {num_train_timesteps} steps, got steps={steps}: "
            f"more than the {num_train_timesteps} timesteps of the training (num_train_timesteps)."
        )


def default_spacing(sampler: str) -> str | None:
    """Return the spacing that a sampler uses unless told otherwise; None for the flow, whose grid is uniform."""
    return _DEFAULT_SPACING[canonical_sampler(sampler)]


def check_options(sampler: str, spacing: str | None = None, eta: float = 0.0, variance: str = "fixed_small") -> None:
    """Refuse values that a sampler's options cannot have.

    Args:
        sampler: Its name, in any spelling.
        spacing: ``leading``, ``trailing`` or None for the sampler's own. The flow samplers take None alone.
        eta: DDIM's share of fresh noise, 0 (deterministic) to 1 (as much as DDPM). Read by DDIM alone.
        variance: DDPM's variance, ``fixed_small`` or ``fixed_large``. Read by DDPM alone.

    Raises:
        ValueError: Names the option, its value, and what it can be.
    """
    sampler = canonical_sampler(sampler)
    if spacing is not None and spacing not in SPACINGS:
        raise ValueError(f"spacing={spacing!r} is not known. Known: {', '.join(SPACINGS)}.")
    if spacing is not None and sampler in FLOW.samplers:
        raise ValueError(f"spacing={spacing!r} does not go with {sampler}: its time grid is always uniform.")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie between 0 (deterministic) and 1 (as DDPM), got {eta}.")
    if variance not in VARIANCES:
        raise ValueError(f"variance={variance!r} is not known. Known: {', '.join(VARIANCES)}.")
