"""The runner: history, queue, rows that depend on nobody else."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from robodiff.errors import RobodiffError
from robodiff.policies.diffusion import Chunk, DiffusionPolicy
from robodiff.policies.runner import PolicyRunner

Make = Callable[..., DiffusionPolicy]


class Spy(DiffusionPolicy):
    """Records what it is asked, and answers with the step of the window and the first number observed."""

    asked: list[dict[str, Tensor]]

    def predict_chunk(self, observation: Mapping[str, Tensor], *, noise: Tensor | None = None, known=None) -> Chunk:
        self.asked.append({**observation, "noise": noise.clone()})
        steps = torch.arange(16.0).expand(len(noise[0]), 16)
        newest = observation["observation.state"][:, -1, :1].expand(-1, 16)
        return Chunk(torch.stack([steps, newest], dim=-1), first_step=0)


@pytest.fixture
def spy(small_policy: Make) -> Spy:
    policy = small_policy()
    policy.__class__ = Spy
    policy.asked = []
    return policy  # type: ignore[return-value]


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
    assert not first.equal(second)
    alone = PolicyRunner(spy, seeds=[6])
    for t in range(9):
        alone.act(seen(t))
    assert spy.asked[-2]["noise"][:, 0].equal(first[:, 1])
    assert spy.asked[-1]["noise"][:, 0].equal(second[:, 1])


def test_an_observation_that_is_written_over_is_remembered_as_it_was(spy: Spy) -> None:
    runner, observation = PolicyRunner(spy, rows=1), seen(0, 1)
    for t in range(9):
        observation["observation.state"][:] = t
        runner.act(observation)
    assert spy.asked[-1]["observation.state"][0, :, 0].tolist() == [7, 8]


def test_timestamps_pick_the_history(spy: Spy) -> None:
    spy.config = type(spy.config)(**{**spy.config.__dict__, "n_action_steps": 1})
    runner = PolicyRunner(spy)  # 10 Hz; observed at 40 Hz
    for t in np.arange(0, 1.01, 0.025):
        runner.act(seen(t), timestamp=float(t))
    np.testing.assert_allclose(spy.asked[-1]["observation.state"][0, :, 0], [0.9, 1.0], atol=1e-6)
    assert len(runner._history) < 10  # what is no longer needed is forgotten
    with pytest.raises(RobodiffError, match="must not go back"):
        runner.act(seen(0), timestamp=0.5)


def test_frame_stride_spaces_the_history(spy: Spy) -> None:
    spy.config = type(spy.config)(**{**spy.config.__dict__, "n_action_steps": 1, "frame_stride": 2})
    runner = PolicyRunner(spy)
    for t in (0.0, 0.1, 0.2, 0.3):
        runner.act(seen(t), timestamp=t)
    np.testing.assert_allclose(spy.asked[-1]["observation.state"][0, :, 0], [0.1, 0.3], atol=1e-6)


def test_wrong_observations_are_refused(spy: Spy) -> None:
    runner = PolicyRunner(spy)
    with pytest.raises(RobodiffError, match=r"observes 'observation\.environment_state'; it was given"):
        runner.act({"observation.state": np.zeros(2)})
    with pytest.raises(RobodiffError, match=r"observation\.state: expected shape \(2,\), found \(3,\)"):
        runner.act({**seen(0), "observation.state": np.zeros(3)})
