import subprocess
import sys

import numpy as np
import pytest

from robodiff.envs.pusht.env import (
    ENVIRONMENT_STATE,
    GOAL_POSE,
    IMAGE,
    OBSERVATIONS,
    STATE,
    PushTEnv,
    render_observation,
)
from robodiff.envs.pusht.geometry import corners_from_pose, pose_from_corners
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.spec import get_env_spec
from robodiff.errors import UsageError


def run(env, seed, actions):
    observations = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.array([observation[ENVIRONMENT_STATE] for observation in observations]), np.array(rewards)


def random_actions(count, seed=0):
    return np.random.default_rng(seed).uniform(100, 400, (count, 2)).astype(np.float32)


def test_same_seed_and_actions_give_the_same_episode_whatever_came_before():
    one, other = PushTEnv(), PushTEnv()
    run(other, 5, random_actions(10, seed=1))
    for first, second in zip(run(one, 7, random_actions(40)), run(other, 7, random_actions(40)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_start():
    env = PushTEnv()
    assert not np.array_equal(env.reset(seed=1)[0][ENVIRONMENT_STATE], env.reset(seed=2)[0][ENVIRONMENT_STATE])


@pytest.mark.parametrize("keys", [(), (STATE,), (IMAGE,), tuple(OBSERVATIONS)])
def test_observes_what_was_asked_for_and_nothing_else(keys):
    env = PushTEnv(keys)
    observation, _ = env.reset(seed=0)
    assert set(observation) == set(keys)
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(env.step(np.array([200.0, 200.0]))[0])


def test_draws_only_when_an_image_was_asked_for(monkeypatch):
    env = PushTEnv((STATE, ENVIRONMENT_STATE))
    monkeypatch.setattr(env._simulation, "_draw", lambda: pytest.fail("drawn without need"))
    env.reset(seed=0)
    env.step(np.array([200.0, 200.0]))


def test_features_of_the_registry_are_what_is_observed():
    spec = get_env_spec("pusht")
    env = spec.make(OBSERVATIONS)
    observation, _ = env.reset(seed=0)
    assert {*observation, "action"} == set(spec.features)
    for key, value in observation.items():
        assert (value.shape, str(value.dtype)) == (spec.features[key].shape, spec.features[key].dtype)
    assert spec.features["action"].shape == env.action_space.shape
    assert spec.version().startswith("gym-pusht ")


def test_corners_are_the_keypoints_of_gym_pusht():
    env = PushTEnv((ENVIRONMENT_STATE,))
    for seed in range(5):
        observed = env.reset(seed=seed)[0][ENVIRONMENT_STATE]
        theirs = env._simulation.get_keypoints(env._simulation._block_shapes).ravel()
        np.testing.assert_allclose(corners_from_pose(env.state[None, 2:5])[0], theirs, atol=1e-3)
        np.testing.assert_allclose(observed, theirs, atol=1e-3)


def test_image_is_what_gym_pusht_observes_and_can_be_drawn_again_from_a_recorded_state():
    env = PushTEnv((IMAGE,))
    env.reset(seed=3)
    for action in random_actions(5):
        image = env.step(action)[0][IMAGE]
        env._simulation.obs_type = "pixels"
        theirs = env._simulation.get_obs()
        env._simulation.obs_type = "state"
        np.testing.assert_array_equal(image, theirs.transpose(2, 0, 1))
        np.testing.assert_array_equal(render_observation(env.state[:5]), image)


def test_restored_state_goes_on_as_before():
    env = PushTEnv()
    env.reset(seed=3)
    towards_block = [env.state[2:4] + 20.0] * 12
    for action in towards_block:
        env.step(action)
    saved, snapshot = env.state, SPEC.snapshot(env)
    original = [env.step(action)[0][ENVIRONMENT_STATE] for action in random_actions(10)]
    env.reset(seed=4)
    env.set_state(saved)
    np.testing.assert_allclose(env.state, saved, atol=1e-9)
    restored = [env.step(action)[0][ENVIRONMENT_STATE] for action in random_actions(10)]
    np.testing.assert_allclose(restored, original, atol=0.5)
    other = PushTEnv(max_steps=14)
    other.reset(seed=5)
    SPEC.restore(other, snapshot)
    ends = [other.step(action)[3] for action in random_actions(2)]
    assert ends == [False, True]  # the steps that were taken before count
    np.testing.assert_allclose(other.state[2:5], [*pose_from_corners(original[1][None])[0]], atol=0.5)


def test_block_on_its_goal_is_a_success():
    env = PushTEnv((STATE,))
    env.reset(seed=0)
    env.set_state(np.array([50.0, 50.0, *GOAL_POSE]))
    _, reward, terminated, truncated, info = env.step(np.array([50.0, 50.0]))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)
    assert info["coverage"] == pytest.approx(1.0)


def test_episode_is_cut_off_after_its_steps():
    env = PushTEnv((STATE,), max_steps=3)
    env.reset(seed=0)
    agent = env.state[:2]
    assert [env.step(agent)[3] for _ in range(3)] == [False, False, True]
    env.reset(seed=0)
    assert not env.step(agent)[3]


def test_frame_for_people_is_large_and_does_not_disturb():
    env = PushTEnv((STATE,))
    env.reset(seed=0)
    before = env.state
    frame = env.render()
    assert frame.shape == (384, 384, 3)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(env.state, before)


def test_every_pixel_is_that_of_gym_pusht():
    env = PushTEnv((STATE,))
    env.reset(seed=3)
    simulation = env._simulation
    for action in (None, *random_actions(4)):  # without and with a cross where the action points
        if action is not None:
            env.step(action)
        screen = simulation._draw()
        for size, crossed in ((384, True), (96, False), (96, True)):
            theirs = super(type(simulation), simulation)._get_img(screen, size, size, crossed)
            np.testing.assert_array_equal(simulation._get_img(screen, size, size, crossed), theirs)


def test_unknown_observation_names_what_is_offered():
    with pytest.raises(UsageError, match=r"pusht does not observe observation\.depth; it has observation\.state, "):
        get_env_spec("pusht").make([STATE, "observation.depth"])


def test_unknown_environment_names_the_nearest():
    with pytest.raises(UsageError, match=r"'push-t'.*pusht.*Did you mean 'pusht'"):
        get_env_spec("push-t")


@pytest.mark.parametrize("action", [np.array([np.nan, 1.0]), np.zeros(3)])
def test_bad_action_is_refused(action):
    env = PushTEnv((STATE,))
    env.reset(seed=0)
    with pytest.raises(UsageError, match="2 finite numbers"):
        env.step(action)


def test_bad_state_is_refused():
    with pytest.raises(UsageError, match="5 or 7 finite numbers"):
        PushTEnv((STATE,)).set_state(np.zeros(4))


def test_registry_imports_neither_simulator_nor_torch():
    for module, heavy in (("spec", "gym_pusht pymunk pygame torch"), ("layout", "gymnasium gym_pusht torch zarr")):
        code = f"import sys, robodiff.envs.pusht.{module}; assert not {{*{heavy.split()}}} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
