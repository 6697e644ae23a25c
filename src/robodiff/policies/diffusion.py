"""The diffusion policy: encoded observations condition a denoiser that makes a chunk of actions out of noise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.normalize import Normalizer
from robodiff.diffusion.objective import diffusion_loss, target
from robodiff.diffusion.samplers import SamplerTable, denoise, make_table
from robodiff.diffusion.schedule import expand_like, make_schedule
from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.images import Preparation
from robodiff.networks.unet import ConditionalUnet1d
from robodiff.networks.vision import CameraEncoders, CameraView
from robodiff.policies.config import DiffusionConfig


@dataclass(frozen=True)
class Chunk:
    """Actions that follow one another, in the units of the recording."""

    actions: Tensor
    """(B, n, Da)."""
    first_step: int
    """Which step of the window ``actions[:, 0]`` is; step n_obs_steps - 1 is now."""


class DiffusionPolicy(nn.Module):
    """A stateless map from the last observations to a chunk of actions; ``PolicyRunner`` adds time to it.

    It is made with random weights. One that is to be trained still needs its normalizer fitted and
    ``load_pretrained_backbones``; one that is loaded needs neither, for both are in its file.

    Args:
        config: what the policy is made of.
        features: what was recorded; the policy keeps what it observes and ``action``.
        fps: frames per second of the recording.

    Raises:
        UsageError: the features lack a key, or hold one that this policy cannot observe; no rate.
    """

    def __init__(self, config: DiffusionConfig, features: Mapping[str, Feature], fps: float) -> None:
        super().__init__()
        if not 0 < fps < math.inf:
            raise UsageError(f"fps must be above 0; found {fps}")
        self.config = config
        self.fps = fps
        self.features = policy_features(config, features)
        dims = {key: feature.shape[0] for key, feature in self.features.items() if feature.kind == "vector"}
        self.normalizer = Normalizer(dims, {key: config.normalization.get(key, "limits") for key in dims})
        self.cameras = self._make_cameras()
        widths = {**dims, **self.cameras.dims}
        self.denoiser = ConditionalUnet1d(
            dims[ACTION],
            config.n_obs_steps * sum(widths[key] for key in self.observation_keys),
            config.down_dims,
            config.kernel_size,
            config.n_groups,
            config.diffusion_step_embed_dim,
            config.use_film_scale_modulation,
        )
        self.schedule = make_schedule(
            config.beta_schedule, config.num_train_timesteps, config.beta_start, config.beta_end
        )
        self.sampler = self._table()

    @property
    def observation_keys(self) -> list[str]:
        """What the policy observes."""
        return [key for key in self.features if key != ACTION]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def load_pretrained_backbones(self) -> None:
        """Give the image encoders the weights that ``pretrained_backbone_weights`` names, downloaded if need be.

        Raises:
            UsageError: no such weights, or weights of another network.
            RobodiffError: they can be neither read nor downloaded.
        """
        try:
            self.cameras.load_pretrained()
        except ValueError as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise RobodiffError(str(error)) from None

    def loss(
        self, batch: Mapping[str, Tensor], *, noise: Tensor | None = None, timesteps: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training objective on one batch of windows.

        Args:
            batch: observations (B, To, ...), ``action`` (B, T, Da), ``action_is_pad`` (B, T).
            noise: (B, T, Da); standard normal when None.
            timesteps: (B,); drawn uniformly when None.

        Returns:
            The mean squared error of the prediction, and its spread over the samples of the batch.
        """
        actions = self.normalizer.normalize(ACTION, batch[ACTION])
        if noise is None:
            noise = torch.randn_like(actions)
        if timesteps is None:
            timesteps = self.schedule.timesteps_from_uniform(torch.rand(len(actions), device=actions.device))
        alpha, sigma = self.schedule.coefficients(timesteps, actions.dtype)  # (B,) each
        noisy = expand_like(alpha, actions) * actions + expand_like(sigma, noise) * noise
        prediction = self.denoiser(noisy, timesteps, self.condition(batch))
        wanted = target(self.config.prediction_type, actions, noise, alpha, sigma)
        valid = ~batch["action_is_pad"] if self.config.do_mask_loss_for_padding else None
        loss, per_sample = diffusion_loss(prediction, wanted, valid)
        per_sample = per_sample.detach()
        spread = {"loss_std": per_sample.std(correction=0), "loss_min": per_sample.min(), "loss_max": per_sample.max()}
        return loss, spread

    @torch.no_grad()
    def predict_chunk(
        self,
        observation: Mapping[str, Tensor],
        *,
        noise: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        on_row: Callable[[int, Tensor], None] | None = None,
    ) -> Chunk:
        """Sample the actions of one window.

        Args:
            observation: per key (B, To, ...), oldest first, in the units of the recording.
            noise: (1 + sampler steps, B, T, Da) standard normal, of which a deterministic sampler needs the first
                alone; drawn when None.
            known: (values, mask), each (B, T, Da): where the mask is true the actions are given, in recorded units.
            on_row: called with (sampler rows done, the window so far (B, T, Da) in recorded units), the noise first.

        Returns:
            The whole window, (B, T, Da).
        """
        condition = self.condition(observation)
        if noise is None:
            noise = torch.randn(self.noise_shape(len(condition)), device=condition.device)
        if known is not None:
            known = self.normalizer.normalize(ACTION, known[0]), known[1]
        clip = self.config.clip_sample_range if self.config.clip_sample else None
        watch = None if on_row is None else lambda row, x: on_row(row, self.normalizer.unnormalize(ACTION, x))
        actions = denoise(self.sampler, lambda x, t: self.denoiser(x, t, condition), noise, clip, known, watch)
        return Chunk(self.normalizer.unnormalize(ACTION, actions), first_step=0)

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What the denoiser is told of the observation: (B, To * D).

        Of each step, oldest first, what ``observation_keys`` name, in their order: the normalised numbers of a vector,
        the encoder's features of a camera.
        """
        observed = self._observed(observation, self.observation_keys)
        features = self.cameras({key: observed[key] for key in self.cameras.dims})
        parts = [
            features[key] if key in features else self.normalizer.normalize(key, observed[key])
            for key in self.observation_keys
        ]
        return torch.cat(parts, dim=-1).flatten(start_dim=1)  # (B, To, D) to (B, To * D)

    @torch.no_grad()
    def views(self, observation: Mapping[str, Tensor]) -> dict[str, CameraView]:
        """What the network sees of each camera, and where its keypoints are.

        Args:
            observation: per camera (B, To, C, H, W) uint8; other keys are left alone.
        """
        return self.cameras.views(self._observed(observation, list(self.cameras.dims)))

    def noise_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """The shape of the noise that one chunk is made of: (1 + sampler steps if it adds noise, B, T, Da)."""
        return self.sampler.noise_rows, batch_size, self.config.horizon, self.features[ACTION].shape[0]

    def set_sampler(self, config: DiffusionConfig) -> None:
        """Sample as ``config`` says from now on; the weights stay as they are."""
        self.config = config
        self.sampler = self._table()

    def _observed(self, observation: Mapping[str, Tensor], keys: list[str]) -> dict[str, Tensor]:
        """The observations ``keys`` on the policy's device, each (B, To, ...): vectors float32, images uint8."""
        observed = {}
        for key in keys:
            if key not in observation:
                raise UsageError(f"the policy observes {key!r}; the observation has {', '.join(observation)}")
            value, feature = observation[key], self.features[key]
            if feature.kind == "vector":
                observed[key] = value.to(self.device, torch.float32)
                continue
            if value.dtype != torch.uint8 or value.shape[2:] != feature.shape:
                raise RobodiffError(f"{key}: expected torch.uint8 images (B, To, {str(feature.shape)[1:]}, "
                                    f"found {value.dtype} {tuple(value.shape)}")  # fmt: skip
            observed[key] = value.to(self.device)
        return observed

    def _make_cameras(self) -> CameraEncoders:
        c = self.config
        try:
            return CameraEncoders(
                {key: feature.shape for key, feature in self.features.items() if feature.kind == "image"},
                Preparation(c.resize_shape, c.crop_shape, c.crop_is_random, c.color_jitter),
                c.vision_backbone,
                c.spatial_softmax_num_keypoints,
                c.use_group_norm,
                c.pretrained_backbone_weights,
                c.freeze_backbone,
                c.use_separate_rgb_encoder_per_camera,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _table(self) -> SamplerTable:
        c = self.config
        return make_table(
            c.noise_scheduler_type,
            self.schedule,
            c.prediction_type,
            c.inference_steps,
            spacing=c.timestep_spacing,
            eta=c.ddim_eta,
            variance=c.variance_type,
        )


def policy_features(config: DiffusionConfig, features: Mapping[str, Feature]) -> dict[str, Feature]:
    """What a policy observes, in the order in which it is told, and ``action``.

    Raises:
        UsageError: a key that is not among the features, or a normalisation of images.
    """
    keys = config.observation_keys
    if keys is None:
        keys = [key for key in features if key.startswith("observation.")]
    if not keys:
        raise UsageError("a policy must observe something; observation_keys names nothing, or nothing was recorded")
    for key in [*keys, ACTION]:
        if key not in features:
            raise UsageError(f"the policy needs {key!r}; there is {', '.join(features)}")
        if features[key].kind == "image" and key in config.normalization:
            raise UsageError(f"normalization is for vectors, and {key} holds images; with pretrained weights they are "
                             "normalised by ImageNet's statistics, else to [-1, 1]")  # fmt: skip
    return {key: features[key] for key in [*keys, ACTION]}
