"""LeRobot's policy type and learning rate schedule ``hybrid_diffusion``, registered when this is imported."""

from lerobot_policy_robodiff.configuration_hybrid_diffusion import HybridDiffusionConfig
from lerobot_policy_robodiff.schedule import HybridDiffusionSchedulerConfig

__all__ = ["HybridDiffusionConfig", "HybridDiffusionSchedulerConfig"]
