"""The expert carries tasks at the table on: from where nothing is held, and where something is."""

import numpy as np
import pytest
from tests.envs.mujoco.conftest import TASKS, demonstrated

from robodiff.data.episodes import ACTION
from robodiff.envs.mujoco.env import TableEnv
from robodiff.envs.mujoco.expert import HELD_WRONGLY, commands_of, is_holding
from robodiff.envs.mujoco.take_over import TableTakeOver
from robodiff.envs.spec import STALLED, get_env_spec


def carried_on(env: TableEnv) -> tuple[bool, int, str | None]:
    """Whether it succeeds, after how many steps, and the expert's word."""
    actions, success, steps = TableTakeOver().actions(env), False, 0
    while True:
        try:
            action = next(actions)
        except StopIteration as end:
            return success, steps, end.value
        success, steps = env.step(action)[4]["is_success"], steps + 1


def left(name: str, seed: int, steps: int) -> TableEnv:
    """An environment in which arms went after random targets for so many steps."""
    spec = get_env_spec(name)
    env = spec.make(())
    env.reset(seed=seed)
    assert isinstance(env, TableEnv)
    rng, low, high = np.random.default_rng(seed), env.action_space.low, env.action_space.high  # pyright: ignore
    target = action = env.encode(env.world.home)
    for step in range(steps):
        target = rng.uniform(low, high) if step % 15 == 0 else target
        action = action + np.clip(target - action, -0.03 * (high - low), 0.03 * (high - low))
        env.step(action)
    return env


def succeeded(name: str, seeds: int) -> int:
    return sum(carried_on(left(name, seed, 60))[0] for seed in range(seeds))


def test_from_wherever_arms_went_at_random_a_cube_is_lifted() -> None:
    assert succeeded("lift_cube", 10) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_from_wherever_arms_went_at_random_the_task_is_done(name: str) -> None:
    assert succeeded(name, 10) >= 5


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["stack_cube", "lift_barrier"])
def test_what_the_expert_itself_began_is_carried_on(name: str, share: float) -> None:
    actions = demonstrated(name)[ACTION]
    env = get_env_spec(name).make(())
    env.reset(seed=0)
    for action in actions[: int(share * len(actions))]:
        env.step(action)
    assert isinstance(env, TableEnv)
    held = [*map(is_holding, env.world.arms)]
    success, steps, word = carried_on(env)
    assert (success, word) == (True, None)
    if all(held):  # it is not let go
        assert steps < len(actions) + 10


def test_a_script_does_not_begin_with_what_is_held_in_another_way() -> None:
    env = left("lift_cube", 0, 0)
    for action in demonstrated("lift_cube")[ACTION]:
        env.step(action)
    assert is_holding(env.world.arms[0])
    env.world.data.qpos[-7:-4] += 0.1  # the cube lies elsewhere, and something else is held
    env.world.look_back(env.world.data.qpos)
    commands = commands_of(env.world, env.task.script(env.world))
    with pytest.raises(StopIteration) as end:
        next(commands)
    assert end.value.value == HELD_WRONGLY


def test_arms_that_stand_still_have_stalled_and_the_expert_has_not() -> None:
    env, help_ = left("lift_cube", 0, 0), TableTakeOver()
    words = []
    for _ in range(50):
        env.step(env.encode(env.world.home))
        words.append(help_.needs_help(env))
    assert words.index(STALLED) == 40  # two seconds
    for name in ("stack_cube", "lift_barrier"):
        env, help_ = get_env_spec(name).make(()), TableTakeOver()
        env.reset(seed=0)
        assert isinstance(env, TableEnv)
        for action in demonstrated(name)[ACTION]:
            env.step(action)
            assert help_.needs_help(env) is None
