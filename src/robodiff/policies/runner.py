"""``PolicyRunner``: the observation history and the action queue of one robot, or of many at once; ``Team``.

On NumPy alone: what the policy computes with is its own matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.runtime import Runtime, Timing, draw_noise

Observation = Mapping[str, np.ndarray]

DENSEST = 8
"""Observations that are kept of each ``Timing.spacing``, about; those in between are forgotten."""


@dataclass(frozen=True)
class NonFiniteChunk:
    """A chunk that holds an action which is not finite, and what it was made from."""

    observation: dict[str, np.ndarray]
    """Per key (To, ...), oldest first, what the policy observed."""
    actions: np.ndarray
    """(Ta, Da), the part of the chunk that would have been executed."""
    agent: str | None = None
    """Whose it is, in a team."""

    def __str__(self) -> str:
        step, dimension = np.argwhere(~np.isfinite(self.actions))[0]
        bad = [key for key, value in self.observation.items() if not np.isfinite(value).all()]
        reason = f"what was observed is not finite in {', '.join(bad)}" if bad else "all that was observed is finite"
        agent = f"agent {self.agent}: " if self.agent is not None else ""
        return f"{agent}action[{dimension}] is not finite at step {step} of the chunk; {reason}"


class NonFiniteActions(RobodiffError):
    """Some rows' chunks are not finite: no action of them is handed out. The other rows can go on.

    Args:
        actions: (rows, Da), what each row executes now, NaN for those that ``chunks`` names.
        chunks: by row, what came about.
    """

    def __init__(self, actions: np.ndarray, chunks: Mapping[int, NonFiniteChunk]) -> None:
        row, chunk = next(iter(chunks.items()))
        super().__init__(f"row {row}: {chunk}" if len(actions) > 1 else str(chunk))
        self.actions, self.chunks = actions, chunks


class PolicyRunner:
    """Turn a stateless policy into one that is asked for one action after another.

    It keeps the last observations, asks the policy for a chunk when the executed part of the last one is used up, and
    hands out its actions one at a time. The noise of a chunk is a function of (the row's seed, the chunk's number), so
    that what a row does depends on no other row.

    A policy that observes ``observation.past_action`` is told what the runner handed out last, zeros after a reset,
    unless the observation says itself what was executed.

    Args:
        policy: what to ask.
        rows: how many robots act together; None for one robot, whose arrays then have no row dimension.
        seeds: (rows,) seeds of the noise; 0, 1, ... when None. ``reset`` can give others.
        timing: of observations and actions; the policy's own when None.
    """

    def __init__(
        self, policy: Runtime, rows: int | None = None, seeds: Sequence[int] | None = None, timing: Timing | None = None
    ) -> None:
        self.policy = policy
        self.timing: Timing = timing or policy.timing  # pyright: ignore[reportAttributeAccessIssue]
        self.single = rows is None
        n, steps, (dim,) = rows or 1, self.timing.n_action_steps, policy.features[ACTION].shape
        self.seeds = np.arange(n)
        self._history: list[dict[str, np.ndarray]] = []  # oldest first, each key (rows, ...)
        self._times: list[np.ndarray] = []  # (rows,) seconds, beside the history
        self._begun = np.zeros(n)  # (rows,) seconds, when the first observation since the reset was made
        self._fresh = np.ones(n, bool)  # rows whose next observation fills the whole history
        self._queue = np.zeros((n, steps, dim), np.float32)
        self._next = np.full(n, steps)  # (rows,) place in the queue; past its end: ask the policy
        self._chunks = np.zeros(n, np.int64)  # (rows,) chunks made since reset
        self._past = np.zeros((n, dim), np.float32)  # what was handed out last
        self._broken: dict[int, NonFiniteChunk] = {}  # by row, the chunk in the queue where it is not finite
        self.reset(seeds=seeds)

    def reset(self, rows: Sequence[int] | np.ndarray | None = None, seeds: Sequence[int] | None = None) -> None:
        """Begin a new episode.

        Args:
            rows: which robots; all when None.
            seeds: a seed for each of these; kept when None. The noise starts over.
        """
        every = np.arange(len(self.seeds))
        chosen = every if rows is None else every[np.asarray(rows)]
        self._fresh[chosen], self._next[chosen] = True, self.timing.n_action_steps
        self._chunks[chosen], self._past[chosen] = 0, 0
        for row in chosen.tolist():
            self._broken.pop(row, None)
        if seeds is not None:
            self.seeds[chosen] = seeds

    def act(self, observation: Observation, timestamp: float | np.ndarray | None = None) -> np.ndarray:
        """Return the action to execute now.

        Args:
            observation: per key what the policy observes, (rows, ...) or, for one robot, one time step's shape.
            timestamp: when it was observed, in seconds; the history is then picked ``timing.spacing`` apart. Without
                it, calls are taken to be that far apart.

        Returns:
            (rows, Da), or (Da,) for one robot, in the units of the recording.

        Raises:
            RobodiffError: the observation lacks a key or has another shape than the policy was trained on, or its time
                is not finite, goes back, or comes too late after the one before.
            NonFiniteActions: the policy's chunk is not finite; so it is at every call until a row's next chunk is due,
                or it is reset.
        """
        self._remember(self._checked(observation), self._time(timestamp))
        due = self._next >= self.timing.n_action_steps
        if due.any():
            self._plan(due)
        action = self._queue[np.arange(len(self._next)), self._next]
        self._next += 1
        finite = np.isfinite(action).all(axis=1)
        self._past[finite] = action[finite]
        if self._broken:
            raise NonFiniteActions(action, dict(self._broken))
        return action[0] if self.single else action

    def _checked(self, observation: Observation) -> dict[str, np.ndarray]:
        """Return what the policy observes of an observation, per key (rows, ...)."""
        if PAST_ACTION in self.policy.features:
            observation = {PAST_ACTION: self._past[0] if self.single else self._past, **observation}
        checked = {}
        for key, feature in self.policy.features.items():
            if key == ACTION:
                continue
            if key not in observation:
                raise RobodiffError(f"the policy observes {key!r}; the observation has {', '.join(observation)}")
            value = np.array(observation[key])  # a copy: callers may write their next observation into the same array
            shape = feature.shape if self.single else (len(self.seeds), *feature.shape)
            if value.shape != shape:
                raise RobodiffError(f"{key}: expected shape {shape}, found {value.shape}")
            checked[key] = value[None] if self.single else value
        return checked

    def _time(self, timestamp: float | np.ndarray | None) -> np.ndarray:
        """Return when each row is, (rows,) seconds."""
        last = self._times[-1] if self._times else np.full(len(self.seeds), -self.timing.spacing)
        if timestamp is None:
            return last + self.timing.spacing
        now = np.array(np.broadcast_to(np.asarray(timestamp, np.float64), last.shape))
        if not np.isfinite(now).all() or (now < last)[~self._fresh].any():
            raise RobodiffError(f"timestamps must be finite and must not go back; found {now} after {last}")
        return now

    def _remember(self, observation: dict[str, np.ndarray], now: np.ndarray) -> None:
        self._history.append(observation)
        self._times.append(now)
        for past in range(len(self._history) - 1):  # a fresh row has seen this and nothing before it
            self._times[past][self._fresh] = now[self._fresh]
            for key, value in observation.items():
                self._history[past][key] = np.where(_rows(self._fresh, value), value, self._history[past][key])
        self._begun = np.where(self._fresh, now, self._begun)
        self._fresh[:] = False
        self._forget(now)

    def _forget(self, now: np.ndarray) -> None:
        """Drop what no step will be picked from: too old, or so close to its neighbours that these will do."""
        steps, spacing = self.timing.n_obs_steps, self.timing.spacing
        oldest = now - (steps - 1) * spacing
        while len(self._history) > steps and (self._times[1] <= oldest + 1e-6).all():
            del self._history[0], self._times[0]
        if len(self._history) > steps and (now - self._times[-3] < spacing / DENSEST).all():
            del self._history[-2], self._times[-2]
        if len(self._history) > 4 * DENSEST * steps:  # rows whose times drift apart
            del self._history[0], self._times[0]

    def _plan(self, due: np.ndarray) -> None:
        """Queue what is executed of a new chunk in the rows that are ``due``, (rows,) bool."""
        window, shape = self._window(), self.policy.noise_shape(1)
        noise = [draw_noise(shape, *numbers) for numbers in np.stack([self.seeds, self._chunks], axis=1).tolist()]
        # Of all rows, due or not: the size of the batch stays constant.
        chunk = self.policy.predict_chunk(window, noise=np.concatenate(noise, axis=1))
        actions = np.asarray(chunk.executed(self.timing), np.float32)  # (rows, Ta, Da)
        self._queue[due], self._next[due] = actions[due], 0
        self._chunks[due] += 1
        for row in np.flatnonzero(due).tolist():
            self._broken.pop(row, None)
            if not np.isfinite(actions[row]).all():
                self._queue[row] = np.nan
                seen = {key: steps[row] for key, steps in window.items()}
                self._broken[row] = NonFiniteChunk(seen, actions[row])

    def _window(self) -> dict[str, np.ndarray]:
        """Return what each row observes now: per key (rows, To, ...), oldest first."""
        steps, spacing = self.timing.n_obs_steps, self.timing.spacing
        times = np.stack(self._times)  # (history, rows)
        wanted = times[-1] - np.arange(steps - 1, -1, -1)[:, None] * spacing  # (To, rows)
        wanted = np.maximum(wanted, self._begun)  # the first observation stands for all before it
        distances = np.abs(times - wanted[:, None])  # (To, history, rows)
        unseen = wanted[distances.min(1) > spacing / 2 + 1e-6]
        if len(unseen):
            raise RobodiffError(f"nothing was observed at {unseen[0]:.3f} s; observe every {spacing:g} s, or reset")
        picks, rows = distances.argmin(1), np.arange(len(self.seeds))  # (To, rows)
        window = {}
        for key in self._history[-1]:
            history = np.stack([observation[key] for observation in self._history])  # (history, rows, ...)
            window[key] = np.stack([history[pick, rows] for pick in picks], axis=1)  # (rows, To, ...)
        return window


class Team:
    """Runners of several agents that act as one.

    An agent sees what is observed of all, and of itself: ``agents.<id>.observation.state`` is its
    ``observation.state``.

    Args:
        runners: by agent, each with the same rows.
        agents: by agent, which part of the team's action is its own; the parts make up the whole.

    Raises:
        UsageError: an agent without a runner, or a runner without an agent.
    """

    def __init__(self, runners: Mapping[str, PolicyRunner], agents: Mapping[str, slice]) -> None:
        if runners.keys() != agents.keys():
            raise UsageError(f"the team has agents {', '.join(agents)}, and policies for {', '.join(runners)}")
        self.runners, self.agents = dict(runners), dict(agents)
        self.single = all(runner.single for runner in runners.values())

    def reset(self, rows: Sequence[int] | np.ndarray | None = None, seeds: Sequence[int] | None = None) -> None:
        """Begin a new episode; see ``PolicyRunner.reset``."""
        for runner in self.runners.values():
            runner.reset(rows, seeds)

    def act(self, observation: Observation, timestamp: float | np.ndarray | None = None) -> np.ndarray:
        """Return the action of all agents to execute now, each agent's in its part: (rows, Da) or (Da,).

        Raises:
            RobodiffError: as ``PolicyRunner.act``; the message names the agent.
            NonFiniteActions: some agents' chunks are not finite; the others have acted.
        """
        parts, chunks = {}, {}
        for agent, runner in self.runners.items():
            try:
                parts[agent] = np.atleast_2d(runner.act(observation_of(agent, observation), timestamp))
            except NonFiniteActions as error:
                parts[agent] = error.actions
                chunks |= {row: replace(chunk, agent=agent) for row, chunk in error.chunks.items()}
            except RobodiffError as error:
                raise RobodiffError(f"agent {agent}: {error}") from None
        ordered = sorted(self.agents, key=lambda agent: self.agents[agent].start)
        actions = np.concatenate([parts[agent] for agent in ordered], axis=1)
        if chunks:
            raise NonFiniteActions(actions, chunks)
        return actions[0] if self.single else actions


def observation_of(agent: str, observation: Observation) -> dict[str, np.ndarray]:
    """Return what one agent observes: its own keys without their prefix, and those that all share."""
    prefix = f"agents.{agent}."
    shared = {key: value for key, value in observation.items() if not key.startswith("agents.")}
    return shared | {key.removeprefix(prefix): v for key, v in observation.items() if key.startswith(prefix)}


def _rows(mask: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return (rows,) as (rows, 1, ...), to choose among values (rows, ...)."""
    return mask.reshape(-1, *[1] * (value.ndim - 1))
