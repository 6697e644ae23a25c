"""Episodes, observations, action spaces, options and the expert's failures."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from tests.envs.mujoco.conftest import assert_same, demonstrated, replayed, vectors

from robodiff.data.episodes import ACTION
from robodiff.envs.mujoco import world as world_module
from robodiff.envs.mujoco.expert import Grip, Move, Script, grasp
from robodiff.envs.mujoco.scene import MYCOBOT, PANDA, Camera, Mount, Object, Part
from robodiff.envs.mujoco.spec import task_spec
from robodiff.envs.mujoco.tasks import LiftCube
from robodiff.envs.mujoco.world import Pose, World
from robodiff.envs.pool import Rows
from robodiff.envs.spec import get_env_spec
from robodiff.envs.team import team_spec
from robodiff.errors import UsageError

STATE, POSE, QUAT = "observation.state", "observation.eef_pose", "observation.robot0_eef_quat"
CAMERA = "observation.images.agentview"


@pytest.mark.parametrize("name", ["lift_barrier?action_space=eef_delta", "stack_cube_mycobot"])
def test_a_snapshot_goes_on_bit_for_bit_in_another_environment(name: str) -> None:
    spec, actions = get_env_spec(name), demonstrated(name)[ACTION]
    one, other = spec.make(vectors(spec)), spec.make(vectors(spec))
    one.reset(seed=0)
    for action in actions[:25]:
        one.step(action)
    taken = spec.snapshot(one)  # pyright: ignore
    other.reset(seed=3)
    for _ in range(2):
        spec.restore(other, taken)  # pyright: ignore
        for action in actions[25:]:
            (seen, *rest), (expected, *others) = other.step(action), one.step(action)
            assert_same(seen, expected)
            assert rest == others
        spec.restore(one, taken)  # pyright: ignore


def test_an_episode_depends_on_its_seed_alone_and_ends() -> None:
    spec = get_env_spec("lift_cube")
    env, fresh = spec.make(vectors(spec)), spec.make(vectors(spec))
    first, _ = env.reset(seed=5)
    env.step(np.zeros(8))
    other, _ = env.reset()
    assert not np.array_equal(first["observation.environment_state"], other["observation.environment_state"])
    assert_same(env.reset(seed=5)[0], fresh.reset(seed=5)[0])
    still = env.unwrapped.encode(env.unwrapped.world.home)  # pyright: ignore
    ends = [env.step(still)[2:4] for _ in range(spec.max_steps or 0)]
    assert ends == [(False, False)] * (len(ends) - 1) + [(False, True)]


def test_images_recorded_afterwards_are_those_of_the_episode(drawing: None) -> None:
    spec, keys = get_env_spec("lift_barrier?size=24x32"), ["agents.1.observation.images.wrist", CAMERA]
    recorded = spec.expert(noise=0.0).demonstrate(0, keys)  # pyright: ignore
    assert isinstance(recorded, dict)
    observations, _ = replayed(spec.make(keys), 0, recorded.pop(ACTION))  # pyright: ignore
    assert_same(observations, recorded)
    assert all((images[0] != images[-1]).any() for images in recorded.values())


def test_only_the_cameras_that_are_asked_for_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(World, "draw", lambda _, camera, size: drawn.append(camera) or np.zeros((*size, 3), np.uint8))
    env = get_env_spec("lift_barrier").make([CAMERA, "agents.1.observation.images.wrist"])
    assert [*env.reset(seed=0)[0]] == [CAMERA, "agents.1.observation.images.wrist"]
    assert drawn == ["agentview", "agent1/wrist"]


def test_states_need_no_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "make_renderer", lambda *_: pytest.fail("drawn without need"))
    spec = get_env_spec("two_robots_stack_cube?size=20x20")
    env = spec.make(vectors(spec))
    env.reset(seed=0)
    env.step(env.action_space.sample())


def test_one_camera_has_robomimics_name_too_and_the_view_is_a_picture(drawing: None) -> None:
    env = get_env_spec("lift_cube").make(["observation.images.wrist", "observation.images.robot0_eye_in_hand"])
    seen = env.reset(seed=0)[0]
    np.testing.assert_array_equal(*seen.values())
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape == (384, 512, 3)


@pytest.mark.parametrize("name", ["lift_cube", "team:lift_barrier", "biped"])
def test_a_glance_shows_what_render_does(drawing: None, name: str) -> None:
    team = name.removeprefix("team:")
    spec = get_env_spec(team) if team == name else team_spec(team)
    rows = Rows(spec, vectors(spec), [0])
    rows.reset({0: 3})
    glance = rows.draw({0: 128})[0]
    whole = rows.environments[0].render().reshape(96, 4, 128, 4, 3).mean((1, 3))  # type: ignore[union-attr]
    assert glance.shape == whole.shape
    assert np.abs(glance - whole).mean() < 20  # of 255: it has no shadows
    rows.close()


def test_pictures_are_as_large_as_is_promised(drawing: None) -> None:
    spec, rows = get_env_spec("lift_cube?size=480x640"), get_env_spec("lift_cube?size=480x8")
    for each in (spec, rows):
        image = each.make([CAMERA]).reset(seed=0)[0][CAMERA]
        assert image.shape == each.features[CAMERA].shape
        assert len(np.unique(image)) > 20


def test_poses_of_the_tool_say_the_same_thing_thrice() -> None:
    seen = demonstrated("stack_cube", 1)
    np.testing.assert_array_equal(seen[POSE][:, :3], seen["observation.robot0_eef_pos"])
    np.testing.assert_allclose(np.linalg.norm(seen[QUAT], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.abs(seen[QUAT][0]), [1, 0, 0, 0], atol=0.02)  # x, y, z, w of a tool that points down
    assert np.abs(np.diff(seen[QUAT], axis=0)).max() < 0.1  # no jump to the other sign
    for quat, nine in zip(seen[QUAT][::7], seen[POSE][::7], strict=True):
        matrix = Pose(np.zeros(3), np.roll(quat, 1).astype(float)).matrix
        np.testing.assert_allclose(matrix[:, :2].T.ravel(), nine[3:], atol=1e-5)
    objects, seen_from_tool = seen["observation.environment_state"], seen["observation.objects_from_tool"]
    tool, cube = seen[POSE][40], seen_from_tool[40]
    matrix = np.stack([tool[3:6], tool[6:9], np.cross(tool[3:6], tool[6:9])], axis=1)
    np.testing.assert_allclose(matrix @ cube[:3] + tool[:3], objects[40, :3], atol=1e-5)
    np.testing.assert_allclose(matrix @ cube[3:6], objects[40, 3:6], atol=1e-5)
    opening = seen[STATE][:, -1] * 0.04
    np.testing.assert_allclose(seen["observation.robot0_gripper_qpos"].mean(axis=1), 0, atol=2e-3)
    np.testing.assert_allclose(np.diff(seen["observation.robot0_gripper_qpos"])[:, 0], -2 * opening, atol=1e-6)


def test_degrees_are_the_joints_in_degrees_and_per_cent() -> None:
    joints, degrees = demonstrated("lift_barrier"), demonstrated("lift_barrier?action_space=degrees")
    scale = np.array([180 / np.pi] * 7 + [100])
    np.testing.assert_allclose(
        degrees["agents.1.observation.state"][0], joints["agents.1.observation.state"][0] * scale
    )
    np.testing.assert_allclose(degrees[ACTION][3], joints[ACTION][3] * [*scale, *scale], atol=1e-3)
    feature = get_env_spec("lift_barrier?action_space=degrees").features[ACTION]
    assert (feature.units[7:9], (feature.names or ())[7:9]) == (("percent", "deg"), ("0.gripper", "1.joint1"))


def test_what_poses_and_changes_of_the_tool_mean() -> None:
    for space, action in (("eef_delta", [1, 0, -0.5, 0, 0, 0.4, -1]), ("eef", None)):
        spec = get_env_spec(f"lift_cube?action_space={space}")
        env = spec.make(()).unwrapped
        env.reset(seed=0)  # pyright: ignore
        arm = env.world.arms[0]  # pyright: ignore
        target = arm.tool.moved(np.array([0.05, 0, -0.025]), np.array([0, 0, 0.2]))
        command = env.decode(np.array([*target.pos, *target.rotation_vector, -1] if action is None else action))  # pyright: ignore
        way, turn = target.change(arm.forward(command[:-1]))
        assert np.abs([*way, *turn]).max() < 2e-3
        assert command[-1] == 1  # robosuite's -1 is open
        np.testing.assert_allclose(env.encode(command), action or [*target.pos, *target.rotation_vector, -1], atol=0.05)  # pyright: ignore
    spec = get_env_spec("lift_barrier?action_space=eef_delta")
    env = spec.make(())
    assert (env.action_space.low == -1).all()  # pyright: ignore
    assert (env.action_space.high == 1).all()  # pyright: ignore
    assert (spec.features[ACTION].names or ())[:2] == ("0.dx", "0.dy")
    env.reset(seed=0)
    np.testing.assert_array_equal(env.unwrapped.decode(np.full(14, 5.0)), env.unwrapped.decode(np.ones(14)))  # pyright: ignore


@pytest.mark.parametrize("name", ["lift_barrier", "strike_cube", "stack_cube_mycobot"])
def test_rotations_of_a_tool_that_points_down_do_not_jump(name: str) -> None:
    actions = demonstrated(f"{name}?action_space=eef")[ACTION]
    turns = actions.reshape(len(actions), -1, 7)[..., 3:6]
    assert np.linalg.norm(np.diff(turns, axis=0), axis=-1).max() < 0.4


def test_noise_disturbs_what_is_done_and_not_what_is_recorded() -> None:
    clean, noisy = demonstrated("lift_cube"), demonstrated("lift_cube", noise=0.03)
    np.testing.assert_array_equal(noisy[ACTION][:8], clean[ACTION][:8])  # the plan of the first move
    assert np.abs(noisy[STATE][2:8] - clean[STATE][2:8])[:, :7].max() > 0.01
    np.testing.assert_allclose(noisy[STATE][:8, 7], clean[STATE][:8, 7], atol=0.01)  # the gripper is not disturbed


@pytest.mark.parametrize("name", ["lift_cube", "pick_meat", "lift_barrier", "camera_alignment"])
def test_what_flies_is_not_lifted(name: str) -> None:
    env = get_env_spec(name).make(())
    env.reset(seed=0)
    world, task = env.unwrapped.world, env.unwrapped.task  # pyright: ignore
    for item in task.objects:
        world.data.qpos[world.model.joint(item.name).qposadr[0] + 2] += 1.5
    world.set_state(world.state)
    assert not any(world.is_touched(item.name) for item in task.objects)
    assert not task.success(world)


class FarCube(LiftCube):
    def places(self, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
        return {"cube": (1.5, 0, 0)}


class Post(LiftCube):
    """Higher than fingers are long."""

    objects = (Object("cube", (Part("box", (0.015, 0.015, 0.1)),), 0.2, 0.1),)

    def script(self, world: World) -> Script:
        post = world.pose("cube")
        yield Move({0: grasp(world.arms[0], post.raised(0.1))})
        yield Move({0: grasp(world.arms[0], post.raised(-0.07))})


class Idle(LiftCube):
    def script(self, world: World) -> Script:
        yield Move({0: world.arms[0].home_tool})


@pytest.mark.parametrize(("task", "why"), [(FarCube, "unreachable"), (Post, "collision"), (Idle, None)])
def test_the_expert_says_why_it_failed(task: type[LiftCube], why: str | None) -> None:
    assert task_spec(task()).expert(noise=0.0).demonstrate(0, ()) == why  # pyright: ignore


class Typo(LiftCube):
    def places(self, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
        return {"cub": (0, 0, 0)}


class Nowhere(LiftCube):
    def places(self, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
        return {"cube": (np.nan, 0, 0)}


class FifthArm(LiftCube):
    def script(self, world: World) -> Script:
        yield Grip({5: 0.0})


class Unlike(LiftCube):
    mounts = (Mount(PANDA, -0.6, 0), Mount(MYCOBOT, 0.3, 0, np.pi))


class Film(LiftCube):
    fps = 24.0


class Wrist(LiftCube):
    cameras = (Camera("wrist", (0.5, 0, 0.4), (0, 0, 0)),)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Typo, r"lift_cube: expected x, y and angle of cube; found {'cub': \(0, 0, 0\)}"),
        (Nowhere, r"lift_cube: expected x, y and angle of cube; found {'cube': \(nan, 0, 0\)}"),
        (FifthArm, "the expert's script moves arm 5; there is 0"),
        (Unlike, "the task lift_cube: expected an object at least, and arms of one kind"),
        (Film, "expected fps of which 500 is a multiple, such as 10, 20 or 25; found 24"),
        (Wrist, "an arm has a camera 'wrist' of its own; choose another name"),
    ],
)
def test_a_task_that_is_not_what_it_says_is_told_in_one_line(task: type[LiftCube], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task_spec(task()).expert(noise=0.0).demonstrate(0, ())  # pyright: ignore


def test_collisions_of_links_are_counted_and_those_of_fingers_not() -> None:
    env = get_env_spec("lift_cube").make(())
    env.reset(seed=0)
    home = np.array([0, -0.29, 0, -2.462, 0, 2.172, np.pi / 4, 1], np.float32)
    assert env.step(home)[4]["extra"] == {"collision": 0.0}
    down = home + np.array([0, 2, 0, 1, 0, 1.5, 0, 0], np.float32)  # the hand lies down on the table
    found = [env.step(down)[4]["extra"]["collision"] for _ in range(30)]
    assert found == sorted(found)
    assert found[-1] == 1.0
    assert [env.step(home)[4]["extra"]["collision"] for _ in range(30)][-1] == 1.0  # the episode has had one
    env.reset(seed=0)
    assert env.step(home)[4]["extra"]["collision"] == 0.0
    assert any(replayed(env, 0, demonstrated("lift_cube")[ACTION])[1])  # pyright: ignore
    assert env.step(home)[4]["extra"]["collision"] == 0.0  # though fingers held the cube


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("foo=1", r"lift_cube: 'foo=1' is no option=value of it; it has action_space, size"),
        ("size", r"'size' is no option=value of it"),
        ("size=84x84&size=24x24", r"lift_cube: size is given twice; give it once"),
        ("action_space=polar", r"lift_cube: action_space: .*'polar'"),
        ("size=9000x1", r"size: expected HEIGHTxWIDTH of at most 480x640, such as 84x84; found '9000x1'"),
        ("size=0x84", r"found '0x84'"),
        ("size=84", r"size: "),
        ("size=axb", r"found 'axb'"),
    ],
)
def test_wrong_options_are_told_in_one_line(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        get_env_spec(f"lift_cube?{query}")
    assert len(str(error.value).splitlines()) == 1


def test_wrong_names_keys_and_actions_are_told_in_one_line() -> None:
    spec = get_env_spec("lift_cube")
    wrong: list[tuple[Callable[[], object], str]] = [
        (partial(get_env_spec, "LiftCubes-rf"), r"unknown environment 'LiftCubes-rf'"),
        (partial(get_env_spec, "pusht?size=84x84"), r"it has no options"),
        (
            partial(spec.make, ["observation.images.front"]),
            r"lift_cube does not observe observation.images.front; it has",
        ),
    ]
    env = spec.make(())
    env.reset(seed=0)
    for action in (np.full(8, np.nan), np.array([*np.zeros(7), np.inf]), np.zeros(7), np.zeros((1, 8))):
        wrong.append((partial(env.step, action), r"an action of lift_cube is 8 finite numbers; found"))
    for call, message in wrong:
        with pytest.raises(UsageError, match=message) as error:
            call()
        assert len(str(error.value).splitlines()) == 1
