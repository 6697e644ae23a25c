"""Every denoiser with every conditioning: what it learns, what it knows, and what reaches its encoders."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.policies.test_diffusion import batch_of, seeing_batch, watch_denoiser
from torch import Tensor, nn

from robodiff.data.episodes import Feature
from robodiff.data.normalize import Statistics
from robodiff.errors import UsageError
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner
from robodiff.training.optim import make_optimizer

Make = Callable[..., DiffusionPolicy]

KINDS = (DiffusionConfig, DiffusionTransformerConfig, DiffusionMlpConfig)
COMBINATIONS = [
    pytest.param(
        kind,
        changes,
        id=f"{kind.__name__}-{'-'.join(str(v) for v in changes.values())}",
        marks=[pytest.mark.slow] * (kind is DiffusionConfig and changes["conditioning"] == "inpaint"),
    )
    for kind in KINDS
    for changes in (
        {"conditioning": "global"},
        {"conditioning": "global", "pred_action_steps_only": True},
        {"conditioning": "inpaint"},
        {"conditioning": "inpaint", "time_as_cond": False},
    )
    if kind is DiffusionTransformerConfig or "time_as_cond" not in changes
]


def windows(rows: int) -> dict[str, Tensor]:
    """Windows whose actions follow from what is observed, with observations of every step, all within 0 to 512."""
    batch = batch_of(rows)
    steps = torch.arange(16)[None, :, None]
    position = 0.6 * batch["observation.state"][:, :1] + 100 + 3 * steps * torch.tensor([1.0, -1.0])
    corners = 0.8 * batch["observation.environment_state"][:, :1] + 2 * steps
    return {**batch, "observation.state": position, "observation.environment_state": corners,
            "action": position + 30 * torch.sin(steps / 3)}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), COMBINATIONS)
def test_eight_windows_are_learnt_by_heart(small_policy: Make, kind: type[PolicyConfig], changes: dict) -> None:
    size: dict = {DiffusionConfig: {"diffusion_step_embed_dim": 32}, DiffusionTransformerConfig: {"p_drop_attn": 0.0},
                  DiffusionMlpConfig: {"hidden_dim": 128}}[kind]  # fmt: skip
    slow = kind is DiffusionConfig and changes["conditioning"] == "inpaint"  # what is known comes by convolutions alone
    if slow:
        size |= {"down_dims": (32, 64), "kernel_size": 5}
    policy = small_policy(
        kind, **size, **changes, num_train_timesteps=50, prediction_type="sample", noise_scheduler_type="DDIM",
        num_inference_steps=10,
    ).train()  # fmt: skip
    batch = windows(8)
    optimizer, losses = make_optimizer(policy, fused=True), []
    steps = 800 if slow else 250
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, step / 20) * (1 - step / steps)
        loss, _ = policy.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.05 * losses[0]
    chunk = policy.eval().predict_chunk(batch)
    first, n = chunk.first_step, chunk.actions.shape[1]
    assert (first, n) == ((1, 8) if policy.config.pred_action_steps_only else (0, 16))
    error = (chunk.actions - batch["action"][:, first : first + n]).abs().mean()
    assert error < 0.03 * 512  # px


@pytest.mark.parametrize("kind", KINDS)
def test_inpainting_leaves_what_is_known_out_of_the_loss(small_policy: Make, kind: type[PolicyConfig]) -> None:
    policy = small_policy(kind, conditioning="inpaint", do_mask_loss_for_padding=True)
    batch, noise, timesteps = windows(3), torch.randn(3, 16, 20), torch.tensor([2, 9, 17])
    batch["action_is_pad"][1, 12:] = True
    clean = torch.cat([batch["action"], batch["observation.state"], batch["observation.environment_state"]], -1)
    clean = clean / 256 - 1  # limits 0..512
    noisy = policy.schedule.add_noise(clean, noise, timesteps)
    noisy[:, :2, 2:] = clean[:, :2, 2:]
    counts = torch.ones(3, 16, 20, dtype=torch.bool)
    counts[:, :2, 2:] = False
    counts[1, 12:] = False
    error = (policy.denoiser(noisy, timesteps, None) - noise).square()
    loss, _ = policy.loss(batch, noise=noise, timesteps=timesteps)
    torch.testing.assert_close(loss, error[counts].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_inpainting_shows_what_is_observed_clean_at_every_step(small_policy: Make, kind: type[PolicyConfig]) -> None:
    policy = small_policy(kind, conditioning="inpaint", num_inference_steps=4, clip_sample_range=0.5)
    batch, given = windows(2), 100 + 50 * torch.rand(2, 16, 2)
    mask = torch.zeros(2, 16, 2, dtype=torch.bool)
    mask[:, :5] = True
    inputs = watch_denoiser(policy)
    chunk = policy.predict_chunk(batch, known=(given, mask))
    seen = torch.cat([batch["observation.state"], batch["observation.environment_state"]], -1)[:, :2] / 256 - 1
    assert len(inputs) == 4
    for x in inputs:
        torch.testing.assert_close(x[:, :2, 2:], seen)
        assert not torch.isclose(x[:, 2:, 2:], inputs[0][:, 2:, 2:]).all() or x is inputs[0]
    torch.testing.assert_close(chunk.actions[:, :5], given[:, :5])
    assert (chunk.actions[:, 5:] / 256 - 1).abs().max() <= 0.5 + 1e-5  # clipped, what is given is not
    later = {key: value.clone() for key, value in batch.items()}
    for key in policy.observation_keys:
        later[key][:, 2:] = -1e6
    noise = torch.randn(policy.noise_shape(2))
    a, b = (policy.predict_chunk(observed, noise=noise).actions for observed in (batch, later))
    assert a.equal(b)  # the future is not read


@pytest.mark.parametrize(("seen", "horizon"), [(2, 16), (1, 8)])
def test_what_is_seen_alone_trains_the_encoder_of_an_inpainting_policy(
    seeing_policy: Make, seen: int, horizon: int
) -> None:
    policy = seeing_policy(conditioning="inpaint", n_obs_steps=seen, horizon=horizon)
    batch = {key: value[:, :1].expand(-1, horizon, *value.shape[2:]) for key, value in seeing_batch(2).items()
             if key.startswith("observation")}  # fmt: skip
    batch |= {"action": torch.rand(2, horizon, 2) * 512, "action_is_pad": torch.zeros(2, horizon, dtype=torch.bool)}
    described: list[dict[str, Tensor]] = []
    policy.cameras.register_forward_hook(lambda _, images, features: described.append(features))
    loss, _ = policy.loss(batch)
    for gradient in torch.autograd.grad(loss, [*described[0].values()], retain_graph=True):  # (B, T, D) of each camera
        assert gradient[:, :seen].any(-1).all()
        assert not gradient[:, seen:].any()  # what comes later is there to be predicted
    loss.backward()
    gradients = [p.grad for p in policy.cameras.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    actions = policy.eval().predict_chunk(batch).actions
    assert actions.shape == (2, horizon, 2)
    assert actions.isfinite().all()


def test_the_first_executed_action_depends_on_the_newest_observation(small_policy: Make) -> None:
    """A causal step attends to observations up to its own, and the first that is executed is that of the newest."""
    policy = small_policy(DiffusionTransformerConfig, pred_action_steps_only=True, clip_sample=False)
    batch, noise = batch_of(2), torch.randn(policy.noise_shape(2))
    other = {**batch, "observation.state": batch["observation.state"].clone()}
    other["observation.state"][:, -1] += 100
    a, b = (policy.predict_chunk(observed, noise=noise).actions for observed in (batch, other))
    assert ((a - b)[:, 0].abs() > 1e-3).any(-1).all()


def test_executed_steps_only_are_those_of_the_window(small_policy: Make) -> None:
    policy = small_policy(pred_action_steps_only=True, n_action_steps=8)
    batch, noise, timesteps = batch_of(2), torch.randn(2, 8, 2), torch.tensor([3, 9])
    actions = batch["action"][:, 1:9] / 256 - 1
    noisy = policy.schedule.add_noise(actions, noise, timesteps)
    error = (policy.denoiser(noisy, timesteps, policy.embed(batch, 2)) - noise).square().mean()
    torch.testing.assert_close(policy.loss(batch, noise=noise, timesteps=timesteps)[0], error)
    assert policy.noise_shape(2)[1:] == (2, 8, 2)
    runner = PolicyRunner(policy, rows=1)
    observation = {key: batch[key][:1, 1].numpy() for key in policy.observation_keys}
    first = runner.act(observation)
    both = {key: batch[key][:1, 1:2].expand(1, 2, -1) for key in policy.observation_keys}
    chunk = policy.predict_chunk(both, noise=runner_noise(policy))
    torch.testing.assert_close(torch.from_numpy(first), chunk.actions[:, 0])


def runner_noise(policy: DiffusionPolicy) -> Tensor:
    """What a runner draws for the first chunk of a row of seed 0."""
    draws, _, steps, dim = policy.noise_shape(1)
    drawn = np.random.default_rng([0, 0]).standard_normal((draws, steps, dim), dtype=np.float32)
    return torch.from_numpy(drawn).unsqueeze(1)


def test_every_parameter_is_in_one_group(seeing_policy: Make, small_policy: Make) -> None:
    policy = seeing_policy(DiffusionTransformerConfig, n_layer=2, n_head=2, n_emb=32, n_cond_layers=1)
    groups = make_optimizer(policy, fused=False).param_groups
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(p) for p in policy.parameters() if p.requires_grad)
    assert len(set(members)) == len(members)
    assert [group["betas"] for group in groups] == [(0.9, 0.95)] * 3
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, module in policy.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            matrix = own == "in_proj_weight" or (isinstance(module, nn.Linear) and own == "weight")
            wanted = 1e-6 if name.startswith("cameras") else 1e-3 if matrix else 0.0
            assert decay[id(parameter)] == wanted, f"{name}.{own}"
    (group,) = make_optimizer(small_policy(optimizer_weight_decay=0.5), fused=False).param_groups
    assert group["weight_decay"] == 0.5


def test_relative_actions_move_with_what_they_are_relative_to(small_policy: Make) -> None:
    relative = {"action_relative_to": {"0:2": "observation.state"}, "clip_sample": False,
                "observation_keys": ["observation.state", "observation.environment_state"],
                "normalization": {"observation.state": "identity"}, "num_inference_steps": 3}  # fmt: skip
    policy = small_policy(**relative)
    policy.normalizer.fit({key: Statistics(np.full(d, -50.0), np.full(d, 50.0), np.zeros(d), np.ones(d))
                           for key, d in (("action", 2), ("observation.state", 2),
                                          ("observation.environment_state", 16))})  # fmt: skip
    batch, noise, timesteps = batch_of(2), torch.randn(2, 16, 2), torch.tensor([3, 9])
    deltas = (batch["action"] - batch["observation.state"][:, 1:2]) / 50
    noisy = policy.schedule.add_noise(deltas, noise, timesteps)
    error = (policy.denoiser(noisy, timesteps, policy.embed(batch, 2)) - noise).square().mean()
    torch.testing.assert_close(policy.loss(batch, noise=noise, timesteps=timesteps)[0], error)
    # A denoiser that is told nothing of the state gives the same deltas wherever the robot stands.
    told = policy.denoiser.condition_part
    policy.denoiser.condition_part = lambda condition: told(torch.zeros_like(condition))
    moved = {**batch, "observation.state": batch["observation.state"] + 7}
    noise = torch.randn(policy.noise_shape(2))
    here, there = (policy.predict_chunk(b, noise=noise).actions for b in (batch, moved))
    torch.testing.assert_close(there, here + 7)
    frames: list[Tensor] = []
    known = torch.full((2, 16, 2), 300.0), torch.ones(2, 16, 2, dtype=torch.bool)
    given = policy.predict_chunk(batch, noise=noise, known=known, on_row=lambda _, x: frames.append(x)).actions
    torch.testing.assert_close(given, known[0])
    torch.testing.assert_close(frames[-1], known[0])


def test_rotations_leave_the_policy_as_they_were_recorded() -> None:
    features = {"observation.state": Feature("vector", (2,), "float32"), "action": Feature("vector", (7,), "float32")}
    ranges = {"0:3": "limits", "3:9": "identity", "9:10": "identity"}
    config = DiffusionConfig(down_dims=(8, 16), n_groups=4, diffusion_step_embed_dim=8, action_rotations=["3:6"],
                             normalization={"action": ranges}, num_train_timesteps=10)  # fmt: skip
    policy = DiffusionPolicy(config, features, 10.0).eval()
    assert policy.noise_shape(1)[-1] == 10
    actions = torch.randn(2, 16, 7) * 0.5
    mask = torch.ones(2, 16, 7, dtype=torch.bool)
    mask[:, 8:, 4] = False  # a rotation of which one number is missing is not known
    batch = {"observation.state": torch.zeros(2, 2, 2)}
    chunk = policy.predict_chunk(batch, known=(actions, mask)).actions
    torch.testing.assert_close(chunk[:, :8], actions[:, :8], atol=1e-5, rtol=0)
    torch.testing.assert_close(chunk[:, 8:, :3], actions[:, 8:, :3], atol=1e-5, rtol=0)
    assert not chunk[:, 8:, 3].isclose(actions[:, 8:, 3], atol=1e-3).all()
    with pytest.raises(UsageError, match=r"the range 5:8 is not within the dimensions 0:7"):
        DiffusionPolicy(replace(config, action_rotations=["5:8"]), features, 10.0)
    with pytest.raises(UsageError, match=r"normalization of action: .* each of its 10 dimensions"):
        DiffusionPolicy(replace(config, normalization={"action": {"0:7": "limits"}}), features, 10.0)
