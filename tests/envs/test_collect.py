from dataclasses import replace

import numpy as np
import pytest

from robodiff.envs import spec as registry
from robodiff.envs.collect import collect
from robodiff.envs.pusht.env import GOAL_POSE, PushTEnv
from robodiff.envs.pusht.expert import PushTExpert
from robodiff.envs.pusht.planner import simulate_pushes
from robodiff.errors import RobodiffError, UsageError


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def replay(seed, actions):
    """Whether the block was on its goal at any time, and how much of it is covered at the end."""
    env = PushTEnv(())
    env.reset(seed=seed)
    successes = [env.step(action)[2] for action in actions]
    return any(successes), env.coverage


def test_expert_succeeds_and_ends_well_inside_success():
    expert = PushTExpert()
    demonstrations = {seed: expert.demonstrate(seed) for seed in range(100, 106)}
    for seed, demonstration in demonstrations.items():
        assert demonstration is not None, seed
        assert demonstration["state"].shape == (len(demonstration["action"]), 5)
        assert demonstration["state"].dtype == demonstration["action"].dtype == np.float32
        success, coverage = replay(seed, demonstration["action"])  # float32 targets repeat the episode closely enough
        assert success, seed
        assert coverage > 0.955, seed


def test_corrections_start_near_the_goal_and_are_short():
    expert = PushTExpert(corrections=1.0)
    for seed in range(100, 104):
        demonstration = expert.demonstrate(seed)
        assert demonstration is not None
        x, y, angle = demonstration["state"][0, 2:]
        turn = (angle - GOAL_POSE[2] + np.pi) % (2 * np.pi) - np.pi
        assert np.hypot(x - GOAL_POSE[0], y - GOAL_POSE[1]) < 100.0
        assert abs(turn) < 1.2
        assert len(demonstration["action"]) < len(PushTExpert().demonstrate(seed)["action"]) + 40
    some = [np.allclose(PushTExpert(corrections=0.5).demonstrate(s)["state"][0], first(s), atol=1e-3) for s in range(6)]
    assert len(set(some)) == 2  # some seeds start as the environment does, some near the goal


def first(seed):
    env = PushTEnv(())
    env.reset(seed=seed)
    return env.state[:5]


def test_demonstration_depends_on_its_seed_alone():
    expert = PushTExpert(corrections=0.5)
    expert.demonstrate(110)
    assert_same(expert.demonstrate(111), PushTExpert(corrections=0.5).demonstrate(111))


def test_model_of_pushing_agrees_with_the_simulator():
    env = PushTEnv(())
    env.reset(seed=0)
    start, direction = np.array([226.0, 160.0]), np.array([0.0, 1.0])
    env.set_state(np.array([*start, 256.0, 200.0, 0.0]))
    for _ in range(20):
        env.step(start + 60.0 * direction)
    pose = np.array([[256.0, 200.0, 0.0]])
    predicted = simulate_pushes(start[None], direction[None], pose, 1.0, 60)[-1, 0]
    np.testing.assert_allclose(predicted[:2], env.state[2:4], atol=1.5)
    np.testing.assert_allclose(predicted[2], env.state[4] - 2 * np.pi * (env.state[4] > np.pi), atol=0.03)


def test_two_workers_collect_what_one_collects_and_it_can_go_on_from_any_seed():
    alone = list(collect("pusht", 3, seed=100, corrections=0.5))
    together = list(collect("pusht", 3, seed=100, workers=2, corrections=0.5))
    assert [demonstration["seed"] for demonstration in together] == [100, 101, 102]
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)
    (resumed,) = collect("pusht", 1, seed=102, corrections=0.5)
    assert_same(resumed, alone[2])


def test_images_are_drawn_on_demand():
    (demonstration,) = collect("pusht", 1, seed=101, images=True)
    assert demonstration["img"].shape == (len(demonstration["state"]), 3, 96, 96)
    assert demonstration["img"].dtype == np.uint8


class FailingExpert:
    def __init__(self, failing):
        self.failing = failing

    def demonstrate(self, seed):
        return None if seed in self.failing else {"state": np.zeros((1, 5), np.float32)}


def use_failing_expert(monkeypatch, name, failing):
    spec = replace(registry.ENVIRONMENTS["pusht"], name=name, expert=lambda noise: FailingExpert(failing))
    monkeypatch.setitem(registry.ENVIRONMENTS, name, spec)


def test_failures_are_skipped_and_counted(monkeypatch):
    use_failing_expert(monkeypatch, "sometimes", {0, 2, 3})
    found = [(demonstration["seed"], demonstration["failures"]) for demonstration in collect("sometimes", 3)]
    assert found == [(1, 1), (4, 2), (5, 0)]


def test_an_expert_that_always_fails_is_an_error_and_no_endless_search(monkeypatch):
    use_failing_expert(monkeypatch, "never", range(1000))
    with pytest.raises(RobodiffError, match="failed on 100 seeds in a row"):
        next(collect("never", 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_name": "pushtt"}, "unknown environment"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"corrections": float("nan")}, "corrections must be"),
    ],
)
def test_bad_requests_are_refused_at_once(arguments, message):
    with pytest.raises(UsageError, match=message):
        collect(**{"env_name": "pusht", "episodes": 1, **arguments})
