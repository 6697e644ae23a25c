"""The runner: history, queue, rows that depend on nobody else."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from tests.conftest import PUSHT_FEATURES

from robodiff.data.episodes import PAST_ACTION, Episodes, with_past_action
from robodiff.data.windows import Windows
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import NonFiniteActions, PolicyRunner, Team
from robodiff.policies.runtime import Chunk, Timing, draw_noise

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
    for time in (0.0, 0.02, 0.1, 0.24):
        runner.act(seen(time), timestamp=time)
    np.testing.assert_allclose([asked["observation.state"][0, 0, 0] for asked in spy.asked], [0, 0, 0, 0.1])
    with pytest.raises(RobodiffError, match=r"observed at 0\.300 s.*every 0\.1 s"):
        runner.act(seen(2), timestamp=0.4)
    runner.reset()
    assert runner.act(seen(9), timestamp=3.0).tolist() == [1, 9]


def test_the_history_is_bounded(spy: Spy) -> None:
    spy.config = replace(spy.config, n_action_steps=1)
    runner = PolicyRunner(spy, rows=2)
    for step in range(1000):  # row 0 is observed at 1 kHz, the other's clock stands still
        runner.act(seen(step / 1000, 2), timestamp=np.array([step / 1000, 0.0]))
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
    with pytest.raises(RobodiffError, match=r"observation\.state: expected shape \(2,\), found \(3,\)"):
        runner.act({**seen(0), "observation.state": np.zeros(3)})


def team_sees(time: float, rows: int | None = None) -> dict[str, np.ndarray]:
    """Two arms, each with a state of its own, and what both see."""
    both = seen(time, rows)
    shared = {"observation.environment_state": both["observation.environment_state"]}
    own = {f"agents.{agent}.observation.state": both["observation.state"] + 100 * agent for agent in (1, 2)}
    return {**shared, **own}


def test_a_team_acts_as_one(spy: Spy) -> None:
    team = Team({"1": PolicyRunner(spy), "2": PolicyRunner(spy)}, {"2": slice(0, 2), "1": slice(2, 4)})
    assert team.act(team_sees(5)).tolist() == [1, 205, 1, 105]
    assert team.act(team_sees(6)).tolist() == [2, 205, 2, 105]
    team.reset(seeds=[4])
    assert team.act(team_sees(7)).tolist() == [1, 207, 1, 107]
    np.testing.assert_array_equal(spy.asked[-1]["noise"], draw_noise(spy.noise_shape(1), 4, 0))
    with pytest.raises(RobodiffError, match=r"agent 1: the policy observes 'observation\.state'"):
        team.act({key: value for key, value in team_sees(8).items() if "agents.1" not in key})
    with pytest.raises(UsageError, match="agents 1, and policies for 1, 2"):
        Team(team.runners, {"1": slice(0, 2)})


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
