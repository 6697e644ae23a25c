"""The diffusion policy: its loss, its chunks, what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import CAMERAS, SMALL_MODEL, STATE, TOP, WRIST
from torch import Tensor
from torchvision.models import resnet18

from robodiff.data.episodes import Feature
from robodiff.data.normalize import Statistics
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]
FLOW = {
    "noise_scheduler_type": "Flow",
    "beta_schedule": "flow",
    "prediction_type": "velocity",
    "num_inference_steps": 4,
}


def watch_denoiser(policy: DiffusionPolicy) -> list[Tensor]:
    """Return a list that every trajectory is added to which the policy's denoiser is given while it acts."""
    given: list[Tensor] = []
    denoise = policy.denoiser.denoise

    def watched(x: Tensor, *parts: Tensor) -> Tensor:
        given.append(x)
        return denoise(x, *parts)

    policy.denoiser.denoise = watched  # type: ignore[assignment]
    return given


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
    error = (policy.denoiser(noisy, timesteps, policy.embed(batch, 2)) - noise).square().mean((1, 2))
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
            plain.schedule.add_noise(batch["action"] / 256 - 1, noise, timesteps), timesteps, plain.embed(batch, 2)
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
    many = {key: value.repeat(6, *[1] * (value.ndim - 1)) for key, value in batch.items()}
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
    vector = Feature("vector", (2,), "float32")
    features = {"observation.state": vector, "action": vector}
    with pytest.raises(UsageError, match=r"needs 'observation\.depth'; there is observation\.state"):
        DiffusionPolicy(DiffusionConfig(observation_keys=["observation.depth"]), features, 10.0)
    with pytest.raises(UsageError, match=r"must name observations, .* found \[\]"):
        DiffusionPolicy(DiffusionConfig(), {"action": vector}, 10.0)


def seeing_batch(rows: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    batch = {key: value for key, value in batch_of(rows, seed).items() if "environment" not in key}
    for camera in (TOP, WRIST):
        shape = (rows, 2, *CAMERAS[camera].shape)
        batch[camera] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    return batch


def test_what_is_observed_is_embedded_in_the_order_of_the_keys(seeing_policy: Make) -> None:
    policy, batch = seeing_policy(), seeing_batch(3)
    condition = policy.embed(batch, 2).detach()
    features = policy.cameras({key: batch[key] for key in (TOP, WRIST)})
    expected = torch.cat([features[TOP], batch[STATE] / 256 - 1, features[WRIST]], dim=-1)
    torch.testing.assert_close(condition, expected.detach())
    turned = seeing_policy(observation_keys=[STATE, WRIST, TOP])
    turned.cameras.load_state_dict(policy.cameras.state_dict())
    order = [8, 9, *range(10, 18), *range(8)]
    torch.testing.assert_close(turned.embed(batch, 2).detach(), condition[..., order])


def test_images_vary_in_training_and_not_in_evaluation(seeing_policy: Make) -> None:
    policy, batch = seeing_policy(color_jitter=0.3, use_group_norm=True), seeing_batch(2)
    assert policy.embed(batch, 2).equal(policy.embed(batch, 2))
    policy.train()
    torch.manual_seed(0)
    first = policy.embed(batch, 2)
    assert not first.allclose(policy.embed(batch, 2))
    torch.manual_seed(0)
    assert first.equal(policy.embed(batch, 2))


def test_chunks_from_pixels(seeing_policy: Make) -> None:
    for changes in ({}, {"use_separate_rgb_encoder_per_camera": True, "crop_shape": None}):
        policy, batch = seeing_policy(**changes, **FLOW), seeing_batch(3)
        noise = torch.randn(policy.noise_shape(3))
        actions = policy.predict_chunk(batch, noise=noise).actions
        assert actions.shape == (3, 16, 2)
        other = policy.predict_chunk({**batch, WRIST: 255 - batch[WRIST]}, noise=noise).actions
        assert not actions.allclose(other)


def test_overfits_a_few_windows_from_pixels() -> None:
    torch.manual_seed(0)
    steps = {"n_obs_steps": 1, "horizon": 8, "n_action_steps": 4}
    process = {"noise_scheduler_type": "DDIM", "prediction_type": "sample", "num_inference_steps": 2}
    config = DiffusionConfig(**{**SMALL_MODEL, **steps, **process, "down_dims": (32, 64), "crop_shape": (36, 36)})  # type: ignore[arg-type]
    features = {"observation.image": Feature("image", (3, 40, 40), "uint8"), "action": CAMERAS["action"]}
    policy = DiffusionPolicy(config, features, 10.0).train()
    policy.normalizer.fit({"action": Statistics(np.zeros(2), np.full(2, 40.0), np.full(2, 20.0), np.full(2, 10.0))})
    places = [(10, 10), (30, 10), (10, 30), (30, 30)]
    images = torch.zeros(4, 1, 3, 40, 40, dtype=torch.uint8)
    for image, (x, y) in zip(images, places, strict=True):
        image[..., y - 3 : y + 4, x - 3 : x + 4] = 255  # go to the white square
    actions = torch.tensor(places)[:, None].float().expand(4, 8, 2)
    batch = {"observation.image": images, "action": actions, "action_is_pad": torch.zeros(4, 8, dtype=torch.bool)}
    many = {key: torch.cat([value, value]) for key, value in batch.items()}
    optimizer = torch.optim.Adam(policy.parameters(), 3e-4, fused=True)
    for _ in range(30):
        loss, _ = policy.loss(many)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (policy.eval().predict_chunk(batch).actions - actions).abs().mean() < 3  # blind: 10


def test_what_the_network_sees_can_be_looked_at(seeing_policy: Make) -> None:
    batch = seeing_batch(2)
    views = seeing_policy().views(batch)
    assert [*views] == [TOP, WRIST]
    assert views[TOP].image.equal(batch[TOP][..., 6:42, 2:38])
    keypoints = views[WRIST].keypoints
    assert keypoints is not None
    assert keypoints.shape == (2, 2, 4, 2)
    assert not keypoints.requires_grad


def test_pretrained_weights_are_loaded_when_asked_and_never_by_loading_a_policy(
    seeing_policy: Make, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    file = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), file)
    options = {"pretrained_backbone_weights": str(file), "use_group_norm": False, "freeze_backbone": True}
    policy = seeing_policy(**options, use_separate_rgb_encoder_per_camera=True)
    policy.load_pretrained_backbones()
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert not any("backbone" in name for name in trained)
    for encoder in policy.cameras.encoders.values():
        assert encoder.backbone.conv1.weight.equal(torch.load(file)["conv1.weight"])  # type: ignore[union-attr]
    save_policy(policy, tmp_path / "policy")
    file.unlink()
    loaded, batch = load_policy(tmp_path / "policy"), seeing_batch(2)
    assert loaded.config == policy.config
    noise = torch.randn(policy.noise_shape(2))
    assert loaded.predict_chunk(batch, noise=noise).actions.equal(policy.predict_chunk(batch, noise=noise).actions)
    with pytest.raises(RobodiffError, match=r"resnet18\.pth: cannot be read"):
        policy.load_pretrained_backbones()
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match=r"resnet18\.pth: .* do not fit the backbone: conv1\.weight should be"):
        policy.load_pretrained_backbones()


def test_images_that_cannot_be_encoded_are_refused(seeing_policy: Make) -> None:
    with pytest.raises(UsageError, match=r"crop_shape 50x36 is larger than the image: .*top is 48x40"):
        seeing_policy(crop_shape=(50, 36))
    with pytest.raises(UsageError, match="images differ in size"):
        seeing_policy(crop_shape=None)
    with pytest.raises(UsageError, match="needs > 32 pixels"):
        seeing_policy(crop_shape=(32, 36))
    with pytest.raises(UsageError, match=r"normalization is for vectors, and observation\.images\.top holds images"):
        seeing_policy(normalization={TOP: "mean_std"})
    policy, batch = seeing_policy(), seeing_batch(2)
    for wrong, found in ((batch[TOP].float(), r"\(torch\.float32, 3, 48, 40\)"),
                         (batch[WRIST], r"\(torch\.uint8, 3, 40, 48\)")):  # fmt: skip
        with pytest.raises(RobodiffError, match=rf"top: .* must be \(torch\.uint8, 3, 48, 40\), found {found}"):
            policy.embed({**batch, TOP: wrong}, 2)
    with pytest.raises(UsageError, match=rf"observes '{WRIST}'; the observation has"):
        policy.embed({TOP: batch[TOP], STATE: batch[STATE]}, 2)


def test_policies_of_vectors_know_nothing_of_cameras(small_policy: Make) -> None:
    policy = small_policy()
    assert {name.split(".")[0] for name in policy.state_dict()} == {"normalizer", "denoiser"}
    assert policy.views(batch_of(1)) == {}
