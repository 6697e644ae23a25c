"""Actions that are known come out as they were given, whatever samples, and however actions are represented."""

from typing import Any

import numpy as np
import pytest

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.normalize import Statistics
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy

FLOW = {"beta_schedule": "flow", "prediction_type": "velocity"}
SAMPLERS = {
    "DDPM": {"num_inference_steps": 5},
    "DDIM": {"num_inference_steps": 5},
    "DDIM, stochastic": {"noise_scheduler_type": "DDIM", "num_inference_steps": 5, "ddim_eta": 0.7},
    "DPMSolver++": {"num_inference_steps": 5},
    "Flow": {"num_inference_steps": 5, **FLOW},
    "FlowHeun": {"num_inference_steps": 3, **FLOW},
}
ACTIONS = {
    "absolute": {},
    "relative": {"action_relative_to": {"0:2": "observation.state"}},
    "rotated": {"action_rotations": ["2:5"]},
    "discrete": {"action_discrete": ["5:7"]},
    "a latent": {"action_discrete": ["5:7"], "discrete_codec": "vae", "vae_hidden_dim": 8, "vae_latent_dim": 4},
    "a latent of the chunk": {"action_discrete": ["5:7"], "discrete_codec": "vae", "vae_per": "chunk"},
    "inpaint": {"conditioning": "inpaint", "prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
    "executed only": {"pred_action_steps_only": True},
}
FEATURES = {
    "observation.state": Feature("vector", (2,), "float32"),
    ACTION: Feature("vector", (7,), "float32"),
}


def made(kind: type[PolicyConfig], sampler: str, **changes: Any) -> DiffusionPolicy:
    options = {"noise_scheduler_type": sampler, "num_train_timesteps": 20, **SAMPLERS[sampler], **changes}
    size: dict = {"down_dims": (8, 16), "n_groups": 4, "diffusion_step_embed_dim": 8}
    if kind is DiffusionTransformerConfig:
        size = {"n_layer": 1, "n_head": 2, "n_emb": 16}
    if options.get("prediction_type") == "sample" and sampler.startswith("Flow"):
        options["beta_schedule"] = "flow"
    policy = kind(**{**size, **options}).make_policy(FEATURES, 10.0).eval()
    dims = {ACTION: policy.representation.encoded_dim, "observation.state": 2}
    policy.normalizer.fit(
        {k: Statistics(*np.array([[-3.0], [3.0], [0.0], [1.0]]).repeat(d, 1)) for k, d in dims.items()}
    )
    return policy


def given(n: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    values = random.uniform(-1, 1, (3, n, 7)).astype(np.float32)
    values[..., 5:] = values[..., 5:] > 0
    weights = np.zeros_like(values)
    weights[:, :4] = 1
    return values, weights, {"observation.state": random.uniform(-1, 1, (3, 2, 2)).astype(np.float32)}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_given_comes_out_and_the_rest_is_as_free_as_it_was(sampler: str, action: str) -> None:
    policy = made(DiffusionConfig, sampler, **ACTIONS[action])
    values, weights, observation = given(policy.config.denoised_steps)
    noise = np.random.default_rng(1).standard_normal(policy.noise_shape(3)).astype(np.float32)
    chunk = policy.predict_chunk(observation, noise=noise, known=(values, weights)).actions
    np.testing.assert_allclose(chunk[:, :4], values[:, :4], atol=2e-5)
    assert np.isfinite(chunk).all()
    free = policy.predict_chunk(observation, noise=noise).actions
    assert not np.isclose(chunk[:, :4, :5], free[:, :4, :5]).all()
    nothing = policy.predict_chunk(observation, noise=noise, known=(np.full_like(values, np.nan), 0 * weights)).actions
    np.testing.assert_allclose(nothing, free, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_wish_lies_between_what_is_free_and_what_is_given(sampler: str) -> None:
    policy = made(DiffusionTransformerConfig, sampler)
    values, weights, observation = given(16)
    noise = np.random.default_rng(1).standard_normal(policy.noise_shape(3)).astype(np.float32)
    distances = []
    for weight in (0.0, 0.3, 0.7, 1.0):
        chunk = policy.predict_chunk(observation, noise=noise, known=(values, weights * weight)).actions
        distances.append(float(abs(chunk - values)[:, :4].mean()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-5


def test_the_chunk_says_the_range_of_actions_as_they_were_recorded() -> None:
    values, _, observation = given(16)
    statistics = Statistics.of(values.reshape(-1, 7), np.arange(48))
    for action in ("absolute", "relative", "rotated"):
        policy = made(DiffusionConfig, "DDIM", **ACTIONS[action])
        policy.representation.fit(statistics)
        noise = np.zeros(policy.noise_shape(3), np.float32)
        ranges = policy.predict_chunk(observation, noise=noise).ranges
        expected = [[-3] * 7, [3] * 7] if action == "absolute" else [statistics.min, statistics.max]
        np.testing.assert_allclose(ranges[ACTION], expected, rtol=1e-6)
