"""Push-T as the registry knows it."""

from dataclasses import dataclass
from importlib import metadata
from typing import Annotated

from robodiff.documents import Between, Document
from robodiff.envs.pusht.env import FEATURES, FPS, MAX_STEPS, SUCCESS_COVERAGE, TABLE, PushTEnv, draw_scene
from robodiff.envs.pusht.expert import PushTExpert
from robodiff.envs.pusht.symmetry import MIRROR
from robodiff.envs.pusht.take_over import PushTTakeOver
from robodiff.envs.pusht.touch import TOUCH
from robodiff.envs.spec import EnvSpec, Scene


@dataclass(frozen=True, kw_only=True)
class PushTExpertOptions(Document):
    """Options of the scripted expert."""

    corrections: Annotated[float, Between(0, 1)] = 0.0
    """Share of demonstrations that start near the goal and put right what almost fits."""


SPEC = EnvSpec(
    name="pusht",
    make=PushTEnv,
    features=FEATURES,
    fps=FPS,
    success=f"The block covers more than {SUCCESS_COVERAGE:.0%} of the goal within {MAX_STEPS} steps.",
    success_reward=1.0,
    version=lambda: f"gym-pusht {metadata.version('gym-pusht')}",
    expert=PushTExpert,
    expert_options=PushTExpertOptions,
    take_over=PushTTakeOver,
    snapshot=PushTEnv.snapshot,
    restore=PushTEnv.restore,
    symmetries=(MIRROR,),
    scene=Scene(draw_scene, (0.0, TABLE, TABLE, 0.0)),
    touch=TOUCH,
)
