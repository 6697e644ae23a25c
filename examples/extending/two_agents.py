"""Two agents on a plane that meet: robodiff collect two_agents --plugin two_agents.py --episodes 20 --out meet.zarr"""

from typing import Any

import gymnasium
import numpy as np

from robodiff.data.episodes import Feature
from robodiff.envs.spec import EnvSpec

STATES = ["agents.0.observation.state", "agents.1.observation.state"]  # x, y of the agent, and where the other is
STEPS = 40


class MeetEnv(gymnasium.Env):
    """Each agent moves by its half of the action, at most 0.1 a step; success is to be close for five steps."""

    def __init__(self, keys: Any = STATES) -> None:
        self.keys = [key for key in STATES if key in keys]
        self.action_space = gymnasium.spaces.Box(-0.1, 0.1, (4,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.positions, self.together = self.np_random.uniform(-1, 1, (2, 2)), 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.positions += np.clip(action, -0.1, 0.1).reshape(2, 2)
        distance = float(np.linalg.norm(self.positions[0] - self.positions[1]))
        self.together = self.together + 1 if distance < 0.1 else 0
        success = self.together == 5
        return self.observe(), -distance, success, False, {"is_success": success, "extra": {"distance": distance}}

    def observe(self) -> dict[str, np.ndarray]:
        states = [[*own, *(other - own)] for own, other in (self.positions, self.positions[::-1])]
        return {key: np.array(states[STATES.index(key)], np.float32) for key in self.keys}


class MeetExpert:
    """Both go half of the way to each other."""

    def demonstrate(self, seed: int, keys: Any) -> dict[str, np.ndarray] | None:
        env, steps, success = MeetEnv(keys), [], False
        observation, _ = env.reset(seed=seed)
        while not success and len(steps) < STEPS:
            way = (env.positions[::-1] - env.positions).ravel() / 2
            steps.append({**observation, "action": np.clip(way, -0.1, 0.1).astype(np.float32)})
            observation, _, success, _, _ = env.step(steps[-1]["action"])
        return {key: np.stack([step[key] for step in steps]) for key in steps[0]} if success else None


VECTOR = Feature("vector", (4,), "float32")
SPEC = EnvSpec(
    name="two_agents", make=MeetEnv, features=dict.fromkeys([*STATES, "action"], VECTOR), fps=10, max_steps=STEPS,
    success="The agents are within 0.1 of each other for five steps.", version=lambda: "meet 1", renders=False,
    agents={"0": slice(0, 2), "1": slice(2, 4)}, expert=MeetExpert,
)  # fmt: skip
