"""What the original diffusion_policy and LeRobot do with the same weights and noise, where an option says it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tests.policies.test_diffusion import batch_of, seeing_batch
from torch import Tensor

from robodiff.policies.config import DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]
PARITY = pytest.mark.kind("weights of another code base that act otherwise here")


def original_inpainting(policy: DiffusionPolicy, noise: Tensor, seen: Tensor, clips: slice) -> Tensor:
    """``conditional_sample`` of the original: the observation (B, To, D) written over the noise; x0 clipped."""
    config = policy.config
    scheduler = DDIMScheduler(
        config.num_train_timesteps, beta_schedule="squaredcos_cap_v2", prediction_type=config.prediction_type
    )
    scheduler.set_timesteps(config.inference_steps)
    x = noise[0].clone()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x[:, : seen.shape[1], 2:] = seen
            prediction = policy.denoiser(x, t.expand(len(x)), None)
            alpha = scheduler.alphas_cumprod[t].sqrt()
            sigma = (1 - alpha**2).sqrt()
            if config.prediction_type == "epsilon":
                x0, epsilon = (x - sigma * prediction) / alpha, prediction
            else:
                x0, epsilon = prediction, (x - alpha * prediction) / sigma
            x0[..., clips] = x0[..., clips].clamp(-1, 1)
            before = t - config.num_train_timesteps // config.inference_steps
            alpha = scheduler.alphas_cumprod[before].sqrt() if before >= 0 else torch.tensor(1.0)
            x = alpha * x0 + (1 - alpha**2).sqrt() * epsilon
    return x[..., :2]


@PARITY
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize(
    ("modes", "clips"),
    [
        ({}, slice(0, 20)),
        ({"observation.environment_state": "mean_std"}, slice(0, 4)),
        ({"observation.environment_state": {"0:6": "limits", "6:16": "identity"}}, slice(0, 10)),
    ],
)
def test_inpainted_vectors_are_clipped_as_actions_are(
    small_policy: Make, prediction_type: str, modes: Any, clips: slice
) -> None:
    options = {"noise_scheduler_type": "DDIM", "prediction_type": prediction_type, "num_inference_steps": 5}
    policy = small_policy(conditioning="inpaint", normalization=modes, **options)
    policy.denoiser.final[1].weight.data *= 5  # type: ignore[index, operator]  # far from what is clean
    batch, noise = batch_of(3), torch.randn(policy.noise_shape(3), generator=torch.manual_seed(1))
    found = policy.predict_chunk(batch, noise=noise).actions / 256 - 1
    seen = policy.embed(batch, 2)
    torch.testing.assert_close(found, original_inpainting(policy, noise, seen, clips), rtol=1e-4, atol=1e-4)
    actions_alone = original_inpainting(policy, noise, seen, slice(0, 2))
    assert (found - actions_alone).abs().max() > 1e-2


@PARITY
def test_what_encoders_say_is_not_clipped(seeing_policy: Make) -> None:
    policy = seeing_policy(conditioning="inpaint", prediction_type="sample", num_inference_steps=5,
                           noise_scheduler_type="DDIM")  # fmt: skip
    policy.denoiser.final[1].weight.data *= 5  # type: ignore[index, operator]
    batch, noise = seeing_batch(2), torch.randn(policy.noise_shape(2), generator=torch.manual_seed(1))
    assert policy.observation_keys[1] == "observation.state"  # between two cameras of 8 numbers each
    found = policy.predict_chunk(batch, noise=noise).actions / 256 - 1
    clips: Any = [0, 1, 10, 11]
    expected = original_inpainting(policy, noise, policy.embed(batch, 2), clips)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@PARITY
@pytest.mark.parametrize("steps", [2, 3])
def test_the_originals_memory_mask_counts_from_the_windows_first_step(small_policy: Make, steps: int) -> None:
    options = {"n_obs_steps": steps, "pred_action_steps_only": True, "clip_sample": False}
    ours, theirs = (small_policy(DiffusionTransformerConfig, **options, mask_first_step=first) for first in (None, 0))
    t, s = torch.meshgrid(torch.arange(8), torch.arange(1 + steps), indexing="ij")
    assert theirs.denoiser.memory_mask.equal(t >= s - 1)  # as TransformerForDiffusion writes it
    assert ours.denoiser.memory_mask.all()
    batch = {key: value[:, :1].repeat(1, steps, 1) for key, value in batch_of(2).items() if "observation" in key}
    other = {key: value.clone() for key, value in batch.items()}
    other["observation.state"][:, -1] += 100
    for policy, sees in ((ours, True), (theirs, False)):
        noise = torch.randn(policy.noise_shape(2), generator=torch.manual_seed(0))
        a, b = (policy.predict_chunk(seen, noise=noise).actions for seen in (batch, other))
        assert ((a - b)[:, 0].abs() > 1e-3).any() == sees
