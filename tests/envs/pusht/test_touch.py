"""Push-T under a pointer: what is taken follows it, everything else stays."""

import numpy as np
import pytest

from robodiff.envs.pusht.env import TABLE, PushTEnv
from robodiff.envs.pusht.geometry import corners_from_pose
from robodiff.envs.pusht.touch import TOUCH
from robodiff.envs.touch import Hand

START = np.array([100.0, 100.0, 300.0, 300.0, 0.5])


@pytest.fixture
def env() -> PushTEnv:
    env = PushTEnv()
    env.reset(seed=0)
    env.set_state(START)
    return env


def test_the_pointer_is_the_target(env: PushTEnv) -> None:
    np.testing.assert_array_equal(TOUCH.act(env, Hand(0.25, 0.5)), [128, 256])
    np.testing.assert_array_equal(TOUCH.act(env, Hand(-1, 2)), [0, 512])
    assert TOUCH.where(env, 0) == (100 / TABLE, 100 / TABLE)


def test_the_block_is_dragged_and_turned_about_where_it_is_held(env: PushTEnv) -> None:
    assert TOUCH.grab is not None
    held = corners_from_pose(START[None, 2:])[0][:2]  # a corner
    move = TOUCH.grab(env, *(held / TABLE))
    assert move is not None
    for place, turn in (((350.0, 200.0), 0.0), ((240.0, 260.0), 1.0)):
        observed = move(place[0] / TABLE, place[1] / TABLE, turn)
        np.testing.assert_allclose(observed["observation.environment_state"][:2], place, atol=1e-3)
        np.testing.assert_allclose(env.state[4], 0.5 + turn, atol=1e-9)
        np.testing.assert_array_equal(env.state[:2], START[:2])
    env.step(np.array([100.0, 100.0]))
    np.testing.assert_allclose(env.state[4], 1.5, atol=1e-6)  # it rests where it was put


def test_the_agent_is_pushed_and_nothing_else_is_there(env: PushTEnv) -> None:
    assert TOUCH.grab is not None
    move = TOUCH.grab(env, 105 / TABLE, 95 / TABLE)
    assert move is not None
    np.testing.assert_allclose(move(0.5, 0.25, 2.0)["observation.state"], [251, 133])
    np.testing.assert_allclose(env.state[2:5], START[2:])
    assert TOUCH.grab(env, 0.9, 0.05) is None
