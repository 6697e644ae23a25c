"""The real-time loop, with a clock, a robot and a policy of its own: nothing here depends on the time."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from robodiff.data.episodes import Feature
from robodiff.deploy.config import LoopConfig
from robodiff.deploy.loop import Clock, ControlLoop
from robodiff.deploy.robot import GuardedRobot
from robodiff.errors import RobodiffError
from robodiff.policies.runtime import Chunk, Timing

SPACING = 0.1


class Time:
    """A clock that advances when somebody sleeps or waits, and chunks that take ``latency`` seconds on it."""

    def __init__(self, latency: float = 0.0) -> None:
        self.t, self.latency = 100.0, latency
        self.clock = Clock(lambda: self.t, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.t += seconds

    def submit(self, task: Callable[[], Any]) -> "Later":
        begun, self.t = self.t, self.t + self.latency
        later = Later(self, self.t, task)
        self.t = begun
        return later


class Later:
    """A result that is there at some time."""

    def __init__(self, time: Time, ready: float, task: Callable[[], Any]) -> None:
        self._time, self._ready, self._error, self._result = time, ready, None, None
        try:
            self._result = task()
        except RobodiffError as error:
            self._error = error

    def done(self) -> bool:
        return self._time.t >= self._ready

    def exception(self, timeout: float = np.inf) -> Exception | None:
        self._time.t = max(self._time.t, min(self._ready, self._time.t + timeout))
        if not self.done():
            raise TimeoutError
        return self._error

    def result(self) -> Any:
        if (error := self.exception()) is not None:
            raise error
        return self._result


class Policy:
    """Moves on from what was executed by one a step; chunk c begins at 100 c where nothing is known."""

    def __init__(self, n_obs_steps: int = 2, actions: Callable[[int], np.ndarray] | None = None) -> None:
        self.timing = Timing(n_obs_steps, 4, SPACING)
        self.features = {
            "observation.state": Feature("vector", (1,), "float32"),
            "observation.past_action": Feature("vector", (1,), "float32"),
            "action": Feature("vector", (1,), "float32"),
        }
        self.calls: list[tuple[Mapping[str, np.ndarray], Any]] = []
        self._actions = actions

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        return 1, batch_size, 8, 1

    def predict_chunk(self, observation: Any, *, noise: np.ndarray, known: Any = None) -> Chunk:
        self.calls.append((observation, known))
        actions = np.arange(8.0) if self._actions is None else self._actions(len(self.calls))
        ranges = {"observation.state": np.array([[0.0], [1000.0]]), "action": np.array([[0.0], [1000.0]])}
        return Chunk(np.asarray(actions, np.float32).reshape(1, 8, 1), 0, ranges)


class Robot:
    """Observes the number of the observation."""

    def __init__(self, time: Time, last: int = 20, takes: float = 0.001) -> None:
        self.time, self.last, self.takes = time, last, takes
        self.actions: list[float] = []
        self.times: list[float] = []
        self.observed = self.stops = self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        self.actions = []

    def observe(self) -> dict[str, Any]:
        self.time.t += self.takes
        self.observed += 1
        return {"observation.state": np.array([float(len(self.actions))])}

    def execute(self, action: np.ndarray) -> None:
        assert action.shape == (1,)
        assert action.dtype == np.float32
        self.actions.append(float(action[0]))
        self.times.append(self.time.t)

    def stop(self) -> None:
        self.stops += 1

    @property
    def ended(self) -> bool:
        return len(self.actions) >= self.last


def looped(policy: Any, robot: Any, time: Time, **config: Any) -> ControlLoop:
    return ControlLoop(policy, GuardedRobot(robot, "the robot"), LoopConfig(**config), time.clock, time.submit)  # type: ignore[arg-type]


def test_actions_are_a_period_apart_and_time_does_not_drift() -> None:
    time = Time(latency=0.15)
    robot = Robot(time, last=500)
    episode = looped(Policy(), robot, time).run()
    np.testing.assert_allclose(np.diff(robot.times), SPACING, atol=1e-9)
    assert episode.steps == [*range(500)]
    assert episode.summary["period_error_ms_max"] == 0
    assert episode.summary["latency_ms_p50"] == pytest.approx(151)
    assert (episode.failed, robot.stops, robot.resets) == (False, 1, 1)
    assert "the robot ended the episode" in str(episode)


def test_in_real_time_what_is_executed_meanwhile_is_given() -> None:
    time = Time(latency=0.15)  # two steps
    policy, robot = Policy(), Robot(time, last=12)
    episode = looped(policy, robot, time).run()
    assert robot.actions == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4]
    assert [(chunk.step, chunk.taken) for chunk in episode.chunks] == [(0, 0), (4, 6), (8, 10)]
    assert all(known is None for _, known in policy.calls[:4])  # the warm-up and the first chunk
    for (observation, (values, weights)), given in zip(policy.calls[4:], ([4, 5, 6], [4, 5, 6]), strict=True):
        assert weights[0, :, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]  # the step before now, and two that pass
        assert values[0, :3, 0].tolist() == given
        newest = observation["observation.state"][0, :, 0]
        assert newest[1] - newest[0] == 1  # a period apart
        assert observation["observation.past_action"][0, 1, 0] == given[0]


@pytest.mark.parametrize("mode", ["real_time", "naive", "synchronous"])
def test_of_several_chunks_the_one_that_goes_on_is_executed(mode: Any) -> None:
    """Chunks that begin anew are drawn first; the one that goes on where the last one is comes third."""

    class Several(Policy):
        def predict_chunk(self, observation: Any, *, noise: np.ndarray, known: Any = None) -> Chunk:
            now = observation["observation.past_action"][:, -1, 0]
            assert known is None or len(known[0]) == noise.shape[1] == 4
            drawn.append(noise.shape[1])
            plain = super().predict_chunk(observation, noise=noise, known=known)
            starts = np.array([500.0, 300.0, now[0], 100.0], np.float32)[: drawn[-1], None, None]
            return Chunk(starts + np.arange(8, dtype=np.float32)[:, None], 0, plain.ranges)

    drawn: list[int] = []
    time = Time(latency=0.05)
    robot = Robot(time, last=16)
    looped(Several(), robot, time, mode=mode, best_of=4, max_speed=1e3).run()
    assert robot.actions == [*range(501, 517)]
    assert drawn[:5] == [4, 4, 4, 1, 4]  # the warm-up, the first, which continues nothing, and the second

    drawn.clear()
    whole = {"replan": 7} if mode == "synchronous" else {}  # nothing of a chunk is left when the next one is due
    looped(Several(), Robot(time, last=16), time, mode=mode, best_of=4, max_speed=1e3, **whole).run()
    assert set(drawn[3:]) == ({1} if whole else {1, 4})


def test_naive_knows_nothing_and_synchronous_holds_its_last_action() -> None:
    time = Time(latency=0.25)
    policy, robot = Policy(), Robot(time, last=12)
    looped(policy, robot, time, mode="naive").run()
    assert all(known is None for _, known in policy.calls)
    assert robot.actions == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4]
    policy, robot = Policy(), Robot(time, last=12)
    episode = looped(policy, robot, time, mode="synchronous").run()
    assert robot.actions == [1, 2, 3, 4, 4, 4, 1, 2, 3, 4, 4, 4]
    assert not any(episode.counts.values())


def test_synchronous_needs_no_step_more_where_the_policy_is_fast() -> None:
    time = Time(latency=0.02)
    robot = Robot(time, last=9)
    looped(Policy(), robot, time, mode="synchronous").run()
    assert robot.actions == [1, 2, 3, 4, 1, 2, 3, 4, 1]


def test_a_chunk_that_is_later_than_expected_takes_over_where_it_is_due() -> None:
    time = Time(latency=0.05)
    policy, robot = Policy(), Robot(time, last=14)
    loop = looped(policy, robot, time)
    original = policy.predict_chunk

    def slow(*arguments: Any, **options: Any) -> Chunk:
        time.latency = 0.25 if len(policy.calls) == 4 else 0.05
        return original(*arguments, **options)

    policy.predict_chunk = slow  # type: ignore[method-assign]
    episode = loop.run()
    assert [(chunk.step, chunk.taken) for chunk in episode.chunks[:3]] == [(0, 0), (4, 5), (8, 11)]
    assert policy.calls[6][1][1][0, :, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]  # and the next one is expected so late


def test_the_same_seed_acts_alike_and_the_log_has_each_step() -> None:
    def actions(number: int) -> np.ndarray:
        return np.arange(8.0) + number

    logs = []
    for _ in range(2):
        time, frames = Time(latency=0.05), []
        looped(Policy(actions=actions), Robot(time), time).run(
            seed=3, record=lambda observation, action, frames=frames: frames.append((observation, action))
        )
        logs.append([(observation["observation.state"].tolist(), action.tolist()) for observation, action in frames])
    assert logs[0] == logs[1]
    assert [observation[0] for observation, _ in logs[0]] == [*range(20)]


def test_the_time_that_is_given_is_kept() -> None:
    time = Time()
    robot = Robot(time, last=1000)
    episode = looped(Policy(), robot, time).run(seconds=1.5)
    assert (len(robot.actions), episode.reason, episode.failed) == (15, "1.5 s are over", False)


FAULTS: dict[str, tuple[Callable[[Any, Any, Time], Any], dict[str, Any], str]] = {}


def fault(reason: str, **config: Any) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        FAULTS[function.__name__] = (function, config, reason)
        return function

    return add


@fault("observe() failed: OSError: no camera")
def a_camera_that_is_gone(policy: Policy, robot: Robot, time: Time) -> None:
    original = robot.observe

    def observe() -> dict[str, Any]:
        if robot.observed == 9:
            raise OSError("no camera")
        return original()

    robot.observe = observe  # type: ignore[method-assign]


@fault("execute() failed: ValueError")
def a_joint_limit(policy: Policy, robot: Robot, time: Time) -> None:
    def execute(action: np.ndarray) -> None:
        raise ValueError("joint limit")

    robot.execute = execute  # type: ignore[method-assign]


@fault("expected shape (1,), found (2,)")
def an_observation_of_another_shape(policy: Policy, robot: Robot, time: Time) -> None:
    robot.observe = lambda: {"observation.state": np.zeros(2)}  # type: ignore[method-assign]


@fault("the policy observes 'observation.state'; the robot gives state")
def an_observation_of_another_name(policy: Policy, robot: Robot, time: Time) -> None:
    robot.observe = lambda: {"state": np.zeros(1)}  # type: ignore[method-assign]


@fault("the policy failed: RuntimeError: out of memory")
def a_policy_that_raises(policy: Policy, robot: Robot, time: Time) -> None:
    def actions(number: int) -> np.ndarray:
        if number == 6:
            raise RuntimeError("out of memory")
        return np.arange(8.0)

    policy._actions = actions


@fault("the policy failed: the server is away")
def a_policy_that_says_why(policy: Policy, robot: Robot, time: Time) -> None:
    def actions(number: int) -> np.ndarray:
        raise RobodiffError("the server is away")

    policy._actions = actions


@fault("actions that are not finite")
def a_policy_without_numbers(policy: Policy, robot: Robot, time: Time) -> None:
    policy._actions = lambda number: np.full(8, np.nan if number == 6 else 1.0)


@fault("no action was planned")
def a_policy_that_is_too_slow(policy: Policy, robot: Robot, time: Time) -> None:
    time.latency = 3.0


@fault("the policy gave no chunk within 1.0 s", mode="synchronous")
def a_policy_that_hangs(policy: Policy, robot: Robot, time: Time) -> None:
    def actions(number: int) -> np.ndarray:
        time.latency = 1e9 if number >= 4 else 0.0
        return np.arange(8.0)

    policy._actions = actions


@fault("actions were beyond their limits at 3 of the last 5 steps", patience=0.5)
def actions_beyond_the_range(policy: Policy, robot: Robot, time: Time) -> None:
    policy._actions = lambda number: np.full(8, 1200.0)


@fault("actions were beyond their limits", patience=0.5, max_speed=0.01)
def actions_that_jump(policy: Policy, robot: Robot, time: Time) -> None:
    policy._actions = lambda number: np.linspace(0, 900, 8)


@fault("observations were far outside the training range", patience=0.5)
def observations_out_of_range(policy: Policy, robot: Robot, time: Time) -> None:
    original = robot.observe
    robot.observe = lambda: {"observation.state": original()["observation.state"] + 2000}  # type: ignore[method-assign]


@fault("actions were late")
def a_robot_that_is_slow(policy: Policy, robot: Robot, time: Time) -> None:
    robot.takes = 0.08


@fault("reading ended failed: ZeroDivisionError")
def a_robot_that_cannot_say_whether_it_ended(policy: Policy, robot: Robot, time: Time) -> None:
    robot.__class__ = type("Broken", (Robot,), {"ended": property(lambda self: 1 / 0)})


@fault("ended must be true, false or None; found 'yes'")
def a_robot_that_ends_by_a_text(policy: Policy, robot: Robot, time: Time) -> None:
    robot.__class__ = type("Broken", (Robot,), {"ended": "yes"})


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_robot_once_and_says_why(name: str) -> None:
    break_it, config, reason = FAULTS[name]
    time = Time(latency=0.01)
    policy, robot = Policy(), Robot(time, last=200)
    loop = looped(policy, robot, time, **config)
    break_it(policy, robot, time)
    episode = loop.run()
    assert reason in episode.reason
    assert (episode.failed, robot.stops) == (True, 1)
    assert len(robot.actions) < 200


def test_clipped_actions_are_executed_within_the_limits_and_are_known_as_executed() -> None:
    time = Time(latency=0.01)
    policy, robot = (
        Policy(actions=lambda number: np.array([0, 990, 1060, 990, 990, 990, 990, 990])),
        Robot(time, last=5),
    )
    episode = looped(policy, robot, time).run()
    assert robot.actions[:3] == [990, 1050, 990]
    assert episode.counts["clipped"] == 1
    assert policy.calls[4][1][0][0, 0, 0] == 990


def test_anything_else_that_is_raised_stops_the_robot_too() -> None:
    time = Time()
    robot = Robot(time)

    def record(observation: Any, action: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        looped(Policy(), robot, time).run(record=record)
    assert robot.stops == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_robot_once(name: str) -> None:
    time = Time()
    robot = Robot(time, last=1000)
    original, before = robot.execute, signal.getsignal(signal.SIGINT)

    def execute(action: np.ndarray) -> None:
        original(action)
        if len(robot.actions) == 5:
            signal.raise_signal(getattr(signal, name))

    robot.execute = execute  # type: ignore[method-assign]
    episode = looped(Policy(), robot, time).run()
    assert (len(robot.actions), robot.stops, episode.interrupted, episode.failed) == (5, 1, True, False)
    assert episode.reason == {"SIGINT": "Ctrl-C"}.get(name, name)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_signal_does_not_cut_the_stop_short() -> None:
    time = Time()
    robot = Robot(time, last=3)

    def stop() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        robot.stops += 1

    robot.stop = stop  # type: ignore[method-assign]
    looped(Policy(), robot, time).run()
    assert robot.stops == 1


def test_a_robot_that_hangs_is_stopped_by_the_watchdog() -> None:
    clock = Time()
    robot, hung = Robot(clock, last=1000), threading.Event()
    original = robot.observe

    def observe() -> dict[str, Any]:
        if robot.observed == 9:
            hung.set()
            time.sleep(60)  # the real one
        return original()

    robot.observe = observe  # type: ignore[method-assign]
    begun = time.monotonic()
    episode = looped(Policy(), robot, clock, timeout=0.1).run()
    assert hung.is_set()
    assert time.monotonic() - begun < 30
    assert (episode.reason, episode.failed, robot.stops) == ("the robot did not respond in time", True, 1)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_robot_that_hangs_and_cannot_be_stopped_either_is_given_up(hangs: bool) -> None:
    clock = Time()
    robot = Robot(clock, last=1000)

    def observe() -> dict[str, Any]:
        time.sleep(60)
        raise AssertionError

    def stop() -> None:
        robot.stops += 1
        if hangs:
            time.sleep(60)
        raise OSError("no bus")

    robot.observe, robot.stop = observe, stop  # type: ignore[method-assign]
    begun = time.monotonic()
    episode = looped(Policy(), robot, clock, timeout=0.1).run()
    assert time.monotonic() - begun < 30
    assert (episode.failed, robot.stops) == (True, 1)
    assert ("stop() failed: OSError: no bus" in episode.reason) == (not hangs)


def test_a_stop_that_fails_is_told_beside_what_it_was_for() -> None:
    time = Time()
    robot = Robot(time, last=1000)
    FAULTS["a_joint_limit"][0](Policy(), robot, time)

    def stop() -> None:
        raise OSError("no bus")

    robot.stop = stop  # type: ignore[method-assign]
    episode = looped(Policy(), robot, time).run()
    assert "execute() failed: ValueError: joint limit" in episode.reason
    assert "stop() failed: OSError: no bus" in episode.reason


def test_ctrl_c_ends_what_the_loop_waits_for_before_it_begins() -> None:
    clock = Time()
    robot = Robot(clock, last=1000)

    def reset() -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    robot.reset = reset  # type: ignore[method-assign]
    begun = time.monotonic()
    episode = looped(Policy(), robot, clock).run()
    assert time.monotonic() - begun < 30
    assert (episode.interrupted, episode.reason, robot.stops) == (True, "Ctrl-C", 1)
    assert str(episode) == "ended after 0 steps: Ctrl-C"


def test_ctrl_c_ends_a_stop_that_hangs() -> None:
    clock = Time()
    robot = Robot(clock, last=3)

    def stop() -> None:
        signal.raise_signal(signal.SIGINT)  # too early
        clock.sleep(2)
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    robot.stop = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        looped(Policy(), robot, clock).run()


def test_several_episodes_are_stopped_once_each() -> None:
    time = Time()
    robot = Robot(time)
    loop = looped(Policy(), robot, time)
    for number in range(3):
        assert len(loop.run(seed=number).steps) == 20
    assert (robot.stops, robot.resets) == (3, 3)
