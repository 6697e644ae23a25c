"""Every denoiser with every conditioning: what it learns, what it knows, and what reaches its encoders."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robodiff.policies.base import PolicyConfig
from robodiff.policies.config import DiffusionConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.training.ema import ema_decay
from robodiff.training.optim import make_optimizer
from tests.conftest import PUSHT_FEATURES
from tests.policies.test_diffusion import TOP, batch_of

Make = Callable[..., DiffusionPolicy]

COMBINATIONS = [
    pytest.param(kind, changes, id=f"{kind.__name__}-{'-'.join(str(v) for v in changes.values())}")
    for kind in (DiffusionConfig, DiffusionTransformerConfig)
    for changes in (
        {"conditioning": "global"},
        {"conditioning": "global", "pred_action_steps_only": True},
        {"conditioning": "inpaint"},
        {"conditioning": "inpaint", "time_as_cond": False},
    )
    if kind is DiffusionTransformerConfig or "time_as_cond" not in changes
]


def windows(rows: int) -> dict[str, Tensor]:
    """Windows whose actions follow from what is observed, with observations of every step."""
    batch = batch_of(rows)
    steps = torch.arange(16)[None, :, None]
    position = batch["observation.state"][:, :1] + 4 * steps * torch.tensor([1.0, -1.0])
    corners = batch["observation.environment_state"][:, :1] + 2 * steps
    return {**batch, "observation.state": position, "observation.environment_state": corners,
            "action": position + 30 * torch.sin(steps / 3)}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), COMBINATIONS)
def test_eight_windows_are_learnt_by_heart(small_policy: Make, kind: type[PolicyConfig], changes: dict) -> None:
    size = {"down_dims": (32, 64)} if kind is DiffusionConfig else {"n_emb": 64, "p_drop_attn": 0.0}
    policy = small_policy(
        kind, **size, **changes, num_train_timesteps=50, noise_scheduler_type="DDIM", num_inference_steps=10,
        learning_rate=2e-3,
    ).train()  # fmt: skip
    batch = windows(8)
    many = {key: value.repeat(8, *[1] * (value.ndim - 1)) for key, value in batch.items()}
    optimizer = make_optimizer(policy, fused=False)
    losses = []
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / 500)
        loss, _ = policy.loss(many)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.05 * losses[0]
    chunk = policy.eval().predict_chunk(batch)
    first, steps = chunk.first_step, chunk.actions.shape[1]
    assert (first, steps) == ((1, 8) if policy.config.pred_action_steps_only else (0, 16))
    error = (chunk.actions - batch["action"][:, first : first + steps]).abs().mean()
    assert error < 0.03 * 512  # px
