"""Levers of ``benchmarks.recipe``: options of the preset, and what is tried without being an option of robodiff."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from robodiff.data.episodes import Feature
from robodiff.envs.pusht.env import ENVIRONMENT_STATE, GOAL_POSE, STATE, TABLE
from robodiff.policies.config import PolicyConfig, Stage
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.training.optim import learning_rate


@dataclass(frozen=True)
class Lever:
    """One thing that differs from the preset."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration, by ``part.name``: values, or functions of the values that they have."""
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What is not an option is put in place here while a policy trains."""
    model: type[PolicyConfig] | None = None
    """The policy, where it is another one: also when it acts."""
    costs_time: bool = False
    """Whether a step takes another time than one of the preset: else it does the same with other numbers."""


def stable_then_decay(step: int, total_steps: int | None, config: PolicyConfig, stage: Stage) -> float:
    """Return the learning rate of warm-up, a plateau, and a line to zero in the last fifth."""
    plateau = learning_rate(step, None, config, stage)
    return plateau if total_steps is None else plateau * min(1.0, (total_steps - step) / (0.2 * total_steps))


def absolute_loss(prediction: Tensor, wanted: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    assert valid is None
    per_sample = (prediction - wanted).abs().flatten(1).mean(1)
    return per_sample.mean(), per_sample


def times(quantile: Callable[[Tensor], Tensor]) -> Callable[[], AbstractContextManager[Any]]:
    """Draw the noise level s of the flow from another distribution, by its quantile function; never quite 0."""

    def drawn(schedule: Any, uniform: Tensor) -> Tensor:
        return quantile(1.0 - uniform).clamp(1e-3, 1.0) * schedule.num_train_timesteps

    return lambda: patch("robodiff.diffusion.schedule.FlowSchedule.timesteps_from_uniform", drawn)


def u_shaped(uniform: Tensor, steepness: float = 4.0) -> Tensor:
    """Density proportional to cosh(a (s - 1/2)): Lee et al. 2024, https://arxiv.org/abs/2405.20320."""
    return 0.5 + torch.asinh((2 * uniform - 1) * math.sinh(steepness / 2)) / steepness


def logit_normal(uniform: Tensor) -> Tensor:
    """Esser et al. 2024, https://arxiv.org/abs/2403.03206, with mean 0 and deviation 1."""
    return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid()


class FramedPolicy(DiffusionPolicy):
    """Observe beside the keys how agent and goal lie in the frame of the block, in six numbers."""

    def embed(self, observation: Mapping[str, Tensor], steps: int) -> Tensor:
        """Return the embedding of the first ``steps`` observations: (B, steps, D + 6)."""
        agent = observation[STATE][:, :steps].to(self.device, torch.float32)  # (B, steps, 2)
        corners = observation[ENVIRONMENT_STATE][:, :steps].to(self.device, torch.float32).unflatten(-1, (8, 2))
        origin, along = (corners[..., 0, :] + corners[..., 1, :]) / 2, corners[..., 1, :] - corners[..., 0, :]
        along = along / along.norm(dim=-1, keepdim=True)

        def turned(vectors: Tensor) -> Tensor:  # from the table's axes to the block's
            x = (vectors * along).sum(-1)
            y = vectors[..., 1] * along[..., 0] - vectors[..., 0] * along[..., 1]
            return torch.stack([x, y], -1)

        goal = torch.tensor([GOAL_POSE[:2], [np.cos(GOAL_POSE[2]), np.sin(GOAL_POSE[2])]], dtype=torch.float32)
        framed = [turned(agent - origin) * 4 / TABLE, turned(goal[0] - origin) * 4 / TABLE, turned(goal[1])]
        return torch.cat([super().embed(observation, steps), *framed], -1)


@dataclass(frozen=True, kw_only=True)
class FramedConfig(DiffusionConfig):
    """Preset's network for ``FramedPolicy``."""

    def make_policy(self, features: Mapping[str, Feature], fps: float) -> DiffusionPolicy:
        return FramedPolicy(self, features, fps)

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> nn.Module:
        return super().make_denoiser(trajectory_dim, condition_dim + 6)


class ManyDrawsPolicy(DiffusionPolicy):
    """Each window of a batch is given four noises at four levels."""

    def loss(self, batch: Mapping[str, Tensor], **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of a batch that is four times as large."""
        return super().loss({key: value.repeat_interleave(4, 0) for key, value in batch.items()})


@dataclass(frozen=True, kw_only=True)
class ManyDrawsConfig(DiffusionConfig):
    """Preset's network for ``ManyDrawsPolicy``."""

    def make_policy(self, features: Mapping[str, Feature], fps: float) -> DiffusionPolicy:
        return ManyDrawsPolicy(self, features, fps)


LEVERS = {
    "no mirror": Lever({"model.canonicalize": None}),
    "mirrored": Lever({"model.canonicalize": None, "data.symmetries": "pusht"}),
    "with mirror images": Lever({"data.symmetries": "pusht"}),
    "adamw": Lever({"model.optimizer_type": "adamw", "model.learning_rate": 1e-3}, costs_time=True),
    "plateau": Lever(patched=lambda: patch("robodiff.training.module.learning_rate", stable_then_decay)),
    "linear decay": Lever({"model.scheduler_name": "linear"}),
    "rate x2": Lever({"model.learning_rate": lambda rate: 2 * rate}),
    "rate x0.5": Lever({"model.learning_rate": lambda rate: rate / 2}),
    "clean actions": Lever({"model.prediction_type": "sample"}),
    "absolute loss": Lever(patched=lambda: patch("robodiff.policies.diffusion.diffusion_loss", absolute_loss)),
    "logit-normal times": Lever(patched=times(logit_normal)),
    "noisier times": Lever(patched=times(lambda uniform: uniform ** (1 / 1.5))),  # Beta(1.5, 1)
    "cleaner times": Lever(patched=times(lambda uniform: 1 - (1 - uniform) ** (1 / 1.5))),
    "U-shaped times": Lever(patched=times(u_shaped)),
    "average 0.6": Lever({"model.ema_power": 0.6}),
    "average 0.9": Lever({"model.ema_power": 0.9}),
    "block's frame": Lever(model=FramedConfig, costs_time=True),
    "4 draws of 32": Lever({"data.train_batch_size": 32}, model=ManyDrawsConfig, costs_time=True),
    "batch 32": Lever({"data.train_batch_size": 32}, costs_time=True),
    "batch 64": Lever({"data.train_batch_size": 64}, costs_time=True),
    "batch 256": Lever({"data.train_batch_size": 256}, costs_time=True),
    "wide": Lever({"model.down_dims": (48, 96, 192)}, costs_time=True),
    "narrow": Lever({"model.down_dims": (24, 48, 96)}, costs_time=True),
    "horizon 12": Lever({"model.horizon": 12}, costs_time=True),
    "one observation": Lever({"model.n_obs_steps": 1}, costs_time=True),
}
"""What may be joined to a cell, ``mirrored+muon``. Of levers that name a policy a cell has one at most."""
