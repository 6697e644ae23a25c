"""Every task: its expert, what it observes, and that a recording is the episode."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.envs.mujoco.conftest import TASKS, assert_same, demonstrated, images, replayed, vectors

from robodiff import registry
from robodiff.data.episodes import ACTION
from robodiff.envs.collect import collect
from robodiff.envs.mujoco.actions import SPACES
from robodiff.envs.mujoco.spec import _TASKS
from robodiff.envs.spec import get_env_spec

ROBOFACTORY = {
    1: ("PickMeat", "StackCube", "StrikeCube"),
    2: ("LiftBarrier", "PassShoe", "PlaceFood", "TwoRobotsStackCube"),
    3: ("CameraAlignment", "ThreeRobotsStackCube"),
    4: ("TakePhoto", "LongPipelineDelivery"),
}
"""Its tasks by the number of arms."""


@pytest.mark.parametrize("name", TASKS)
def test_the_expert_succeeds_and_its_actions_repeat_what_was_recorded(name: str) -> None:
    spec = get_env_spec(name)
    for seed in (1, 2):
        assert isinstance(spec.expert(noise=0.0).demonstrate(seed, ()), dict), seed  # pyright: ignore
    recorded = dict(demonstrated(name))
    actions = recorded.pop(ACTION)
    found = {key: (values.shape[1:], values.dtype) for key, values in (recorded | {ACTION: actions}).items()}
    assert found == {key: (spec.features[key].shape, spec.features[key].dtype) for key in found}
    assert len(actions) < 0.7 * spec.max_steps  # pyright: ignore: a policy has time to correct itself
    observations, successes = replayed(spec.make(vectors(spec)), 0, actions)  # pyright: ignore
    assert any(successes)
    assert_same(observations, recorded)


@pytest.mark.parametrize("name", ["lift_cube", "stack_cube_mycobot", "lift_barrier"])
@pytest.mark.parametrize("space", [space for space in SPACES if space != "joints"])
def test_recordings_repeat_in_every_action_space(name: str, space: str) -> None:
    name = f"{name}?action_space={space}"
    recorded, spec = dict(demonstrated(name)), get_env_spec(name)
    observations, successes = replayed(spec.make(vectors(spec)), 0, recorded.pop(ACTION))  # pyright: ignore
    assert any(successes)
    assert_same(observations, recorded)


def test_another_process_makes_the_same_demonstration() -> None:
    names = ["lift_barrier?action_space=eef_delta", "stack_cube_mycobot"]
    program = f"""
import hashlib
from tests.envs.mujoco.conftest import demonstrated
for name in {names}:
    print(hashlib.sha256(b"".join(values.tobytes() for values in demonstrated(name).values())).hexdigest())
"""
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    here = [
        hashlib.sha256(b"".join(each.tobytes() for each in demonstrated(name).values())).hexdigest() for name in names
    ]
    assert there.stdout.split() == here, there.stderr


@pytest.mark.parametrize("name", TASKS)
def test_what_is_observed_is_what_the_features_say(name: str, drawing: None) -> None:
    spec = get_env_spec(f"{name}?size=24x32")
    env = spec.make([*vectors(spec), *images(spec)])
    observation, _ = env.reset(seed=0)
    assert [*observation, ACTION] == [*spec.features]
    assert env.observation_space.contains(observation)
    for key, values in observation.items():
        feature = spec.features[key]
        assert (values.shape, str(values.dtype)) == (feature.shape, feature.dtype), key
        assert feature.kind == "image" or len(feature.names or ()) == feature.shape[0], key
        assert feature.kind == "vector" or len(np.unique(values)) > 20, f"{key} is of one colour"
    assert env.action_space.shape == spec.features[ACTION].shape


def test_robofactorys_names_and_teams() -> None:
    for arms, name in ((arms, name) for arms, names in ROBOFACTORY.items() for name in names):
        spec = get_env_spec(f"{name}-rf")
        assert spec.name == "".join(f"_{letter}" if letter.isupper() else letter for letter in name).lower()[1:]
        assert len(spec.agents) == (arms if arms > 1 else 0)
        each = spec.features[ACTION].shape[0] // arms
        assert [*spec.agents.values()] == [slice(i * each, (i + 1) * each) for i in range(len(spec.agents))]
        prefix = "agents.0." if arms > 1 else ""
        assert {f"{prefix}observation.state", f"{prefix}observation.images.head", "observation.images.agentview"} <= {
            *spec.features
        }
    assert get_env_spec("LiftBarrier-rf?size=84x84").name == "lift_barrier?size=84x84"
    assert get_env_spec("lift_cube?size=84x84&action_space=eef").name == "lift_cube?action_space=eef&size=84x84"
    assert get_env_spec("lift_cube?action_space=joints").name == "lift_cube"


def test_a_task_of_ones_own_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    registry.load_plugin(str(Path(__file__).parents[3] / "examples" / "extending" / "push_button.py"))
    name = "push_button?action_space=eef_delta"
    alone, together = list(collect(name, 3)), list(collect(name, 3, workers=2))
    assert [each.failures.total() for each in alone] == [0, 0, 0]
    for one, other in zip(alone, together, strict=True):
        assert_same(one.arrays, other.arrays)
    spec = get_env_spec(name)
    _, successes = replayed(spec.make(()), alone[0].seed, alone[0].arrays[ACTION])  # pyright: ignore
    assert successes[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_expert_succeeds_on_fresh_seeds(name: str) -> None:
    expert, task = get_env_spec(name).expert, _TASKS[name]
    assert expert is not None
    clean = [expert(noise=0.0).demonstrate(seed, ()) for seed in range(1000, 1050)]
    assert sum(isinstance(each, dict) for each in clean) >= 49, [each for each in clean if not isinstance(each, dict)]
    noisy = [expert(noise=task.noise).demonstrate(seed, ()) for seed in range(2000, 2020)]
    assert sum(isinstance(each, dict) for each in noisy) >= 19, [each for each in noisy if not isinstance(each, dict)]
