"""The real-time loop: observe, act and be punctual, while the policy computes the next chunk beside it."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from robodiff.policies.history import Gap, History
from robodiff.policies.runtime import Arrays, Chunk, Known, Runtime, Timing, draw_noise, observed, out_of_range

Record = Callable[[dict[str, np.ndarray], np.ndarray], None]

PATIENCE_AT_FIRST = 10
"""How many times longer than any other the first observation may take: cameras have to start."""
WARM_UP = 3
"""Chunks that are computed before the first episode: the first of them takes longer."""
LATENCIES = 10
"""Chunks whose latency is remembered: the next one is taken to be as late as the latest of them."""
NAP = 0.05
"""Seconds after which a sleeping loop looks whether it was asked to end."""
WAITS = 0.9
"""Share of a period that the synchronous loop waits for a chunk before it holds the last action."""
LATE = 0.5
"""Share of a period by which an action may come late."""


@dataclass(frozen=True)
class Clock:
    """Where the time comes from. Tests have one of their own."""

    now: Callable[[], float] = time.monotonic
    """Seconds."""
    sleep: Callable[[float], None] = time.sleep


class ControlLoop:
    """Let a policy act on one robot.

    Args:
        policy: which has its ``timing``.
        robot: it is asked from the thread that calls ``run``.
        config: how.
        clock: of the loop.
        submit: has a chunk computed beside the loop; a thread of its own when None.
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
        self.timing: Timing = policy.timing  # pyright: ignore[reportAttributeAccessIssue]
        self._clock, self._submit = clock or Clock(), submit or Background().submit
        self._latencies: deque[float] = deque(maxlen=LATENCIES)  # seconds
        self._limits: Limits | None = None
        self._reason: str | None = None

    def run(self, seconds: float = math.inf, seed: int = 0, record: Record | None = None) -> Episode:
        """Run one episode; it ends after some time, when the robot says so, on a fault, by Ctrl-C or a signal.

        The robot is stopped once, however that comes about.

        Args:
            seconds: after which it ends.
            seed: of the policy's noise.
            record: called at each step with what was observed, as recorded, and the action that was executed, (Da,).
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
            except KeyboardInterrupt:  # what was waited for when the loop was to end
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
        """Have the policy warmed up, and the first chunk ready when time begins."""
        with self._watching(PATIENCE_AT_FIRST * self.config.timeout):
            observation = self._observe()
        if not self._latencies:
            for _ in range(WARM_UP):
                begun = self._clock.now()
                _, done = self._computing(self._remember(observation, begun).window(), None, 0).result()
                self._latencies.append(done - begun)
            self._latencies.popleft()
            with self._watching(PATIENCE_AT_FIRST * self.config.timeout):
                observation = self._observe()
        begun = self._clock.now()
        self._planner.ask(0, delay=0)
        chunk, self._start = self._computing(self._remember(observation, begun).window(), None, 0).result()
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
                    self._reason = self._reason or "the robot says that the episode has ended"
                if (step + 1) * spacing >= seconds - 1e-9:
                    self._reason = self._reason or f"{seconds:g} s are over"
                step = max(step + 1, math.floor((self._clock.now() - self._start) / spacing))

    def _tick(self, step: int, missed: bool) -> None:
        """Do one step, in which nothing waits but for the robot and, where it is synchronous, for the policy."""
        begins, waits = self._start + step * self.timing.spacing, self.config.mode == "synchronous"
        observation = self._observe()
        if step > 0:
            self._history = self._remember(observation, self._clock.now())
        self._receive(step)
        if self._planner.is_due(step, self._delay):
            with suppress(Gap):  # then at the next step
                self._ask(step)
        if waits:
            self._wait(begins + WAITS * self.timing.spacing - self._clock.now())
            self._receive(step)
        planned = self._planner.action(step)
        action, is_clipped = self._limited(planned)
        if self._reason is not None:  # for it was asked to end meanwhile
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
        """Return what the robot observes now, as recorded."""
        observation, features = self.robot.observe(), self.policy.features
        if PAST_ACTION in features and PAST_ACTION not in observation:
            past = np.zeros(features[ACTION].shape) if self._last is None else self._last
            observation = {**observation, PAST_ACTION: past}
        return observed(features, observation, source="the robot gives")

    def _remember(self, observation: Arrays, time: float) -> History:
        return self._history.after({key: value[None] for key, value in observation.items()}, time)

    def _ask(self, step: int) -> None:
        """Have the policy compute a chunk for what is observed now.

        Raises:
            Gap: too little was observed of late.
        """
        window, number = self._history.window(), len(self.episode.chunks)
        known = self._planner.ask(step, self._delay)
        self.episode.chunks.append(ChunkTiming(step, step * self.timing.spacing))
        self._computing(window, known, number)

    def _computing(
        self, window: dict[str, np.ndarray], known: Known | None, number: int
    ) -> Future[tuple[Chunk, float]]:
        """Have a chunk computed; return where it will be, and when it came.

        Its ``result`` raises ``RobodiffError`` where the policy fails.
        """
        noise = draw_noise(self.policy.noise_shape(1), self._seed, number)

        def compute() -> tuple[Chunk, float]:
            try:
                chunk = self.policy.predict_chunk(window, noise=noise, known=known)
            except Exception as error:
                raise RobodiffError(f"the policy failed: {in_one_line(error)}") from error
            return chunk, self._clock.now()

        self._future = self._submit(compute)
        return self._future

    def _wait(self, seconds: float) -> None:
        """Wait for the chunk that was asked for, for some time at most."""
        if self._future is not None:
            with suppress(TimeoutError):
                self._future.exception(max(0.0, seconds))

    def _receive(self, step: int) -> None:
        """Execute the chunk that was asked for from this step on, if it is there.

        Raises:
            RobodiffError: there will be none, or it is none to execute.
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
        """Return the action (Da,) to execute, the last one where none is planned; and whether it is clipped."""
        if planned is None:
            assert self._last is not None
            return self._last, False
        action = np.asarray(planned[0], np.float32)
        return (action, False) if self._limits is None else self._limits.apply(action, self._last)

    @property
    def _delay(self) -> int:
        """How many steps late the next chunk will be, at least one: an action is executed before its chunk is asked."""
        return max(1, math.ceil(max(self._latencies) / self.timing.spacing))

    @property
    def _longest(self) -> float:
        """Seconds that a chunk may take."""
        return self.config.timeout + 2 * max(self._latencies, default=0.0)

    def _sleep_until(self, time: float) -> None:
        while self._reason is None and (left := time - self._clock.now()) > 0:
            self._clock.sleep(min(left, NAP))

    def _end(self, signal_name: str) -> None:
        """End soon; at once where the loop has not begun, or has been asked before and does not answer.

        But let the robot stop, unless it takes too long for that, too.
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
        """Stop the robot, and wait for the chunk that is computed: where Python ended meanwhile, torch would abort."""
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
        """Within, stop a robot that does not answer for some time."""
        watchdog = Watchdog(seconds, self._on_silence)
        try:
            yield watchdog
        finally:
            watchdog.close()

    def _on_silence(self) -> None:
        """Stop a robot that does not answer, from the watchdog's thread, and end the waiting for it."""
        self._fail("the robot has not answered in time")
        with suppress(TimeoutError):  # it may not answer to this, either
            error = Background().submit(self.robot.stop).exception(self.config.timeout)
            if error is not None:
                self._fail(str(error))
        if self._thread is threading.main_thread():
            interrupt_main()
