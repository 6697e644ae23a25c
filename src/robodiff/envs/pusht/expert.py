"""A scripted expert for Push-T: plans a push, walks to it, pushes and steers, and looks again, in closed loop."""

from collections.abc import Collection

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.envs.pusht.env import (
    ENVIRONMENT_STATE,
    GOAL_POSE,
    IMAGE,
    STATE,
    SUCCESS_COVERAGE,
    TABLE,
    PushTEnv,
    render_observation,
)
from robodiff.envs.pusht.geometry import corners_from_pose
from robodiff.envs.pusht.planner import APPROACH_SPEED, PUSH_SPEED, Array, Push, distance_to_goal, plan_push, steer_push
from robodiff.envs.pusht.ways import is_free, to_table

_LAG = 2.0  # steps by which the agent trails its target: velocity gain / position gain of its controller, at 10 Hz
_ARRIVED = 6.0  # px to the end of the way at which the push begins
_PRECISE = 15.0  # px to the goal from which on pushes are brought to their very end
_SETTLED = 0.97  # coverage at which no further push is planned; more than success asks for, see `act`


class PushTController:
    """The expert's behaviour: state in, target position out; all that it remembers is the push it has chosen."""

    def __init__(self) -> None:
        self._push: Push | None = None
        self._pushing = False
        self._planned_for: Array = np.zeros(3)

    def act(self, state: Array, coverage: float) -> Array | None:
        """Return the agent's target (2,) px for ``state`` (7,), or None if there is nothing left to do.

        ``coverage`` is the share of the goal that the block covers. A demonstration that stops as soon as that reaches
        95 % teaches to stop at the very edge of success: so pushes are planned until it is 97 %, and a push under way
        is brought to its end in any case.
        """
        agent, pose = state[:2], state[2:5]
        target = None if self._push is None else self._follow(self._push, agent, pose)
        if target is None:
            self._push = None if coverage > _SETTLED else plan_push(agent, pose)
            if self._push is None:
                return None
            self._pushing, self._planned_for = False, pose.copy()
            target = self._follow(self._push, agent, pose)
            assert target is not None  # a new push is at least begun
        return target.clip(0.0, TABLE)

    def _follow(self, push: Push, agent: Array, pose: Array) -> Array | None:
        """Return the next target on the way to the push or within it; None when it is over or does not fit any more."""
        if self._pushing:
            direction, length = steer_push(agent, push.direction, pose)
            # The agent comes to rest exponentially; far from the goal, the last pixels are not worth the wait.
            if length < (1.0 if distance_to_goal(pose[None])[0] < _PRECISE else 3.0):
                return None
            self._push = Push(push.path, direction, length)
            return agent + min(length, _LAG * _push_speed(pose)) * direction
        if _moved(self._planned_for, pose) > 1.0:  # px: the block was touched on the way
            return None
        target, remaining = _pursue(push.path, agent, _LAG * APPROACH_SPEED)
        if remaining > _ARRIVED:
            return target
        self._pushing = True
        return agent + min(push.length, _LAG * _push_speed(pose)) * push.direction


class PushTExpert:
    """Demonstrates Push-T.

    ``corrections`` is the share of the seeds whose demonstration starts near the goal, with the block displaced and
    turned a little and the agent beside it: how to put right what almost fits is a small part of a whole demonstration,
    but it is what decides on success.
    """

    def __init__(self, corrections: float = 0.0) -> None:
        self.corrections = corrections
        self._env = PushTEnv(observation_keys=())

    def demonstrate(self, seed: int, keys: Collection[str] = (STATE, ENVIRONMENT_STATE)) -> dict[str, Array] | None:
        """Return one demonstration from the start that ``seed`` draws, or None if it did not succeed in time."""
        env = self._env
        env.reset(seed=seed)
        random = np.random.default_rng([seed, 0x9057])
        if random.random() < self.corrections:
            env.set_state(_near_goal(random))
        controller = PushTController()
        states, actions = [], []
        for _ in range(env.max_steps):
            state = env.state
            action = controller.act(state, env.coverage)
            if action is None:
                break
            states.append(state[:5])
            actions.append(action)
            env.step(action)
        if env.coverage <= SUCCESS_COVERAGE or not states:
            return None
        return {**observations(np.array(states, np.float32), keys), ACTION: np.array(actions, np.float32)}


def observations(states: Array, keys: Collection[str]) -> dict[str, Array]:
    """Return what is observed in states (L, 5): agent x, y, block x, y (px) and block angle (rad)."""
    observe = {
        STATE: lambda: states[:, :2].copy(),
        ENVIRONMENT_STATE: lambda: corners_from_pose(states[:, 2:]).astype(np.float32),
        IMAGE: lambda: np.stack([render_observation(state) for state in states]),
    }
    return {key: observe[key]() for key in keys}


def _push_speed(pose: Array) -> float:
    """px a step: slower near the goal, where whoever imitates must not overshoot within one chunk of actions."""
    return float(np.clip(distance_to_goal(pose[None])[0] / 6.0, 3.0, PUSH_SPEED))


def _near_goal(random: np.random.Generator) -> Array:
    """Return a state (5,) with the block near its goal and the agent beside it, touching nothing."""
    while True:
        pose = np.array(GOAL_POSE) + random.normal(0.0, (25.0, 25.0, 0.3))
        direction = random.uniform(0.0, 2 * np.pi)
        agent = to_table(np.array([[0.0, 45.0]]), pose)[0]  # the block's centre of gravity
        agent += random.uniform(40.0, 180.0) * np.array([np.cos(direction), np.sin(direction)])
        if is_free(agent, pose):
            return np.array([*agent, *pose])


def _moved(planned: Array, pose: Array) -> float:
    """Return how far the block is from where it was, px; a turn counts with the arm of a corner."""
    turn = (pose[2] - planned[2] + np.pi) % (2 * np.pi) - np.pi
    return float(np.linalg.norm(pose[:2] - planned[:2]) + 60.0 * abs(turn))


def _pursue(path: Array, agent: Array, lookahead: float) -> tuple[Array, float]:
    """Return the point of ``path`` (K, 2) that lies ``lookahead`` px ahead of the agent, and the px left to its end."""
    legs = np.diff(path, axis=0)
    lengths = np.linalg.norm(legs, axis=1)
    starts = np.concatenate([[0.0], np.cumsum(lengths)])  # (K,) arc length at each way point
    share = ((agent - path[:-1]) * legs).sum(axis=1) / np.maximum(lengths**2, 1e-9)
    share = share.clip(0.0, 1.0)
    away = np.linalg.norm(path[:-1] + share[:, None] * legs - agent, axis=1)
    leg = int(np.argmin(away))
    position = starts[leg] + share[leg] * lengths[leg]
    ahead = min(position + lookahead, starts[-1])
    target = np.array([np.interp(ahead, starts, path[:, axis]) for axis in range(2)])
    return target, float(starts[-1] - position)
