"""The diffusion policy: a denoiser that knows what was observed makes a chunk of actions out of noise."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from robodiff.data.episodes import ACTION, Episodes, Feature
from robodiff.data.normalize import Normalizer, Statistics, pixel_statistics
from robodiff.data.windows import Windows
from robodiff.diffusion.denoise import denoise, make_table
from robodiff.diffusion.objective import clean, diffusion_loss, target
from robodiff.diffusion.schedule import make_schedule
from robodiff.errors import UsageError, notice
from robodiff.networks.layers import in_parts
from robodiff.networks.vision import CameraView
from robodiff.policies.actions import encoded_statistics, make_representation, training_steps
from robodiff.policies.canonical import Canonicalization
from robodiff.policies.config import PolicyConfig
from robodiff.policies.discrete import VaeCodec, check_classes, make_codec
from robodiff.policies.observations import check_observation, make_cameras, policy_features
from robodiff.policies.runtime import Chunk, Timing

CONVERGED = 0.995
"""Share of the discrete actions that a VAE should give back."""


class DiffusionPolicy(nn.Module):
    """A stateless map from the last observations to a chunk of actions; ``PolicyRunner`` adds time to it.

    It is made with random weights. One that is to be trained still needs ``fit_normalizer`` and
    ``load_pretrained_backbones``; one that is loaded needs neither, for both are in its file.

    What is denoised is the trajectory (B, n, W): n of the window's steps, and of each the action as it is represented
    and normalised, followed by the code of its discrete dimensions, and with ``conditioning: inpaint`` by the embedding
    of its observation (D numbers).

    Args:
        config: what the policy is made of.
        features: what was recorded; the policy keeps what it observes and ``action``.
        fps: frames per second of the recording.

    Raises:
        UsageError: the features lack a key, or hold one that this policy cannot observe.
    """

    policy_hash: str | None = None
    """Fingerprint of the bytes that it was loaded from."""
    _seen_steps: Tensor
    _is_embedding: Tensor
    _is_bounded: Tensor
    _weights: Tensor

    def __init__(self, config: PolicyConfig, features: Mapping[str, Feature], fps: float) -> None:
        super().__init__()
        self.config = config
        self.fps = fps
        self.features = policy_features(config, features)
        dims = {key: feature.shape[0] for key, feature in self.features.items() if feature.kind == "vector"}
        self.canonical = None if config.canonicalize is None else Canonicalization(self.features)
        self.representation = make_representation(config, self.features)
        self.codec = make_codec(config, [*self.representation.classes.values()])
        if self.codec and config.vae_weights is not None:
            self.codec.requires_grad_(False)
        dims[ACTION] = self.representation.encoded_dim
        self.normalizer = Normalizer(dims, {key: config.normalization.get(key, "limits") for key in dims})
        self.cameras = make_cameras(config, self.features)
        widths = {**dims, **self.cameras.dims}
        self.action_dim = dims[ACTION] + (self.codec.dim if self.codec else 0)
        self.embedding_dim = sum(widths[key] for key in self.observation_keys)
        self.inpaints = config.conditioning == "inpaint"
        self.trajectory_dim = self.action_dim + (self.embedding_dim if self.inpaints else 0)
        # Self-conditioned it is given two trajectories, and what it says of the second is not used.
        width = self.trajectory_dim * (2 if config.self_conditioning else 1)
        self.denoiser = config.make_denoiser(width, 0 if self.inpaints else self.embedding_dim)
        steps, places = (torch.arange(n, device="cpu") for n in (config.denoised_steps, self.trajectory_dim))
        self.register_buffer("_seen_steps", steps[:, None] < config.n_obs_steps, persistent=False)  # (n, 1)
        self.register_buffer("_is_embedding", places >= self.action_dim, persistent=False)  # (W,)
        limited = [place for key in self.observation_keys for place in self._limited(key, widths[key])]
        bounded = torch.tensor([True] * self.action_dim + (limited if self.inpaints else []), device="cpu")
        self.register_buffer("_is_bounded", bounded, persistent=False)  # (W,)
        self.register_buffer("_weights", self._loss_weights(dims[ACTION]), persistent=False)  # (W,)
        levels = config.num_train_timesteps
        self.schedule = make_schedule(config.beta_schedule, levels, config.beta_start, config.beta_end)
        self.set_sampler(config)

    @property
    def observation_keys(self) -> list[str]:
        """What the policy observes."""
        return [key for key in self.features if key != ACTION]

    def _limited(self, key: str, width: int) -> list[bool]:
        """Tell which of the numbers that embed a key are normalised by limits."""
        spans = self.normalizer.modes.get(key, [(0, width, "encoder")])
        return [mode == "limits" for start, stop, mode in spans for _ in range(start, stop)]

    def _loss_weights(self, continuous: int) -> Tensor:
        """Return what each number of a trajectory counts in the loss, 1 in the mean.

        A discrete value counts as one number, however many its code has: sixteen numbers of a latent that tells of two
        contacts would else outweigh the joints.
        """
        weights = torch.ones(self.trajectory_dim, device="cpu")
        if self.codec:
            weights[continuous : self.action_dim] = len(self.codec.classes) / self.codec.dim
        return weights / weights.mean()

    @property
    def _vectors(self) -> list[str]:
        return [key for key in self.normalizer.modes if key != ACTION]

    @property
    def timing(self) -> Timing:
        """When the policy observes and acts."""
        return self.config.timing(self.fps)

    @property
    def networks(self) -> list[nn.Module]:
        """What takes the time of training, for ``torch.compile``."""
        return [self.denoiser, *self.cameras.encoders.values()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def fit_normalizer(self, episodes: Episodes, windows: Windows) -> None:
        """Set the normalizer by the training episodes, whose windows these are.

        Raises:
            UsageError: ``clip_sample`` would cut actions off.
        """
        arrays, config = episodes.arrays, self.config
        check_classes(episodes, self.representation.classes)
        frames, views = windows.episode_frames, self._views(arrays)
        statistics = {
            key: reduce(Statistics.joined, (Statistics.of(each[key], frames) for each in views))
            for key in (ACTION, *self._vectors)
        }
        self.representation.fit(statistics[ACTION])
        encoded = (encoded_statistics(self.representation, each, windows, config.denoised) for each in views)
        self.normalizer.fit({**statistics, ACTION: reduce(Statistics.joined, encoded)})
        for camera in (key for key, mode in self.cameras.pixels.items() if mode == "dataset"):
            self.cameras.set_pixels(camera, *map(torch.from_numpy, pixel_statistics(arrays[camera], frames)))
        for key in config.normalization.keys() - self.features.keys():
            observes = ", ".join(self.observation_keys)
            notice(f"model.normalization of {key} has no effect: the policy observes {observes}")
        extent = self.normalizer.extent(ACTION)
        if config.clip_sample and (extent > config.clip_sample_range + 1e-3).any():
            farthest = f"dimension {int(extent.argmax())}, normalised, reaches {extent.max():.4g}"
            raise UsageError(f"clip_sample would cut the actions: {farthest}; use limits, or set clip_sample: false")

    def _views(self, arrays: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
        """Return what was recorded as it may be seen: also in the mirror, for where a window is turned a frame is."""
        return [arrays] if self.canonical is None else [arrays, self.canonical.mirrored(arrays)]

    def load_pretrained_backbones(self) -> None:
        """Give the image encoders the weights that ``pretrained_backbone_weights`` names, downloaded if need be.

        Raises:
            UsageError: no such weights, or weights of another network.
            RobodiffError: they can be neither read nor downloaded.
        """
        self.cameras.load_pretrained()

    def fit_latents(self, episodes: Episodes, windows: Windows) -> str:
        """Scale the latent of discrete actions by that of the training episodes; return in words what was learnt."""
        assert isinstance(self.codec, VaeCodec)
        steps = self.config.denoised if self.codec.spans_chunk else None
        frames = np.concatenate([frames for frames, _ in training_steps(windows, steps, 4096)])  # (N, n)
        views = [torch.from_numpy(each[ACTION]) for each in self._views(episodes.arrays)]  # (F, Da) each
        actions = torch.cat([self.representation.discrete(each)[frames] for each in views])  # (N or 2 N, n, D)
        accuracy = self.codec.fit(actions.to(self.device))
        reach = max(float(self.codec.low.abs().max()), float(self.codec.high.abs().max()))
        if accuracy < CONVERGED:
            remedy = "train it longer, model.n_vae_training_steps, or with another model.vae_lr"
            notice(f"the VAE has not converged, it gives back {accuracy:.2%} of the discrete actions: {remedy}")
        return f"the VAE gives back {accuracy:.2%} of the discrete actions, from latents within {reach:.2f}"

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the random numbers of the loss of ``size`` windows, on the CPU: keyword arguments of ``loss``."""
        noise = torch.randn(self.noise_shape(size)[1:], generator=generator)
        uniform = torch.rand(size, generator=generator)
        draws = {"noise": noise, "timesteps": self.schedule.timesteps_from_uniform(uniform)}
        if self.codec and (shape := self.codec.noise_shape(size)):
            draws["latent_noise"] = torch.randn(shape, generator=generator)
        if self.config.self_conditioning:
            draws["self_conditioned"] = torch.rand(size, generator=generator) < 0.5
        return draws

    def vae_loss(
        self, batch: Mapping[str, Tensor], *, latent_noise: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of the autoencoder of discrete actions on one batch of windows, and its parts.

        Args:
            batch: ``action`` (B, T, Da); with ``canonicalize`` observations, too; nothing else is read.
            latent_noise: (B, n, latent), or (B, latent) of chunks; standard normal when None.
        """
        assert isinstance(self.codec, VaeCodec)
        batch, _ = self.from_near_side(batch)
        return self.codec.loss(self.representation.discrete(batch[ACTION][:, self.config.denoised]), latent_noise)

    def loss(
        self,
        batch: Mapping[str, Tensor],
        *,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        latent_noise: Tensor | None = None,
        self_conditioned: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training objective on one batch of windows.

        Args:
            batch: observations (B, To, ...), with inpainting (B, T, ...); ``action`` (B, T, Da), ``action_is_pad``
                (B, T). With ``action_is_expert`` (B, T) only the steps count at which an expert acted.
            noise: (B, n, W); standard normal when None.
            timesteps: (B,); drawn uniformly when None.
            latent_noise: with ``vae_target: sample``, as ``vae_loss`` has it; none when None.
            self_conditioned: with ``self_conditioning``, (B,) which windows are told a first estimate; none when None.

        Returns:
            The mean squared error of the prediction, over all that was not known beforehand, and its spread over the
            samples of the batch.
        """
        steps, (batch, _) = self.config.denoised, self.from_near_side(batch)
        with torch.no_grad():  # no part of it is learnt here
            trajectory = self._encode(
                batch[ACTION][:, steps], self._reference(batch), latent_noise
            )  # (B, n, action_dim)
        condition = self.embed(batch, self.config.window.obs_steps_in_batch)  # (B, To or T, D)
        if self.inpaints:
            # What is seen trains its encoder. What comes later is there to be predicted: with a gradient, an encoder
            # that says nothing would be the best.
            embedding = torch.where(self._seen_steps, condition, condition.detach())
            trajectory, condition = torch.cat([trajectory, embedding], -1), None  # (B, n, W)
        if noise is None:
            noise = torch.randn_like(trajectory)
        if timesteps is None:
            timesteps = self.schedule.timesteps_from_uniform(torch.rand(len(trajectory), device=trajectory.device))
        noisy = self.schedule.add_noise(trajectory, noise, timesteps)
        if self.inpaints:
            noisy = torch.where(self._seen, trajectory, noisy)
        coefficients = self.schedule.coefficients(timesteps, trajectory.dtype)  # (B,) each
        estimate = None
        if self.config.self_conditioning:
            estimate = self._estimate(noisy, timesteps, condition, coefficients, self_conditioned)
        prediction = self.predict_target(noisy, timesteps, condition, estimate, self.denoiser)
        wanted = target(self.config.prediction_type, trajectory, noise, *coefficients)
        scale = self._weights.sqrt() if self.codec else 1.0
        counts = self._counts(batch)
        loss, per_sample = diffusion_loss(prediction * scale, wanted * scale, counts)
        per_sample = per_sample.detach()
        spread = {"loss_std": per_sample.std(correction=0), "loss_min": per_sample.min(), "loss_max": per_sample.max()}
        return loss, spread

    @torch.no_grad()
    def predict_chunk(
        self,
        observation: Mapping[str, Any],
        *,
        noise: Any = None,
        known: tuple[Any, Any] | None = None,
        on_row: Callable[[int, Any], None] | None = None,
    ) -> Chunk:
        """Sample the actions of one window: tensors from tensors, NumPy arrays from NumPy arrays.

        Args:
            observation: per key (B, To, ...), oldest first, in the units of the recording; later steps are not read.
            noise: (1 + sampler steps, B, n, W) standard normal, of which a deterministic sampler needs the first
                alone; drawn when None. Of a multiple of B so many chunks of each observation follow one another.
            known: (values, weights), each (B, n, Da), of as many chunks as the noise: where the weight is 1, or true,
                the actions are given, in recorded units; where it is 0 they are free, and their values not read; in
                between they are drawn towards these.
            on_row: called with (sampler rows done, the actions so far (B, n, Da) in recorded units), the noise first.

        Returns:
            The n steps that are denoised: the window, or the executed ones with ``pred_action_steps_only``.
        """
        is_numpy = any(isinstance(value, np.ndarray) for value in observation.values())
        if is_numpy:
            observation, noise, known = self._to_torch(observation, noise, known)
        observation, turned = self.from_near_side(observation)
        condition, reference = self.embed(observation, self.config.n_obs_steps), self._reference(observation)
        if noise is None:
            noise = torch.randn(self.noise_shape(len(condition)), device=condition.device)
        if (chunks := noise.shape[1] // len(condition)) > 1:
            condition = condition.repeat_interleave(chunks, 0)
            reference = {key: value.repeat_interleave(chunks, 0) for key, value in reference.items()}
        sides = None
        if self.canonical is not None:
            sides, turned = self.canonical.sides, turned.repeat_interleave(chunks)
            known = None if known is None else sides.known(known, turned)
        given, seen = known, None  # given in recorded units
        if known is not None:
            known = self.encode_known(*known, reference)
        if self.inpaints:
            seen, condition = self._inpainting(condition), None

        def recorded(x: Tensor) -> Any:  # (B, n, W) to (B, n, Da)
            actions = self.decode(x, reference)
            if given is not None and self.codec:  # of a code that says several values not all may be known
                places = [*self.representation.classes]
                values, weights = (array.expand_as(actions)[..., places] for array in given)
                actions[..., places] = torch.where(weights == 1, values.to(actions.dtype), actions[..., places])
            if sides is not None:
                actions = sides.turned(ACTION, actions, turned)
            return actions.float().cpu().numpy() if is_numpy else actions

        watch = None if on_row is None else lambda row, x: on_row(row, recorded(x))
        denoiser, told = self._denoiser_of(condition), self.config.self_conditioning
        trajectory = denoise(self.sampler, denoiser, noise, self.clip, known, seen, watch, told)
        return Chunk(recorded(trajectory), self.config.first_step, self.ranges if is_numpy else {})

    @property
    def ranges(self) -> dict[str, np.ndarray]:
        """The least and the largest numbers of training of each vector and of the action, as recorded, (2, D)."""
        representation, ranges = self.representation, {key: self.normalizer.range(key) for key in self.normalizer.modes}
        if not representation.is_identity:  # of the action the normalizer has what is encoded
            ranges[ACTION] = torch.stack([representation.low, representation.high])
        return {key: range_.cpu().numpy() for key, range_ in ranges.items()}

    def _to_torch(self, observation: Mapping[str, np.ndarray], noise: Any, known: Any) -> tuple[Any, Any, Any]:
        """Return the arguments of ``predict_chunk`` as tensors on the policy's device."""
        keys = [key for key in self.observation_keys if key in observation]
        observed = {key: torch.from_numpy(observation[key]).to(self.device) for key in keys}
        # Copied into torch's own memory: matrix products may round differently by how memory is aligned.
        noise = None if noise is None else torch.tensor(noise, device=self.device)
        known = None if known is None else tuple(torch.tensor(array, device=self.device) for array in known)
        return observed, noise, known

    def from_near_side(self, arrays: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Any]:
        """Return windows as the network sees them, and which were turned for that, (B,); None where none ever is.

        With ``canonicalize`` it sees every scene from one side: what reads a batch besides ``loss`` begins with this.
        """
        if self.canonical is None:
            return arrays, None
        vectors = self._first_steps(arrays, self._vectors, self.config.window.obs_steps_in_batch)
        return self.canonical.sides.seen({**arrays, **vectors}, self.config.n_obs_steps - 1)

    def embed(self, observation: Mapping[str, Tensor], steps: int) -> Tensor:
        """Return the embedding of the first ``steps`` observations: (B, steps, D).

        Of each step what ``observation_keys`` name, in their order: the normalised numbers of a vector, what the
        encoder says of a camera.
        """
        taken = self._first_steps(observation, self.observation_keys, steps)
        embeddings = self.cameras({key: taken[key] for key in self.cameras.dims})
        parts = [
            embeddings[key] if key in embeddings else self.normalizer.normalize(key, taken[key])
            for key in self.observation_keys
        ]
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def views(self, observation: Mapping[str, Tensor]) -> dict[str, CameraView]:
        """Return what the network sees of each camera, and where its keypoints are.

        Args:
            observation: per camera (B, To, C, H, W) uint8; other keys are left alone.
        """
        return self.cameras.views(self._first_steps(observation, list(self.cameras.dims), self.config.n_obs_steps))

    @torch.no_grad()
    def difference(self, actions: Tensor, others: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Return how far recorded actions (B, n, Da) are apart as they are learnt, (B, n, action_dim)."""
        reference = self._reference(observation)
        return (self._encode(actions, reference) - self._encode(others, reference)).abs()

    def noise_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Return the shape of the noise of chunks: (1 + sampler steps if it adds noise, B, n, W)."""
        return self.sampler.noise_rows, batch_size, self.config.denoised_steps, self.trajectory_dim

    def set_sampler(self, config: PolicyConfig) -> None:
        """Act as ``config`` says from now on; the weights stay as they are."""
        self.config = config
        options = {"spacing": config.timestep_spacing, "eta": config.ddim_eta, "variance": config.variance_type}
        process = config.noise_scheduler_type, self.schedule, config.prediction_type, config.inference_steps
        self.sampler = make_table(*process, **options)

    def _first_steps(self, observation: Mapping[str, Tensor], keys: Sequence[str], steps: int) -> dict[str, Tensor]:
        """Return the first time steps of some observations on the policy's device: vectors float32, images uint8 or
        as a frozen backbone encoded them."""
        features = {key: self.features[key] for key in keys}
        check_observation(observation, features, self.cameras.feature_shapes)
        dtypes = {"image": None, "vector": torch.float32}
        return {key: observation[key][:, :steps].to(self.device, dtypes[features[key].kind]) for key in keys}

    @property
    def _seen(self) -> Tensor:
        """What of a trajectory the observation says, (n, W)."""
        return self._seen_steps & self._is_embedding

    def _counts(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Return what counts in the loss, (B, n) or (B, n, W), True where it does; None where everything does."""
        steps, valid = self.config.denoised, None  # (B, n)
        if self.config.do_mask_loss_for_padding:
            valid = ~batch["action_is_pad"][:, steps]
        if (expert := batch.get("action_is_expert")) is not None:
            valid = expert[:, steps] if valid is None else valid & expert[:, steps]
        if not self.inpaints:
            return valid
        unknown = (~self._seen).expand(len(batch[ACTION]), -1, -1)  # (B, n, W)
        return unknown if valid is None else unknown & valid.unsqueeze(-1)

    def _inpainting(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the observation (B, To, D) says of a trajectory, values (B, n, W) and mask (n, W)."""
        size, steps, _ = embedding.shape
        values = embedding.new_zeros(size, self.config.denoised_steps, self.trajectory_dim)
        values[:, :steps, self.action_dim :] = embedding
        return values, self._seen

    def _reference(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what relative actions are relative to: the newest observation, per key (B, D)."""
        newest, keys = self.config.n_obs_steps - 1, self.representation.reference_keys
        return {key: observation[key][:, newest].to(self.device, torch.float32) for key in keys}

    def _denoiser_of(self, condition: Tensor | None) -> Callable[..., Tensor]:
        """Return what predicts (B, n, W) for one chunk, of x, the timestep (B,) and, if it is told, an estimate of x0.

        What the network is told of the condition is worked out once, and what of the timestep for one row.
        """
        denoiser = in_parts(self.denoiser)
        part = None if condition is None else denoiser.condition_part(condition)

        def predict(x: Tensor, timestep: Tensor, estimate: Tensor | None = None) -> Tensor:
            return self.predict_target(x, denoiser.timestep_part(timestep[:1]), part, estimate, denoiser.denoise)

        return predict

    def predict_target(
        self,
        x: Tensor,
        timestep: Tensor,
        condition: Tensor | None,
        estimate: Tensor | None,
        denoiser: Callable[..., Any],
    ) -> Tensor:
        """Return the prediction of the network, (B, n, W), of a noisy trajectory and, told of it, an estimate of x0."""
        if estimate is None:
            return denoiser(x, timestep, condition)
        return denoiser(torch.cat([x, estimate], -1), timestep, condition)[..., : self.trajectory_dim]

    @torch.no_grad()
    def _estimate(
        self, x: Tensor, timesteps: Tensor, condition: Tensor | None, coefficients: Any, chosen: Tensor | None
    ) -> Tensor:
        """Return what some windows are told of x0, (B, n, W): what the network estimates without being told; 0 else.

        Self-conditioning (Chen et al. 2022, arXiv:2208.04202, algorithm 1).
        """
        nothing = torch.zeros_like(x)
        if chosen is None:
            return nothing
        prediction = self.predict_target(x, timesteps, condition, nothing, self.denoiser)
        x0 = clean(self.config.prediction_type, x, prediction, *coefficients)
        if (clip := self.clip) is not None:
            x0 = x0.clamp(-clip, clip)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return torch.where(chosen[:, None, None], x0, nothing)

    @property
    def clip(self) -> float | Tensor | None:
        """How far from 0 an estimate of x0 may lie, (W,); what encoders say has no bound."""
        if not self.config.clip_sample:
            return None
        limit = self.config.clip_sample_range
        return torch.where(self._is_bounded, limit, math.inf) if self.inpaints else limit

    def _encode(self, actions: Tensor, reference: Mapping[str, Tensor], latent_noise: Tensor | None = None) -> Tensor:
        """Return recorded actions (B, n, Da) as they are learnt, (B, n, action_dim)."""
        encoded = self.normalizer.normalize(ACTION, self.representation.encode(actions, reference))
        if self.codec is None:
            return encoded
        return torch.cat([encoded, self.codec.encode(self.representation.discrete(actions), latent_noise)], -1)

    def encode_known(self, values: Tensor, weights: Tensor, reference: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return known actions and their weights, (B, n, Da) each, as those of the trajectory, (B, n, W) each."""
        encoded = self._encode(torch.where(weights > 0, values, 0), reference)
        weights = weights.to(encoded.dtype)
        parts = [self.representation.encode_weights(weights)]
        if self.codec:
            parts.append(self.codec.weights(self.representation.discrete(weights)))
        rest = 0, self.trajectory_dim - self.action_dim  # of what is observed later nothing is known
        return pad(encoded, rest), pad(torch.cat(parts, -1), rest)

    def decode(self, trajectory: Tensor, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the actions of a trajectory (B, n, W), in recorded units (B, n, Da)."""
        encoded, code, _ = trajectory.tensor_split([self.representation.encoded_dim, self.action_dim], dim=-1)
        discrete = self.codec.decode(code) if self.codec else None
        return self.representation.decode(self.normalizer.unnormalize(ACTION, encoded), reference, discrete)
