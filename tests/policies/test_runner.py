"""The runner: history, queue, rows that depend on nobody else."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import PUSHT_FEATURES

from robodiff.data.episodes import PAST_ACTION, Episodes, Feature, with_past_action
from robodiff.data.windows import Windows
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.history import Gap
from robodiff.policies.runner import NonFiniteActions, PolicyRunner, Team
from robodiff.policies.runtime import Chunk, Timing, draw_noise, out_of_range

Make = Callable[..., DiffusionPolicy]


class Spy(DiffusionPolicy):
    """Records what it is asked, and answers with the step of the window and the first number observed."""

    asked: list[dict[str, np.ndarray]]

    def predict_chunk(self, observation: Mapping[str, np.ndarray], *, noise: np.ndarray) -> Chunk:  # type: ignore[override]
        self.asked.append({**observation, "noise": noise.copy()})
        newest = np.broadcast_to(observation["observation.state"][:, -1, :1], (noise.shape[1], 16))
        return Chunk(np.stack(np.broadcast_arrays(np.arange(16.0), newest), axis=-1), first_step=0)


@pytest.fixture
def spy(small_policy: Make) -> Spy:
    policy = small_policy()
    policy.__class__ = Spy
    policy.asked = []
    return policy  # type: ignore[return-value]


@pytest.fixture
def remembering(spy: Spy) -> Spy:
    """A spy that observes past actions, too, and is asked at every step."""
    spy.features = {**spy.features, PAST_ACTION: spy.features["action"]}
    spy.config = replace(spy.config, n_action_steps=1)
    return spy


def seen(time: float, rows: int | None = None) -> dict[str, np.ndarray]:
    shape = () if rows is None else (rows,)
    return {
        "observation.state": np.full((*shape, 2), time, np.float32),
        "observation.environment_state": np.zeros((*shape, 16), np.float32),
    }


def test_one_robot_gets_the_executed_part_of_each_chunk(spy: Spy) -> None:
    runner = PolicyRunner(spy)
    actions = [runner.act(seen(t)) for t in range(20)]
    assert [a[0] for a in actions[:8]] == list(range(1, 9))  # steps To-1 .. To-1+Ta-1 of the window
    assert [a[1] for a in actions] == [0] * 8 + [8] * 8 + [16] * 4  # asked anew after every 8 actions
    histories = [a["observation.state"][0, :, 0].tolist() for a in spy.asked]
    assert histories == [[0, 0], [7, 8], [15, 16]]  # the first observation fills the history


def test_rows_can_be_reset_apart(spy: Spy) -> None:
    runner = PolicyRunner(spy, rows=2)
    for t in range(3):
        runner.act(seen(t, 2))
    runner.reset(rows=[1])
    action = runner.act(seen(3, 2))
    assert action[:, 0].tolist() == [4, 1]  # row 0 goes on with its chunk, row 1 starts a new one
    assert spy.asked[-1]["observation.state"][1, :, 0].tolist() == [3, 3]  # and has forgotten what it saw
    assert spy.asked[-1]["observation.state"][0, :, 0].tolist() == [2, 3]


def test_chunks_are_told_when_they_begin(spy: Spy) -> None:
    runner, begun = PolicyRunner(spy, rows=2), []
    for taken in range(10):
        if taken == 3:
            runner.reset(rows=[1])
        runner.act(seen(taken, 2))
        begun.append({row: chunk[:, 0].tolist() for row, chunk in runner.chunks.items()})
    whole = [float(step) for step in range(1, 16)]  # from now on, also what is not executed
    assert begun == [{0: whole, 1: whole}, {}, {}, {1: whole}, {}, {}, {}, {}, {0: whole}, {}]


def test_the_noise_of_a_row_is_its_seeds_and_chunks(spy: Spy) -> None:
    many = PolicyRunner(spy, rows=3, seeds=[5, 6, 7])
    for t in range(9):
        many.act(seen(t, 3))
    first, second = (asked["noise"] for asked in spy.asked)
    assert not np.array_equal(first, second)
    alone = PolicyRunner(spy, seeds=[6])
    for t in range(9):
        alone.act(seen(t))
    np.testing.assert_array_equal(spy.asked[-2]["noise"][:, 0], first[:, 1])
    np.testing.assert_array_equal(spy.asked[-1]["noise"][:, 0], second[:, 1])
    np.testing.assert_array_equal(draw_noise(spy.noise_shape(1), 6, 1)[:, 0], second[:, 1])


def test_an_observation_that_is_written_over_is_remembered_as_it_was(spy: Spy) -> None:
    runner, observation = PolicyRunner(spy, rows=1), seen(0, 1)
    for t in range(9):
        observation["observation.state"][:] = t
        runner.act(observation)
    assert spy.asked[-1]["observation.state"][0, :, 0].tolist() == [7, 8]


def test_timestamps_pick_the_history(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner = PolicyRunner(spy)  # 10 Hz; observed at 40 Hz
    for t in np.arange(0, 1.01, 0.025):
        runner.act(seen(t), timestamp=float(t))
    np.testing.assert_allclose(spy.asked[-1]["observation.state"][0, :, 0], [0.9, 1.0], atol=1e-6)
    assert len(runner._history) < 10  # what is no longer needed is forgotten
    with pytest.raises(RobodiffError, match="must not go back; found"):
        runner.act(seen(0), timestamp=0.5)
    with pytest.raises(RobodiffError, match="must be finite and"):
        runner.act(seen(0), timestamp=np.nan)


def test_what_was_not_observed_in_time_is_refused(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner = PolicyRunner(spy)  # of steps 0.1 s apart
    for t in (0.0, 0.02, 0.1, 0.24):
        runner.act(seen(t), timestamp=t)
    np.testing.assert_allclose([asked["observation.state"][0, 0, 0] for asked in spy.asked], [0, 0, 0, 0.1])
    with pytest.raises(RobodiffError, match=r"observed at 0\.300 s.*every 0\.1 s"):
        runner.act(seen(2), timestamp=0.4)
    runner.reset()
    assert runner.act(seen(9), timestamp=3.0).tolist() == [1, 9]


def test_the_history_is_bounded(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner = PolicyRunner(spy, rows=2)
    for step in range(1000):  # row 0 is observed at 1 kHz, the other's clock hardly advances
        runner.act(seen(step / 1000, 2), timestamp=np.array([step / 1000, step * 1e-9]))
    assert len(runner._history) < 70
    fast = PolicyRunner(spy)
    for step in range(500):
        fast.act(seen(step / 1000), timestamp=step / 1000)
    assert len(fast._history) < 20
    np.testing.assert_allclose(spy.asked[-1]["observation.state"][0, :, 0], [0.4, 0.5], atol=0.01)


def test_a_runtime_needs_three_members_and_a_timing() -> None:
    class Remote:
        """Somewhere else."""

        features = PUSHT_FEATURES

        def noise_shape(self, batch_size: int) -> tuple[int, ...]:
            return (1, batch_size, 4, 2)

        def predict_chunk(self, observation: Mapping[str, np.ndarray], *, noise: np.ndarray) -> Chunk:
            return Chunk(noise[0].copy(), first_step=0)

    runner = PolicyRunner(Remote(), seeds=[3], timing=Timing(1, 2, 0.1))
    acted = np.stack([runner.act(seen(t)) for t in range(4)])
    noise = [draw_noise((1, 1, 4, 2), 3, chunk)[0, 0, :2] for chunk in (0, 1)]
    np.testing.assert_array_equal(acted, np.concatenate(noise))


def test_frame_stride_spaces_the_history(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1, frame_stride=2)
    runner = PolicyRunner(spy)
    for t in (0.0, 0.1, 0.2, 0.3):
        runner.act(seen(t), timestamp=t)
    np.testing.assert_allclose(spy.asked[-1]["observation.state"][0, :, 0], [0.1, 0.3], atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_past_actions_are_those_of_training(remembering: Spy, stride: int) -> None:
    """A recording of what the spy does, as training sees it, is what the spy sees when it does it."""
    remembering.config = replace(remembering.config, frame_stride=stride)
    frames = np.arange(20)
    action = np.stack([np.ones(20), frames], axis=1).astype(np.float32)  # the spy's step, and the number it observed
    recorded = Episodes("", {"action": action}, np.array([20]), 10.0, {"action": remembering.features["action"]})
    past = with_past_action(recorded, [PAST_ACTION], stride).arrays[PAST_ACTION]
    runner = PolicyRunner(remembering)
    for frame in frames[::stride]:
        np.testing.assert_array_equal(runner.act(seen(frame)), action[frame])
    windows = Windows(recorded.episode_ends, remembering.config.window)
    expected = past[windows.frames(np.arange(len(windows)))[0][::stride, :2]]  # (W, To, Da)
    found = np.concatenate([asked[PAST_ACTION] for asked in remembering.asked])
    np.testing.assert_array_equal(found[: len(expected)], expected)
    assert found[0].tolist() == [[0, 0], [0, 0]]


def test_a_row_that_is_reset_has_no_past_action(remembering: Spy) -> None:
    runner = PolicyRunner(remembering, rows=2)
    for t in range(3):
        runner.act(seen(t, 2))
    runner.reset(rows=[1])
    runner.act(seen(3, 2))
    assert remembering.asked[-1][PAST_ACTION].tolist() == [[[1, 1], [1, 2]], [[0, 0], [0, 0]]]


def test_past_actions_are_remembered_with_what_was_observed_then(remembering: Spy) -> None:
    runner = PolicyRunner(remembering)  # 10 Hz; observed at 40 Hz
    for t in np.arange(0, 1.01, 0.025):
        runner.act(seen(t), timestamp=float(t))
    np.testing.assert_allclose(remembering.asked[-1][PAST_ACTION][0, :, 1], [0.875, 0.975], atol=1e-6)


def test_who_knows_what_was_executed_is_believed(remembering: Spy) -> None:
    runner = PolicyRunner(remembering)
    runner.act(seen(0))[:] = 99  # what a caller does with the action that it got changes nothing
    runner.act(seen(1))
    runner.act({**seen(2), PAST_ACTION: np.full(2, 5.0)})
    found = [asked[PAST_ACTION][0, -1].tolist() for asked in remembering.asked]
    assert found == [[0, 0], [1, 0], [5, 5]]


def test_nothing_of_a_chunk_that_is_not_finite_is_handed_out(spy: Spy) -> None:
    runner = PolicyRunner(spy, rows=2)
    blind = seen(0, 2)
    blind["observation.state"][1, 0] = np.nan
    for t in range(8):
        with pytest.raises(NonFiniteActions, match=r"row 1: action\[1\] is not finite at step 0 .* observation\.state"):
            runner.act(blind if t == 0 else seen(t, 2))
    chunk_for_row_0 = PolicyRunner(spy).act(seen(0))
    with pytest.raises(NonFiniteActions) as caught:
        PolicyRunner(spy, rows=2).act(blind)
    assert caught.value.actions[0].tolist() == chunk_for_row_0.tolist()
    assert np.isnan(caught.value.actions[1]).all()
    assert np.isnan(caught.value.chunks[1].observation["observation.state"]).tolist() == [[True, False]] * 2
    assert runner.act(seen(8, 2)).tolist() == [[1, 8], [1, 8]]  # the next chunk is made of what is seen by then

    alone = PolicyRunner(spy)
    with pytest.raises(NonFiniteActions, match=r"^action\[1\] is not finite"):
        alone.act({key: value[1] for key, value in blind.items()})
    alone.reset()
    assert alone.act(seen(3)).tolist() == [1, 3]


def test_wrong_observations_are_refused(spy: Spy) -> None:
    runner = PolicyRunner(spy)
    with pytest.raises(RobodiffError, match=r"observes 'observation\.environment_state'; the observation has"):
        runner.act({"observation.state": np.zeros(2)})
    with pytest.raises(RobodiffError, match=r"observes 'observation\.state'; the observation has nothing$"):
        runner.act({})
    with pytest.raises(RobodiffError, match=r"observation\.state: expected shape \(2,\), found \(3,\)"):
        runner.act({**seen(0), "observation.state": np.zeros(3)})
    for nothing in (np.zeros(2), None, [seen(0)]):
        with pytest.raises(RobodiffError, match="expected an observation by its keys"):
            runner.act(nothing)  # type: ignore[arg-type]


def same(a: object, b: object) -> bool:
    """Whether two runners remember the same, array by array."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")  # type: ignore[arg-type]
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)  # type: ignore[attr-defined, index]
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    return all(map(same, vars(a).values(), vars(b).values())) if is_dataclass(a) else a == b


def memory(runner: PolicyRunner) -> dict[str, object]:
    return {key: value for key, value in vars(runner).items() if key not in ("policy", "_lock")}


CLOCK = pytest.mark.kind("a timestamp that no clock gives")
NO_TIMES = [
    (np.nan, "must be finite"),
    (np.inf, "must be finite"),
    (-np.inf, "must be finite"),
    (0.3, "timestamps must advance; found 0.300 s again: does the clock stand still"),
    (0.2, r"must not go back; found 0\.200 s after 0\.300 s; reset"),
    (-5, "must not go back"),
    (-1e300, r"must not go back; found -1e\+300 s after 0\.300 s"),
    ("0.4", "timestamp: expected seconds, a real number; found text"),
    (b"0.4", "found text"),
    (True, "found bool"),
    (np.ma.masked_array(0.4, mask=True), "found a masked array"),
    (0.4 + 0j, "found complex128"),
    (np.datetime64("2026-01-01"), r"found datetime64\[D\]"),
    (np.timedelta64(400, "ms"), r"found timedelta64\[ms\]"),
    ({"s": 0.4}, "found object"),
    ([0.4, [0.4]], "found a list that is no array"),
    ([0.4, 0.4], r"expected one number, or shape \(1,\); found shape \(2,\)"),
    ([[0.4]], r"found shape \(1, 1\)"),
]


@CLOCK
@pytest.mark.parametrize(("time", "words"), NO_TIMES)
def test_a_timestamp_that_is_refused_changes_nothing(spy: Spy, time: object, words: str) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner, other = PolicyRunner(spy), PolicyRunner(spy)
    for t in (0.1, 0.2, 0.3):
        runner.act(seen(t), timestamp=t)
        other.act(seen(t), timestamp=t)
    before = memory(runner)
    for _ in range(3):
        with pytest.raises(RobodiffError, match=words) as caught:
            runner.act(seen(9), timestamp=time)  # type: ignore[arg-type]
        assert str(caught.value).count("\n") < 2
    assert same(memory(runner), before)
    for t in (np.float32(0.4), 0.5):
        np.testing.assert_array_equal(runner.act(seen(t), timestamp=t), other.act(seen(t), timestamp=t))  # type: ignore[arg-type]
    assert same(memory(runner), memory(other))
    runner.reset()
    for t in (0, 0.1, 0.2):  # an earlier time, and an int
        runner.act(seen(t), timestamp=t)


@CLOCK
@pytest.mark.parametrize("time", [400.0, 400, 1_753_000_000_000_000_000, 1e300])
def test_one_time_that_counts_no_seconds_is_forgotten(spy: Spy, time: float) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner, other = PolicyRunner(spy), PolicyRunner(spy)
    for t in (0.1, 0.2, 0.3):
        runner.act(seen(t), timestamp=t)
        other.act(seen(t), timestamp=t)
    for _ in range(3):
        with pytest.raises(Gap, match=r"seconds, about 0\.1 apart; found .* after 0\.300; after a pause") as caught:
            runner.act(seen(9), timestamp=time)
        assert len(str(caught.value)) < 150
    for t in (0.4, 0.5):
        np.testing.assert_array_equal(runner.act(seen(t), timestamp=t), other.act(seen(t), timestamp=t))
    assert same(memory(runner), memory(other))


def refused(act: Callable[[float], object], times: np.ndarray) -> list[bool]:
    """Return at which times an action was refused for want of observations."""
    found = []
    for t in times.tolist():
        try:
            act(t)
        except Gap:
            found.append(True)
        else:
            found.append(False)
    return found


@CLOCK
@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("gap", [0.17, 0.5, 5.0, 60.0])
def test_a_late_observation_or_a_pause_is_made_up_for(spy: Spy, steps: int, gap: float, rows: int | None) -> None:
    spy.config = replace(spy.config, n_obs_steps=steps, n_action_steps=1)
    runner = PolicyRunner(spy, rows=rows)
    times = np.concatenate([0.1 * np.arange(6), 0.5 + gap + 0.1 * np.arange(10)])
    found = refused(lambda t: runner.act(seen(t, rows), timestamp=t), times)
    needed = steps - 1 + (gap > 10)  # after so long the first one is doubted
    assert found == [False] * 6 + [True] * needed + [False] * (10 - needed)
    np.testing.assert_allclose(spy.asked[-1]["observation.state"][0, :, 0], times[-steps:], rtol=1e-6)
    assert len(runner._history) < 10


@CLOCK
def test_a_team_makes_up_for_a_pause(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    team = Team({"1": PolicyRunner(spy), "2": PolicyRunner(spy)}, {"1": slice(0, 2), "2": slice(2, 4)})
    for pause in (0.17, 30.0):
        team.reset()
        times = np.array([0, 0.1, 0.2, *(0.2 + pause + 0.1 * np.arange(4))])
        found = refused(lambda t: team.act(team_sees(t), timestamp=t), times)
        assert found == [False] * 3 + [True] * (1 + (pause > 10)) + [False] * (3 - (pause > 10))
    team.runners["1"].reset()  # it alone lacks nothing
    with pytest.raises(Gap, match=r"^agent 2: nothing was observed at 30\.900 s"):
        team.act(team_sees(31), timestamp=31.0)
    assert team.act(team_sees(31.1), timestamp=31.1).shape == (4,)


@CLOCK
def test_a_gap_within_a_chunk_is_no_matter(spy: Spy) -> None:
    runner = PolicyRunner(spy)
    assert not any(refused(lambda t: runner.act(seen(t), timestamp=t), np.array([0, 0.1, 0.5, 0.6, 3.0])))


@CLOCK
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("executed", [1, 8])
def test_milliseconds_are_no_seconds(small_policy: Make, steps: int, executed: int) -> None:
    runner = PolicyRunner(small_policy(n_obs_steps=steps, n_action_steps=executed, num_inference_steps=1))
    runner.act(seen(0), timestamp=0)
    assert all(refused(lambda t: runner.act(seen(1), timestamp=t), np.arange(100, 2000, 100)))


@CLOCK
@pytest.mark.parametrize(("second", "words"), [(0.2, r"row 1: timestamps must advance"), (np.nan, "row 1: .* finite"),
                         (0.1, "row 1: .* go back"), (-1e6, "row 1: .* go back")])  # fmt: skip
def test_one_row_that_no_clock_gives_stops_none(spy: Spy, second: float, words: str) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner = PolicyRunner(spy, rows=2)
    for t in (0.1, 0.2):
        runner.act(seen(t, 2), timestamp=np.full(2, t))
    before = memory(runner)
    with pytest.raises(RobodiffError, match=words):
        runner.act(seen(9, 2), timestamp=np.array([0.3, second]))
    assert same(memory(runner), before)
    runner.reset(rows=[1])  # what is new has no time before it
    first = np.nan_to_num(second)
    for t in (0.3, 0.4):
        assert runner.act(seen(t, 2), timestamp=np.array([t, first + t])).shape == (2, 2)
    with pytest.raises(Gap, match=r"^row 0: nothing was observed at 0\.900 s"):
        runner.act(seen(1, 2), timestamp=np.array([1, first + 0.5]))
    with pytest.raises(Gap, match=r"^row 1: timestamps are seconds"):
        runner.act(seen(1, 2), timestamp=np.array([1.1, first + 1e6]))


@CLOCK
def test_a_team_that_is_refused_is_as_before(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    team = Team({"1": PolicyRunner(spy), "2": PolicyRunner(spy)}, {"1": slice(0, 2), "2": slice(2, 4)})
    for t in (0.1, 0.2):
        team.act(team_sees(t), timestamp=t)
    before, last = [memory(runner) for runner in team.runners.values()], team.last
    wrong = {**team_sees(0.3), "agents.2.observation.state": np.array(["a", "b"])}
    for observation, clock, words in ((team_sees(0.3), np.nan, "agent 1: .* finite"), (wrong, 0.3, "agent 2: .* text"),
                                     (np.zeros(4), 0.3, "by its keys")):  # fmt: skip
        with pytest.raises(RobodiffError, match=words):
            team.act(observation, timestamp=clock)  # type: ignore[arg-type]
        assert all(map(same, [memory(runner) for runner in team.runners.values()], before))
    assert team.last is last
    assert team.act(team_sees(0.3), timestamp=0.3).shape == (4,)


NUMBERS = pytest.mark.kind("a number that is not finite, negative or absurd")


@NUMBERS
@pytest.mark.parametrize("rows", [0, -1, 1.5, True, "2", [2], 2**70, np.nan])
def test_rows_are_counted_from_1(spy: Spy, rows: Any) -> None:
    with pytest.raises(UsageError, match=r"^rows: expected whole numbers from 1 to \d+; found .*$"):
        PolicyRunner(spy, rows=rows)


NO_SEEDS = [[-1, 2], [1.7, 2], [1.0, 2.0], [1], [1, 2, 3], [2**70, 1], [2**63, 1], [np.nan, 1], ["1", "2"], "12", 5, [],
            [True, False], [[1, 2]], np.zeros((2, 2), int), [[1], [1, 2]], [None, 1], {1, 2}]  # fmt: skip
NO_ROWS = [[3], [2], [-1], 1, "1", [0.0], [True, False], [[0]], [0, None], [2**70]]


@NUMBERS
@pytest.mark.parametrize(("rows", "seeds"), [*((None, each) for each in NO_SEEDS), *((each, None) for each in NO_ROWS),
                         ([1], [1, 2]), ([], [1])])  # fmt: skip
def test_a_reset_that_is_refused_changes_nothing(spy: Spy, rows: Any, seeds: Any) -> None:
    runner = PolicyRunner(spy, rows=2, seeds=[5, 6])
    runner.act(seen(0, 2))
    before, numbers = memory(runner), runner.seeds.copy()
    words = r"^(rows|seeds): expected (\d )?whole numbers from 0 to \d+; found .*$"
    with pytest.raises(UsageError, match=words) as caught:
        runner.reset(rows, seeds)
    assert "\n" not in str(caught.value)
    assert same(memory(runner), before)
    assert runner.seeds.tolist() == numbers.tolist()
    if rows is None:
        with pytest.raises(UsageError, match=words):
            PolicyRunner(spy, rows=2, seeds=seeds)


def test_resetting_no_row_does_nothing(small_policy: Make) -> None:
    runner = PolicyRunner(small_policy(num_inference_steps=1), rows=2)
    runner.act(seen(0, 2))
    before = memory(runner)
    for rows in ([], np.array([], int), ()):
        runner.reset(rows)
        runner.reset(rows, seeds=[])
    assert same(memory(runner), before)
    runner.reset(rows=np.array([1], np.uint8), seeds=(2**63 - 1,))
    assert (runner.seeds.tolist(), runner.last.out_of_range) == ([0, 2**63 - 1], {})
    runner.act(seen(1, 2))


TYPES = pytest.mark.kind("an observation of another type than was recorded")


@TYPES
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array(["1", "2"]), "expected real numbers; found text"),
        (np.array([b"1", b"2"]), "found text"),
        (np.array([1j, 2j]), "found complex128"),
        (np.array([True, False]), "found bool"),
        (np.array([1.0, None]), "found object"),
        (np.array([1, 2], dtype=object), "found object"),
        (None, "found object"),
        ([[1.0], [1.0, 2.0]], "found a list that is no array"),
        (np.array(["2026-01-01"] * 2, "datetime64[D]"), r"found datetime64\[D\]"),
        (np.zeros(2, [("x", "f4")]), "real numbers; found"),
        (1.0, r"expected shape \(2,\), found \(\)"),
        (np.ma.masked_array([1.0, 2.0], mask=[False, True]), "expected real numbers; found a masked array"),
    ],
)
def test_vectors_are_real_numbers(spy: Spy, value: object, words: str) -> None:
    runner = PolicyRunner(spy)
    before = memory(runner)
    with pytest.raises(RobodiffError, match=rf"observation\.state: .*{words}"):
        runner.act({**seen(0), "observation.state": value})
    assert same(memory(runner), before)


@TYPES
@pytest.mark.parametrize(
    "value",
    [
        np.array([3, 4]),
        np.array([3, 4], np.uint8),
        np.array([3, 4], np.float16),
        np.array([3, 4], ">f8"),
        np.array([4, 9, 3, 9], np.longdouble)[2::-2],
        [3, 4.0],
        torch.tensor([3.0, 4.0], dtype=torch.bfloat16).double(),
    ],
)
def test_real_numbers_of_every_type_are_taken(spy: Spy, value: Any) -> None:
    PolicyRunner(spy).act({**seen(0), "observation.state": value})
    found = spy.asked[-1]["observation.state"]
    assert (found.dtype, found[0, -1].tolist()) == (np.float32, [3, 4])


@TYPES
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16, np.int8, bool, object])
def test_images_are_bytes(spy: Spy, dtype: Any) -> None:
    key, image = "observation.image", np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    spy.features = {**spy.features, key: Feature("image", image.shape, "uint8")}
    runner = PolicyRunner(spy)
    with pytest.raises(RobodiffError, match=rf"{key}: expected uint8 from 0 to 255, .*; found {np.dtype(dtype)}"):
        runner.act({**seen(0), key: image.astype(dtype)})
    runner.act({**seen(0), key: np.asfortranarray(image[:, ::-1, ::-1])})
    np.testing.assert_array_equal(spy.asked[-1][key][0, 0], image[:, ::-1, ::-1])


@TYPES
def test_what_is_observed_and_not_finite_is_named_though_the_policy_bears_it(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner = PolicyRunner(spy, rows=2)
    for value in (np.nan, np.inf, -np.inf, 1e300):
        runner.reset()
        blind = {key: array.astype(np.float64) for key, array in seen(0, 2).items()}
        blind["observation.environment_state"][1, 3] = value  # of which the spy's actions say nothing
        with pytest.raises(NonFiniteActions, match=r"^row 1: what was observed is not finite in obs\w+\.env") as caught:
            runner.act(blind)
        assert np.isnan(caught.value.actions).tolist() == [[False] * 2, [True] * 2]
    for t in (1, 2):  # the second sees no more of it
        try:
            actions = runner.act(seen(t, 2))
        except NonFiniteActions:
            assert t == 1
    assert np.isfinite(actions).all()


RANGE = pytest.mark.kind("an observation far outside of the range of training")


@RANGE
def test_a_runner_tells_how_far_outside_of_the_training_range_it_is(small_policy: Make) -> None:
    runner = PolicyRunner(small_policy(num_inference_steps=1))  # 0 to 512 in training
    state, corners = "observation.state", "observation.environment_state"
    assert runner.last.out_of_range == {}
    for value, share in ((0, 0), (512, 0), (768, 0.5), (-512, 1), (1e4, (1e4 - 512) / 512), (100, 0)):
        runner.act({**seen(0), state: np.array([256.0, value])})
        assert runner.last.out_of_range == {state: pytest.approx(share), corners: 0}
    runner.reset()
    with pytest.raises(NonFiniteActions):
        runner.act({**seen(0), state: np.array([np.nan, 0])})
    assert runner.last.out_of_range == {state: np.inf, corners: 0}
    last = runner.last
    with pytest.raises(RobodiffError, match="found text"):
        runner.act({**seen(0), state: np.array(["a", "b"])})
    assert runner.last is last


@RANGE
def test_rows_and_agents_are_told_apart(small_policy: Make) -> None:
    policy = small_policy(num_inference_steps=1)
    runner = PolicyRunner(policy, rows=2)
    observation = seen(0, 2)
    observation["observation.state"][1] = -256
    for _ in range(2):  # also where no new chunk is due
        runner.act(observation)
        assert runner.last.out_of_range["observation.state"].tolist() == [0, 0.5]
    team = Team({"1": PolicyRunner(policy), "2": PolicyRunner(policy)}, {"1": slice(0, 2), "2": slice(2, 4)})
    team.act(team_sees(512))
    assert team.last.out_of_range == {
        "agents.1.observation.state": pytest.approx(100 / 512),
        "agents.1.observation.environment_state": 0,
        "agents.2.observation.state": pytest.approx(200 / 512),
        "agents.2.observation.environment_state": 0,
    }


@RANGE
def test_a_range_that_is_nearly_nothing_is_left_soon() -> None:
    range_ = np.array([[0.7, 0.0], [0.7, 1.0]], np.float32)
    values = np.array([[0.7, 0.5], [0.7 + 1e-6, 0.5], [1.7, 0.5], [0.7, 1.25]], np.float32)
    np.testing.assert_allclose(out_of_range(values, range_), [0, 0.01, 1e4, 0.25], atol=2e-3, rtol=1e-3)


@pytest.mark.kind("a runner that several threads use")
@pytest.mark.parametrize("team", [False, True])
def test_threads_wait_for_each_other(spy: Spy, team: bool) -> None:
    """Every action of every chunk is handed out once, whoever asks."""
    runners = {str(agent): PolicyRunner(spy) for agent in (1, 2)}
    runner = Team(runners, {"1": slice(0, 2), "2": slice(2, 4)}) if team else runners["1"]
    predict = spy.predict_chunk

    def slow(observation: Mapping[str, np.ndarray], *, noise: np.ndarray) -> Chunk:
        time.sleep(0.01)  # lets another thread in
        return predict(observation, noise=noise)

    spy.predict_chunk = slow  # type: ignore[method-assign]
    observation = team_sees(0) if team else seen(0)
    with ThreadPoolExecutor(8) as pool:
        actions = list(pool.map(lambda _: runner.act(observation)[0], range(64)))
    assert sorted(actions) == sorted([*range(1, 9)] * 8)
    assert len(spy.asked) == (16 if team else 8)


def team_sees(time: float, rows: int | None = None) -> dict[str, np.ndarray]:
    """Two arms, each with a state of its own, and what both see."""
    both = seen(time, rows)
    shared = {"observation.environment_state": both["observation.environment_state"]}
    own = {f"agents.{agent}.observation.state": both["observation.state"] + 100 * agent for agent in (1, 2)}
    return {**shared, **own}


def test_a_team_acts_as_one(spy: Spy) -> None:
    team = Team({"1": PolicyRunner(spy), "2": PolicyRunner(spy)}, {"2": slice(0, 2), "1": slice(2, 4)})
    assert team.act(team_sees(5)).tolist() == [1, 205, 1, 105]
    assert team.chunks[0].tolist() == [[step, 205, step, 105] for step in range(1, 16)]
    assert team.act(team_sees(6)).tolist() == [2, 205, 2, 105]
    assert not team.chunks
    team.reset(seeds=[4])
    assert team.act(team_sees(7)).tolist() == [1, 207, 1, 107]
    noise = [asked["noise"] for asked in spy.asked[-2:]]  # of agent 2, whose part is first, that of a single policy
    np.testing.assert_array_equal(noise[0], draw_noise(spy.noise_shape(1), 4, 0))
    assert not (noise[0] == noise[1]).any()
    with pytest.raises(RobodiffError, match=r"agent 1: the policy observes 'observation\.state'"):
        team.act({key: value for key, value in team_sees(8).items() if "agents.1" not in key})
    with pytest.raises(UsageError, match="agents 1, and policies for 2, 1"):
        Team(team.runners, {"1": slice(0, 2)})


@pytest.mark.parametrize(
    ("agents", "words"),
    [
        (
            {"1": slice(0, 2), "2": slice(3, 5)},
            r"agent 2: .* expected slice\(2, 4, None\) .* found slice\(3, 5, None\)",
        ),
        ({"1": slice(0, 2), "2": slice(1, 3)}, "agent 2: .* size 2"),
        ({"1": slice(0, 2), "2": slice(0, 2)}, "agent 2: "),
        ({"1": slice(0, 2), "2": slice(2, 5)}, "agent 2: "),
        ({"1": slice(1, 3), "2": slice(3, 5)}, "agent 1: "),
        ({"1": slice(0, 4, 2), "2": slice(1, 4, 2)}, "agent 1: "),
        ({"1": slice(2), "2": slice(2, 4)}, r"agent 1: expected its part .* found slice\(None, 2, None\)"),
        ({"1": slice(0, 2), "2": slice(2.0, 4.0)}, "agent 2: expected its part"),
        ({"1": [0, 1], "2": slice(2, 4)}, "agent 1: expected its part"),
    ],
)
def test_the_parts_of_a_team_are_the_whole_action(spy: Spy, agents: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Team({"1": PolicyRunner(spy), "2": PolicyRunner(spy)}, agents)
    assert "\n" not in str(caught.value)


def test_a_team_has_a_runner_for_each_agent_and_the_same_rows(spy: Spy) -> None:
    agents, runner = {"1": slice(0, 2), "2": slice(2, 4)}, PolicyRunner(spy)
    with pytest.raises(UsageError, match="agents 1 and 2 have one runner; each needs its own"):
        Team({"1": runner, "2": runner}, agents)
    with pytest.raises(UsageError, match="the same rows; agent 1 has none, agent 2 1"):
        Team({"1": runner, "2": PolicyRunner(spy, rows=1)}, agents)
    with pytest.raises(UsageError, match="needs an agent"):
        Team({}, {})


def test_a_team_of_many_rows_names_the_agent_that_fails(spy: Spy) -> None:
    team = Team({"1": PolicyRunner(spy, rows=2), "2": PolicyRunner(spy, rows=2)}, {"1": slice(0, 2), "2": slice(2, 4)})
    blind = team_sees(0, 2)
    blind["agents.2.observation.state"][1, 0] = np.nan
    with pytest.raises(NonFiniteActions, match=r"row 1: agent 2: action\[1\] is not finite") as caught:
        team.act(blind)
    np.testing.assert_array_equal(caught.value.actions, [[1, 100, 1, 200], [1, 100, np.nan, np.nan]])
    assert [*caught.value.chunks] == [1]
    team.reset(rows=[1])
    assert team.act(team_sees(3, 2)).tolist() == [[2, 100, 2, 200], [1, 103, 1, 203]]
