"""What tests do in LeRobot's environment: acting CHECKPOINT POLICY IN.npz OUT.npz, or schedule OUT.json; with its own
policies own CHECKPOINT IN.npz OUT.npz, or make KIND OUT.
"""

import json
import sys
from unittest.mock import patch

import numpy as np
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins

from robodiff.policies.checkpoint import load_policy
from robodiff.policies.hybrid import HybridDiffusionConfig


def acting(checkpoint: str, ours: str, given: str, out: str) -> None:
    """Write the chunk that follows from a window of observations and noise, then its actions one by one.

    With the same torch it is, to the bit, the chunk of robodiff's own policy.
    """
    policy = get_policy_class("hybrid_diffusion").from_pretrained(checkpoint, strict=True)
    values = {key: torch.from_numpy(value) for key, value in np.load(given).items()}
    noise = values.pop("noise")
    chunk = policy.predict_action_chunk(values, noise=noise)
    own, pictures = load_policy(ours), {key: (value * 255).round().byte() for key, value in values.items()}
    observed = {key: pictures[key] if own.features[key].kind == "image" else value for key, value in values.items()}
    assert own.predict_chunk(observed, noise=noise).executed(own.timing).equal(chunk)
    before, after = make_pre_post_processors(policy.config, checkpoint)
    policy.reset()
    steps = []
    for number in range(policy.config.n_obs_steps - 1 + policy.config.n_action_steps):
        place = min(number, policy.config.n_obs_steps - 1)  # what is observed later is not read
        observed = before({key: value[0, place] for key, value in values.items()})
        if number == policy.config.n_obs_steps - 1:
            policy._queues["action"].clear()  # plan anew once the history is that of the window
        steps.append(after(policy.select_action(observed, noise=noise[:, :1])))
    np.savez(out, chunk=chunk.numpy(), steps=torch.cat(steps[-policy.config.n_action_steps :]).numpy())


def schedule(out: str) -> None:
    """Write the learning rates of runs of 40 steps, 10 of them of the first stage."""
    config = make_policy_config("hybrid_diffusion", device="cpu", n_vae_training_steps=10, scheduler_warmup_steps=3)
    assert config.robodiff_config == HybridDiffusionConfig(n_vae_training_steps=10, scheduler_warmup_steps=3)
    preset, weights = config.get_scheduler_preset(), [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [weights[0]], "name": "diffusion"}, {"params": [weights[1]], "name": "vae", "lr": 0.5}]
    made = {"named": groups, "unnamed": [{"params": [weights[2]]}]}
    rates = {}
    for name, each in made.items():
        optimizer = torch.optim.Adam(each, lr=0.25)
        preset.lr = None
        lambdas = preset.build(optimizer, 40)
        rates[name] = []
        for _ in range(41):
            rates[name].append(lambdas.get_last_lr())
            optimizer.step()
            lambdas.step()
    with open(out, "w") as file:
        json.dump(rates, file)


def own(checkpoint: str, given: str, out: str) -> None:
    """Write the chunk that LeRobot's own policy makes of a window and noise (rows, B, T, D), in recorded units."""
    policy = get_policy_class("diffusion").from_pretrained(checkpoint, strict=True)
    before, after = make_pre_post_processors(policy.config, checkpoint)
    values = {key: torch.from_numpy(value) for key, value in np.load(given).items()}
    first, *fresh = values.pop("noise")
    rows = iter(fresh)
    with patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(rows)):
        chunk = policy.predict_action_chunk(before(values), noise=first)
    np.savez(out, chunk=after(chunk).numpy())


def make(kind: str, out: str) -> None:
    """Write a policy with random weights and statistics."""
    torch.manual_seed(0)
    numbers, camera = ("observation.state", "observation.environment_state", "action"), "observation.images.top"
    types = dict(zip(numbers, (FeatureType.STATE, FeatureType.ENV, FeatureType.ACTION), strict=True))
    features = {key: PolicyFeature(type_, (4,)) for key, type_ in types.items()}
    options = {"down_dims": (8, 16), "horizon": 8, "n_action_steps": 4, "num_train_timesteps": 10}
    if kind == "cameras":
        features |= {key: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for key in (camera, "observation.images.a")}
        options |= {"resize_shape": (40, 40), "crop_ratio": 0.9, "spatial_softmax_num_keypoints": 4}
        modes = {"STATE": "QUANTILES", "ACTION": "MIN_MAX", "VISUAL": "MEAN_STD"}
    else:
        options |= {"noise_scheduler_type": "DDIM", "num_inference_steps": 3, "prediction_type": "sample"}
        modes = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "ENV": "QUANTILE10"}
        options["clip_sample"] = False
    outputs = {"action": features.pop("action")}
    config = make_policy_config("diffusion", input_features=features, output_features=outputs, device="cpu",
                                pretrained_backbone_weights=None, push_to_hub=False, **options,
                                normalization_mapping={k: NormalizationMode(v) for k, v in modes.items()})  # fmt: skip
    policy = get_policy_class("diffusion")(config)
    policy.save_pretrained(out)
    shapes = {key: (3, 1, 1) if "image" in key else (4,) for key in (*features, "action")}
    names = ("min", "q01", "q10", "mean", "std", "q90", "q99", "max")
    stats = {key: {name: (n + 1) * 0.1 + 0.05 * torch.rand(shape) for n, name in enumerate(names)}
             for key, shape in shapes.items()}  # fmt: skip
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(out)


if __name__ == "__main__":
    register_third_party_plugins()
    {"acting": acting, "schedule": schedule, "own": own, "make": make}[sys.argv[1]](*sys.argv[2:])
