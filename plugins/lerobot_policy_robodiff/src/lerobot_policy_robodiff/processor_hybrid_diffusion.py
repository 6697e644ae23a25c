"""What happens to observations before the policy and to actions after it: nothing but a batch dimension and a device.

The policy normalises by itself, with what its weights hold, so that a value is scaled in one place.
"""

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from lerobot_policy_robodiff.configuration_hybrid_diffusion import HybridDiffusionConfig

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]


def make_hybrid_diffusion_pre_post_processors(config: HybridDiffusionConfig, dataset_stats: Any = None) -> Pipelines:
    """Return the processors of observations and of actions, which leave numbers as they are."""
    return make_default_pre_post_processors(config)
