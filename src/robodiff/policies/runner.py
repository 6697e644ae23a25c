"""``PolicyRunner``: the observation history and the action queue of one robot, or of many at once; ``Team``.

On NumPy alone: what the policy computes with is its own matter.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.choice import predict_best
from robodiff.policies.history import Gap, History
from robodiff.policies.runtime import Arrays, Runtime, Timing, observed, out_of_range, whole_numbers

Observation = Mapping[str, Any]
LARGEST = 2**63 - 1
"""Of the whole numbers that NumPy counts with."""


@dataclass(frozen=True)
class NonFiniteChunk:
    """A chunk that holds an action which is not finite, or was made from such an observation."""

    observation: dict[str, np.ndarray]
    """Per key (To, ...), oldest first, what the policy observed."""
    actions: np.ndarray
    """(Ta, Da), the part of the chunk that would have been executed."""
    agent: str | None = None
    """Whose it is, in a team."""

    def __str__(self) -> str:
        bad = [key for key, value in self.observation.items() if not np.isfinite(value).all()]
        reason = f"what was observed is not finite in {', '.join(bad)}" if bad else "all that was observed is finite"
        agent = f"agent {self.agent}: " if self.agent is not None else ""
        if not len(places := np.argwhere(~np.isfinite(self.actions))):
            return f"{agent}{reason}"
        step, dimension = places[0]
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


@dataclass(frozen=True)
class Report:
    """What is to be said of one call of ``act`` beside its action."""

    out_of_range: Mapping[str, Any] = field(default_factory=dict)
    """Per vector that is observed, how far outside of the range of training its farthest number is now, as a share of
    that range: 0 within, 1 a whole range beyond its end, inf where it is not finite. A number; (rows,) for many robots.
    In a team by the agent's name for it, ``agents.<id>.observation.state``."""


@dataclass(frozen=True)
class _Queue:
    """The chunk that each row executes."""

    actions: np.ndarray  # (rows, Ta, Da)
    next: np.ndarray  # (rows,) place in the actions; past their end: ask the policy
    chunks: np.ndarray  # (rows,) made since the reset
    past: np.ndarray  # (rows, Da), what was handed out last
    rest: np.ndarray  # (rows, n - Ta, Da), what the chunk plans beyond; NaN before the first
    broken: Mapping[int, NonFiniteChunk] = field(default_factory=dict)  # by row, a chunk that is not finite
    ranges: Arrays = field(default_factory=dict)  # of the last chunk


@dataclass(frozen=True)
class _Step:
    """All that one call of ``act`` leads to."""

    history: History
    queue: _Queue
    action: np.ndarray  # (rows, Da)
    report: Report


class PolicyRunner:
    """Turn a stateless policy into one that is asked for one action after another.

    It keeps the last observations, asks the policy for a chunk when the executed part of the last one is used up, and
    hands out its actions one at a time. The noise of a chunk is a function of (the row's seed, the chunk's number), so
    that what a row does depends on no other row. With ``timing.best_of`` several chunks are drawn, and the one that
    continues the last best is executed; see ``policies.choice``. Several threads may use it: calls wait for each other.

    A policy that observes ``observation.past_action`` is told what the runner handed out last, zeros after a reset,
    unless the observation says itself what was executed.

    Args:
        policy: what to ask.
        rows: how many robots act together; None for one robot, whose arrays then have no row dimension.
        seeds: (rows,) seeds of the noise; 0, 1, ... when None. ``reset`` can give others.
        timing: of observations and actions; the policy's own when None.

    Raises:
        UsageError: rows that are no number from 1 on, or seeds that are not as many whole numbers from 0 on.
    """

    def __init__(
        self, policy: Runtime, rows: int | None = None, seeds: Sequence[int] | None = None, timing: Timing | None = None
    ) -> None:
        self.policy = policy
        self.timing: Timing = timing or policy.timing  # pyright: ignore[reportAttributeAccessIssue]
        self.single = rows is None
        n = 1 if rows is None else int(whole_numbers("rows", [rows], 1, LARGEST)[0])
        steps, (dim,) = self.timing.n_action_steps, policy.features[ACTION].shape
        self.seeds = np.arange(n)
        self._lock = RLock()
        self.last = Report()
        """Of the last call of ``act`` that was not refused."""
        self._history = History.empty(self.timing, n)
        actions, past = np.zeros((n, steps, dim), np.float32), np.zeros((n, dim), np.float32)
        rest = np.full((n, 1, dim), np.nan, np.float32)  # not empty: as many chunks are drawn as after a reset
        self._queue = _Queue(actions, np.full(n, steps), np.zeros(n, np.int64), past, rest)
        self.reset(seeds=seeds)

    def reset(self, rows: Sequence[int] | np.ndarray | None = None, seeds: Sequence[int] | None = None) -> None:
        """Begin a new episode.

        Args:
            rows: which robots; all when None.
            seeds: a seed for each of these; kept when None. The noise starts over.

        Raises:
            UsageError: there is no such row, or seeds that are not as many whole numbers from 0 on. Nothing is reset.
        """
        with self._lock:
            every, queue = np.arange(len(self.seeds)), self._queue
            chosen = every if rows is None else whole_numbers("rows", rows, 0, len(every) - 1)
            if seeds is not None:
                self.seeds[chosen] = whole_numbers("seeds", seeds, 0, LARGEST, count=len(chosen))
            if not len(chosen):
                return
            begins, self.last = np.isin(every, chosen), Report()
            self._history = self._history.restarted(chosen)
            self._queue = replace(
                queue,
                next=np.where(begins, self.timing.n_action_steps, queue.next),
                chunks=np.where(begins, 0, queue.chunks),
                past=np.where(begins[:, None], 0, queue.past),
                rest=np.where(begins[:, None, None], np.nan, queue.rest),
                broken={row: chunk for row, chunk in queue.broken.items() if not begins[row]},
            )

    def act(self, observation: Observation, timestamp: float | np.ndarray | None = None) -> np.ndarray:
        """Return the action to execute now; ``last`` then says how far outside of the training range that was.

        Args:
            observation: per key what the policy observes, (rows, ...) or, for one robot, one time step's shape: images
                uint8, vectors of real numbers.
            timestamp: when it was observed, in seconds; the history is then picked ``timing.spacing`` apart. Without
                it, calls are taken to be that far apart.

        Returns:
            (rows, Da), or (Da,) for one robot, in the units of the recording.

        Raises:
            RobodiffError: the observation lacks a key or has another shape or type than the policy was trained on, or
                its time is not finite or does not advance. The runner is then as it was before the call.
            Gap: a chunk is due, and nothing was observed within half a spacing of one of the steps that the policy
                sees, for an observation came late or the robot paused. This observation is remembered, so that the
                runner goes on by itself once ``n_obs_steps`` of them are a spacing apart. A pause of more than 100
                spacings is refused at every call, for the clock may count something else than seconds; its first
                observation is left out, and the next one within that time goes on from there.
            NonFiniteActions: the policy's chunk or what it was made from is not finite; so it is at every call until a
                row's next chunk is due, or it is reset.
        """
        with self._lock:
            history = self._observed(_by_key(observation), timestamp)
            try:
                step = self._prepare(history)
            except Gap:
                self._history = history
                raise
            action = self._take(step)
            return action[0] if self.single else action

    @property
    def chunks(self) -> dict[int, np.ndarray]:
        """By row whose chunk began with the last call of ``act``, that chunk from then on: (n, Da)."""
        with self._lock:
            queue = self._queue
            begun = np.flatnonzero((queue.next == 1) & (queue.chunks > 0)).tolist()
            return {row: np.concatenate([queue.actions[row], queue.rest[row]]) for row in begun}

    def _observed(self, observation: Observation, timestamp: float | np.ndarray | None) -> History:
        """Return the history after one more observation, and change nothing."""
        return self._history.after(self._checked(observation), timestamp)

    def _prepare(self, history: History, stream: int = 0) -> _Step:
        """Return what ``act`` would do with a history, and change nothing.

        Args:
            history: with what is observed now.
            stream: of the noise, which agents of a team that have equal seeds do not share.

        Raises:
            Gap: see ``act``.
        """
        history.check_pause()
        queue = self._queue
        due = queue.next >= self.timing.n_action_steps
        if due.any():
            queue = self._planned(history.window(), due, stream)
        action = queue.actions[np.arange(len(due)), queue.next]
        past = np.where(np.isfinite(action).all(axis=1, keepdims=True), action, queue.past)
        now = history.observations[-1]
        outside = {key: out_of_range(now[key], range_) for key, range_ in queue.ranges.items() if key in now}
        report = Report({key: float(value[0]) if self.single else value for key, value in outside.items()})
        return _Step(history, replace(queue, next=queue.next + 1, past=past), action, report)

    def _take(self, step: _Step) -> np.ndarray:
        """Do what was prepared; return the action (rows, Da) of all rows.

        Raises:
            NonFiniteActions: see ``act``.
        """
        self._history, self._queue, self.last = step.history, step.queue, step.report
        if step.queue.broken:
            raise NonFiniteActions(step.action, step.queue.broken)
        return step.action

    def _checked(self, observation: Observation) -> dict[str, np.ndarray]:
        """Return what the policy observes of an observation, per key (rows, ...)."""
        rows, features = () if self.single else (len(self.seeds),), self.policy.features
        if PAST_ACTION in features and PAST_ACTION not in observation:
            observation = {**observation, PAST_ACTION: self._queue.past.reshape(*rows, -1)}
        checked = observed(features, observation, rows)  # copies: callers may write into the same arrays again
        return {key: value[None] for key, value in checked.items()} if self.single else checked

    def _planned(self, window: dict[str, np.ndarray], due: np.ndarray, stream: int) -> _Queue:
        """Return the queue with what is executed of a new chunk in the rows that are ``due``, (rows,) bool."""
        queue = self._queue
        drawn_for = np.stack([self.seeds, queue.chunks, np.full_like(self.seeds, stream)], axis=1)
        # Of all rows, due or not: the size of the batch stays constant.
        chunk = predict_best(self.policy, self.timing, window, drawn_for, queue.rest)
        planned, rest = np.split(np.asarray(chunk.from_now(self.timing), np.float32), [self.timing.n_action_steps], 1)
        finite = np.array([np.isfinite(planned[row]).all() and all(np.isfinite(value[row]).all()
                           for value in window.values()) for row in range(len(due))])  # fmt: skip
        broken = {row: chunk for row, chunk in queue.broken.items() if not due[row]}
        for row in np.flatnonzero(due & ~finite).tolist():
            broken[row] = NonFiniteChunk({key: steps[row] for key, steps in window.items()}, planned[row])
        actions = np.where(finite[:, None, None], planned, np.nan)
        return _Queue(
            actions=np.where(due[:, None, None], actions, queue.actions),
            next=np.where(due, 0, queue.next),
            chunks=queue.chunks + due,
            past=queue.past,
            rest=rest if due.all() else np.where(due[:, None, None], rest, queue.rest),
            broken=broken,
            ranges=chunk.ranges,
        )


class Team:
    """Runners of several agents that act as one.

    An agent sees what is observed of all, and of itself: ``agents.<id>.observation.state`` is its
    ``observation.state``. Its noise is its own, also where others have the same seeds: the stream of its place.

    Args:
        runners: by agent, each with the same rows.
        agents: by agent, which part of the team's action is its own; the parts make up the whole.

    Raises:
        UsageError: an agent without a runner, a runner without an agent or of two, runners of other rows, or parts that
            are not the runners' actions, end to end.
    """

    def __init__(self, runners: Mapping[str, PolicyRunner], agents: Mapping[str, slice]) -> None:
        if runners.keys() != agents.keys():
            raise UsageError(f"the team has agents {', '.join(agents)}, and policies for {', '.join(runners)}")
        _check_runners(runners)
        _check_parts(runners, agents)
        self.agents = dict(sorted(agents.items(), key=lambda each: each[1].start))
        self.runners = {agent: runners[agent] for agent in self.agents}
        self.single = all(runner.single for runner in runners.values())
        self.last = Report()
        """Of the last call of ``act``, as that of a ``PolicyRunner``."""

    def reset(self, rows: Sequence[int] | np.ndarray | None = None, seeds: Sequence[int] | None = None) -> None:
        """Begin a new episode; see ``PolicyRunner.reset``."""
        with self._locked():
            for runner in self.runners.values():
                runner.reset(rows, seeds)
            self.last = Report() if rows is None or len(rows) else self.last

    def act(self, observation: Observation, timestamp: float | np.ndarray | None = None) -> np.ndarray:
        """Return the action of all agents to execute now, each agent's in its part: (rows, Da) or (Da,).

        Raises:
            RobodiffError: as ``PolicyRunner.act``; the message names the agent, and all are as before the call.
            Gap: as ``PolicyRunner.act``; the message names the agent, and all remember what they observed.
            NonFiniteActions: some agents' chunks are not finite; the others have acted.
        """
        with self._locked():
            steps = self._prepared(_by_key(observation), timestamp)
            parts, chunks, outside = {}, {}, {}
            for agent, step in steps.items():
                try:
                    parts[agent] = self.runners[agent]._take(step)
                except NonFiniteActions as error:
                    parts[agent] = error.actions
                    chunks |= {row: replace(chunk, agent=agent) for row, chunk in error.chunks.items()}
                outside |= {f"agents.{agent}.{key}": value for key, value in step.report.out_of_range.items()}
            self.last = Report(outside)
        actions = np.concatenate([*parts.values()], axis=1)
        if chunks:
            raise NonFiniteActions(actions, chunks)
        return actions[0] if self.single else actions

    @property
    def chunks(self) -> dict[int, np.ndarray]:
        """By row where a chunk of each agent began with the last call of ``act``, those as one, as far as all reach."""
        with self._locked():
            of_each = [runner.chunks for runner in self.runners.values()]
        rows = set.intersection(*(set(own) for own in of_each))
        reach = {row: min(len(own[row]) for own in of_each) for row in sorted(rows)}
        return {row: np.concatenate([own[row][:n] for own in of_each], axis=1) for row, n in reach.items()}

    def _prepared(self, observation: Observation, timestamp: float | np.ndarray | None) -> dict[str, _Step]:
        """Return what each agent would do; where one lacks observations, all remember this one."""
        histories, steps = {}, {}
        for agent, runner in self.runners.items():
            with _naming(agent):
                histories[agent] = runner._observed(observation_of(agent, observation), timestamp)
        try:
            for place, (agent, runner) in enumerate(self.runners.items()):
                with _naming(agent):
                    steps[agent] = runner._prepare(histories[agent], place)
        except Gap:
            for agent, runner in self.runners.items():
                runner._history = histories[agent]
            raise
        return steps

    def _locked(self) -> ExitStack:
        """Return the locks of all runners, held."""
        locks = ExitStack()
        for runner in self.runners.values():
            locks.enter_context(runner._lock)
        return locks


def _check_runners(runners: Mapping[str, PolicyRunner]) -> None:
    """Check that each agent of a team has a runner of its own, and all the same rows."""
    agents = {id(runner): agent for agent, runner in reversed([*runners.items()])}
    if not runners:
        raise UsageError("a team needs an agent")
    rows = {agent: "none" if runner.single else len(runner.seeds) for agent, runner in runners.items()}
    first = next(iter(rows))
    for agent, runner in runners.items():
        if (other := agents[id(runner)]) != agent:
            raise UsageError(f"agents {other} and {agent} have one runner; each needs its own")
        if rows[agent] != rows[first]:
            raise UsageError(f"agents need the same rows; agent {first} has {rows[first]}, agent {agent} {rows[agent]}")


def _check_parts(runners: Mapping[str, PolicyRunner], agents: Mapping[str, slice]) -> None:
    """Check that the agents' parts of a team's action are their policies' actions, end to end."""
    for agent, part in agents.items():
        if not isinstance(part, slice) or type(part.start) is not int or type(part.stop) is not int:
            raise UsageError(f"agent {agent}: expected its part of the action as slice(first, end); found {part!r}")
    end = 0
    for agent in sorted(agents, key=lambda agent: agents[agent].start):
        size = runners[agent].policy.features[ACTION].shape[0]
        if agents[agent] != (expected := slice(end, end + size)):
            found = f"expected {expected} of the team's action, found {agents[agent]}"
            raise UsageError(f"agent {agent}: its policy's action has size {size}; {found}")
        end += size


@contextmanager
def _naming(agent: str) -> Iterator[None]:
    """Name an agent in what is said of its failure."""
    try:
        yield
    except RobodiffError as error:
        kind = Gap if isinstance(error, Gap) else RobodiffError
        raise kind(f"agent {agent}: {error}") from None


def _by_key(observation: Any) -> Observation:
    """Return an observation if it is one."""
    if isinstance(observation, Mapping):
        return observation
    raise RobodiffError(f"expected an observation by its keys, {{key: array}}; found a {type(observation).__name__}")


def observation_of(agent: str, observation: Observation) -> dict[str, np.ndarray]:
    """Return what one agent observes: its own keys without their prefix, and those that all share."""
    prefix = f"agents.{agent}."
    shared = {key: value for key, value in observation.items() if not key.startswith("agents.")}
    return shared | {key.removeprefix(prefix): v for key, v in observation.items() if key.startswith(prefix)}
