"""The real-time loop: observe and act on time while the policy computes the next chunk in the background."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.deploy.background import Background, Watchdog, interrupt_main, on_signals
from robodiff.deploy.config import LoopConfig
from robodiff.deploy.episode import ChunkTiming, Episode
from robodiff.deploy.limits import Faults, Limits
from robodiff.deploy.planner import ChunkPlanner
from robodiff.deploy.robot import GuardedRobot
from robodiff.errors import RobodiffError, in_one_line
from robodiff.policies.choice import predict_best
from robodiff.policies.history import Gap, History
from robodiff.policies.runtime import Arrays, Chunk, Known, Runtime, Timing, observed, out_of_range

Record = Callable[[dict[str, np.ndarray], np.ndarray], None]

PATIENCE_AT_FIRST = 10
"""How many times longer the first observation may take: cameras have to start."""
WARM_UP = 3
"""Chunks that are computed before the first episode: the first one takes longer."""
LATENCIES = 10
"""Chunks whose latency is kept: the next one is expected to take as long as the slowest of them."""
NAP = 0.05
"""Longest sleep in seconds before the loop checks whether it was asked to end."""
WAITS = 0.9
"""Share of a period for which the synchronous loop waits for a chunk before it holds the last action."""
LATE = 0.5
"""Share of a period beyond which an action counts as late."""


@dataclass(frozen=True)
class Clock:
    """A source of time, which tests replace."""

    now: Callable[[], float] = time.monotonic
    """Seconds."""
    sleep: Callable[[float], None] = time.sleep


class ControlLoop:
    """Run a policy on one robot.

    Args:
        policy: with its ``timing``.
        robot: called from the thread that calls ``run``, and stopped from the watchdog's, too.
        config: options.
        clock: of the loop.
        submit: computes a chunk in the background; in a thread of its own when None.
    """

    def __init__(
        self,
        policy: Runtime,
        robot: GuardedRobot,
        config: LoopConfig,
        clock: Clock | None = None,
        submit: Callable[[Callable[[], Any]], Future] | None = None,
    ) -> None:
        self.policy, self.robot, self.config = policy, robot, config
        own: Timing = policy.timing  # pyright: ignore[reportAttributeAccessIssue]
        self.timing = own if config.best_of is None else replace(own, best_of=config.best_of)
        self._clock, self._submit = clock or Clock(), submit or Background().submit
        self._latencies: deque[float] = deque(maxlen=LATENCIES)  # seconds
        self._limits: Limits | None = None
        self._reason: str | None = None

    def run(self, seconds: float = math.inf, seed: int = 0, record: Record | None = None) -> Episode:
        """Run one episode, until time is up, the robot ends it, or a fault, Ctrl-C or a signal occurs.

        The robot is stopped once in every case.

        Args:
            seconds: length of the episode.
            seed: of the policy's noise.
            record: called at each step with the observation, as recorded, and the executed action, (Da,).
        """
        self._begin(seed, record)
        episode = self.episode
        with on_signals(self._end):
            try:
                self.robot.reset()
                self._first_chunk()
                self._step_until(seconds)
            except RobodiffError as error:
                self._fail(str(error))
            except KeyboardInterrupt:  # interrupts a wait after the loop was asked to end
                if self._reason is None:
                    raise
            finally:
                self._stop()
        episode.reason = str(self._reason)
        return episode

    def _begin(self, seed: int, record: Record | None) -> None:
        config, spacing = self.config, self.timing.spacing
        self._faults = Faults(max(2, round(config.patience / spacing)))
        self.episode = Episode(spacing, counts=self._faults.counts)
        self._seed, self._record = seed, record
        self._reason = None
        self._stops_since: float | None = None  # seconds
        self._planner = ChunkPlanner(self.timing, config.mode, config.replan, config.soft)
        self._history = History.empty(self.timing, 1)
        self._ranges: Arrays = {}
        self._last: np.ndarray | None = None  # (Da,), what was executed
        self._future: Future[tuple[Chunk, float]] | None = None
        self._thread = threading.current_thread()

    def _first_chunk(self) -> None:
        """Warm the policy up, compute the first chunk, and start the clock."""
        with self._watching(PATIENCE_AT_FIRST * self.config.timeout):
            observation = self._observe()
        if not self._latencies:
            rest = np.zeros((1, 1, *self.policy.features[ACTION].shape))  # so that best_of chunks are drawn, as later
            for _ in range(WARM_UP):
                begun = self._clock.now()
                _, done = self._computing(self._remember(observation, begun).window(), 0, rest).result()
                self._latencies.append(done - begun)
            self._latencies.popleft()
            with self._watching(PATIENCE_AT_FIRST * self.config.timeout):
                observation = self._observe()
        begun = self._clock.now()
        self._planner.ask(0, delay=0)
        chunk, self._start = self._computing(self._remember(observation, begun).window(), 0).result()
        self._future = None
        self.episode.chunks.append(ChunkTiming(0, begun - self._start, 0.0, 0))
        self._take(chunk, 0)
        self._history = self._remember(observation, self._start)  # nothing has moved since

    def _step_until(self, seconds: float) -> None:
        step, spacing = 0, self.timing.spacing
        with self._watching(max(self.config.timeout, 5 * spacing)) as watchdog:
            while self._reason is None:
                self._sleep_until(self._start + step * spacing)
                watchdog.feed()
                self._tick(step, missed=bool(self.episode.steps) and step > self.episode.steps[-1] + 1)
                if self.robot.ended:
                    self._reason = self._reason or "the robot ended the episode"
                if (step + 1) * spacing >= seconds - 1e-9:
                    self._reason = self._reason or f"{seconds:g} s are over"
                step = max(step + 1, math.floor((self._clock.now() - self._start) / spacing))

    def _tick(self, step: int, missed: bool) -> None:
        """Do one step; wait only for the robot and, in synchronous mode, for the policy."""
        begins, waits = self._start + step * self.timing.spacing, self.config.mode == "synchronous"
        observation = self._observe()
        if step > 0:
            self._history = self._remember(observation, self._clock.now())
        self._receive(step)
        if self._planner.is_due(step, self._delay):
            with suppress(Gap):  # retry at the next step
                self._ask(step)
        if waits:
            self._wait(begins + WAITS * self.timing.spacing - self._clock.now())
            self._receive(step)
        planned = self._planner.action(step)
        action, is_clipped = self._limited(planned)
        if self._reason is not None:  # it was asked to end in the meantime
            return
        self.robot.execute(action)
        now = self._clock.now()
        self.episode.executed.append(now - self._start)
        self.episode.steps.append(step)
        self._planner.executed(step, action[None])
        self._last = action
        if self._record is not None:
            self._record(observation, action)
        shares = [
            out_of_range(observation[key][None], range_)[0] for key, range_ in self._ranges.items() if key != ACTION
        ]
        reason = self._faults.add(
            late=missed or (now - begins > LATE * self.timing.spacing and not waits),
            held=planned is None and not waits,
            clipped=is_clipped,
            far=max(shares, default=0.0) > self.config.far,
        )
        if reason is not None:
            raise RobodiffError(reason)

    def _observe(self) -> dict[str, np.ndarray]:
        """Return the robot's current observation, as recorded."""
        observation, features = self.robot.observe(), self.policy.features
        if PAST_ACTION in features and PAST_ACTION not in observation:
            past = np.zeros(features[ACTION].shape) if self._last is None else self._last
            observation = {**observation, PAST_ACTION: past}
        return observed(features, observation, source="the robot gives")

    def _remember(self, observation: Arrays, time: float) -> History:
        return self._history.after({key: value[None] for key, value in observation.items()}, time)

    def _ask(self, step: int) -> None:
        """Request a chunk for the current observation.

        Raises:
            Gap: too few recent observations.
        """
        window, number = self._history.window(), len(self.episode.chunks)
        rest, known = self._planner.rest(step), self._planner.ask(step, self._delay)
        self.episode.chunks.append(ChunkTiming(step, step * self.timing.spacing))
        self._computing(window, number, rest, known)

    def _computing(
        self, window: Arrays, number: int, rest: np.ndarray | None = None, known: Known | None = None
    ) -> Future[tuple[Chunk, float]]:
        """Submit a chunk; return the future of the chunk and its time of arrival.

        Its ``result`` raises ``RobodiffError`` if the policy fails.
        """
        drawn_for = np.array([[self._seed, number, 0]])  # as a PolicyRunner's

        def compute() -> tuple[Chunk, float]:
            try:
                chunk = predict_best(self.policy, self.timing, window, drawn_for, rest, known)
            except Exception as error:
                raise RobodiffError(f"the policy failed: {in_one_line(error)}") from error
            return chunk, self._clock.now()

        self._future = self._submit(compute)
        return self._future

    def _wait(self, seconds: float) -> None:
        """Wait up to some seconds for the requested chunk."""
        if self._future is not None:
            with suppress(TimeoutError):
                self._future.exception(max(0.0, seconds))

    def _receive(self, step: int) -> None:
        """Execute the requested chunk from this step on, if it has arrived.

        Raises:
            RobodiffError: the policy failed or took too long, or its actions are not finite.
        """
        timing, future = self.episode.chunks[-1], self._future
        if future is None:
            return
        if not future.done():
            if self._clock.now() - self._start - timing.asked > self._longest:
                raise RobodiffError(f"the policy gave no chunk within {self._longest:.1f} s")
            return
        self._future = None
        chunk, arrived = future.result()
        timing.arrived, timing.taken = arrived - self._start, step
        self._latencies.append(timing.arrived - timing.asked)
        self._take(chunk, step)

    def _take(self, chunk: Chunk, step: int) -> None:
        if not np.isfinite(chunk.actions).all():
            raise RobodiffError("the policy gave actions that are not finite")
        self._ranges = chunk.ranges
        if ACTION in chunk.ranges:
            change = self.config.max_speed * self.timing.spacing
            self._limits = Limits.around(chunk.ranges[ACTION], self.config.margin, change)
        self._planner.take(chunk, step)

    def _limited(self, planned: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """Return the action (Da,) to execute, the last one if none is planned; and whether it was clipped."""
        if planned is None:
            assert self._last is not None
            return self._last, False
        action = np.asarray(planned[0], np.float32)
        return (action, False) if self._limits is None else self._limits.apply(action, self._last)

    @property
    def _delay(self) -> int:
        """How many steps the next chunk is expected to take, at least one."""
        return max(1, math.ceil(max(self._latencies) / self.timing.spacing))

    @property
    def _longest(self) -> float:
        """Seconds that a chunk may take."""
        return self.config.timeout + 2 * max(self._latencies, default=0.0)

    def _sleep_until(self, time: float) -> None:
        while self._reason is None and (left := time - self._clock.now()) > 0:
            self._clock.sleep(min(left, NAP))

    def _end(self, signal_name: str) -> None:
        """End after this step; at once if the loop has not started yet, or did not respond to an earlier request.

        Let ``robot.stop`` finish, unless that takes too long, too.
        """
        if self._stops_since is not None:
            if self._clock.now() - self._stops_since > self.config.timeout:
                raise KeyboardInterrupt
            return
        was_asked = self._reason is not None or not self.episode.chunks
        if self._reason is None:
            self._reason, self.episode.interrupted = "Ctrl-C" if signal_name == "SIGINT" else signal_name, True
        if was_asked:
            raise KeyboardInterrupt

    def _fail(self, problem: str) -> None:
        self._reason, self.episode.failed = "; ".join(filter(None, [self._reason, problem])), True

    def _stop(self) -> None:
        """Stop the robot, and wait for a chunk in progress: torch aborts if Python exits while it computes."""
        self._stops_since = self._clock.now()
        try:
            self.robot.stop()
            self.episode.success = self.robot.success
        except RobodiffError as error:
            self._fail(str(error))
        finally:
            self._wait(self._longest)

    @contextmanager
    def _watching(self, seconds: float) -> Iterator[Watchdog]:
        """Stop a robot that does not respond in time, within the context."""
        watchdog = Watchdog(seconds, self._on_silence)
        try:
            yield watchdog
        finally:
            watchdog.close()

    def _on_silence(self) -> None:
        """Stop a robot that does not respond, from the watchdog's thread, and interrupt the wait for it."""
        self._fail("the robot did not respond in time")
        with suppress(TimeoutError):  # stop() may hang, too
            error = Background().submit(self.robot.stop).exception(self.config.timeout)
            if error is not None:
                self._fail(str(error))
        if self._thread is threading.main_thread():
            interrupt_main()
