"""The diffusion policy: its loss, its chunks, what it refuses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from robodiff.data.episodes import Feature
from robodiff.errors import UsageError
from robodiff.policies.config import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]
FLOW = {
    "noise_scheduler_type": "Flow",
    "beta_schedule": "flow",
    "prediction_type": "velocity",
    "num_inference_steps": 4,
}


def batch_of(rows: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(shape, generator=random) * 512  # noqa: E731
    return {
        "observation.state": draw(rows, 2, 2),
        "observation.environment_state": draw(rows, 2, 16),
        "action": draw(rows, 16, 2),
        "action_is_pad": torch.zeros(rows, 16, dtype=torch.bool),
    }


def test_loss_is_the_error_of_the_noise_that_was_added(small_policy: Make) -> None:
    policy = small_policy()
    batch, noise, timesteps = batch_of(4), torch.randn(4, 16, 2), torch.tensor([0, 5, 11, 19])
    loss, spread = policy.loss(batch, noise=noise, timesteps=timesteps)
    actions = batch["action"] / 256 - 1  # limits 0..512
    alpha_squared = torch.cumprod(1 - _betas(20), 0)[timesteps][:, None, None].float()
    noisy = alpha_squared.sqrt() * actions + (1 - alpha_squared).sqrt() * noise
    error = (policy.denoiser(noisy, timesteps, policy.condition(batch)) - noise).square().mean((1, 2))
    torch.testing.assert_close(loss, error.mean())
    torch.testing.assert_close(spread["loss_max"], error.max())
    torch.testing.assert_close(spread["loss_min"], error.min())
    torch.testing.assert_close(spread["loss_std"], error.std(correction=0))


def _betas(n: int) -> Tensor:
    t = torch.arange(n + 1, dtype=torch.float64) / n
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def test_padded_steps_leave_the_loss_when_asked(small_policy: Make) -> None:
    batch, noise, timesteps = batch_of(2), torch.randn(2, 16, 2), torch.tensor([3, 9])
    batch["action_is_pad"][:, 10:] = True
    masked, plain = small_policy(do_mask_loss_for_padding=True), small_policy()
    a, _ = masked.loss(batch, noise=noise, timesteps=timesteps)
    b, _ = plain.loss(batch, noise=noise, timesteps=timesteps)
    errors = (
        plain.denoiser(
            plain.schedule.add_noise(batch["action"] / 256 - 1, noise, timesteps), timesteps, plain.condition(batch)
        )
        - noise
    ).square()
    torch.testing.assert_close(a, errors[:, :10].mean())
    torch.testing.assert_close(b, errors.mean())


@pytest.mark.parametrize(
    "changes",
    [{}, FLOW, {"noise_scheduler_type": "DPMSolver++", "prediction_type": "v_prediction", "num_inference_steps": 10}],
)
def test_overfits_a_few_windows_and_samples_them(small_policy: Make, changes: dict) -> None:
    torch.manual_seed(0)
    policy = small_policy(down_dims=(32, 64), diffusion_step_embed_dim=16, **changes).train()
    batch = batch_of(4)
    smooth = torch.linspace(0, 1, 16)[None, :, None]
    batch["action"] = batch["action"][:, :1] * (1 - smooth) + batch["action"][:, 1:2] * smooth
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    many = {key: value.repeat(16, *[1] * (value.ndim - 1)) for key, value in batch.items()}
    losses = []
    for _ in range(250):
        loss, _ = policy.loss(many)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.1 * losses[0]
    chunk = policy.eval().predict_chunk(batch)
    assert chunk.first_step == 0
    assert (chunk.actions - batch["action"]).abs().mean() < 25  # of 512 px


def test_a_chunk_is_decided_by_its_noise_and_its_row_alone(small_policy: Make) -> None:
    policy, batch = small_policy(**FLOW), batch_of(3)
    noise = torch.randn(policy.noise_shape(3))
    whole = policy.predict_chunk(batch, noise=noise).actions
    one = policy.predict_chunk({k: v[1:2] for k, v in batch.items()}, noise=noise[:, 1:2]).actions
    torch.testing.assert_close(whole[1:2], one, rtol=1e-4, atol=1e-2)
    assert policy.predict_chunk(batch, noise=noise).actions.equal(whole)
    assert whole.shape == (3, 16, 2)
    assert whole.min() >= -1e-3  # clipped to the range of the recording
    assert whole.max() <= 512 + 1e-3


def test_known_actions_come_out_as_they_are(small_policy: Make) -> None:
    policy, batch = small_policy(), batch_of(2)
    mask = torch.zeros(2, 16, 2, dtype=torch.bool)
    mask[:, :5] = True
    out = policy.predict_chunk(batch, known=(batch["action"], mask)).actions
    torch.testing.assert_close(out[:, :5], batch["action"][:, :5], rtol=1e-4, atol=1e-2)


def test_the_sampler_can_be_changed(small_policy: Make) -> None:
    import dataclasses

    policy = small_policy()
    policy.set_sampler(dataclasses.replace(policy.config, noise_scheduler_type="DDIM", num_inference_steps=3))
    assert policy.noise_shape(5) == (1, 5, 16, 2)
    assert policy.predict_chunk(batch_of(5)).actions.shape == (5, 16, 2)


def test_features_that_do_not_fit_are_refused() -> None:
    vector, image = Feature("vector", (2,), "float32"), Feature("image", (3, 96, 96), "uint8")
    features = {"observation.state": vector, "observation.image": image, "action": vector}
    with pytest.raises(UsageError, match=r"needs 'observation\.depth'; there is observation\.state"):
        DiffusionPolicy(DiffusionConfig(observation_keys=["observation.depth"]), features, 10.0)
    with pytest.raises(UsageError, match=r"observation.image holds images.*\['observation.state'\]"):
        DiffusionPolicy(DiffusionConfig(), features, 10.0)
    with pytest.raises(UsageError, match="must observe something"):
        DiffusionPolicy(DiffusionConfig(), {"action": vector}, 10.0)
