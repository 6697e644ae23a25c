"""The environments that robodiff knows: what each offers, how it is made, and who can demonstrate on it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import gymnasium
from numpy.typing import NDArray

from robodiff.data.episodes import ACTION, Feature
from robodiff.envs.pusht import env as pusht
from robodiff.errors import UsageError, nearest


class Expert(Protocol):
    """Demonstrates on one environment; the same seed gives the same demonstration."""

    def demonstrate(self, seed: int) -> dict[str, NDArray[Any]] | None:
        """Return ``state`` (L, S) and ``action`` (L, A) of one demonstration, or None if it failed."""
        ...


@dataclass(frozen=True)
class Scene:
    """How recorded observations are drawn, and where actions lie in the picture."""

    draw: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any] | None]
    """From one observation to (H, W, 3) uint8; None where the observation does not say enough."""
    extent: tuple[float, float, float, float]
    """The picture's left, right, bottom and top edges in the units of an action's first two dimensions."""


@dataclass(frozen=True)
class EnvSpec:
    """One environment."""

    name: str
    make: Callable[[Collection[str]], gymnasium.Env[Any, Any]]
    """From the observation keys that a policy needs; nothing else is computed or drawn. Refuses unknown keys."""
    expert: Callable[[float], Expert] | None
    """From the share of demonstrations that start near the goal; None where nobody demonstrates."""
    fps: float
    """Actions per second."""
    success: str
    """One sentence: what counts as success."""
    version: Callable[[], str]
    """Which package, in which version, simulates it."""
    features: Mapping[str, Feature]
    """Everything that it can observe, and ``action``."""
    render_state: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    """Draws ``observation.image`` (3, H, W) uint8 of one recorded ``state``; None where states cannot be drawn."""
    scene: Scene | None = None
    """Draws observations with actions over them; None where actions are no places in a picture."""


def get_env_spec(name: str) -> EnvSpec:
    """Return the environment called ``name``; an unknown name is a UsageError that lists the known ones."""
    if name not in ENVIRONMENTS:
        known = list(ENVIRONMENTS)
        raise UsageError(f"unknown environment {name!r}; known: {', '.join(known)}.{nearest(name, known)}")
    return ENVIRONMENTS[name]


def _pusht_expert(corrections: float) -> Expert:
    from robodiff.envs.pusht.expert import PushTExpert

    return PushTExpert(corrections)


_XY = ("x", "y")

ENVIRONMENTS: dict[str, EnvSpec] = {
    "pusht": EnvSpec(
        name="pusht",
        make=pusht.PushTEnv,
        expert=_pusht_expert,
        fps=pusht.FPS,
        success=f"The block covers more than {pusht.SUCCESS_COVERAGE:.0%} of the goal within {pusht.MAX_STEPS} steps.",
        version=lambda: f"gym-pusht {metadata.version('gym-pusht')}",
        features={
            pusht.STATE: Feature("vector", (2,), "float32", names=_XY, unit="px"),
            pusht.ENVIRONMENT_STATE: Feature(
                "vector",
                (16,),
                "float32",
                names=tuple(f"{axis}{corner}" for corner in range(8) for axis in _XY),
                unit="px",
            ),
            pusht.IMAGE: Feature("image", (3, pusht.IMAGE_SIZE, pusht.IMAGE_SIZE), "uint8"),
            ACTION: Feature("vector", (2,), "float32", names=_XY, unit="px"),
        },
        render_state=pusht.render_observation,
        scene=Scene(pusht.draw_scene, (0.0, pusht.TABLE, pusht.TABLE, 0.0)),
    ),
}
