"""What the tests of the table share: its tasks, demonstrations, and whether this machine can draw."""

from functools import cache

import numpy as np
import pytest

from robodiff.data.episodes import ACTION
from robodiff.envs.mujoco.env import TableEnv
from robodiff.envs.mujoco.spec import _TASKS
from robodiff.envs.mujoco.world import World
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.errors import RobodiffError

TASKS = tuple(_TASKS)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def drawing() -> None:
    """Skip where no picture can be drawn, and say why."""
    try:
        World(_TASKS["lift_cube"]().scene, fps=20).draw("view", (8, 8))
    except RobodiffError as error:
        pytest.skip(str(error))


def vectors(spec: EnvSpec) -> list[str]:
    return [key for key, feature in spec.features.items() if feature.kind == "vector" and key != ACTION]


def images(spec: EnvSpec) -> list[str]:
    return [key for key, feature in spec.features.items() if feature.kind == "image"]


@cache
def demonstrated(name: str, seed: int = 0, noise: float = 0.0) -> Arrays:
    """All vectors and the action of a demonstration; nobody changes them."""
    spec = get_env_spec(name)
    assert spec.expert is not None
    demonstration = spec.expert(noise=noise).demonstrate(seed, vectors(spec))
    assert isinstance(demonstration, dict), f"{name}, seed {seed}: {demonstration}"
    return demonstration


def replayed(env: TableEnv, seed: int, actions: np.ndarray) -> tuple[Arrays, list[bool]]:
    """What is observed before each action, and after which ones the goal is reached."""
    observations, successes = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        assert reward == terminated == info["is_success"]
        observations.append(observation)
        successes.append(terminated)
    return {key: np.stack([each[key] for each in observations[:-1]]) for key in observations[0]}, successes


def assert_same(one: Arrays, other: Arrays) -> None:
    for key in one.keys() | other.keys():
        np.testing.assert_array_equal(one[key], other[key], key)
