"""What LeRobot's ``config.json`` says, in robodiff's words; the plugin lerobot_policy_robodiff reads it, too."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from robodiff.data.episodes import LARGEST, Feature
from robodiff.documents import Above, Between, Document, typed
from robodiff.policies.hybrid import HybridDiffusionConfig

TYPE = "hybrid_diffusion"
RENAMED = {"optimizer_lr": "learning_rate"}
"""Options that LeRobot calls otherwise, and what they are called here."""


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
