"""Checkpoints of LeRobot's policy type ``hybrid_diffusion``, which the plugin lerobot_policy_robodiff trains.

The plugin trains and runs robodiff's own policy, so only names are converted: of options that LeRobot calls otherwise,
and of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load

from robodiff.data.episodes import LARGEST, Feature
from robodiff.documents import Above, Between, Document, typed
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.files import reading
from robodiff.networks.layers import shape_misfits
from robodiff.policies.checkpoint import CONFIG_FILE, WEIGHTS_FILE, first_not_finite
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.hybrid import HybridDiffusionConfig

TYPE = "hybrid_diffusion"
PREFIX = "policy."
"""How the names of the weights begin; beside them the plugin keeps the state of its training."""
RENAMED = {"optimizer_lr": "learning_rate"}
"""Options that LeRobot calls otherwise, and what they are called here."""
_REMEDY = "copy the whole folder again from where it comes from"


@dataclass(frozen=True, kw_only=True)
class LeRobotFeature(Document):
    """What a checkpoint stores about a key."""

    type: str
    """``VISUAL``, ``STATE``, ``ENV`` or ``ACTION``."""
    shape: tuple[Annotated[int, Between(1, LARGEST)], ...]
    """Of one time step; channels come first."""


@dataclass(frozen=True, kw_only=True)
class Recorded(Document):
    """What a checkpoint stores about the recording that it was trained on."""

    input_features: dict[str, LeRobotFeature]
    """What is observed."""
    output_features: dict[str, LeRobotFeature]
    """The action."""
    fps: Annotated[float, Above(0)]
    """Frames per second."""
    feature_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a vector's dimensions."""
    feature_units: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Likewise."""

    @property
    def features(self) -> dict[str, Feature]:
        """What each key holds, observations first."""
        return {key: self._feature(key, said) for key, said in {**self.input_features, **self.output_features}.items()}

    def _feature(self, key: str, said: LeRobotFeature) -> Feature:
        if said.type == "VISUAL":
            return Feature("image", said.shape, "uint8")
        return Feature("vector", said.shape, "float32", self.feature_names.get(key), self.feature_units.get(key))


def config_from_lerobot(values: Mapping[str, Any]) -> HybridDiffusionConfig:
    """Return the configuration of a policy that LeRobot's ``config.json`` describes.

    Raises:
        UsageError: options that are unknown or do not go together.
    """
    known = {each.name for each in fields(HybridDiffusionConfig)}
    named = {RENAMED.get(name, name): value for name, value in values.items()}
    own = {name: value for name, value in named.items() if name in known}
    return typed(HybridDiffusionConfig, own | dict(values.get("options") or {}))


def recorded_from_lerobot(values: Mapping[str, Any]) -> Recorded:
    """Return what LeRobot's ``config.json`` says of the recording.

    Raises:
        UsageError: features that are none.
    """
    return typed(Recorded, {each.name: values[each.name] for each in fields(Recorded) if each.name in values})


def hybrid_policy(folder: Path, values: Mapping[str, Any]) -> DiffusionPolicy:
    """Return the policy of a checkpoint, which acts as it does in LeRobot.

    Args:
        folder: which holds it.
        values: of its config.json.

    Raises:
        RobodiffError: a broken one.
    """
    path = folder / CONFIG_FILE
    try:
        config, recorded = config_from_lerobot(values), recorded_from_lerobot(values)
        with torch.device("meta"):  # weights take no memory, whatever sizes it names
            outline = config.make_policy(recorded.features, recorded.fps).state_dict()
    except UsageError as error:
        raise RobodiffError(f"{path}: does not describe a policy: {error}") from None
    path = folder / WEIGHTS_FILE
    with reading(path, "a safetensors file"):
        stored = load(path.read_bytes())
    weights = {key.removeprefix(PREFIX): value for key, value in stored.items() if key.startswith(PREFIX)}
    if misfits := shape_misfits(weights, outline):
        raise RobodiffError(f"{path}: does not fit {CONFIG_FILE}: {misfits[0]}; {_REMEDY}")
    if (broken := first_not_finite(weights)) is not None:
        raise RobodiffError(f"{path}: {broken} holds values that are not finite; take an earlier checkpoint")
    policy = config.make_policy(recorded.features, recorded.fps)
    policy.load_state_dict(weights)
    stage, *later = config.stages()
    if later and int(stored.get("step", 0)) < (stage.steps or 0):
        notice(f"{path}: is of the stage {stage.name}, before anything was learnt of continuous actions")
    return policy.eval()
