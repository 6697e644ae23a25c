"""A scripted walk: steps placed by the divergent component of motion, and inverse kinematics of the legs.

The centre of mass moves like a linear inverted pendulum (Kajita et al., 2001) with omega = sqrt(g / height). Its
divergent component of motion, DCM = place + velocity / omega, leaves the point of support exponentially (Takenaka,
Matsumoto and Yoshiike, 2009). So it is known where it will be when a step ends, and the next foot goes as far behind it
as makes the gait periodic (Englsberger, Ott and Albu-Schäffer, 2015).
"""

import math

import numpy as np

from robodiff.envs.mujoco.biped import ANKLE, ARMS, ELBOW, FPS, HIP, LEGS, SHANK, SHOULDER, THIGH, Array, Biped

GRAVITY = 9.81
SINGLE, DOUBLE = 0.2, 0.02
"""Planned durations of a step, s: on one leg, and before that with both flags set."""
EARLIEST, LATEST = 0.46, 1.4
"""Shares of ``SINGLE``: from the first on a touch ends the step, and at the second it ends without one."""
HEIGHT = 0.675
"""Hips above the stance ankle, m: 8.5 cm less than stretched legs."""
CLEARANCE = 0.11
"""How high a foot is lifted, m."""
WIDTH, NEAREST = 0.28, 0.12
"""Between the feet, m: of the periodic gait, and at least."""
REACH = 0.36, 0.47
"""How far from the stance foot a step goes at most, forward and sideways, m."""
SUPPORT = 0.015
"""Where the weight is carried, m before the ankle; the sole's middle is 3 cm before it."""
LOSS, LEAST = 1.14, 0.1
"""The periodic gait is planned for LOSS * command + LEAST, m/s: impacts take away what exceeds the command."""
DAMPING = 0.14
"""How much farther a step goes for each m/s that the robot is slower than commanded, s."""
SWING_LEAD = 0.045
"""How far ahead the targets of the swing foot run, to make up for the lag of its joints, s."""
SEARCH = 0.4
"""How fast a foot that has not met the floor in time is lowered, m/s."""
ANKLE_GAINS, ANKLE_MOST = (1.1, 0.8), 0.2
"""Rad of the stance ankle, about y and x, for a m of the DCM's error, and at most: it moves the point of support."""
ARM_SWING = 0.5
"""Rad that a shoulder swings, against the legs, for a m between the feet."""
STRETCHED = 0.995
"""Share of its length to which a leg is stretched at most, short of where its knee has no direction."""


class Walk:
    """Walks along the world's x axis.

    Args:
        biped: who walks.
        command: how fast, m/s.
        stance: the leg that carries first, 0 left or 1 right.
    """

    def __init__(self, biped: Biped, command: float, stance: int) -> None:
        self._biped, self._command = biped, command
        self._begin(stance)

    def _begin(self, stance: int) -> None:
        self._stance, self._swing, self._time = stance, 1 - stance, 0.0
        self._start = self._biped.ankles[self._swing].copy()

    def act(self) -> Array:
        """Return the action (23,) for the current state; call it once a control step."""
        share = (self._time - DOUBLE) / SINGLE
        if share > LATEST or (share > EARLIEST and self._biped.touch[self._swing]):
            self._begin(self._swing)
            share = -DOUBLE / SINGLE
        place, error = self._foothold()
        action = np.zeros(23)
        action[21 + self._stance] = 1
        for side in (0, 1):
            if side == self._swing and share > 0:
                action[LEGS[side]] = self._swing_leg(share, place)
            else:
                action[LEGS[side]] = self._stance_leg(side)
                action[21 + side] = 1
        ankle = LEGS[self._stance].start + 4
        action[ankle : ankle + 2] += np.clip(error * ANKLE_GAINS, -ANKLE_MOST, ANKLE_MOST) * (1, -1)
        ahead = ARM_SWING * (self._biped.ankles[0][0] - self._biped.ankles[1][0])
        for arm, outwards in zip(ARMS, (1, -1), strict=True):
            action[arm] = outwards * ahead, outwards * SHOULDER, ELBOW
        self._time += 1 / FPS
        return action

    def _foothold(self) -> tuple[Array, Array]:
        """Return where the swing foot is to step, (2,), and by how much the DCM is off from the periodic gait's."""
        biped, step, outwards = self._biped, SINGLE + DOUBLE, 1 - 2 * self._stance
        foot = biped.ankles[self._stance][:2]
        omega = math.sqrt(GRAVITY / biped.com[2])
        dcm = biped.com[:2] + biped.com_velocity[:2] / omega - foot - (SUPPORT, 0)
        growth = math.exp(omega * step)
        length = (LOSS * self._command + LEAST) * step
        offset = np.array([length / (growth - 1), outwards * WIDTH / (1 + growth)])  # of the DCM, from a new foothold
        left = max(step - self._time, 1 / FPS)
        x, y = dcm * math.exp(omega * left) - offset
        x += DAMPING * (self._command - biped.com_velocity[0])
        x, inwards = np.clip((x, -outwards * y), (-REACH[0], NEAREST), REACH)
        return foot + np.array([x, -outwards * inwards]), dcm - offset * math.exp(omega * self._time)

    def _swing_leg(self, share: float, place: Array) -> Array:
        """Return the angles (6,) of the leg that steps, a share of the planned time after it was lifted."""
        share += SWING_LEAD / SINGLE
        late, share = max(share - 1, 0), min(share, 1)
        blend = share**3 * (10 - 15 * share + 6 * share**2)  # starts and ends at rest
        x, y = (1 - blend) * self._start[:2] + blend * place
        z = ANKLE + CLEARANCE * math.sin(math.pi * share) - SEARCH * SINGLE * late
        rotation = self._biped.rotation
        hip = self._biped.root + rotation[:, 1] * (HIP, -HIP)[self._swing]
        return leg_angles(rotation, np.array([x, y, z]) - hip)

    def _stance_leg(self, side: int) -> Array:
        """Return the angles (6,) of a leg that stands, under a pelvis that is upright and at its height."""
        x, y, _ = self._biped.root
        hip = x, y + (HIP, -HIP)[side], HEIGHT + self._biped.ankles[self._stance][2]
        return leg_angles(np.eye(3), self._biped.ankles[side] - hip)


def leg_angles(rotation: Array, ankle: Array) -> Array:
    """Return the angles (6,) at which the ankle is where it should be and the foot level, its toes to the front.

    As Kajita et al., "Introduction to humanoid robotics", 2014, section 2.5.

    Args:
        rotation: from the pelvis to the world, (3, 3).
        ankle: from the hip, (3,), along the axes of the world; what is farther than the leg is long is drawn near.
    """
    distance = float(np.linalg.norm(ankle))
    length = min(distance, STRETCHED * (THIGH + SHANK))
    x, y, z = (ankle * (length / distance)).tolist()
    bent = (THIGH**2 + SHANK**2 - length**2) / (2 * THIGH * SHANK)
    knee = math.pi - math.acos(max(-1.0, min(1.0, bent)))
    ankle_x = math.atan2(-y, -z)
    ankle_y = math.atan2(x, math.hypot(y, z)) - math.asin(min(1.0, THIGH * math.sin(knee) / length))
    # A level foot leaves the hip's rotation Rz Rx Ry = R^T Rx(-ankle_x) Ry(-knee - ankle_y).
    c, s, cy, sy = math.cos(ankle_x), math.sin(ankle_x), math.cos(knee + ankle_y), math.sin(knee + ankle_y)
    hip = rotation.T @ np.array([[cy, 0, -sy], [s * sy, c, s * cy], [c * sy, -s, c * cy]])
    hip_z, hip_y = math.atan2(-hip[0, 1], hip[1, 1]), math.atan2(-hip[2, 0], hip[2, 2])
    return np.array([hip_z, math.asin(max(-1.0, min(1.0, hip[2, 1]))), hip_y, knee, ankle_y, ankle_x])
