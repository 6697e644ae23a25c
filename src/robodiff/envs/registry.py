"""The environments by name."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import gymnasium

from robodiff.data.episodes import Feature
from robodiff.errors import UsageError, nearest
from robodiff.envs.pusht import PushTEnv, FPS, MAX_STEPS


@dataclass(frozen=True)
class EnvSpec:
    name: str
    make: Callable[[Collection[str]], gymnasium.Env]
    fps: float
    max_steps: int
    success: str
    version: str
    features: dict[str, Feature]


ENVIRONMENTS = {
    "pusht": EnvSpec(
        "pusht",
        PushTEnv,
        FPS,
        MAX_STEPS,
        "coverage above 0.95",
        "gym-pusht",
        {
            "observation.state": Feature("vector", (2,), "float32", unit="px"),
            "observation.environment_state": Feature("vector", (16,), "float32", unit="px"),
            "action": Feature("vector", (2,), "float32", unit="px"),
        },
    )
}


def get_env_spec(name: str) -> EnvSpec:
    if name not in ENVIRONMENTS:
        raise UsageError(
            f"unknown environment {name!r}; there is {', '.join(ENVIRONMENTS)}.{nearest(name, list(ENVIRONMENTS))}"
        )
    return ENVIRONMENTS[name]
