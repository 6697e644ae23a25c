"""The diffusion policy: a denoiser that knows what was observed makes a chunk of actions out of noise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.normalize import Normalizer
from robodiff.diffusion.denoise import SamplerTable, denoise, make_table
from robodiff.diffusion.objective import diffusion_loss, target
from robodiff.diffusion.schedule import make_schedule
from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.vision import CameraView
from robodiff.policies.actions import ActionRepresentation
from robodiff.policies.base import PolicyConfig
from robodiff.policies.features import make_cameras, observed, policy_features


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

    What is denoised is the trajectory (B, n, W): n of the window's steps, and of each the action as it is represented
    and normalised, with ``conditioning: inpaint`` followed by what describes its observation (D numbers).

    Args:
        config: what the policy is made of.
        features: what was recorded; the policy keeps what it observes and ``action``.
        fps: frames per second of the recording.

    Raises:
        UsageError: the features lack a key, or hold one that this policy cannot observe; no rate.
    """

    _seen_steps: Tensor
    _described: Tensor

    def __init__(self, config: PolicyConfig, features: Mapping[str, Feature], fps: float) -> None:
        super().__init__()
        if not 0 < fps < math.inf:
            raise UsageError(f"fps must be above 0; found {fps}")
        self.config = config
        self.fps = fps
        self.features = policy_features(config, features)
        dims = {key: feature.shape[0] for key, feature in self.features.items() if feature.kind == "vector"}
        self.representation = ActionRepresentation(
            dims.pop(ACTION), config.action_rotations, config.action_relative_to, observations=dims
        )
        dims[ACTION] = self.representation.encoded_dim
        self.normalizer = Normalizer(dims, {key: config.normalization.get(key, "limits") for key in dims})
        self.cameras = make_cameras(config, self.features)
        widths = {**dims, **self.cameras.dims}
        self.action_dim, described = dims[ACTION], sum(widths[key] for key in self.observation_keys)
        self.inpaints = config.conditioning == "inpaint"
        self.trajectory_dim = self.action_dim + (described if self.inpaints else 0)
        self.denoiser = config.make_denoiser(self.trajectory_dim, 0 if self.inpaints else described)
        steps, places = (torch.arange(n, device="cpu") for n in (config.denoised_steps, self.trajectory_dim))
        self.register_buffer("_seen_steps", steps[:, None] < config.n_obs_steps, persistent=False)  # (n, 1)
        self.register_buffer("_described", places >= self.action_dim, persistent=False)  # (W,)
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
            batch: observations (B, To, ...), with inpainting (B, T, ...); ``action`` (B, T, Da), ``action_is_pad``
                (B, T).
            noise: (B, n, W); standard normal when None.
            timesteps: (B,); drawn uniformly when None.

        Returns:
            The mean squared error of the prediction, over all that was not known beforehand, and its spread over the
            samples of the batch.
        """
        steps = self.config.denoised
        trajectory = self._encode(batch[ACTION][:, steps], batch)  # (B, n, W without observations)
        condition = self.describe(batch, self.config.window.obs_steps_in_batch)  # (B, To or T, D)
        if self.inpaints:
            # What is seen trains its encoder. What comes later is there to be predicted: with a gradient, an encoder
            # that says nothing would be the best.
            trajectory = torch.cat([trajectory, torch.where(self._seen_steps, condition, condition.detach())], -1)
            condition = None
        if noise is None:
            noise = torch.randn_like(trajectory)
        if timesteps is None:
            timesteps = self.schedule.timesteps_from_uniform(torch.rand(len(trajectory), device=trajectory.device))
        noisy = self.schedule.add_noise(trajectory, noise, timesteps)
        if self.inpaints:
            noisy = torch.where(self._seen, trajectory, noisy)
        prediction = self.denoiser(noisy, timesteps, condition)
        coefficients = self.schedule.coefficients(timesteps, trajectory.dtype)  # (B,) each
        wanted = target(self.config.prediction_type, trajectory, noise, *coefficients)
        loss, per_sample = diffusion_loss(prediction, wanted, self._counts(batch["action_is_pad"][:, steps]))
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
            observation: per key (B, To, ...), oldest first, in the units of the recording; later steps are not read.
            noise: (1 + sampler steps, B, n, W) standard normal, of which a deterministic sampler needs the first
                alone; drawn when None.
            known: (values, mask), each (B, n, Da): where the mask is true the actions are given, in recorded units.
            on_row: called with (sampler rows done, the actions so far (B, n, Da) in recorded units), the noise first.

        Returns:
            The n steps that are denoised: the window, or the executed ones with ``pred_action_steps_only``.
        """
        described = self.describe(observation, self.config.n_obs_steps)  # (B, To, D)
        if noise is None:
            noise = torch.randn(self.noise_shape(len(described)), device=described.device)
        if known is not None:
            known = self._encode(known[0], observation), self.representation.encode_mask(known[1])
        clip = self.config.clip_sample_range if self.config.clip_sample else None
        condition = described
        if self.inpaints:
            known, condition = self._inpainting(described, known), None
            if clip is not None:  # what encoders say has no bound
                clip = torch.where(self._described, math.inf, clip)
        watch = None if on_row is None else lambda row, x: on_row(row, self._decode(x, observation))
        trajectory = denoise(self.sampler, lambda x, t: self.denoiser(x, t, condition), noise, clip, known, watch)
        return Chunk(self._decode(trajectory, observation), self.config.first_step)

    def describe(self, observation: Mapping[str, Tensor], steps: int) -> Tensor:
        """What the denoiser is told of the first ``steps`` observations: (B, steps, D).

        Of each step what ``observation_keys`` name, in their order: the normalised numbers of a vector, the encoder's
        features of a camera.
        """
        taken = observed(observation, self.features, self.observation_keys, steps, self.device)
        features = self.cameras({key: taken[key] for key in self.cameras.dims})
        parts = [
            features[key] if key in features else self.normalizer.normalize(key, taken[key])
            for key in self.observation_keys
        ]
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def views(self, observation: Mapping[str, Tensor]) -> dict[str, CameraView]:
        """What the network sees of each camera, and where its keypoints are.

        Args:
            observation: per camera (B, To, C, H, W) uint8; other keys are left alone.
        """
        steps = self.config.n_obs_steps
        return self.cameras.views(observed(observation, self.features, list(self.cameras.dims), steps, self.device))

    def noise_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """The shape of the noise that one chunk is made of: (1 + sampler steps if it adds noise, B, n, W)."""
        return self.sampler.noise_rows, batch_size, self.config.denoised_steps, self.trajectory_dim

    def set_sampler(self, config: PolicyConfig) -> None:
        """Sample as ``config`` says from now on; the weights stay as they are."""
        self.config = config
        self.sampler = self._table()

    @property
    def _seen(self) -> Tensor:
        """What of a trajectory the observation says, (n, W)."""
        return self._seen_steps & self._described

    def _counts(self, is_pad: Tensor) -> Tensor | None:
        """What counts in the loss, (B, n) or (B, n, W), True where it does; None where everything does."""
        valid = ~is_pad if self.config.do_mask_loss_for_padding else None  # (B, n)
        if not self.inpaints:
            return valid
        unknown = (~self._seen).expand(len(is_pad), -1, -1)  # (B, n, W)
        return unknown if valid is None else unknown & valid.unsqueeze(-1)

    def _inpainting(self, described: Tensor, actions: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """What is known of a trajectory, values and mask (B, n, W): the observation, and actions that are given."""
        size, steps, _ = described.shape
        n = self.config.denoised_steps
        values = described.new_zeros(size, n, self.trajectory_dim)
        values[:, :steps, self.action_dim :] = described
        mask = self._seen.expand(size, -1, -1)
        if actions is not None:
            values[..., : self.action_dim] = actions[0]
            mask = torch.cat([actions[1].expand(size, -1, self.action_dim), mask[..., self.action_dim :]], dim=-1)
        return values, mask

    def _reference(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What relative actions are relative to: the newest observation, per key (B, D)."""
        newest, keys = self.config.n_obs_steps - 1, self.representation.reference_keys
        return {key: observation[key][:, newest].to(self.device, torch.float32) for key in keys}

    def _encode(self, actions: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Recorded actions (B, n, Da) as they are learnt."""
        return self.normalizer.normalize(ACTION, self.representation.encode(actions, self._reference(observation)))

    def _decode(self, trajectory: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """The actions of a trajectory (B, n, W), in recorded units (B, n, Da)."""
        encoded = self.normalizer.unnormalize(ACTION, trajectory[..., : self.action_dim])
        return self.representation.decode(encoded, self._reference(observation))

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
