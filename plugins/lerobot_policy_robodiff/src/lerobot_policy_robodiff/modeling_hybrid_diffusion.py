"""robodiff's diffusion policy, trained in two stages and run by LeRobot."""

import os
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.utils import populate_queues
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_policy_robodiff.configuration_hybrid_diffusion import HybridDiffusionConfig
from robodiff.data.normalize import Statistics
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.policies.checkpoint import load_vae
from robodiff.policies.config import Stage
from robodiff.policies.diffusion import CONVERGED
from robodiff.policies.discrete import VaeCodec

STATISTICS = ("min", "max", "mean", "std")


class HybridDiffusionPolicy(PreTrainedPolicy):
    """A ``DiffusionPolicy`` of robodiff (``policy``), its stage of training, and LeRobot's queues.

    Which stage runs follows from ``step``, the number of optimizer steps, which is saved with the weights. Only the
    part that is trained in it runs.

    Args:
        config: what the policy is made of.
        dataset_stats: LeRobot's statistics of the data set, by which a new policy is normalised.
        dataset_meta: of the data set; its rate is the policy's.
    """

    config_class = HybridDiffusionConfig
    name = "hybrid_diffusion"
    step: Tensor

    def __init__(
        self,
        config: HybridDiffusionConfig,
        dataset_stats: Mapping[str, Mapping[str, Any]] | None = None,
        dataset_meta: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        config.validate_features()
        if dataset_meta is not None and config.fps is None:
            config.fps = float(dataset_meta.fps)
        try:
            self.policy = config.robodiff_config.make_policy(config.recorded.features, config.recorded.fps)
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
            self._seen: set[bytes] = set()
            if dataset_stats is not None and config.pretrained_path is None:
                self._fit(dataset_stats)
                self.policy.load_pretrained_backbones()
                if self.policy.config.vae_weights is not None:
                    load_vae(self.policy, self.policy.config.vae_weights)
        except RobodiffError as error:
            raise ValueError(str(error)) from None
        self.reset()

    @property
    def stage(self) -> Stage:
        """What is trained by the step that comes."""
        first, *later = self.policy.config.stages()
        return later[0] if later and self.step >= first.steps else first

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return all parameters from the start: a group ``vae``, and a group ``diffusion`` for each weight decay."""
        config, groups = self.policy.config, {}
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad:
                kind = "vae" if name.startswith("codec.") else "diffusion"
                groups.setdefault((kind, config.weight_decay(name, parameter.ndim)), []).append(parameter)
        rates = {"vae": config.vae_lr, "diffusion": config.learning_rate}
        # LeRobot logs the learning rate of the first group.
        return [
            {"params": parameters, "name": kind, "lr": rates[kind], "weight_decay": decay}
            for (kind, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the stage on one batch of windows, and what there is to log, as numbers."""
        stages, stage = self.policy.config.stages(), self.stage
        window = {**self._observed(batch), ACTION: batch[ACTION], "action_is_pad": batch[f"{ACTION}_is_pad"]}
        draws = {name: value.to(self.policy.device) for name, value in self._draw(len(batch[ACTION])).items()}
        if self.training and stage == stages[0]:
            patterns = self._patterns(batch[ACTION])
            self._seen |= patterns if len(stages) > 1 else set()
        loss, parts = getattr(self.policy, stage.loss)(window, **draws)
        metrics = {name: float(value) for name, value in parts.items()}
        number = float(stages.index(stage) + 1)
        return loss, {"stage": number, f"{stage.name}_loss": float(loss.detach()), **metrics}

    def _draw(self, size: int) -> dict[str, Tensor]:
        """Draw the noise of a loss, which is a function of seed, process and step: a resumed run draws the same."""
        numbers = (torch.initial_seed(), int(os.environ.get("RANK", 0)), int(self.step)) if self.training else (0,)
        seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
        return self.policy.draw(size, torch.Generator().manual_seed(seed))

    def update(self) -> None:
        """Count an optimizer step; LeRobot calls this after each, and validation does not."""
        before = self.stage
        self.step += 1
        if self.stage != before:
            self._end_first_stage()

    def _end_first_stage(self) -> None:
        """Scale the latent by that of all discrete chunks that were seen, now that it no longer changes."""
        codec = self.policy.codec
        assert isinstance(codec, VaeCodec)
        accuracy = codec.fit(codec.values(self.get_extra_state().to(self.policy.device, torch.int64)))
        reach = float(torch.maximum(codec.low.abs(), codec.high.abs()).max())
        notice(
            f"step {int(self.step)}: the VAE is trained and rests, the diffusion model is trained from here on; of "
            f"{len(self._seen)} patterns of discrete actions {accuracy:.2%} come back, from latents within {reach:.2f}"
        )
        if accuracy < CONVERGED:
            notice(f"the VAE has not converged (below {CONVERGED:.1%}): train it longer, policy.n_vae_training_steps")
        self._seen.clear()

    def _patterns(self, actions: Tensor) -> set[bytes]:
        """Return the patterns of classes of a batch: of each step, or of the chunk where a code is of that.

        Raises:
            ValueError: values that are no class.
        """
        codec = self.policy.codec
        values = self.policy.representation.discrete(actions[:, self.policy.config.denoised])
        indices = codec.indices(values)
        if len(wrong := values[values != codec.values(indices)]):
            known = ", ".join(f"{each:g}" for each in codec.classes[0])
            count = len(codec.classes)
            place = f"the last {count} numbers of an action" if count > 1 else "the last number of an action"
            remedy = "name other classes by action_discrete in --policy.options"
            raise ValueError(f"{place}: expected class values, such as {known}; found {wrong[0]:g}; {remedy}")
        rows = indices.reshape(-1, *self._pattern_shape).to(torch.int16).cpu().numpy()
        return {row.tobytes() for row in rows}

    @property
    def _pattern_shape(self) -> tuple[int, int]:
        codec = self.policy.codec
        return codec.steps if codec.spans_chunk else 1, len(codec.classes)

    def get_extra_state(self) -> Tensor:
        """Return the patterns of discrete actions that the first stage has seen, (N, n, D); saved with the weights."""
        rows = np.frombuffer(b"".join(sorted(self._seen)), np.int16)
        return torch.from_numpy(rows.reshape(-1, *self._pattern_shape).copy())

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the patterns that were seen before."""
        self._seen = {row.tobytes() for row in state.cpu().numpy()}

    def _fit(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Normalise by a data set's statistics.

        Raises:
            UsageError: actions that LeRobot's statistics do not tell of.
        """
        policy, config = self.policy, self.policy.config
        if config.action_rotations or config.action_relative_to:
            raise UsageError(
                "LeRobot's statistics tell nothing of rotated or relative actions; train them with robodiff"
            )
        if config.canonicalize is not None:
            raise UsageError("canonicalize needs the environment's mirror; train such a policy with robodiff")
        keys = policy.normalizer.modes
        said = {key: {name: np.asarray(stats[key][name], np.float64) for name in STATISTICS} for key in keys}
        recorded = {key: Statistics(**each) for key, each in said.items()}
        policy.representation.fit(recorded[ACTION])
        continuous = {name: value[: config.continuous_action_dim] for name, value in said[ACTION].items()}
        policy.normalizer.fit({**recorded, ACTION: Statistics(**continuous)})
        for camera in (key for key, mode in policy.cameras.pixels.items() if mode == "dataset"):
            pixels = (torch.as_tensor(stats[camera][name]).flatten() * 255 for name in ("mean", "std"))
            policy.cameras.set_pixels(camera, *pixels)

    def reset(self) -> None:
        """Forget what was observed and planned."""
        self._queues = {key: deque(maxlen=self.config.n_obs_steps) for key in self.config.input_features}
        self._queues[ACTION] = deque(maxlen=self.config.n_action_steps)

    @torch.no_grad()
    def predict_action_chunk(self, batch: Mapping[str, Tensor], noise: Tensor | None = None, **_: Any) -> Tensor:
        """Return the actions that are executed next, (B, n_action_steps, Da), in the units of the recording.

        Args:
            batch: observations (B, n_obs_steps, ...), or (B, ...) of one step; not read where ``select_action`` has
                queued some.
            noise: what the chunk is made of, as ``DiffusionPolicy.noise_shape`` says; drawn when None.
        """
        if any(self._queues[key] for key in self.config.input_features):
            batch = {key: torch.stack([*self._queues[key]], dim=1) for key in self.config.input_features}
        chunk = self.policy.predict_chunk(self._observed(batch), noise=noise)
        return chunk.executed(self.policy.timing)

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Tensor], noise: Tensor | None = None, **_: Any) -> Tensor:
        """Return the next action (B, Da): of the chunk that is under way, or the first of a new one."""
        self.eval()
        observed = {key: batch[key] for key in self.config.input_features}
        self._queues = populate_queues(self._queues, observed)
        if not self._queues[ACTION]:
            self._queues[ACTION].extend(self.predict_action_chunk(batch, noise).transpose(0, 1))
        return self._queues[ACTION].popleft()

    def _observed(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return observations (B, steps, ...) as robodiff has them: images are bytes."""
        observed = {}
        for key, feature in self.policy.features.items():
            if key == ACTION:
                continue
            value = batch[key]
            value = value.unsqueeze(1) if value.ndim == len(feature.shape) + 1 else value
            is_scaled = feature.kind == "image" and value.is_floating_point()
            observed[key] = (value * 255).round().to(torch.uint8) if is_scaled else value
        return observed
