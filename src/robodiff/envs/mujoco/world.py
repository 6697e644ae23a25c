"""A table that moves: its state, its arms with their inverse kinematics, and what its cameras see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robodiff.envs.mujoco.library import Renderers, make_renderer, mujoco
from robodiff.envs.mujoco.scene import TIMESTEP, Mount, Scene, compiled

Array = NDArray[Any]
ALIGNED = 1e-5
"""Error that is left at most where inverse kinematics stops early, m or rad."""


@dataclass(frozen=True)
class Pose:
    """Position (3,) m and unit quaternion (4,) w x y z."""

    pos: Array
    quat: Array

    @property
    def matrix(self) -> Array:
        """The rotation, (3, 3)."""
        out = np.zeros(9)
        mujoco.mju_quat2Mat(out, self.quat)
        return out.reshape(3, 3)

    @classmethod
    def of_axes(cls, pos: Array, y: Array, z: Array) -> "Pose":
        """Return the pose whose y and z axes, which are perpendicular, point there."""
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, np.stack([np.cross(y, z), y, z], axis=1).ravel())
        return cls(np.array(pos, float), quat)

    @property
    def rotation_vector(self) -> Array:
        """The rotation as an axis times an angle, (3,) rad."""
        out = np.zeros(3)
        mujoco.mju_quat2Vel(out, self.quat, 1.0)
        return out

    def at(self, pos: Sequence[float] | Array) -> "Pose":
        """Return it elsewhere."""
        return Pose(np.asarray(pos, float), self.quat)

    def raised(self, height: float) -> "Pose":
        """Return it so much higher, m."""
        return self.at(self.pos + up(height))

    def point(self, offset: Sequence[float]) -> Array:
        """Return the place (3,) of a point that is given in its own frame."""
        return self.pos + self.matrix @ offset

    def moved(self, way: Array, turn: Array) -> "Pose":
        """Return it after a way (3,) m and a turn (3,) rad, an axis times an angle, of the world's frame."""
        quat = np.zeros(4)
        mujoco.mju_mulQuat(quat, from_rotation_vector(turn), self.quat)
        return Pose(self.pos + way, quat)

    def change(self, other: "Pose") -> tuple[Array, Array]:
        """Return the way and the turn, see ``moved``, that lead to another one."""
        quat, back = np.zeros(4), np.zeros(4)
        mujoco.mju_negQuat(back, self.quat)
        mujoco.mju_mulQuat(quat, other.quat, back)
        return other.pos - self.pos, Pose(self.pos, quat).rotation_vector

    def between(self, other: "Pose", share: float) -> "Pose":
        """Return the pose after a share of the way to another one: a straight line, turned evenly."""
        way, turn = self.change(other)
        return self.moved(share * way, share * turn)


def up(height: float) -> Array:
    """Return a way (3,) upwards, m."""
    return np.array([0, 0, height])


def from_rotation_vector(vector: Array) -> Array:
    """Return the quaternion (4,) of an axis times an angle, (3,) rad."""
    quat = np.array([1.0, 0, 0, 0])
    mujoco.mju_quatIntegrate(quat, np.asarray(vector, float), 1.0)
    return quat


class World:
    """A scene and its state.

    A command is, arm after arm, joint angles (rad) and the gripper's opening (0 to 1). What happens depends on the
    state that it was reset to and on the commands, to the last bit.

    Args:
        scene: what it is made of.
        fps: commands per second.
    """

    def __init__(self, scene: Scene, fps: float) -> None:
        self.scene, self.fps, self.model = scene, fps, _model(scene)
        self.data = mujoco.MjData(self.model)
        self.arms = [Arm(self, index, mount) for index, mount in enumerate(scene.mounts)]
        self._actuators = np.stack([arm.actuators for arm in self.arms])  # (arms, n + 1): all are of one kind
        self._substeps = round(1 / fps / TIMESTEP)
        owner = self.model.geom_bodyid
        names = [self.model.body(body).name for body in range(self.model.nbody)]
        self._objects = [self.model.body(item.name).id for item in scene.objects]
        self._of_arm = np.array(["/" in name for name in names])  # by body
        self._is_link = self._of_arm[owner] & ~np.array(["finger" in names[body] for body in owner])  # by geom

    @cached_property
    def home(self) -> Array:
        """The command at which the arms are at home, grippers open."""
        return np.concatenate([[*arm.home, 1.0] for arm in self.arms])

    def reset(self, places: Mapping[str, tuple[float, float, float]]) -> None:
        """Send the arms home, and lay objects to x, y (m) and yaw (rad)."""
        mujoco.mj_resetData(self.model, self.data)
        for arm in self.arms:
            self.data.qpos[arm.qpos] = arm.home
            self.data.qpos[arm.fingers] = arm.model.opening
        for item in self.scene.objects:
            x, y, yaw = places[item.name]
            first = self.model.joint(item.name).qposadr[0]
            self.data.qpos[first : first + 7] = [x, y, item.rest, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self._set_targets(self.home)
        mujoco.mj_forward(self.model, self.data)

    def step(self, command: Array) -> None:
        """Follow a command for a control step."""
        self._set_targets(command)
        mujoco.mj_step(self.model, self.data, self._substeps)
        mujoco.mj_kinematics(self.model, self.data)  # poses of the state that was reached, not of the one before

    def _set_targets(self, command: Array) -> None:
        targets = np.array(command).reshape(len(self.arms), -1)
        targets[:, -1] = targets[:, -1].clip(0, 1) * self.arms[0].model.opening
        self.data.ctrl[self._actuators] = targets

    @property
    def state(self) -> Array:
        """All that the simulation remembers, as one vector."""
        out = np.empty(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, self.data, out, mujoco.mjtState.mjSTATE_INTEGRATION)
        return out

    def set_state(self, state: Array) -> None:
        """Go on from a state."""
        mujoco.mj_setState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        warmstart = self.data.qacc_warmstart.copy()
        mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = warmstart  # which forward changes

    def look_back(self, qpos: Array) -> None:
        """Take the positions of an earlier moment, to observe it; nothing goes on from there."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)

    def put(self, name: str, pose: Pose) -> None:
        """Put an object elsewhere, at rest; the simulation goes on from there."""
        joint = self.data.joint(name)
        joint.qpos[:], joint.qvel[:] = [*pose.pos, *pose.quat], 0.0
        mujoco.mj_forward(self.model, self.data)

    def pose(self, name: str) -> Pose:
        """Return where an object is."""
        body = self.data.body(name)
        return Pose(body.xpos.copy(), body.xquat.copy())

    @property
    def object_poses(self) -> tuple[Array, Array]:
        """Positions (n, 3), m, and rotations (n, 3, 3) of all objects."""
        return self.data.xpos[self._objects], self.data.xmat[self._objects].reshape(-1, 3, 3)

    def mark(self, name: str) -> Array:
        """Return where a mark is, (3,) m."""
        return self.data.site(name).xpos.copy()

    def is_touched(self, name: str) -> bool:
        """Tell whether an arm touches an object."""
        bodies = self.model.geom_bodyid[self.data.contact.geom]  # (contacts, 2)
        of_object = bodies == self.model.body(name).id
        return bool((self._of_arm[bodies] & of_object[:, ::-1]).any())

    @property
    def has_collision(self) -> bool:
        """Whether a link of an arm, its fingers aside, touches anything."""
        return bool(self._is_link[self.data.contact.geom].any())

    def draw(self, camera: str, size: tuple[int, int], shadows: bool = False) -> Array:
        """Draw what a camera sees, (H, W, 3) uint8; shadows take most of the time.

        Raises:
            RobodiffError: this machine cannot draw; it says what to install.
        """
        renderer = _renderers(self.scene, size)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        mujoco.mj_camlight(self.model, self.data)
        renderer.update_scene(self.data, camera)
        return renderer.render()

    def close(self) -> None:
        """Free what draws if it drew in a thread that may end before the process does: no other could free it."""
        _renderers.close()


class Arm:
    """One arm of a world: where its numbers are, and its inverse kinematics."""

    def __init__(self, world: World, index: int, mount: Mount) -> None:
        model, prefix = world.model, f"agent{index}/"
        self.world, self.index, self.mount, self.model = world, index, mount, mount.arm
        self.home = np.array(mount.arm.home)
        self.joints = n = len(self.home)
        self.slice = slice(index * (n + 1), (index + 1) * (n + 1))
        """Its part of a command."""
        self.actuators = np.array([i for i in range(model.nu) if model.actuator(i).name.startswith(prefix)])  # (n + 1,)
        joints = model.actuator_trnid[self.actuators[:n], 0]
        self.qpos, self.range = model.jnt_qposadr[joints], model.jnt_range[joints]
        self.fingers = np.array([model.joint(f"{prefix}finger{each}").qposadr[0] for each in (1, 2)])
        self._dof, self._tcp = model.jnt_dofadr[joints], model.site(f"{prefix}tcp").id
        self._scratch = mujoco.MjData(model)
        self.home_tool = self.forward(self.home)

    @property
    def state(self) -> Array:
        """Joint angles (rad) and opening (0 to 1), as in a command, (n + 1,)."""
        qpos = self.world.data.qpos
        return np.append(qpos[self.qpos], qpos[self.fingers].mean() / self.model.opening)

    @property
    def fingers_apart(self) -> Array:
        """Where its fingers are, (2,) m, the second counted the other way, as robosuite does."""
        return self.world.data.qpos[self.fingers] * [1, -1]

    @property
    def command(self) -> Array:
        """Its part of the last command, (n + 1,)."""
        targets = self.world.data.ctrl[self.actuators]
        return np.append(targets[:-1], targets[-1] / self.model.opening)

    @property
    def tool(self) -> Pose:
        """Where its tool is."""
        return self._tool(self.world.data)

    @property
    def tool_pos(self) -> Array:
        """Where its tool is, (3,) m."""
        return self.world.data.site_xpos[self._tcp]

    @property
    def tool_rotation(self) -> Array:
        """How its tool is turned, (3, 3)."""
        return self.world.data.site_xmat[self._tcp].reshape(3, 3)

    def _tool(self, data: Any) -> Pose:
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, data.site_xmat[self._tcp])
        return Pose(data.site_xpos[self._tcp].copy(), quat)

    def forward(self, angles: Array) -> Pose:
        """Return where the tool is at joint angles (n,)."""
        self._scratch.qpos[self.qpos] = angles
        mujoco.mj_kinematics(self.world.model, self._scratch)
        return self._tool(self._scratch)

    def inverse(self, pose: Pose, start: Array, iterations: int = 100) -> tuple[Array, float]:
        """Return joint angles (n,) at which the tool is at a pose, and the error that is left, m or rad.

        Damped least squares from ``start`` (n,); an arm with more joints than needed is drawn to its home posture in
        the null space. (Buss, "Introduction to inverse kinematics with Jacobian transpose, pseudoinverse and damped
        least squares methods", 2009.)
        """
        model, data, angles = self.world.model, self._scratch, start.copy()
        linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        error = np.zeros(6)
        for _ in range(iterations):
            error = np.concatenate(self.forward(angles).change(pose))
            if np.abs(error).max() < ALIGNED:
                break
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, linear, angular, self._tcp)
            jacobian = np.concatenate([linear, angular])[:, self._dof]
            inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-5 * np.eye(6))
            step = inverse @ error
            if self.joints > 6:
                homeward = 0.05 * (self.home - angles)
                step += homeward - inverse @ (jacobian @ homeward)
            angles = np.clip(angles + np.clip(step, -0.2, 0.2), *self.range.T)
        return angles, float(np.abs(error).max())


@lru_cache
def _model(scene: Scene) -> Any:
    """Return the model of a scene, which all worlds of it share."""
    return compiled(scene)


def _make_renderer(scene: Scene, size: tuple[int, int]) -> Any:
    """Return what draws a scene in pictures of a size."""
    renderer = make_renderer(_model(scene), size)
    for flag in ("REFLECTION", "HAZE"):
        renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
    return renderer


_renderers = Renderers(_make_renderer)
