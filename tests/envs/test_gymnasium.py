"""Any Gymnasium environment: its observations under the names of the data, its rate, its success."""

import os
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from robodiff.data.episodes import Feature
from robodiff.envs.gymnasium import gymnasium_spec, read_spec
from robodiff.envs.pool import EnvPool, useful_workers
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.errors import RobodiffError, UsageError

ROBOT = spaces.Dict(
    {
        "agent_pos": spaces.Box(-9, 9, (3,), np.float64),
        "pixels": spaces.Dict({"top": spaces.Box(0, 255, (8, 6, 3), np.uint8)}),
        "grip": spaces.Box(0, 1, (), np.float32),
        "depth": spaces.Box(0, 255, (8, 6), np.uint8),
        "task": spaces.Text(10),
    }
)


class Robot(gymnasium.Env[Any, Any]):
    """Observes a picture whose channels differ; an episode's reward is how often it acted."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = ROBOT
    action_space = spaces.Box(-1, 1, (2, 2), np.float32)

    def __init__(self, render_mode: str | None = None, told: str = "", joints: float = 0) -> None:
        self.render_mode, self.told, self.joints = render_mode, told, joints

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.joints += self.np_random.uniform()
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.shape == (2, 2)
        assert action.dtype == np.float32
        info = {self.told: action[0, 0] > 1} if self.told else {}
        return self.observe(), 1.0, False, False, info | {"extra": {"turns": 2}}

    def observe(self) -> dict[str, Any]:
        picture = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
        return {"agent_pos": np.full(3, self.joints), "pixels": {"top": picture}, "grip": 0.5,
                "depth": picture[..., 0], "task": "lift"}  # fmt: skip

    def render(self) -> Any:
        return np.zeros((4, 4, 3), np.uint8)


class Silent(Robot):
    """Says neither its rate nor how long an episode is, and cannot be drawn."""

    metadata: ClassVar[dict[str, Any]] = {}
    observation_space = spaces.Box(0, 255, (8, 6, 4), np.uint8)


@pytest.fixture(autouse=True)
def robot() -> Iterator[None]:
    gymnasium.register("lab/Robot-v0", Robot, max_episode_steps=3, reward_threshold=3)
    gymnasium.register("lab/Silent-v0", Silent)
    yield
    del gymnasium.registry["lab/Robot-v0"], gymnasium.registry["lab/Silent-v0"]
    read_spec.cache_clear()


def run(spec: EnvSpec, action: float, steps: int = 3) -> list[Any]:
    environment = spec.make([])
    environment.reset(seed=0)
    return [environment.step(np.full(spec.features["action"].shape, action)) for _ in range(steps)]


def test_observations_have_the_usual_names() -> None:
    spec = get_env_spec("gymnasium:lab/Robot-v0")
    assert spec.features == {
        "observation.state": Feature("vector", (3,), "float32"),
        "observation.images.top": Feature("image", (3, 8, 6), "uint8"),
        "observation.grip": Feature("vector", (1,), "float32"),
        "action": Feature("vector", (4,), "float32"),
    }
    assert (spec.fps, spec.max_steps, spec.renders, spec.expert) == (20, 3, True, None)
    assert spec.version().startswith("gymnasium ")
    environment = spec.make(["observation.images.top", "observation.state"])
    observation, _ = environment.reset(seed=0)
    assert list(observation) == ["observation.state", "observation.images.top"]
    assert environment.observation_space.contains(observation)
    np.testing.assert_array_equal(observation["observation.images.top"][:, 0, 1], [3, 4, 5])
    assert environment.render().shape == (4, 4, 3)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"does not observe observation\.wrist; it has observation\.state, "):
        spec.make(["observation.wrist"])


def test_keys_and_the_rate_are_named_and_the_environment_has_its_own_options() -> None:
    text = "gymnasium:lab/Robot-v0?agent_pos=observation.joints&pixels.top=observation.image&fps=12.5&joints=7"
    spec = get_env_spec(text)
    assert {*spec.features} == {"observation.joints", "observation.image", "observation.grip", "action"}
    assert (spec.name, spec.fps) == (text, 12.5)
    assert spec.make(["observation.joints"]).reset(seed=0)[0]["observation.joints"][0] > 7
    spec = gymnasium_spec("lab/Silent-v0", name="mine", fps=5, max_episode_steps=9)
    assert spec.features["observation.image"] == Feature("image", (4, 8, 6), "uint8")
    assert (spec.max_steps, spec.renders) == (9, False)


@pytest.mark.parametrize("told", ["is_success", "success"])
def test_success_is_what_the_environment_calls_one(told: str) -> None:
    spec = get_env_spec(f"gymnasium:lab/Robot-v0?told={told}")
    assert [step[4]["is_success"] for step in run(spec, 0.5)] == [False] * 3
    assert run(spec, 2.0, 1)[0][4]["is_success"]


def test_else_it_is_a_sum_of_rewards_at_the_end() -> None:
    spec = get_env_spec("gymnasium:lab/Robot-v0")
    assert [step[4]["is_success"] for step in run(spec, 0.5)] == [False, False, True]
    assert "sum to 3" in spec.success
    assert not run(get_env_spec("gymnasium:Pendulum-v1?max_episode_steps=1"), 0.5, 1)[0][4]["is_success"]


def test_an_episode_depends_on_its_seed_and_not_on_the_number_of_processes() -> None:
    spec = get_env_spec("gymnasium:Pendulum-v1")
    ends = []
    for workers in (0, 2):
        pool = EnvPool(spec, ["observation.state"], [0, 1], workers)
        pool.reset({0: 3, 1: 4})
        steps = [pool.step({0: np.ones(1), 1: np.zeros(1)}) for _ in range(5)]
        pool.reset({0: 4})
        steps += [pool.step({0: np.zeros(1)}) for _ in range(5)]
        np.testing.assert_array_equal(steps[4][1].observation["observation.state"],
                                      steps[9][0].observation["observation.state"])  # fmt: skip
        ends.append(steps[9][0])
        pool.close()
    assert ends[0][1:] == ends[1][1:]
    mine = get_env_spec("gymnasium:lab/Robot-v0")  # only this process knows it
    assert useful_workers(mine, ["observation.images.top"], 9) == 0
    pool = EnvPool(mine, [], [0])
    pool.reset({0: 0})
    assert pool.step({0: np.zeros(4)})[0].extra == {"turns": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CartPole-v1", r"CartPole-v1: its actions are Discrete\(2\)"),
        ("Pendulum", "no environment 'Pendulum'. Did you mean 'Pendulum-v1'"),
        ("elsewhere/Thing-v3", "--plugin MODULE"),
        ("os:Pendulum-v1", "no environment 'os:Pendulum-v1'"),
        ("lab/Robot-v0?agent=observation.state", r"'agent' is neither .* Did you mean 'agent_pos'"),
        ("lab/Robot-v0?grip=observation.state", "each its own name"),
        ("lab/Robot-v0?told", "expected option=value"),
        ("lab/Robot-v0?told=os:system", "expected option=value"),
        ("lab/Silent-v0", "fps and max_episode_steps; add fps=N"),
        ("lab/Silent-v0?fps=5", "max_episode_steps=N"),
        ("lab/Silent-v0?fps=fast", "fps: expected float > 0; found 'fast'"),
        ("lab/Silent-v0?fps=-3", "fps: expected float > 0; found -3"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get_env_spec(f"gymnasium:{text}")


def test_what_cannot_be_made_is_one_line() -> None:
    with pytest.raises(RobodiffError, match=r"cannot be made: TypeError: .*colour") as failure:
        get_env_spec("gymnasium:lab/Robot-v0?colour=red")
    assert "\n" not in str(failure.value)
    for name in ("gymnasium", "pusht:2"):
        with pytest.raises(UsageError, match="expected"):
            get_env_spec(name)


def test_aloha() -> None:
    """In a virtual environment of its own: it needs mujoco < 3.9, and MUJOCO_GL=egl or osmesa where no screen is."""
    pytest.importorskip("gym_aloha", reason="gym-aloha is not installed")
    os.environ.setdefault("MUJOCO_GL", "egl")
    spec = get_env_spec("gymnasium:gym_aloha/AlohaTransferCube-v0?obs_type=pixels_agent_pos")
    assert spec.features == {
        "observation.state": Feature("vector", (14,), "float32"),
        "observation.images.top": Feature("image", (3, 480, 640), "uint8"),
        "action": Feature("vector", (14,), "float32"),
    }
    assert (spec.fps, spec.max_steps) == (50, 300)
    environment = spec.make(["observation.state", "observation.images.top"])
    observation, _ = environment.reset(seed=3)
    again, _ = environment.reset(seed=3)
    np.testing.assert_array_equal(observation["observation.state"], again["observation.state"])
    assert 20 < observation["observation.images.top"].mean() < 200
    action = observation["observation.state"] + 0.05
    for _ in range(20):
        moved, reward, terminated, _, info = environment.step(action)
    assert np.abs(moved["observation.state"][:6] - action[:6]).max() < 0.05  # it goes where it is told to
    assert (reward, terminated, info["is_success"]) == (0, False, False)
    assert np.asarray(environment.render()).shape == (480, 640, 3)
