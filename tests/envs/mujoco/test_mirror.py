"""The biped in a mirror: what it does there is what the mirrored actions do."""

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.envs.mujoco.biped import JOINTS
from robodiff.envs.mujoco.walker import FEATURES, MIRROR, STATE, WalkerEnv, WalkerOptions
from robodiff.envs.mujoco.walking import Walk

PUSH = np.array([20.0, 60.0])


def mirrored(key: str, vector: np.ndarray) -> np.ndarray:
    return MIRROR(key, vector[None].astype(np.float64))[0]


def place(env: WalkerEnv, other: WalkerEnv) -> None:
    """Put a robot into the mirror image of the state of another."""
    here, there = other.biped.data, env.biped.data
    still = np.zeros(2)
    there.qpos[:] = [*here.qpos[:3] * (1, -1, 1), *here.qpos[3:7] * (1, -1, 1, -1),
                     *mirrored(ACTION, np.concatenate([here.qpos[7:], still]))[:21]]  # fmt: skip
    there.qvel[:] = [*here.qvel[:3] * (1, -1, 1), *here.qvel[3:6] * (-1, 1, -1),
                     *mirrored(ACTION, np.concatenate([here.qvel[6:], still]))[:21]]  # fmt: skip
    env.command = other.command
    env.biped.set_state(env.biped.state)


def test_a_pushed_walk_and_its_mirror_image_are_one() -> None:
    env, image = (WalkerEnv([STATE], WalkerOptions()) for _ in range(2))
    env.reset(seed=3)
    image.reset(seed=4)
    place(image, env)
    np.testing.assert_allclose(image.observe()[STATE], mirrored(STATE, env.observe()[STATE]), atol=1e-5)
    env.forces[:], image.forces[:] = PUSH, PUSH * (1, -1)
    expert = Walk(env.biped, env.command, stance=0)
    for _ in range(50):
        action = expert.act()
        seen, there = env.step(action)[0][STATE], image.step(mirrored(ACTION, action))[0][STATE]
        np.testing.assert_allclose(there, mirrored(STATE, seen), atol=1e-3)
    assert np.abs(seen[FEATURES[STATE].names.index("velocity.y")]) > 0.05  # the push is seen


def test_twice_is_the_identity_and_every_side_has_a_partner() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, len(JOINTS) + 2))
    np.testing.assert_array_equal(MIRROR(ACTION, MIRROR(ACTION, vectors)), vectors)
    assert MIRROR(ACTION, vectors)[0, 0] == -vectors[0, JOINTS.index("right_hip_z")]
