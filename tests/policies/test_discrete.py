"""Discrete actions: exact class values leave the policy, whatever the codec; what is no class value is refused."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.windows import Windows
from robodiff.errors import UsageError, notice
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionMlpConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.discrete import TableCodec
from robodiff.policies.hybrid import HybridDiffusionConfig

FEATURES = {"observation.state": Feature("vector", (6,), "float32"), "action": Feature("vector", (9,), "float32")}
RANGES = {"2:4": 2, "7:8": 5}
SMALL: dict[str, Any] = {"hidden_dim": 32, "num_mlp_layers": 1, "diffusion_step_embed_dim": 8, "horizon": 8,
                         "n_action_steps": 4, "num_inference_steps": 3, "vae_latent_dim": 4}  # fmt: skip
CODECS = [
    {"discrete_codec": "vae"},
    {"discrete_codec": "vae", "vae_per": "chunk"},
    {"discrete_codec": "analog_bits", "self_conditioning": True},
    {"discrete_codec": "none"},
]


def recorded(lengths: tuple[int, ...] = (20, 25), seed: int = 0) -> Episodes:
    """Actions of which dimensions 2 and 3 hold 0 or 1, 7 one of five classes, and 8 is always 1."""
    random, frames = np.random.default_rng(seed), sum(lengths)
    action = random.normal(size=(frames, 9)).astype(np.float32)
    action[:, [2, 3]], action[:, 7], action[:, 8] = random.integers(0, 2, (frames, 2)), random.integers(0, 5, frames), 1
    state = random.normal(size=(frames, 6)).astype(np.float32)
    arrays = {"observation.state": state, "action": action}
    return Episodes(arrays=arrays, episode_ends=np.cumsum(lengths), fps=10.0, features=FEATURES, source="made.zarr")


def windows_of(episodes: Episodes, config: PolicyConfig) -> Windows:
    return Windows(episodes.episode_ends, config.window)


def fitted(episodes: Episodes, **options: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    config = DiffusionMlpConfig(**{**SMALL, "action_discrete": {**RANGES, "8:9": 2}, **options})
    policy = config.make_policy(FEATURES, 10.0)
    policy.fit_normalizer(episodes, windows_of(episodes, config))
    return policy.eval()


def batch_of(episodes: Episodes, size: int = 3) -> dict[str, Tensor]:
    taken = {key: torch.from_numpy(array[: size * 8]).unflatten(0, (size, 8)) for key, array in episodes.arrays.items()}
    return {"observation.state": taken["observation.state"][:, :2], "action": taken["action"],
            "action_is_pad": torch.zeros(size, 8, dtype=torch.bool)}  # fmt: skip


@pytest.mark.parametrize("codec", CODECS)
def test_what_leaves_the_policy_are_class_values(codec: dict[str, Any]) -> None:
    episodes = recorded()
    policy = fitted(episodes, action_rotations=["4:7"], action_relative_to={"0:2": "observation.state[0:2]"}, **codec)
    actions = policy.predict_chunk(batch_of(episodes)).actions
    assert actions.shape == (3, 8, 9)
    for dimension, classes in policy.representation.classes.items():
        assert {*actions[..., dimension].unique().tolist()} <= {*classes}
    assert (actions[..., 8] == 1).all()  # which never was anything else
    loss, _ = policy.loss(batch_of(episodes), **policy.draw(3, torch.Generator().manual_seed(0)))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None for p in policy.codec.parameters())  # it has a stage of its own


def test_the_code_follows_the_continuous_numbers() -> None:
    episodes = recorded()
    policy, batch = fitted(episodes, discrete_codec="analog_bits"), batch_of(episodes)
    encoded = policy._encode(batch["action"], {})
    assert encoded.shape[-1] == policy.action_dim == 5 + (1 + 1 + 3 + 1)
    bits = encoded[..., 5:]
    assert (bits.abs() == 1).all()
    digits = (bits[..., 2:5] + 1) / 2 @ torch.tensor([1.0, 2, 4])
    assert digits.equal(batch["action"][..., 7])
    torch.testing.assert_close(policy.decode(encoded, {}), batch["action"])


@pytest.mark.parametrize("bits", [True, False])
def test_the_nearest_code_decides(bits: bool) -> None:
    codec = TableCodec([(0, 1), (*range(5),), (*range(3),)], bits)
    values = torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(3)).float()[None]
    noise = 0.2 * (2 * torch.rand(1, 30, codec.dim, generator=torch.Generator().manual_seed(0)) - 1)
    assert codec.decode(codec.encode(values) + noise).equal(values)
    assert codec.encode(values).abs().max() == 1
    # Codes that no class has, as 111 of five, give a class all the same.
    assert codec.decode(torch.ones(1, 1, codec.dim)).flatten()[1] in range(5)


def test_of_two_classes_numbers_and_bits_are_the_same() -> None:
    values = torch.tensor([[[0.0, 1], [1, 1]]])
    bits, numbers = (TableCodec([(0, 1), (0, 1)], bits) for bits in (True, False))
    assert bits.encode(values).equal(numbers.encode(values))


@pytest.mark.parametrize("per", ["step", "chunk"])
def test_limits_of_the_latent_are_those_of_the_training_data(per: str, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = recorded()
    policy = fitted(episodes, discrete_codec="vae", vae_per=per)
    windows = windows_of(episodes, policy.config)
    notice.cache_clear()
    assert re.match(r"the VAE gives back \d+\.\d\d% of the discrete", policy.fit_latents(episodes, windows))
    assert "the VAE has not converged, it gives back" in capsys.readouterr().err
    actions = torch.from_numpy(episodes.arrays["action"])[windows.frames(np.arange(len(windows)))[0]]
    code = policy._encode(actions, {})[..., -4:]
    torch.testing.assert_close(code.amin((0, 1)), -torch.ones(4))
    torch.testing.assert_close(code.amax((0, 1)), torch.ones(4))
    assert policy.codec.low.equal(policy.state_dict()["codec.low"])  # saved with the weights


def test_known_class_values_come_back_although_their_code_says_more() -> None:
    episodes = recorded()
    policy, batch = fitted(episodes, discrete_codec="vae"), batch_of(episodes)
    mask = torch.zeros(3, 8, 9, dtype=torch.bool)
    mask[:, :2, 3] = mask[:, :4, :2] = True
    values = torch.where(mask, batch["action"], torch.nan)
    actions = policy.predict_chunk(batch, known=(values, mask)).actions
    torch.testing.assert_close(actions[mask], values[mask])
    assert set(actions[..., 2:4].unique().tolist()) == {0, 1}
    assert actions.isfinite().all()


def test_of_a_rotation_next_to_classes_no_number_is_known_alone() -> None:
    episodes = recorded()
    policy, batch = fitted(episodes, action_rotations=["4:7"], num_inference_steps=1), batch_of(episodes)
    noise, mask = torch.zeros(policy.noise_shape(3)), torch.zeros(3, 8, 9, dtype=torch.bool)
    free = policy.predict_chunk(batch, noise=noise).actions
    mask[..., 4] = True
    assert policy.predict_chunk(batch, noise=noise, known=(batch["action"], mask)).actions.equal(free)


def test_a_chunk_has_one_latent() -> None:
    episodes = recorded()
    policy, batch = fitted(episodes, discrete_codec="vae", vae_per="chunk"), batch_of(episodes)
    code = policy._encode(batch["action"], {})[..., -4:]
    assert code.equal(code[:, :1].expand_as(code))
    known = torch.ones(3, 8, 9)
    known[0, 5, 2] = 0
    weights = policy.encode_known(batch["action"], known, {})[1]
    assert weights[..., -4:].amin((1, 2)).tolist() == [0, 1, 1]


def test_a_sample_of_the_posterior_can_be_the_target() -> None:
    episodes = recorded()
    mean, sample = (fitted(episodes, discrete_codec="vae", vae_target=target) for target in ("mean", "sample"))
    actions, noise = batch_of(episodes)["action"], torch.ones(3, 8, 4)
    codes = [policy._encode(actions, {}, noise)[..., -4:] for policy in (mean, sample)]
    _, log_variance = sample.codec.vae.encode(sample.codec._joined(sample.representation.discrete(actions)))
    torch.testing.assert_close(codes[1] - codes[0], (log_variance / 2).exp())  # the scale is 1 until it is fitted
    assert mean.draw(2, torch.Generator())["latent_noise"].shape == (2, 8, 4)


@pytest.mark.parametrize("codec", CODECS)
def test_classes_have_any_values(codec: dict[str, Any]) -> None:
    """A gripper of robomimic closes at 1 and opens at -1."""
    episodes = recorded()
    action = episodes.arrays["action"]
    action[:, 2], action[:, 7] = 2 * action[:, 2] - 1, np.array([-0.5, 0, 0.1, 3, 40])[action[:, 7].astype(int)]
    policy = fitted(episodes, action_discrete={"2:3": [-1, 1], "7:8": [40, -0.5, 0, 0.1, 3]}, **codec)
    batch = batch_of(episodes)
    actions = policy.predict_chunk(batch).actions
    assert {*actions[..., 2].unique().tolist()} <= {-1, 1}
    assert {*actions[..., 7].unique().tolist()} <= {*action[:, 7].tolist()}  # 0.1 is that of float32
    if codec["discrete_codec"] != "vae":  # which has learnt nothing yet
        torch.testing.assert_close(policy.decode(policy._encode(batch["action"], {}), {}), batch["action"])


def test_an_action_may_be_discrete_as_a_whole() -> None:
    features = {**FEATURES, "action": Feature("vector", (1,), "float32")}
    arrays = {**recorded().arrays, "action": recorded().arrays["action"][:, 7:8]}
    episodes = replace(recorded(), arrays=arrays, features=features)
    config = DiffusionMlpConfig(**SMALL, action_discrete={"0:1": 5})
    policy = config.make_policy(features, 10.0)
    policy.fit_normalizer(episodes, windows_of(episodes, config))
    assert set(policy.predict_chunk(batch_of(episodes)).actions.unique().tolist()) <= set(range(5))


def test_classes_are_compared_and_not_subtracted() -> None:
    policy = fitted(recorded())
    actions = torch.from_numpy(recorded().arrays["action"])
    other = actions.clone()
    other[:, 7] = (other[:, 7] + 2) % 5
    assert policy.representation.distance(actions, other)[:, 7].eq(1).all()
    mean = policy.representation.mean(actions)
    assert mean[7] == actions[:, 7].mode().values
    assert policy.representation.variance(actions)[7] == (actions[:, 7] != mean[7]).float().mean()


@pytest.mark.kind("a value of another kind")
@pytest.mark.parametrize(
    ("dimension", "value", "message"),
    [
        (2, 0.5, r"made.zarr: action 2: frame 7 of episode 1: expected 0 or 1; found 0.5\ncorrect it, or say .*0.5"),
        (3, 3.0, r"action 3: .*found 3\n.*'\{\"2:3\": \[0, 1\], \"3:4\": \[0, 1, 3\], \"7:8\": \[0, 1, 2, 3, 4\], "),
        (7, -1.0, r"action 7: .*expected a class, 0 to 4; found -1\ncorrect it"),
        (2, np.nan, r"action 2: .*expected 0 or 1; found nan\ncorrect the recording"),
    ],
)
def test_what_is_no_class_value_is_refused(dimension: int, value: float, message: str) -> None:
    episodes = recorded()
    episodes.arrays["action"][27, dimension] = value
    with pytest.raises(UsageError, match=message):
        fitted(episodes)


@pytest.mark.kind("a value of another kind")
@pytest.mark.parametrize(
    ("recorded_values", "known", "message"),
    [
        ([0.1, 0.3], [0.1, 0.2], r"expected 0.1 or 0.2; found 0.3.*\n.*'\{\"2:3\": \[0.1, 0.3\]\}'"),
        ([-1, 1], [-1, -0.5, 2], r"expected -1 or -0.5 or 2; found 1.*\n.*'\{\"2:3\": \[-1, 1\]\}'"),
        ([-1, -1], 2, r"expected 0 or 1; found -1.*\ncorrect the recording, or name the range"),  # one is no class
        ([-1, 0], [*range(1, 99)], r"expected 1 or 2 .* or 16, ...; found"),
    ],
)
def test_the_classes_that_a_message_proposes_are_those_recorded(
    recorded_values: list[float], known: Any, message: str
) -> None:
    episodes = recorded()
    episodes.arrays["action"][:, 2] = np.resize(recorded_values, len(episodes.arrays["action"]))
    with pytest.raises(UsageError, match=message):
        fitted(episodes, action_discrete={"2:3": known})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_rotations": ["6:9"]}, "the ranges 6:9 and 7:8 overlap"),
        ({"action_relative_to": {"2:4": "observation.state[0:2]"}}, "action_discrete 2:4 holds class values"),
        ({"action_discrete": ["8:10"]}, "the range 8:10 is not within the dimensions 0:9"),
        ({"action_discrete": {"2:4": 1}}, r"2:4: expected .*; found 1"),
        ({"action_discrete": {"2:4": [1, 1]}}, r"2:4: expected at least two values, all .*; found \[1.0, 1.0\]"),
        ({"action_discrete": {"2:4": [0.1, 0.1 + 1e-10]}}, r"2:4: expected .* different as float32; found \[0.1, 0.1"),
        ({"action_discrete": [], "discrete_codec": "vae"}, "discrete_codec vae needs action_discrete, the ranges"),
        ({"vae_weights": "runs/first", "discrete_codec": "none"}, "vae_weights needs discrete_codec vae; found none"),
    ],
)
def test_ranges_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fitted(recorded(), **{"action_discrete": RANGES, **options})


def test_a_hybrid_has_one_of_three_denoisers() -> None:
    features = {**FEATURES, "action": Feature("vector", (14,), "float32")}
    parts: dict[str, Any] = {"continuous_action_dim": 12, "discrete_action_dim": 2}
    options = {"unet": {"down_dims": (8, 16), "n_groups": 4}, "transformer": {"n_emb": 8}, "mlp": {"hidden_dim": 8}}
    for denoiser, own in options.items():
        config = HybridDiffusionConfig(denoiser=denoiser, **parts, **own)
        policy = config.make_policy(features, 10.0)
        assert (policy.config.discrete_classes, policy.action_dim) == ({"12:14": (0, 1)}, 12 + 16)
        assert [stage.steps for stage in config.stages()] == [5000, None]
        for other in options.keys() - {denoiser}:
            with pytest.raises(UsageError, match=f"is no option of denoiser {denoiser}; leave it at "):
                HybridDiffusionConfig(denoiser=denoiser, **parts, **options[other])
    assert HybridDiffusionConfig(num_vae_training_steps=7).stages()[0].steps == 7
    with pytest.raises(UsageError, match="are the same option"):
        HybridDiffusionConfig(num_vae_training_steps=7, n_vae_training_steps=8)
    with pytest.raises(UsageError, match=r"continuous_action_dim 21 \+ .* is 23 numbers .*; the recording has 14"):
        HybridDiffusionConfig().make_policy(features, 10.0)
    with pytest.raises(UsageError, match=r"action_discrete names 13:14; expected all of 12:14, the last numbers"):
        HybridDiffusionConfig(**parts, action_discrete={"13:14": 3}).make_policy(features, 10.0)
