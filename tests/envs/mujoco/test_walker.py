"""The humanoid: what its flags do, its expert, demonstrations, pushes and pictures."""

from typing import Any

import numpy as np
import pytest
from tests.envs.mujoco.conftest import assert_same

from robodiff.data.episodes import ACTION
from robodiff.envs.collect import collect
from robodiff.envs.mujoco import walker
from robodiff.envs.mujoco.biped import JOINTS, Biped
from robodiff.envs.mujoco.walker import CAMERA, MAX_STEPS, STATE, WalkerEnv, WalkerOptions, draw_pushes, draw_scene
from robodiff.envs.mujoco.walking import Walk, leg_angles
from robodiff.envs.pool import EnvPool
from robodiff.envs.spec import get_env_spec
from robodiff.errors import UsageError

FRESH = 500_000
"""Seeds from here on were not looked at when the walk was made."""
WRONG = {
    "always 1": lambda flags: np.ones(2),
    "always 0": lambda flags: np.zeros(2),
    "swapped": lambda flags: flags[::-1].copy(),
}


def walk(seed: int, flags: Any = lambda flags: flags, **options: Any) -> tuple[bool, dict[str, float]]:
    """Walk as the expert does; return whether that is a success, and the figures of the episode."""
    env = WalkerEnv([], WalkerOptions(**options))
    env.reset(seed=seed)
    expert = Walk(env.biped, env.command, seed % 2)
    while True:
        action = expert.act()
        action[21:] = flags(action[21:])
        _, reward, fell, ended, info = env.step(action)
        assert reward == info["is_success"] <= ended
        if fell or ended:
            return info["is_success"], info["extra"]


def test_the_expert_walks_and_its_flags_are_what_the_soles_feel() -> None:
    for seed in range(FRESH, FRESH + 5):
        success, figures = walk(seed)
        assert success, (seed, figures)
        assert figures["seconds_upright"] == 10
        assert figures["contact_agreement"] > 0.85
        assert 0.5 < figures["distance"] < 9.5


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_flags_make_it_fall(flags: str) -> None:
    for seed in range(FRESH, FRESH + 4):
        success, figures = walk(seed, WRONG[flags])
        assert not success
        assert figures["seconds_upright"] < 10


@pytest.mark.slow
@pytest.mark.parametrize(("push", "least"), [(0, 100), (100, 98), (150, 95)])
def test_the_expert_withstands_pushes_on_fresh_seeds(push: float, least: int) -> None:
    assert sum(walk(seed, push_newton=push)[0] for seed in range(FRESH + 100, FRESH + 200)) >= least


def test_what_is_observed_and_done_has_names() -> None:
    spec = get_env_spec("biped")
    action, state = spec.features[ACTION], spec.features[STATE]
    assert action.names == (*JOINTS, "left_contact", "right_contact")
    assert action.units == ("rad",) * 21 + ("",) * 2
    env: Any = spec.make([STATE])
    seen = dict(zip(state.names or (), env.reset(seed=3)[0][STATE], strict=True))
    assert len(seen) == 71
    biped = env.biped
    assert [biped.model.joint(index).name for index in range(1, 22)] == list(JOINTS)
    for index, joint in enumerate(JOINTS):
        assert seen[joint] == np.float32(biped.data.joint(joint).qpos[0])
        assert biped.model.actuator(index).trnid[0] == biped.model.joint(joint).id
    assert seen["command"] == np.float32(env.command)
    assert seen["height"] == np.float32(biped.root[2])
    assert (seen["left_contact"], seen["right_contact"]) == (1, 1)


@pytest.mark.parametrize("push", [0, 150])
def test_a_snapshot_goes_on_bit_for_bit_in_another_environment(push: float) -> None:
    spec = get_env_spec(f"biped?push_newton={push}")
    one, other = spec.make([STATE]), spec.make([STATE])
    one.reset(seed=1)
    other.reset(seed=2)
    expert = Walk(one.biped, one.command, 0)  # pyright: ignore
    for _ in range(90):
        one.step(expert.act())
    taken = spec.snapshot(one)  # pyright: ignore
    for _ in range(2):
        spec.restore(other, taken)  # pyright: ignore
        for action in np.random.default_rng(0).uniform(-0.3, 0.9, (60, 23)):
            (seen, *rest), (expected, *others) = other.step(action), one.step(action)
            assert_same(seen, expected)
            assert rest == others
        spec.restore(one, taken)  # pyright: ignore


def test_an_episode_depends_on_its_seed_alone_in_any_process() -> None:
    spec, seeds = get_env_spec("biped?push_newton=100"), {0: 5, 1: 6}
    here, there = (EnvPool(spec, [STATE], [0, 1], workers) for workers in (0, 1))
    for _ in range(2):
        starts = here.reset(seeds), there.reset(seeds)
        assert not np.array_equal(starts[0][0][STATE], starts[0][1][STATE])
        for row in seeds:
            assert_same(starts[0][row], starts[1][row])
        for action in np.random.default_rng(1).uniform(-0.2, 0.9, (40, 23)):
            steps = [pool.step(dict.fromkeys(seeds, action)) for pool in (here, there)]
            for row in seeds:
                assert_same(steps[0][row].observation, steps[1][row].observation)
                assert steps[0][row][1:] == steps[1][row][1:]
    here.close()
    there.close()


def test_demonstrations_hold_what_was_meant() -> None:
    (clean,) = collect("biped", 1, FRESH, noise=0, flips=0, push=0)
    env = get_env_spec("biped").make([STATE])
    seen = env.reset(seed=clean.seed)[0][STATE]
    for state, action in zip(clean.arrays[STATE], clean.arrays[ACTION], strict=True):
        np.testing.assert_array_equal(seen, state)
        observation, *_, info = env.step(action)
        seen = observation[STATE]
    assert info["is_success"]
    assert set(clean.arrays[ACTION][:, 21:].ravel()) == {0, 1}

    first, second = collect("biped", 2, 0)
    (again,) = collect("biped", 1, second.seed)
    assert_same(second.arrays, again.arrays)
    assert first.failures.keys() == {"fall"}
    executed, meant = first.arrays[STATE][1:, 68:70], first.arrays[ACTION][:-1, 21:]
    assert 0 < (executed != meant).mean() < 0.03  # flags that were flipped
    assert np.abs(first.arrays[STATE][0, :21] - first.arrays[ACTION][0, :21]).max() < 0.5  # angles, not torques


def test_a_fall_is_told_and_not_recorded() -> None:
    expert = get_env_spec("biped").expert
    assert expert is not None
    assert expert(noise=0.0, flips=0.0, push=3000.0).demonstrate(0, [STATE]) == "fall"


def test_pushes_are_as_strong_and_as_often_as_asked() -> None:
    forces = draw_pushes(np.random.default_rng(0), 100.0, every=75)
    sizes = np.linalg.norm(forces, axis=1)
    (starts,) = np.nonzero(np.diff(sizes, prepend=0) > 1)
    assert forces.shape == (MAX_STEPS, 2)
    assert len(starts) in (6, 7)
    assert set(np.diff(starts)) == {75}
    assert 25 <= starts[0] < 100
    assert np.count_nonzero(sizes[: starts[-1]]) == 5 * (len(starts) - 1)
    assert 30 <= sizes[sizes > 0].min() <= sizes.max() <= 100
    assert not draw_pushes(np.random.default_rng(0), 0.0, every=75).any()
    pushed, quiet = (WalkerEnv([STATE], WalkerOptions(push_newton=newton)) for newton in (1000, 0))
    pushed.reset(seed=0)
    quiet.reset(seed=0)
    assert pushed.forces.any()
    assert not quiet.forces.any()
    pushed.forces[0] = 0, 1000
    sideways = [env.step(np.zeros(23))[0][STATE][48] for env in (pushed, quiet)]
    assert sideways[0] - sideways[1] > 0.05


def test_commands_are_of_the_range_that_is_asked_for() -> None:
    env = WalkerEnv([], WalkerOptions(command_low=0.3, command_high=0.4))
    commands = [env.reset(seed=seed) and env.command for seed in range(20)]
    assert 0.3 <= min(commands) < max(commands) <= 0.4


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("push_newton=-1", "biped: push_newton: expected .*>= 0.*found -1"),
        ("push_newton=inf", "biped: push_newton: expected .*<= 5000.*found 'inf'"),
        ("command_low=2", "biped: command_low: expected .*<= 0.8.*found 2"),
        ("command_low=0.7&command_high=0.5", "biped: expected command_low of at most command_high; found 0.7 and 0.5"),
        ("push=1", "biped: 'push=1' is no option=value of it; it has push_newton, command_low, command_high"),
    ],
)
def test_wrong_options_are_told_in_one_line(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        get_env_spec(f"biped?{query}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("action", [np.zeros(21), np.full(23, np.nan), np.zeros((1, 23))])
def test_wrong_actions_are_told_in_one_line(action: np.ndarray) -> None:
    env = WalkerEnv([], WalkerOptions())
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"an action of biped is 23 finite numbers; found"):
        env.step(action)


def test_legs_reach_what_they_are_told() -> None:
    biped, rng = Biped(), np.random.default_rng(0)
    for _ in range(20):
        roll, pitch = rng.uniform(-0.2, 0.2, 2)
        turn = np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]])
        turn = turn @ [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]
        ankle = np.array([*rng.uniform(-0.25, 0.25, 2), rng.uniform(-0.7, -0.55)])
        angles = np.zeros(21)
        angles[:6] = leg_angles(turn, ankle)
        biped.pose(angles, turn, 1.0)
        hip = biped.root + turn @ [0, 0.09, 0]
        np.testing.assert_allclose(biped.ankles[0] - hip, ankle, atol=1e-6)
        np.testing.assert_allclose(biped.data.body("left_foot").xmat, np.eye(3).ravel(), atol=1e-6)


def test_pictures_are_drawn_of_recorded_states(drawing: None) -> None:
    env = WalkerEnv([STATE, CAMERA], WalkerOptions())
    env.reset(seed=0)
    expert = Walk(env.biped, env.command, 0)
    for _ in range(40):
        seen = env.step(expert.act())[0]
    assert seen[CAMERA].shape == (3, 96, 96)
    assert len(np.unique(seen[CAMERA])) > 20
    assert env.render().shape == (384, 512, 3)
    assert draw_scene({CAMERA: seen[CAMERA]}) is None
    assert np.shape(draw_scene(seen)) == (384, 512, 3)
    posed = walker._drawn()
    np.testing.assert_allclose(posed.rotation, env.biped.rotation, atol=1e-5)
    np.testing.assert_allclose(posed.ankles[0] - posed.root, env.biped.ankles[0] - env.biped.root, atol=1e-5)
