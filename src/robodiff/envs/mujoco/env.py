"""A task as an environment: what is observed, who acts, when it is over; and its expert."""

from collections.abc import Callable, Collection
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np

from robodiff.data.episodes import ACTION, Feature, Unit
from robodiff.envs.mujoco.actions import SPACES, ActionSpace, in_degrees
from robodiff.envs.mujoco.expert import play
from robodiff.envs.mujoco.scene import PICTURE, drawn_size
from robodiff.envs.mujoco.tasks import Task
from robodiff.envs.mujoco.world import Arm, Array, World
from robodiff.envs.spec import box, select_keys
from robodiff.errors import UsageError

NINE = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")


class Observed(NamedTuple):
    """One key that can be observed."""

    feature: Feature
    read: Callable[[World], Array]


def observed(task: Task, action_space: str, size: tuple[int, int]) -> dict[str, Observed]:
    """Return all that can be observed of a task, by key; of several arms their own keys begin with ``agents.<i>.``."""
    names = tuple(f"{item.name}.{each}" for item in task.objects for each in NINE)
    poses = Observed(_vector(names), lambda world: _nine(*world.object_poses))
    keys = {"observation.environment_state": poses}
    keys |= {f"observation.images.{each.name}": _camera(each.name, size) for each in task.cameras}
    for index, mount in enumerate(task.mounts):
        prefix = f"agents.{index}." if len(task.mounts) > 1 else ""
        for key, feature, read in _of_arm(len(mount.arm.home), action_space == "degrees", names):
            keys[f"{prefix}observation.{key}"] = Observed(
                feature, lambda world, read=read, index=index: read(world.arms[index])
            )
        cameras = {"wrist": f"agent{index}/wrist", "head": f"head{index}"}
        if not prefix:
            cameras["robot0_eye_in_hand"] = cameras["wrist"]  # robomimic's name of it
        keys |= {f"{prefix}observation.images.{key}": _camera(name, size) for key, name in cameras.items()}
    return keys


def _of_arm(joints: int, degrees: bool, poses: tuple[str, ...]) -> list[tuple[str, Feature, Callable[[Arm], Array]]]:
    """Return an arm's own keys.

    They are its state as an action has it, where its tool is, also as robomimic says it, and the objects as they lie in
    the frame of its tool.
    """
    space = SPACES["degrees" if degrees else "joints"]
    state = _vector(space.names(joints), space.unit(joints))
    return [
        ("state", state, (lambda arm: in_degrees(arm.state)) if degrees else (lambda arm: arm.state)),
        ("eef_pose", _vector(NINE), lambda arm: _nine(arm.tool_pos, arm.tool_rotation)),
        ("objects_from_tool", _vector(poses), _objects_from_tool),
        ("robot0_eef_pos", _vector(("x", "y", "z"), "m"), lambda arm: arm.tool_pos),
        ("robot0_eef_quat", _vector(("qx", "qy", "qz", "qw")), _quaternion),
        ("robot0_gripper_qpos", _vector(("left", "right"), "m"), lambda arm: arm.fingers_apart),
    ]


def _vector(names: tuple[str, ...], unit: Unit = None) -> Feature:
    return Feature("vector", (len(names),), "float32", names, unit)


def _camera(name: str, size: tuple[int, int]) -> Observed:
    feature = Feature("image", (3, *size), "uint8")
    return Observed(
        feature, lambda world: np.ascontiguousarray(world.draw(name, size).transpose(2, 0, 1))
    )  # HWC -> CHW


def _nine(pos: Array, rotation: Array) -> Array:
    """Return of n poses (n, 3), (n, 3, 3) positions and the first two columns of rotations, which, unlike quaternions,
    make no jumps."""
    return np.concatenate([pos, rotation[..., 0], rotation[..., 1]], axis=-1).ravel()


def _objects_from_tool(arm: Arm) -> Array:
    (pos, rotation), tool = arm.world.object_poses, arm.tool_rotation
    return _nine((pos - arm.tool_pos) @ tool, tool.T @ rotation)


def _quaternion(arm: Arm) -> Array:
    """Return the tool's rotation as x, y, z, w; of the two signs the one nearer to home."""
    quat = arm.tool.quat
    return np.roll(quat if quat @ arm.home_tool.quat >= 0 else -quat, -1)


class TableEnv(gymnasium.Env[Any, Any]):
    """One task, with the observations that were asked for, and no others computed.

    Action: all arms' end to end, each as ``actions.SPACES`` says; values beyond the bounds are clipped. Reward: 1 for
    success, which ends the episode, else 0; it is truncated after the task's ``max_steps``. ``info``: ``is_success``,
    and among ``extra`` whether a link of an arm has touched anything so far, ``collision``. After ``reset(seed=s)`` all
    depends on ``s`` and the actions.

    Args:
        task: which.
        keys: what is observed.
        action_space: a name of ``actions.SPACES``.
        size: height and width of images.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, task: Task, keys: Collection[str], action_space: str, size: tuple[int, int]) -> None:
        every = observed(task, action_space, size)
        self.task, self.world = task, World(task.scene, task.fps)
        self._observed = {key: every[key] for key in select_keys(task.name, keys, every)}
        self.space: ActionSpace = SPACES[action_space]
        low, high = (np.concatenate(ends) for ends in zip(*map(self.space.bounds, self.world.arms), strict=True))
        self.observation_space = gymnasium.spaces.Dict({key: box(o.feature) for key, o in self._observed.items()})
        self._low, self._high = low.astype(np.float32), high.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(self._low, self._high)
        self.render_mode = "rgb_array"
        self._steps, self._collided = 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Lay the objects out: by ``seed`` alone if it is given, else by the generator as the last reset left it."""
        super().reset(seed=seed, options=options)
        places = self.task.places(self.np_random)
        names = [item.name for item in self.task.objects]
        if places.keys() != set(names) or not all(np.isfinite(at).all() and len(at) == 3 for at in places.values()):
            raise UsageError(f"{self.task.name}: expected x, y and angle of {', '.join(names)}; found {dict(places)}")
        self.world.reset(places)
        self._steps, self._collided = 0, False
        return self.observe(), {"is_success": False}

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Act for one control step."""
        values = np.asarray(action, float)
        if values.shape != self._low.shape or not np.isfinite(values).all():
            raise UsageError(f"an action of {self.task.name} is {len(self._low)} finite numbers; found {action!r}")
        self.world.step(self.decode(values))
        self._steps += 1
        self._collided |= self.world.has_collision
        success = bool(self.task.success(self.world))
        info = {"is_success": success, "extra": {"collision": float(self._collided)}}
        return self.observe(), float(success), success, self._steps >= self.task.max_steps, info

    def decode(self, action: Array) -> Array:
        """Return the command of an action."""
        parts = action.clip(self._low, self._high).reshape(len(self.world.arms), -1)
        return np.concatenate([self.space.decode(arm, part) for arm, part in zip(self.world.arms, parts, strict=True)])

    def encode(self, command: Array) -> Array:
        """Return the action that leads to a command, float32."""
        parts = [self.space.encode(arm, command[arm.slice]) for arm in self.world.arms]
        action = np.concatenate(parts).astype(np.float32)
        return action.clip(self._low, self._high)

    def observe(self) -> dict[str, Array]:
        """Return what is seen now."""
        return {key: read(self.world).astype(feature.dtype) for key, (feature, read) in self._observed.items()}

    def render(self) -> Array:
        """Draw the table for people, (H, W, 3) uint8."""
        return self.world.draw(self.task.view.name, PICTURE, shadows=True)

    def glance(self, longest: int) -> Array:
        """Draw the table without shadows, which take most of the time; see ``EnvSpec.glance``."""
        return self.world.draw(self.task.view.name, drawn_size(longest))

    def close(self) -> None:
        """Free what draws."""
        self.world.close()

    def snapshot(self) -> Array:
        """Return all that the episode remembers."""
        return np.array([*self.world.state, self._steps, self._collided])

    def restore(self, snapshot: Array) -> None:
        """Go on from a snapshot."""
        self.world.set_state(snapshot[:-2])
        self._steps, self._collided = int(snapshot[-2]), bool(snapshot[-1])


class TableExpert:
    """Plays a task's script.

    With ``noise`` (rad) what the joints are told is disturbed by an error that varies slowly, and the action that was
    meant is recorded: so demonstrations show how to come back. (DART; Laskey et al., 2017, arXiv:1703.09327.)
    """

    def __init__(self, make: Callable[[Collection[str]], TableEnv], noise: float) -> None:
        self._make, self._noise = make, noise

    def demonstrate(self, seed: int, keys: Collection[str]) -> dict[str, Array] | str | None:
        """Return the observations of ``keys`` and ``action``, each (L, ...); or why nothing was planned, None where the
        script was played and did not succeed.

        Images are drawn at the end, from the positions that the world went through.
        """
        env = self._make(keys)
        env.reset(seed=seed)
        world, rng = env.world, np.random.default_rng([seed, 1])
        positions, actions = [], []
        is_joint = np.concatenate([[*np.ones(arm.joints), 0.0] for arm in world.arms])
        disturbance = np.zeros_like(is_joint)

        def step(command: Array, share: float) -> None:
            nonlocal disturbance
            positions.append(world.data.qpos.copy())
            actions.append(env.encode(command))
            disturbance = 0.8 * disturbance + 0.6 * self._noise * rng.normal(size=len(command)) * is_joint
            world.step(env.decode(actions[-1].astype(float)) + share * disturbance)

        failure = play(world, env.task.script(world), step)
        if failure or not env.task.success(world):
            return failure
        frames = []
        for qpos in positions:
            world.look_back(qpos)
            frames.append(env.observe())
        return {key: np.stack([frame[key] for frame in frames]) for key in frames[0]} | {ACTION: np.stack(actions)}
