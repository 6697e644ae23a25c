"""Push-T as the registry knows it."""

from dataclasses import dataclass
from importlib import metadata
from typing import Annotated

from robodiff.data.episodes import ACTION, Feature
from robodiff.documents import Between, Document
from robodiff.envs.pusht.env import (
    ENVIRONMENT_STATE,
    FPS,
    IMAGE,
    IMAGE_SIZE,
    MAX_STEPS,
    STATE,
    SUCCESS_COVERAGE,
    TABLE,
    PushTEnv,
    draw_scene,
)
from robodiff.envs.pusht.expert import PushTExpert
from robodiff.envs.spec import EnvSpec, Scene

_XY = ("x", "y")
_CORNERS = tuple(f"{axis}{corner}" for corner in range(8) for axis in _XY)


@dataclass(frozen=True, kw_only=True)
class PushTExpertOptions(Document):
    """Options of the scripted expert."""

    corrections: Annotated[float, Between(0, 1)] = 0.0
    """Share of demonstrations that start near the goal and put right what almost fits."""


SPEC = EnvSpec(
    name="pusht",
    make=PushTEnv,
    features={
        STATE: Feature("vector", (2,), "float32", names=_XY, unit="px"),
        ENVIRONMENT_STATE: Feature("vector", (16,), "float32", names=_CORNERS, unit="px"),
        IMAGE: Feature("image", (3, IMAGE_SIZE, IMAGE_SIZE), "uint8"),
        ACTION: Feature("vector", (2,), "float32", names=_XY, unit="px"),
    },
    fps=FPS,
    success=f"The block covers more than {SUCCESS_COVERAGE:.0%} of the goal within {MAX_STEPS} steps.",
    version=lambda: f"gym-pusht {metadata.version('gym-pusht')}",
    expert=PushTExpert,
    expert_options=PushTExpertOptions,
    snapshot=PushTEnv.snapshot,
    restore=PushTEnv.restore,
    scene=Scene(draw_scene, (0.0, TABLE, TABLE, 0.0)),
)
