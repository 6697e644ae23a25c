"""A policy with two stages: first a bottleneck learns to keep what was observed, then the denoiser learns to act on it.

robodiff fit --config pusht_keypoints --plugin examples/extending/two_stages.py --model BottleneckConfig --minutes 5
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor, nn

from robodiff.data.episodes import Feature
from robodiff.documents import AtLeast, Between
from robodiff.policies.config import Stage
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig(DiffusionConfig):
    """A U-Net that sees the observation through a bottleneck, which is trained first and then rests."""

    code_dim: Annotated[int, AtLeast(1)] = 8
    """Numbers that the bottleneck leaves of each observation."""
    first_share: Annotated[float, Between(0.01, 0.9)] = 0.2
    """Share of the optimizer steps that trains the bottleneck."""

    def make_policy(self, features: Mapping[str, Feature], fps: float) -> "BottleneckPolicy":
        """Return the policy, with random weights."""
        return BottleneckPolicy(self, features, fps)

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of training, in their order."""
        first = Stage("observe", trains=("bottleneck.",), steps=self.first_share, learning_rate=1e-3, loss="keeping")
        return first, Stage("act", trains=("denoiser.", "cameras."))


class BottleneckPolicy(DiffusionPolicy):
    """A diffusion policy whose denoiser is told what a bottleneck restores of the embedding (B, steps, D)."""

    def __init__(self, config: BottleneckConfig, features: Mapping[str, Feature], fps: float) -> None:
        super().__init__(config, features, fps)
        width, code = self.embedding_dim, config.code_dim
        self.bottleneck = nn.Sequential(nn.Linear(width, code), nn.Tanh(), nn.Linear(code, width))

    def embed(self, observation: Mapping[str, Tensor], steps: int) -> Tensor:
        """Return what the denoiser is told of the first ``steps`` observations."""
        return self.bottleneck(super().embed(observation, steps))

    def keeping(self, batch: Mapping[str, Tensor], **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of the first stage: the error of the restored embedding, and its share that is lost."""
        batch, _ = self.from_near_side(batch)
        embedding = super().embed(batch, self.config.n_obs_steps)
        error = F.mse_loss(self.bottleneck(embedding), embedding)
        return error, {"lost_share": (error / embedding.var(dim=(0, 1)).mean().clamp_min(1e-9)).detach()}
