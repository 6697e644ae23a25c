"""Inverse kinematics, poses and contacts."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from robodiff.envs.mujoco.biped import Biped
from robodiff.envs.mujoco.scene import MYCOBOT, PANDA, Camera, Mount, Object, Part, Scene
from robodiff.envs.mujoco.tasks import cube
from robodiff.envs.mujoco.world import Pose, World, from_rotation_vector

VIEW = (Camera("view", (0.7, -0.7, 0.7), (0, 0, 0)),)


def world_of(*mounts: Mount, objects: tuple[Object, ...] = ()) -> World:
    world = World(Scene(mounts, objects, (("goal", Part("box", (0.1, 0.1, 0.001), (0.2, 0.1, 0))),), VIEW), fps=20)
    world.reset({item.name: (0.0, 0.1 * number, 0.3) for number, item in enumerate(objects)})
    return world


@pytest.mark.parametrize(("model", "spread"), [(PANDA, 0.25), (MYCOBOT, 0.2)])
def test_joints_are_found_for_poses_near_home(model, spread) -> None:
    arm = world_of(Mount(model, -0.3, 0.1, 0.7)).arms[0]
    random, worst = np.random.default_rng(0), 0.0
    for _ in range(30):
        pose = arm.forward(np.clip(arm.home + random.uniform(-spread, spread, arm.joints), *arm.range.T))
        angles, error = arm.inverse(pose, arm.home)
        assert ((angles >= arm.range[:, 0]) & (angles <= arm.range[:, 1])).all()
        way, turn = arm.forward(angles).change(pose)
        assert error == pytest.approx(np.abs([*way, *turn]).max(), abs=1e-3)
        worst = max(worst, error)
    assert worst < 1e-4
    assert arm.inverse(arm.home_tool.at([2.0, 0, 0.3]), arm.home)[1] > 0.1  # out of reach


def test_solving_changes_nothing_that_moves() -> None:
    world = world_of(Mount(PANDA, -0.6, 0), objects=(cube("cube", 0.02, (1, 0, 0, 1)),))
    before = world.state
    world.arms[0].inverse(world.arms[0].home_tool.raised(-0.2), world.arms[0].home)
    np.testing.assert_array_equal(world.state, before)


def test_poses_and_their_changes() -> None:
    random = np.random.default_rng(0)
    one, other = (Pose(random.normal(size=3), from_rotation_vector(random.normal(size=3))) for _ in range(2))
    moved = one.moved(*one.change(other))
    np.testing.assert_allclose([*moved.pos, *moved.matrix.ravel()], [*other.pos, *other.matrix.ravel()], atol=1e-12)
    half = one.between(other, 0.5)
    for first, second in zip(one.change(half), half.change(other), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-12)
    np.testing.assert_allclose(one.point((0.1, 0.2, 0.3)), one.pos + one.matrix @ [0.1, 0.2, 0.3])
    np.testing.assert_allclose(from_rotation_vector(one.rotation_vector) @ one.quat, 1.0)
    axes = Pose.of_axes(one.pos, one.matrix[:, 1], one.matrix[:, 2])
    np.testing.assert_allclose(axes.matrix, one.matrix, atol=1e-12)


def test_objects_lie_where_they_were_laid_and_arms_are_at_home() -> None:
    world = world_of(Mount(PANDA, -0.6, 0), objects=(cube("cube", 0.02, (1, 0, 0, 1)),))
    for _ in range(20):
        world.step(world.home)
    pose = world.pose("cube")
    np.testing.assert_allclose(pose.pos, [0, 0, 0.02], atol=5e-4)
    np.testing.assert_allclose(pose.rotation_vector, [0, 0, 0.3], atol=1e-3)
    np.testing.assert_allclose(world.mark("goal"), [0.2, 0.1, 0])
    np.testing.assert_allclose(world.arms[0].state, [*PANDA.home, 1.0], atol=1e-2)  # it carries itself
    np.testing.assert_allclose(np.concatenate([arm.command for arm in world.arms]), world.home)
    assert not world.has_collision
    assert not world.is_touched("cube")


def test_touching_is_told_of_arms_and_collisions_of_links_alone() -> None:
    cubes = cube("cube", 0.02, (1, 0, 0, 1)), cube("other", 0.02, (0, 1, 0, 1))
    world = world_of(Mount(PANDA, -0.6, 0), objects=cubes)
    tool, cube_adr = world.arms[0].tool, world.model.joint("cube").qposadr[0]

    def lay(pos: np.ndarray) -> None:
        state = world.data.qpos.copy()
        state[cube_adr : cube_adr + 3] = pos
        world.data.qpos[:] = state
        world.set_state(world.state)

    lay(world.pose("other").raised(0.0399).pos)  # on the other one
    assert (world.is_touched("cube"), world.is_touched("other"), world.has_collision) == (False, False, False)
    lay(tool.point((0, 0.04 + 0.019, 0)))  # at a finger
    assert (world.is_touched("cube"), world.is_touched("other"), world.has_collision) == (True, False, False)
    lay(tool.point((0, 0, -0.12)))  # in the hand
    assert (world.is_touched("cube"), world.has_collision) == (True, True)


def test_links_of_two_arms_meet_and_those_of_one_do_not() -> None:
    apart, close = (world_of(Mount(PANDA, -gap, 0), Mount(PANDA, gap, 0, np.pi)) for gap in (0.65, 0.4))
    assert not apart.has_collision
    assert close.has_collision


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("kind", ["table", "biped"])
def test_every_thread_draws_for_itself(kind: str) -> None:
    world, biped = world_of(Mount(PANDA, -0.6, 0)), Biped()
    draw: Callable[[], np.ndarray]
    draw = (lambda: world.draw("view", (48, 64))) if kind == "table" else (lambda: biped.draw((48, 64)))
    expected = draw()
    for _ in range(2):  # threads that end, and others
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            for pool in (one, other, one, other):
                np.testing.assert_array_equal(pool.submit(draw).result(), expected)
                np.testing.assert_array_equal(draw(), expected)
            one.submit(world.close).result()
            np.testing.assert_array_equal(other.submit(draw).result(), expected)
    np.testing.assert_array_equal(draw(), expected)
