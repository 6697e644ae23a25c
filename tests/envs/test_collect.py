"""Scripted demonstrations: of Push-T's expert, and collected on several processes."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import use_env

from robodiff.envs.collect import Demonstration, collect
from robodiff.envs.pusht.env import GOAL_POSE, PushTEnv, render_observation
from robodiff.envs.pusht.expert import PushTExpert
from robodiff.envs.pusht.geometry import corners_from_pose, pose_from_corners
from robodiff.envs.pusht.planner import simulate_pushes
from robodiff.envs.pusht.spec import SPEC
from robodiff.errors import RobodiffError, UsageError

STATE, CORNERS, IMAGE = "observation.state", "observation.environment_state", "observation.image"


def assert_same(one: dict[str, np.ndarray] | None, other: dict[str, np.ndarray] | None) -> None:
    assert one is not None
    assert other is not None
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def replay(seed: int, actions: np.ndarray) -> tuple[bool, float]:
    """Whether the block was on its goal at any time, and how much of it is covered at the end."""
    env = PushTEnv(())
    env.reset(seed=seed)
    successes = [env.step(action)[2] for action in actions]
    return any(successes), env.coverage


def test_expert_succeeds_and_ends_well_inside_success() -> None:
    expert = PushTExpert()
    for seed in range(100, 106):
        demonstration = expert.demonstrate(seed)
        assert demonstration is not None, seed
        assert {key: (array.shape[1:], array.dtype) for key, array in demonstration.items()} == {
            STATE: ((2,), np.float32), CORNERS: ((16,), np.float32), "action": ((2,), np.float32)
        }  # fmt: skip
        success, coverage = replay(seed, demonstration["action"])  # float32 targets repeat the episode closely enough
        assert success, seed
        assert coverage > 0.955, seed


def test_corrections_start_near_the_goal_and_are_short() -> None:
    expert = PushTExpert(corrections=1.0)
    for seed in range(100, 104):
        demonstration = expert.demonstrate(seed)
        assert demonstration is not None
        x, y, angle = pose_from_corners(demonstration[CORNERS][:1])[0]
        turn = (angle - GOAL_POSE[2] + np.pi) % (2 * np.pi) - np.pi
        assert np.hypot(x - GOAL_POSE[0], y - GOAL_POSE[1]) < 100.0
        assert abs(turn) < 1.2
        assert len(demonstration["action"]) < len(PushTExpert().demonstrate(seed)["action"]) + 40  # type: ignore[index]
    some = PushTExpert(corrections=0.5)
    starts = [np.allclose(some.demonstrate(seed)[STATE][0], start(seed), atol=1e-3) for seed in range(6)]  # type: ignore[index]
    assert len(set(starts)) == 2  # some seeds start as the environment does, some near the goal


def start(seed: int) -> np.ndarray:
    env = PushTEnv(())
    env.reset(seed=seed)
    return env.state[:2]


def test_demonstration_depends_on_its_seed_alone() -> None:
    expert = PushTExpert(corrections=0.5)
    expert.demonstrate(110)
    assert_same(expert.demonstrate(111), PushTExpert(corrections=0.5).demonstrate(111))


def test_model_of_pushing_agrees_with_the_simulator() -> None:
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


def test_two_workers_collect_what_one_collects_and_it_can_go_on_from_any_seed() -> None:
    alone = list(collect("pusht", 3, seed=100, corrections=0.5))
    together = list(collect("pusht", 3, seed=100, workers=2, corrections=0.5))
    assert [demonstration.seed for demonstration in together] == [100, 101, 102]
    for one, other in zip(alone, together, strict=True):
        assert_same(one.arrays, other.arrays)
    (resumed,) = collect("pusht", 1, seed=102, corrections=0.5)
    assert_same(resumed.arrays, alone[2].arrays)


def test_observations_are_those_of_the_states_and_images_are_drawn_on_demand() -> None:
    (plain,), (seen,) = collect("pusht", 1, seed=101), collect("pusht", 1, seed=101, images=True)
    assert seen.arrays.keys() - plain.arrays.keys() == {IMAGE}
    length = len(plain.arrays["action"])
    assert seen.arrays[IMAGE].shape == (length, 3, 96, 96)
    assert seen.arrays[IMAGE].dtype == np.uint8
    env = PushTEnv(())
    env.reset(seed=101)
    for frame in range(5):
        np.testing.assert_allclose(plain.arrays[STATE][frame], env.state[:2], atol=1e-3)
        np.testing.assert_allclose(plain.arrays[CORNERS][frame], corners_from_pose(env.state[None, 2:5])[0], atol=1e-3)
        np.testing.assert_array_equal(seen.arrays[IMAGE][frame], render_observation(env.state[:5].astype(np.float32)))
        env.step(plain.arrays["action"][frame])


def test_agents_of_a_plugin_are_recorded_apart(plugin: Path) -> None:
    alone, together = list(collect("two_agents", 4)), list(collect("two_agents", 4, workers=2))
    for one, other in zip(alone, together, strict=True):
        assert_same(one.arrays, other.arrays)
        assert {key: array.shape[1] for key, array in one.arrays.items()} == {
            "agents.0.observation.state": 4, "agents.1.observation.state": 4, "agents.0.action": 2, "agents.1.action": 2
        }  # fmt: skip
        moved = one.arrays["agents.1.observation.state"][1, :2] - one.arrays["agents.1.observation.state"][0, :2]
        np.testing.assert_allclose(moved, one.arrays["agents.1.action"][0], atol=1e-6)


class FailingExpert:
    def __init__(self, failing: Collection[int]) -> None:
        self.failing = failing

    def demonstrate(self, seed: int, keys: Any) -> dict[str, np.ndarray] | str | None:
        if seed == 1000:
            raise IndexError("no push")
        if seed in self.failing:
            return "collision" if seed % 2 else None
        return {"action": np.zeros((1, 2), np.float32)}


def use_failing_expert(monkeypatch: pytest.MonkeyPatch, name: str, failing: Collection[int]) -> None:
    use_env(monkeypatch, replace(SPEC, name=name, expert=lambda corrections: FailingExpert(failing)))


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    use_failing_expert(monkeypatch, "sometimes", {0, 2, 3})  # no process but this one knows it
    found = [(episode.seed, episode.failures) for episode in collect("sometimes", 3, workers=workers)]
    assert found == [(1, {"no success": 1}), (4, {"no success": 1, "collision": 1}), (5, {})]
    assert isinstance(next(collect("sometimes", 1)), Demonstration)


def test_an_expert_that_always_fails_is_an_error_and_no_endless_search(monkeypatch: pytest.MonkeyPatch) -> None:
    use_failing_expert(monkeypatch, "never", range(1000))
    with pytest.raises(RobodiffError, match=r"failed on 100 seeds in a row, up to 99 \(collision 50, no success 50\)"):
        next(collect("never", 1))
    with pytest.raises(RobodiffError, match=r"expert of never failed at seed 1000: IndexError: no push"):
        next(collect("never", 1, seed=1000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "pushtt"}, "unknown environment"),
        ({"env": "gymnasium:Pendulum-v1"}, "no scripted expert"),
        ({"corrections": float("nan")}, "corrections: expected float"),
        ({"correction": 0.5}, "Did you mean 'corrections'"),
        ({"env": "two_agents", "images": True}, "has no images"),
        ({"images": ["imag"]}, "pusht has no camera 'imag'; it has image. Did you mean 'image'"),
    ],
)
def test_bad_requests_are_refused_at_once(plugin: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collect(**{"env": "pusht", "episodes": 1, **arguments})
