"""The expert carries Push-T on from where a bad policy leaves it, and does not take itself for one."""

from collections.abc import Iterator

import numpy as np

from robodiff.data.recordings import open_path
from robodiff.envs.pusht.env import MAX_STEPS, PushTEnv
from robodiff.envs.pusht.expert import PushTController
from robodiff.envs.pusht.geometry import pose_from_corners
from robodiff.envs.pusht.take_over import REGRESSED, PushTTakeOver
from robodiff.envs.spec import STALLED, get_env_spec


def carried_on(env: PushTEnv, help_: PushTTakeOver) -> Iterator[np.ndarray]:
    for action in help_.actions(env):
        env.step(action)
        yield action


def test_from_wherever_a_bad_policy_leaves_it_the_expert_succeeds() -> None:
    env, succeeded = PushTEnv(()), 0
    for seed in range(8):
        env.reset(seed=seed)
        rng, help_, target = np.random.default_rng(seed), PushTTakeOver(), np.zeros(2)
        for step in range(MAX_STEPS):
            target = rng.uniform(0, 512, 2) if step % 10 == 0 else target
            _, _, terminated, _, _ = env.step(target)
            if help_.needs_help(env) or terminated:
                break
        actions = [*carried_on(env, help_)]
        assert len(actions) <= MAX_STEPS
        succeeded += env.coverage > 0.95
    assert succeeded >= 6


def test_the_expert_goes_on_beyond_the_edge_of_success() -> None:
    env = PushTEnv(())
    env.reset(seed=3)
    covered = []
    for _ in carried_on(env, PushTTakeOver()):
        covered.append(env.coverage)
    assert covered[-1] > 0.955
    assert sum(each > 0.95 for each in covered) > 1


def test_its_actions_are_those_of_a_new_controller() -> None:
    one, other = PushTEnv(()), PushTEnv(())
    for env in (one, other):
        env.reset(seed=5)
        for _ in range(30):
            env.step(np.array([200.0, 300.0]))
    controller = PushTController()
    for action in carried_on(one, PushTTakeOver()):
        expected = controller.act(other.state, other.coverage)
        np.testing.assert_array_equal(action, expected)
        other.step(action)


def test_a_policy_that_waits_has_stalled_and_one_that_pushes_away_has_regressed() -> None:
    env, help_ = PushTEnv(()), PushTTakeOver()
    env.reset(seed=0)
    words = []
    while not words or words[-1] is None:
        env.step(env.state[:2])
        words.append(help_.needs_help(env))
    assert words[-1] == STALLED
    env.set_state(np.array([256, 100, 256, 256, np.pi / 4 + 0.1]))
    help_ = PushTTakeOver()
    assert help_.needs_help(env) is None
    env.set_state(np.array([256, 100, 330, 330, np.pi / 4 + 0.1]))
    assert help_.needs_help(env) == REGRESSED


def test_demonstrations_hardly_ever_look_as_if_they_needed_help() -> None:
    """By the same rule, applied to what the expert itself does."""
    data, env = open_path("builtin:pusht").read(), PushTEnv(())
    corners, state = data.arrays["observation.environment_state"], data.arrays["observation.state"]
    helped = 0
    for episode in range(100):
        help_, frames = PushTTakeOver(), data.slice(episode)
        for agent, pose in zip(state[frames], pose_from_corners(corners[frames]), strict=True):
            env.set_state(np.concatenate([agent, pose]))
            if help_.needs_help(env):
                helped += 1
                break
    assert helped <= 5


def test_the_registry_has_it() -> None:
    spec = get_env_spec("pusht")
    assert spec.take_over is PushTTakeOver
    assert get_env_spec("lift_cube").take_over is not None
