"""Which chunk acts when, and what the next one is told: a matter of step counts alone."""

from typing import Any

import numpy as np
import pytest

from robodiff.deploy.planner import ChunkPlanner
from robodiff.policies.runtime import Chunk, Timing

TIMING = Timing(n_obs_steps=2, n_action_steps=8, spacing=0.1)


def run(planner: ChunkPlanner, delay: int, steps: int = 40, n: int = 16, first_step: int = 0) -> tuple[list, list]:
    """Chunk c has the actions 100 c + place; return what each step executes (None: held) and what was asked when."""
    executed, asked, arrives, last = [], [], None, np.zeros((1, 1))
    for step in range(steps):
        late = delay if asked else 0
        if planner.is_due(step, late):
            asked.append((step, planner.ask(step, late)))
            arrives = step + late
        if step == arrives:
            actions = 100.0 * len(asked) + np.arange(n).reshape(1, n, 1)
            planner.take(Chunk(actions, first_step), step)
            arrives = None
        action = planner.action(step)
        executed.append(None if action is None else int(action[0, 0]))
        last = last if action is None else action
        planner.executed(step, last)
    return executed, asked


@pytest.mark.parametrize("mode", ["real_time", "naive", "synchronous"])
def test_without_delay_every_mode_executes_the_first_actions_of_each_chunk(mode: Any) -> None:
    executed, asked = run(ChunkPlanner(TIMING, mode), 0)
    assert executed == [100 * (1 + step // 8) + 1 + step % 8 for step in range(40)]
    assert [step for step, _ in asked] == [0, 8, 16, 24, 32]


@pytest.mark.parametrize("mode", ["real_time", "naive"])
def test_a_late_chunk_takes_over_at_the_action_that_is_due(mode: Any) -> None:
    executed, asked = run(ChunkPlanner(TIMING, mode), 3)
    assert [step for step, _ in asked] == [0, 8, 16, 24, 32]
    assert executed[:11] == [*range(101, 112)]  # three more of the first chunk
    assert executed[11:19] == [*range(204, 212)]  # the second is asked for at step 8: place 4 is step 11
    assert None not in executed


def test_synchronous_waits_and_then_executes_the_chunk_from_its_beginning() -> None:
    executed, asked = run(ChunkPlanner(TIMING, "synchronous"), 3)
    assert executed[:22] == [*range(101, 109), None, None, None, *range(201, 209), None, None, None]
    assert [step for step, _ in asked] == [0, 8, 19, 30]
    assert all(known is None for _, known in asked)


def test_what_is_executed_meanwhile_is_given_and_what_was_before() -> None:
    _, asked = run(ChunkPlanner(TIMING, "real_time"), 3)
    step, known = asked[2]
    assert step == 16
    values, weights = known
    assert weights[0, :, 0].tolist() == [1, 1, 1, 1] + [0] * 12
    # Step 15 is place 8 of the second chunk, which was asked for at step 8; steps 16 to 18 follow.
    assert values[0, :4, 0].tolist() == [208, 209, 210, 211]
    assert [known for _, known in run(ChunkPlanner(TIMING, "naive"), 3)[1]] == [None] * 5


def test_the_soft_mask_is_that_of_the_paper() -> None:
    """Black et al. 2025, equation 5, with H = 15 actions from now on, s = 8 and d = 3."""
    _, asked = run(ChunkPlanner(TIMING, "real_time", soft=True), 3)
    weights = asked[2][1][1][0, 1:, 0]
    c = [(15 - 8 - i) / (15 - 8 - 3 + 1) for i in range(3, 7)]
    np.testing.assert_allclose(weights[:3], 1)
    np.testing.assert_allclose(weights[3:7], [x * (np.exp(x) - 1) / (np.e - 1) for x in c], rtol=1e-6)
    assert not weights[7:].any()


@pytest.mark.parametrize("delay", [1, 3, 5, 7])
def test_a_chunk_is_asked_for_before_the_last_one_ends(delay: int) -> None:
    executed, asked = run(ChunkPlanner(TIMING, "real_time", replan=12), delay)
    assert None not in executed
    assert np.diff([step for step, _ in asked]).tolist() == [min(12, 15 - delay)] * (len(asked) - 1)


def test_a_delay_of_more_than_a_chunk_leaves_steps_without_a_plan() -> None:
    executed, _ = run(ChunkPlanner(TIMING, "naive"), 20)
    assert executed[:15] == [*range(101, 116)]
    assert executed[15:18] == [None] * 3


def test_what_is_left_of_a_chunk_begins_with_the_action_that_is_due() -> None:
    planner = ChunkPlanner(TIMING, "real_time")
    assert planner.rest(0) is None
    planner.ask(0, 0)
    planner.take(Chunk(np.arange(16.0).reshape(1, 16, 1), 0), 0)
    for step in (0, 5, 14, 15, 40):
        rest, due = planner.rest(step), planner.action(step)
        assert rest is not None
        assert rest[0, :, 0].tolist() == [*range(step + 1, 16)]
        assert due is None if step > 14 else (rest[:, 0] == due).all()


def test_a_policy_that_predicts_executed_steps_only() -> None:
    executed, asked = run(ChunkPlanner(TIMING, "real_time"), 2, n=8, first_step=1)
    assert [step for step, _ in asked][:4] == [0, 6, 12, 18]  # a chunk lasts 8 steps, of which two pass meanwhile
    assert None not in executed
    values, weights = asked[1][1]
    assert (values[0, :3, 0].tolist(), weights[0, :3, 0].tolist()) == ([106, 107, 0], [1, 1, 0])
