"""A humanoid that is simulated, and what its joint targets and contact flags do.

The flag of a leg chooses its low-level controller. 1, stance: the leg is stiff, carries its share of the weight by
feed-forward torques J^T f, and its hip holds the pelvis upright and on its heading (the torso law of SIMBICON; Yin,
Loken and van de Panne, 2007). 0, swing: the leg is soft, its knee so soft that it cannot bear the body.

Lengths are in m, angles in rad, torques in Nm; the commanded heading is the world's x axis.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robodiff.envs.mujoco.library import Renderers, make_renderer, mujoco

Array = NDArray[Any]
FPS = 50
"""Actions per second; torques follow the state five times as often, at each step of the simulation."""
SUBSTEPS = 5
LEG = ("hip_z", "hip_x", "hip_y", "knee", "ankle_y", "ankle_x")
ABDOMEN = ("abdomen_z", "abdomen_y", "abdomen_x")
ARM = ("shoulder_y", "shoulder_x", "elbow")
SIDES = ("left", "right")
JOINTS = (
    *(f"{side}_{joint}" for side in SIDES for joint in LEG),
    *ABDOMEN,
    *(f"{side}_{joint}" for side in SIDES for joint in ARM),
)
LEGS = slice(0, 6), slice(6, 12)
ARMS = slice(15, 18), slice(18, 21)
"""Of the left and of the right side, among the joints."""
HIP, THIGH, SHANK, ANKLE = 0.09, 0.38, 0.38, 0.07
"""Of the model: how far a hip is from the middle, from hip to knee, from knee to ankle, the ankle above the sole."""
STANCE = ((200, 8), (200, 8), (200, 8), (500, 15), (150, 6), (100, 4))
SWING = ((150, 6), (300, 12), (300, 12), (130, 5), (60, 2.5), (60, 2.5))
TRUNK_AND_ARMS = ((300, 12), (400, 16), (400, 16), *((40, 3), (40, 3), (30, 2)) * 2)
"""Of the joints' PD control, Nm/rad and Nms/rad."""
UPRIGHT, HEADING = (550.0, 50.0), (100.0, 12.0)
"""The same of the torso law, for roll and pitch and for yaw, shared by the legs in stance."""
TOUCH = 5.0
"""Force under a sole above which it touches the floor, N."""
LOWEST, STEEPEST = 0.55, 0.6
"""Height of the pelvis, and cosine of its tilt, below which the robot has fallen."""
BEND, SHOULDER, ELBOW = 0.35, 0.15, -0.4
"""At the start: of hips and ankles, half of the knees'; of the shoulders outwards; of the elbows."""


class Biped:
    """The robot on its floor; each step is a function of state and input, to the last bit."""

    def __init__(self) -> None:
        self.model = model = _model()
        self.data = data = mujoco.MjData(model)
        self.joints, self.joint_velocities = data.qpos[7:], data.qvel[6:]
        """(21,) each, rad and rad/s."""
        self.root, self.velocity, self.turning = data.qpos[:3], data.qvel[:3], data.qvel[3:6]
        """Of the pelvis (3,) each: place and velocity in the world, m and m/s, angular velocity in its own frame."""
        pelvis, leg, self._torso = (model.body(name).id for name in ("pelvis", "left_thigh", "torso"))
        self._feet = [model.body(f"{side}_foot").id for side in SIDES]
        self.rotation = data.xmat[pelvis].reshape(3, 3)
        """From the pelvis to the world."""
        self.com, self.com_velocity = data.subtree_com[pelvis], data.sensordata[2:5]
        """Centre of mass of all of it, (3,) m, and its velocity."""
        self.ankles = [data.xpos[foot] for foot in self._feet]
        """Places of the ankles, (3,) each, m."""
        self.flags = np.ones(2)
        """Contact flags that are in force."""
        gravity = -model.opt.gravity[2]
        self._weight, self._leg_weight = (gravity * model.body_subtreemass[i] for i in (pelvis, leg))
        self._jacobian = np.zeros((3, model.nv))

    def reset(self, rng: np.random.Generator) -> None:
        """Stand with bent knees, near to rest, the lower sole 3 mm above the floor."""
        data = self.data
        mujoco.mj_resetData(self.model, data)
        for leg, arm, outwards in zip(LEGS, ARMS, (1, -1), strict=True):
            self.joints[leg] = 0, 0, -BEND, 2 * BEND, -BEND, 0
            self.joints[arm] = 0, outwards * SHOULDER, ELBOW
        self.joints += rng.normal(0, 0.02, 21)  # rad
        data.qpos[3:7] = 1, *rng.normal(0, 0.01, 3)  # tilted by 0.02 rad
        data.qvel[:6] = rng.normal(0, (0.1, 0.05, 0, 0.1, 0.1, 0.1))  # m/s, rad/s
        self.joint_velocities[:] = rng.normal(0, 0.1, 21)  # rad/s
        self.flags = np.ones(2)
        mujoco.mj_normalizeQuat(self.model, data.qpos)
        mujoco.mj_kinematics(self.model, data)
        self.root[2] -= min(ankle[2] for ankle in self.ankles) - ANKLE - 0.003
        mujoco.mj_forward(self.model, data)

    def step(self, targets: Array, flags: Array, push: Array) -> None:
        """Follow targets (21,) and flags (2,), 0 or 1, for a control step, pushed at the torso with (2,) N."""
        model, data = self.model, self.data
        self.flags = flags
        kp, kd = _GAINS[flags[0] > 0, flags[1] > 0]
        data.xfrc_applied[self._torso, :2] = push
        stance = [(LEGS[side], self.ankles[side], self._feet[side]) for side in (0, 1) if flags[side]]
        load = self._weight / max(len(stance), 1) - self._leg_weight  # what a leg carries beyond itself
        for _ in range(SUBSTEPS):
            torques = kp * (targets - self.joints) - kd * self.joint_velocities
            upright = self._torso_law() / max(len(stance), 1)
            for leg, ankle, foot in stance:
                mujoco.mj_jac(model, data, self._jacobian, None, ankle, foot)
                torques[leg] -= load * self._jacobian[2, 6 + leg.start : 6 + leg.stop]
                torques[leg.start : leg.start + 3] += upright
            data.ctrl[:] = torques  # MuJoCo keeps to the limits
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)  # so that places are those of the state that was reached

    def _torso_law(self) -> Array:
        """Return the torques (3,) of a hip's z, x and y that turn the pelvis upright and to its heading."""
        w, x, y, z = self.data.qpos[3:7].tolist()
        rate_x, rate_y, rate_z = self.turning.tolist()
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        (p, d), (p_yaw, d_yaw) = UPRIGHT, HEADING
        return np.array([p_yaw * yaw + d_yaw * rate_z, p * roll + d * rate_x, p * pitch + d * rate_y])

    @property
    def touch(self) -> Array:
        """Which soles, left and right, touch the floor, (2,) bool."""
        return self.data.sensordata[:2] > TOUCH

    @property
    def has_fallen(self) -> bool:
        """Whether the pelvis is low or tilted."""
        return bool(self.root[2] < LOWEST or self.rotation[2, 2] < STEEPEST)

    @property
    def state(self) -> Array:
        """The whole state of the simulation, as one vector."""
        out = np.empty(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, self.data, out, mujoco.mjtState.mjSTATE_INTEGRATION)
        return np.concatenate([out, self.data.sensordata[:2], self.flags])

    def set_state(self, state: Array) -> None:
        """Go on from a state."""
        mujoco.mj_setState(self.model, self.data, state[:-4], mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_step1(self.model, self.data)
        self.data.sensordata[:2] = state[-4:-2]  # measured within a step, not from a state
        self.flags = state[-2:].copy()

    def pose(self, joints: Array, rotation: Array, height: float) -> None:
        """Take a pose, to be drawn: joint angles (21,), the pelvis' rotation (3, 3) and its height."""
        self.joints[:], self.root[:] = joints, (0, 0, height)
        mujoco.mju_mat2Quat(self.data.qpos[3:7], rotation.ravel())
        mujoco.mj_forward(self.model, self.data)

    def draw(self, size: tuple[int, int], shadows: bool = False) -> Array:
        """Draw what the camera that follows sees, (H, W, 3) uint8.

        Raises:
            RobodiffError: this machine cannot draw; it says what to install.
        """
        renderer = _renderers(size)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        renderer.update_scene(self.data, "side")
        return renderer.render()


_GAINS = {
    (left, right): np.array([*(STANCE if left else SWING), *(STANCE if right else SWING), *TRUNK_AND_ARMS], float).T
    for left in (False, True)
    for right in (False, True)
}
"""By the flags of the left and the right leg, kp and kd of all joints, (2, 21)."""


@lru_cache
def _model() -> Any:
    """Return the model, which all robots share."""
    return mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("biped.xml")))


_renderers = Renderers(lambda size: make_renderer(_model(), size))
