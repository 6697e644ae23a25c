"""What never moved in training does not move on the robot, and does not disturb the network where it does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import SMALL_MODEL, SMALL_TRANSFORMER
from tests.policies.test_diffusion import FLOW, watch_denoiser

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.windows import Windows
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.rotations import angle_between
from robodiff.policies.runner import PolicyRunner

Make = Callable[..., DiffusionPolicy]
STILL = pytest.mark.kind("an action that never moved in training")
T = np.arange(60, dtype=np.float32) / 5
CONSTANT, LARGE, HARDLY = np.float32(0.7), np.float32(512.3), 2e-5 * np.sin(T)


def columns(*values: Any) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(value, np.float32), T.shape) for value in values], axis=1)


ACTION = columns(np.sin(T), CONSTANT, HARDLY, LARGE, -np.cos(T) * 40)
STATE = columns(np.cos(T), 0.25, T, np.sin(T), T**2)


def fitted(
    action: np.ndarray = ACTION,
    state: np.ndarray = STATE,
    kind: type[PolicyConfig] = DiffusionConfig,
    **changes: Any,
) -> DiffusionPolicy:
    """A policy with random weights whose normalizer has seen two episodes."""
    torch.manual_seed(0)
    small = SMALL_TRANSFORMER if kind is DiffusionTransformerConfig else SMALL_MODEL
    config = kind(**{**small, "num_train_timesteps": 10, "num_inference_steps": 3, **changes})
    arrays = {"observation.state": state, "action": action}
    episodes = Episodes("", arrays, np.array([30, 60]), 10.0, {key: Feature.of(a) for key, a in arrays.items()})
    policy = config.make_policy(episodes.features, 10.0)
    policy.fit_normalizer(episodes, Windows(episodes.episode_ends, config.window))
    return policy.eval()


def chunk(policy: DiffusionPolicy, state: np.ndarray = STATE, **options: Any) -> np.ndarray:
    """Three chunks of noise from observations somewhere; random weights give whatever."""
    seen = {"observation.state": np.stack([state[at : at + 2] for at in (0, 20, 40)])}
    noise = torch.randn(policy.noise_shape(3), generator=torch.manual_seed(1)).numpy()
    return np.asarray(policy.predict_chunk(seen, noise=noise, **options).actions)


def assert_as_recorded(actions: np.ndarray) -> None:
    assert (actions[..., 1] == CONSTANT).all()
    assert (actions[..., 3] == LARGE).all()
    assert np.ptp(actions[..., 2]) == 0
    assert abs(actions[0, 0, 2] - (HARDLY.min() + HARDLY.max()) / 2) < 1e-9
    assert (np.ptp(actions[..., [0, 4]], axis=(0, 1)) > 0.01).all()  # and the others move


MODES = ["limits", "mean_std", "identity", {"0:2": "mean_std", "2:4": "identity", "4:5": "limits"}]


@STILL
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"noise_scheduler_type": "DDIM", "ddim_eta": 1.0},
        {"noise_scheduler_type": "DPMSolver++", "prediction_type": "v_prediction"},
        FLOW,
        {**FLOW, "noise_scheduler_type": "FlowHeun", "num_inference_steps": 1},
        {"pred_action_steps_only": True, "n_action_steps": 4, "kind": DiffusionTransformerConfig},
        {"conditioning": "inpaint", "prediction_type": "sample"},
        {"action_relative_to": {"0:5": "observation.state"}},
        {"action_relative_to": {"1:4": "observation.state[2:5]"}, "frame_stride": 2},
    ],
)
def test_what_never_moved_comes_back_as_it_was_recorded(mode: Any, changes: dict) -> None:
    policy = fitted(clip_sample=False, normalization={"action": mode}, **changes)
    assert_as_recorded(chunk(policy))
    runner = PolicyRunner(policy)
    assert_as_recorded(np.stack([runner.act({"observation.state": state}) for state in STATE[:12]])[None])


@STILL
def test_clipped_actions_and_every_step_of_sampling_are_held_too() -> None:
    frames: list[np.ndarray] = []
    assert_as_recorded(chunk(fitted(), on_row=lambda _, actions: frames.append(actions)))
    for frame in frames:
        assert_as_recorded(frame)


@STILL
def test_what_is_given_as_known_moves_no_dimension_that_never_did() -> None:
    given = np.broadcast_to(ACTION[:16] + np.float32(1e4), (3, 16, 5))
    policy = fitted()
    inputs = watch_denoiser(policy)
    actions = chunk(policy, known=(given, np.ones((3, 16, 5), bool)))
    assert (actions[..., [1, 3]] == [CONSTANT, LARGE]).all()
    np.testing.assert_allclose(actions[..., 0], given[..., 0], rtol=1e-5)
    assert inputs
    for x in inputs:
        assert x[..., 1:4].abs().max() < 6  # noise around the range of training, to which it is clipped


@STILL
def test_a_relative_action_that_is_the_state_follows_the_state() -> None:
    """What never moved as the network sees it, and moved in the recording, moves."""
    state = columns(T >= 6, 0.5, T, T, T)  # 0 in the first episode, 1 in the second
    policy = fitted(state[:, :1] + columns(0.5), state, action_relative_to={"0:1": "observation.state[0:1]"})
    actions = chunk(policy, columns(T, 0.5, T, T, T))
    np.testing.assert_allclose(actions[:, :, 0], np.repeat(T[[1, 21, 41], None] + 0.5, 16, axis=1), atol=1e-6)


def rotated(*axis_angle: Any) -> tuple[DiffusionPolicy, np.ndarray]:
    """A policy of a position and a rotation as axis-angle."""
    action = columns(np.sin(T), CONSTANT, *axis_angle)
    ranges = {"0:2": "limits", "2:8": "identity"}
    return fitted(action, action_rotations=["2:5"], normalization={"action": ranges}), action


@STILL
@pytest.mark.parametrize("axis_angle", [(0.3, -0.2, 0.9), (0, 0, 0), (np.pi, 0, 0), (2.5, 2.5, 0.1), (0, -3.1415, 0)])
def test_a_rotation_that_never_moved_is_the_very_numbers(axis_angle: tuple[float, ...]) -> None:
    policy, action = rotated(*axis_angle)
    assert (chunk(policy)[..., 1:] == action[0, 1:]).all()


@STILL
def test_a_rotation_about_one_axis_stays_about_it() -> None:
    policy, _ = rotated(0, 0, np.sin(T))
    assert (chunk(policy)[..., 2:4] == 0).all()


@STILL
def test_a_rotation_beyond_half_a_turn_keeps_what_is_still_and_what_it_is() -> None:
    """Axis-angle has two ways to say (3.1, 0.8, 0.1): the other has -2.9 in place of 3.1."""
    policy, action = rotated(3.1, 0.8 * np.sin(T), 0.1)
    known = torch.from_numpy(action[:16]).expand(3, 16, 5)
    actions = torch.from_numpy(chunk(policy, known=(known.numpy(), np.ones((3, 16, 5), bool))))
    assert (actions[..., 2] == np.float32(3.1)).all()
    assert (actions[..., 4] == np.float32(0.1)).all()
    assert angle_between(actions[..., 2:], known[..., 2:]).max() < 2e-3
    assert (chunk(policy)[..., 2] == np.float32(3.1)).all()


@STILL
@pytest.mark.parametrize("changes", [{}, {"action_relative_to": {"0:5": "observation.state"}}])
def test_saved_policies_know_what_never_moved(changes: dict, tmp_path: Path) -> None:
    save_policy(fitted(**changes, clip_sample=False), tmp_path)
    assert_as_recorded(chunk(load_policy(tmp_path)))
    weights = load_file(tmp_path / "model.safetensors")  # one of before these ranges were kept
    save_file({k: v for k, v in weights.items() if "representation" not in k}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text()) | {"weights_sha256": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert np.isfinite(chunk(load_policy(tmp_path))).all()


@pytest.mark.kind("an observation that never moved in training, and does later")
@pytest.mark.parametrize("mode", ["limits", "mean_std", "identity"])
@pytest.mark.parametrize("value", [0.25, 0.2500001, 0.3, -1e4, 1e30])
def test_an_observation_that_never_moved_stays_where_it_was(mode: str, value: float) -> None:
    policy = fitted(normalization={"observation.state": mode})
    moved = STATE.copy()
    moved[:, 1] = value
    seen = policy.embed({"observation.state": torch.from_numpy(moved[None, :2])}, 2)
    assert seen[0, :, 1].tolist() == [0.25 if mode == "identity" else 0] * 2
    assert (chunk(policy, moved) == chunk(policy)).all()
