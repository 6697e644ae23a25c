"""A person lifts a cube with the pointer, the wheel and a key; objects are put elsewhere by hand."""

import numpy as np
import pytest

from robodiff.envs.mujoco.touch import TOUCH, _seen
from robodiff.envs.spec import get_env_spec
from robodiff.envs.touch import Hand


def place_of(env, point):
    return map(float, _seen(env.world, env.task.view.name, np.asarray(point)[None])[0])


@pytest.mark.parametrize("space", ["joints", "eef_delta"])
def test_a_cube_is_lifted_by_hand(space):
    env = get_env_spec(f"lift_cube?action_space={space}").make(["observation.state"])
    env.reset(seed=3)
    success = False
    for step in range(160):
        arm, (name,) = env.world.arms[0], [each.name for each in env.task.objects]
        over = env.world.pose(name).pos if step < 90 else arm.tool_pos
        falls, rises = 40 <= step < 90 and arm.tool_pos[2] > 0.02, step >= 110
        hand = Hand(*place_of(env, over * [1, 1, 0]), lift=-1.0 * falls + 0.5 * rises, grip=step == 95)
        *_, info = env.step(TOUCH.act(env, hand))
        success |= info["is_success"]
    assert success


def test_what_is_grabbed_follows_the_pointer_over_the_table():
    assert TOUCH.grab is not None
    env = get_env_spec("lift_cube").make(["observation.environment_state"])
    env.reset(seed=3)
    (name,) = [each.name for each in env.task.objects]
    before = env.world.pose(name)
    move = TOUCH.grab(env, *place_of(env, before.pos))
    assert move is not None
    there = before.pos + np.array([0.05, -0.08, 0])
    observed = move(*place_of(env, there), 0.5)
    np.testing.assert_allclose(observed["observation.environment_state"][:3], there, atol=1e-4)
    env.step(env.encode(env.world.home))
    np.testing.assert_allclose(env.world.pose(name).pos, there, atol=2e-3)
    assert TOUCH.grab(env, 0.02, 0.02) is None


@pytest.mark.parametrize("space", ["joints", "degrees", "eef", "eef_delta"])
def test_actions_lead_where_their_trace_says(space):
    assert TOUCH.trace is not None
    env = get_env_spec(f"lift_cube?action_space={space}").make(["observation.state"])
    env.reset(seed=0)
    action = env.encode(env.world.home)
    (traced,) = TOUCH.trace(env, 0, action[None])
    np.testing.assert_allclose(traced, [*place_of(env, env.world.arms[0].tool_pos)], atol=0.01)
