"""The diffusion policy: encoded observations condition a denoiser that makes a chunk of actions out of noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.normalize import Normalizer
from robodiff.diffusion.objective import diffusion_loss, target
from robodiff.diffusion.samplers import SamplerTable, denoise, make_table
from robodiff.diffusion.schedule import expand_like, make_schedule
from robodiff.errors import UsageError
from robodiff.networks.unet import ConditionalUnet1d
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
        dims = {key: feature.shape[0] for key, feature in self.features.items()}
        self.normalizer = Normalizer(dims, {key: config.normalization.get(key, "limits") for key in dims})
        observed = config.n_obs_steps * sum(dims[key] for key in self.observation_keys)
        self.denoiser = ConditionalUnet1d(
            dims[ACTION],
            observed,
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
    ) -> Chunk:
        """Sample the actions of one window.

        Args:
            observation: per key (B, To, ...), oldest first, in the units of the recording.
            noise: (1 + sampler steps, B, T, Da) standard normal, of which a deterministic sampler needs the first
                alone; drawn when None.
            known: (values, mask), each (B, T, Da): where the mask is true the actions are given, in recorded units.

        Returns:
            The whole window, (B, T, Da).
        """
        condition = self.condition(observation)
        if noise is None:
            noise = torch.randn(self.noise_shape(len(condition)), device=condition.device)
        if known is not None:
            known = self.normalizer.normalize(ACTION, known[0]), known[1]
        clip = self.config.clip_sample_range if self.config.clip_sample else None
        actions = denoise(self.sampler, lambda x, t: self.denoiser(x, t, condition), noise, clip, known)
        return Chunk(self.normalizer.unnormalize(ACTION, actions), first_step=0)

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What the denoiser is told of the observation: (B, To * sum of dimensions)."""
        parts = []
        for key in self.observation_keys:
            if key not in observation:
                raise UsageError(f"the policy observes {key!r}; the observation has {', '.join(observation)}")
            parts.append(self.normalizer.normalize(key, observation[key].to(self.device, torch.float32)))
        return torch.cat(parts, dim=-1).flatten(start_dim=1)  # (B, To, D) to (B, To * D)

    def noise_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """The shape of the noise that one chunk is made of: (1 + sampler steps if it adds noise, B, T, Da)."""
        return self.sampler.noise_rows, batch_size, self.config.horizon, self.features[ACTION].shape[0]

    def set_sampler(self, config: DiffusionConfig) -> None:
        """Sample as ``config`` says from now on; the weights stay as they are."""
        self.config = config
        self.sampler = self._table()

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
        UsageError: a key that is not among the features, or that this policy cannot observe.
    """
    keys = config.observation_keys
    if keys is None:
        keys = [key for key in features if key.startswith("observation.")]
    if not keys:
        raise UsageError("a policy must observe something; observation_keys names nothing, or nothing was recorded")
    for key in [*keys, ACTION]:
        if key not in features:
            raise UsageError(f"the policy needs {key!r}; there is {', '.join(features)}")
        if features[key].kind != "vector":
            vectors = [k for k, f in features.items() if k.startswith("observation.") and f.kind == "vector"]
            raise UsageError(f"{key} holds images, and this policy observes vectors; "
                             f"set model.observation_keys to some of {vectors}")  # fmt: skip
    return {key: features[key] for key in [*keys, ACTION]}
