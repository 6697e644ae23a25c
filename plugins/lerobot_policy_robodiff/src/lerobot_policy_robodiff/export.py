"""A policy of robodiff as a checkpoint of LeRobot: python -m lerobot_policy_robodiff.export POLICY OUT."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from lerobot.configs import FeatureType, PolicyFeature

from lerobot_policy_robodiff.configuration_hybrid_diffusion import HybridDiffusionConfig
from lerobot_policy_robodiff.modeling_hybrid_diffusion import HybridDiffusionPolicy
from lerobot_policy_robodiff.processor_hybrid_diffusion import make_hybrid_diffusion_pre_post_processors
from robodiff.data.episodes import ACTION
from robodiff.documents import plain
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.hybrid import HybridDiffusionConfig as Options
from robodiff.policies.lerobot import RENAMED

ENVIRONMENT = "observation.environment_state"


def lerobot_config(policy: DiffusionPolicy) -> HybridDiffusionConfig:
    """Return the configuration of a policy by LeRobot's names.

    Raises:
        UsageError: a policy of another kind.
    """
    if not isinstance(policy.config, Options):
        raise UsageError(f"expected a policy of HybridDiffusionConfig; found {policy.config.registry_name}")
    values, here = plain(policy.config), {name: other for other, name in RENAMED.items()}
    known = {each.name for each in fields(HybridDiffusionConfig)}
    own = {here.get(name, name): value for name, value in values.items() if here.get(name, name) in known}
    features = {key: PolicyFeature(_type(key, feature.kind), feature.shape) for key, feature in policy.features.items()}
    described = {
        "input_features": {key: feature for key, feature in features.items() if key != ACTION},
        "output_features": {ACTION: features[ACTION]},
        "fps": policy.fps,
        "feature_names": {key: [*each.names] for key, each in policy.features.items() if each.names},
        "feature_units": {key: [*each.units] for key, each in policy.features.items() if any(each.units)},
        "device": "cpu",
        "push_to_hub": False,
    }
    implied = plain(HybridDiffusionConfig(**own, **described).robodiff_config)
    further = {name: value for name, value in values.items() if value != implied[name]}
    return HybridDiffusionConfig(**own, **described, options=further)


def export(policy: DiffusionPolicy, out: Path) -> None:
    """Write a policy to a new folder, from which LeRobot loads it with its processors.

    Raises:
        UsageError: a policy of another kind, or a folder that exists.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another folder")
    exported = HybridDiffusionPolicy(lerobot_config(policy))
    exported.policy.load_state_dict(policy.state_dict())
    exported.step.fill_(exported.config.n_vae_training_steps)  # both stages are behind it
    exported.save_pretrained(out)
    for processor in make_hybrid_diffusion_pre_post_processors(exported.config):
        processor.save_pretrained(out)


def main() -> None:
    """Read the command line, load, write."""
    parser = argparse.ArgumentParser(prog="python -m lerobot_policy_robodiff.export", description=__doc__)
    parser.add_argument("policy", help="folder of a policy or of a run of robodiff")
    parser.add_argument("out", type=Path, help="folder of the checkpoint, which is new")
    arguments = parser.parse_args()
    try:
        export(load_policy(arguments.policy), arguments.out)
    except RobodiffError as error:
        sys.exit(f"error: {error}")
    print(f"written: {arguments.out}")


def _type(key: str, kind: str) -> FeatureType:
    if kind == "image":
        return FeatureType.VISUAL
    return FeatureType.ACTION if key == ACTION else FeatureType.ENV if key == ENVIRONMENT else FeatureType.STATE


if __name__ == "__main__":
    main()
