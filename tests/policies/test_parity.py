"""What the original diffusion_policy and LeRobot do with the same weights and noise, where an option says it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tests.conftest import CAMERAS, STATE, TOP, WRIST
from tests.policies.test_diffusion import batch_of, seeing_batch
from torch import Tensor

from robodiff.data.episodes import Episodes
from robodiff.data.windows import Windows
from robodiff.errors import UsageError
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.denoisers import DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
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


def seen_by_backbone(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> Tensor:
    """What reaches the backbone of the first encoder: (cameras * B * To, 3, h, w)."""
    inputs: list[Tensor] = []
    encoder = next(iter(policy.cameras.encoders.values()))
    hook = encoder.backbone.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))  # type: ignore[union-attr, operator]
    policy.embed(batch, 2)
    hook.remove()
    return inputs[0]


@PARITY
@pytest.mark.parametrize("separate", [False, True])
def test_pixels_are_normalised_by_each_cameras_statistics_of_the_training_episodes(
    seeing_policy: Make, separate: bool, tmp_path: Path
) -> None:
    """LeRobot's MEAN_STD of images: per camera and channel, before an encoder that cameras may share."""
    options = {"use_separate_rgb_encoder_per_camera": separate, "normalization": {TOP: "dataset", WRIST: "dataset"}}
    policy, random = seeing_policy(**options), np.random.default_rng(0)
    arrays = {key: random.integers(0, 256, (40, *CAMERAS[key].shape)).astype(np.uint8) // (1 + 2 * (key == WRIST))
              for key in (TOP, WRIST)}  # fmt: skip
    arrays[TOP][:, 0] = 7  # a channel without contrast
    arrays[TOP][20:] = 255  # of an episode that is held out
    vectors = {key: random.uniform(0, 512, (40, 2)).astype(np.float32) for key in (STATE, "action")}
    episodes = Episodes("", {**arrays, **vectors}, np.array([20, 40]), 10.0, CAMERAS)
    policy.fit_normalizer(episodes, Windows(episodes.episode_ends, policy.config.window, np.array([0])))
    batch, expected = seeing_batch(2), []
    for key in (TOP, WRIST):
        pixels = arrays[key][:20].transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
        mean, std = (torch.from_numpy(each)[:, None, None] for each in (pixels.mean(1), pixels.std(1).clip(1)))
        expected.append((policy.cameras.preparation(batch[key], training=False) - mean) / std)
    kept = torch.cat(expected[:1] if separate else expected).flatten(0, 1).float()
    save_policy(policy, tmp_path)
    for each in (policy, load_policy(tmp_path)):
        torch.testing.assert_close(seen_by_backbone(each, batch), kept, rtol=1e-5, atol=1e-5)
    views = [each.views(batch)[WRIST].keypoints for each in (policy, load_policy(tmp_path))]
    assert views[0] is not None
    assert views[0].equal(views[1])


@PARITY
@pytest.mark.parametrize(("mode", "weights", "scale"), [
    ("imagenet", None, IMAGENET), (None, None, HALF), ("half", "resnet18.pth", HALF), (None, "resnet18.pth", IMAGENET),
])  # fmt: skip
def test_how_pixels_are_normalised_is_said_apart_from_the_weights(
    seeing_policy: Make, mode: str | None, weights: str | None, scale: tuple[list[float], list[float]]
) -> None:
    """LeRobot's older default is group normalisation, no weights and ImageNet's statistics."""
    policy = seeing_policy(
        pretrained_backbone_weights=weights, use_group_norm=weights is None, normalization={TOP: mode} if mode else {}
    )
    batch = seeing_batch(2)
    mean, std = (torch.tensor(each)[:, None, None] for each in scale)
    pixels = policy.cameras.preparation(batch[TOP], training=False).flatten(0, 1) / 255
    torch.testing.assert_close(seen_by_backbone(policy, batch)[:4], (pixels - mean) / std, rtol=1e-5, atol=1e-5)
    assert not any(name.endswith((".mean", ".std")) for name in policy.state_dict())


def test_normalisations_of_the_other_kind_are_refused(seeing_policy: Make) -> None:
    for mode in ("mean_std", "limits", {"0:1": "half", "1:3": "half"}):
        with pytest.raises(UsageError, match=r"top holds images; choose one of imagenet, half, dataset"):
            seeing_policy(normalization={TOP: mode})
    with pytest.raises(UsageError, match=r"observation\.state: 'dataset' is not one of limits, mean_std, identity"):
        seeing_policy(normalization={STATE: "dataset"})
