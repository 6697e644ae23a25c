"""Push-T in a mirror: the scene, its pictures, its dynamics, and what experts do in it."""

import numpy as np
import pytest

from robodiff.data.episodes import ACTION
from robodiff.data.recordings import open_path
from robodiff.envs.pusht.env import ENVIRONMENT_STATE, GOAL_POSE, IMAGE, STATE, TABLE, PushTEnv, render_observation
from robodiff.envs.pusht.geometry import corners_from_pose, pose_from_corners
from robodiff.envs.pusht.symmetry import MIRROR


def mirrored(state: np.ndarray) -> np.ndarray:
    """The state of the simulation, (7,), in the mirror."""
    corners = MIRROR(ENVIRONMENT_STATE, corners_from_pose(state[None, 2:5]))
    velocity = -state[[6, 5]]
    return np.concatenate([MIRROR(STATE, state[None, :2])[0], pose_from_corners(corners)[0], velocity])


@pytest.fixture(scope="module")
def demonstrations() -> dict[str, np.ndarray]:
    return dict(open_path("builtin:pusht").read([STATE, ENVIRONMENT_STATE]).arrays)


def test_the_goal_is_mapped_onto_itself() -> None:
    goal = corners_from_pose(np.array([GOAL_POSE]))
    np.testing.assert_allclose(MIRROR(ENVIRONMENT_STATE, goal), goal, atol=1e-12)


def test_twice_is_the_identity(demonstrations: dict[str, np.ndarray]) -> None:
    for key, array in demonstrations.items():
        np.testing.assert_allclose(MIRROR(key, MIRROR(key, array)), array, atol=1e-4)
    image = render_observation(np.array([100.0, 200.0, 300.0, 250.0, 1.0]))[None]
    np.testing.assert_array_equal(MIRROR(IMAGE, MIRROR(IMAGE, image)), image)


def test_of_a_scene_and_its_image_one_is_on_the_far_side(demonstrations: dict[str, np.ndarray]) -> None:
    assert MIRROR.side is not None
    block = demonstrations[ENVIRONMENT_STATE].astype(float)
    here, there = MIRROR.side(block), MIRROR.side(MIRROR(ENVIRONMENT_STATE, block))
    np.testing.assert_allclose(there, -here, atol=1e-9)
    np.testing.assert_allclose(here, block.mean(1) - TABLE / 2)
    assert 0.2 < (here > 0).mean() < 0.8


def test_demonstrations_stay_on_the_table_and_the_block_stays_the_block(demonstrations: dict[str, np.ndarray]) -> None:
    for key in (STATE, ACTION):
        array = MIRROR(key, demonstrations[key])
        assert array.min() >= 0
        assert array.max() <= TABLE
    corners = MIRROR(ENVIRONMENT_STATE, demonstrations[ENVIRONMENT_STATE])
    np.testing.assert_allclose(corners_from_pose(pose_from_corners(corners)), corners, atol=1e-3)


def test_pictures_differ_by_their_edges_alone() -> None:
    env = PushTEnv(())
    for seed in range(5):
        env.reset(seed=seed)
        here, there = render_observation(env.state[:5]), render_observation(mirrored(env.state)[:5])
        off = np.abs(MIRROR(IMAGE, here[None])[0].astype(int) - there).max(axis=0)  # (96, 96)
        assert (off > 0).mean() < 0.08
        assert off.mean() < np.abs(here.astype(int) - there).max(axis=0).mean() / 4


def test_mirrored_actions_from_the_mirrored_start_lead_to_the_mirrored_end(
    demonstrations: dict[str, np.ndarray],
) -> None:
    """Of 60 demonstrations nine in ten are off by 0.0001 px at most; where a corner is hit, small errors grow."""
    poses = pose_from_corners(demonstrations[ENVIRONMENT_STATE])
    env, off = PushTEnv((ENVIRONMENT_STATE,)), []
    for start in (0, 1000, 2000):
        state = np.concatenate([demonstrations[STATE][start], poses[start], (0.0, 0.0)])
        ends = []
        for begin, see in ((state, lambda key, array: array), (mirrored(state), MIRROR)):
            env.reset(seed=0)
            env.set_state(begin)
            for action in see(ACTION, demonstrations[ACTION][start : start + 60]):
                seen = env.step(action)[0]
            ends.append(see(ENVIRONMENT_STATE, seen[ENVIRONMENT_STATE][None]))
        assert np.abs(seen[ENVIRONMENT_STATE] - corners_from_pose(mirrored(state)[None, 2:5])).max() > 1  # it was moved
        off.append(np.abs(ends[0] - ends[1]).max())
    assert np.median(off) < 1e-3
