"""Environments in several processes: the same as in one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import use_env

from robodiff.envs import pool as pool_module
from robodiff.envs.pool import EnvPool, useful_workers
from robodiff.envs.pusht.env import PushTEnv
from robodiff.envs.spec import get_env_spec
from robodiff.errors import RobodiffError, UsageError
from robodiff.machine import cores

KEYS = ["observation.state", "observation.image"]
MOST = 40
"""Steps of an episode of the example with two agents."""


def test_processes_give_what_one_process_gives() -> None:
    spec, rows = get_env_spec("pusht"), [0, 3, 4]
    pools = [EnvPool(spec, KEYS, rows, workers) for workers in (0, 2)]
    seeds = {0: 7, 3: 1, 4: 7}
    starts = [pool.reset(seeds) for pool in pools]
    for here, there in zip(*(start.items() for start in starts), strict=True):
        assert here[0] == there[0]
        for key in KEYS:
            np.testing.assert_array_equal(here[1][key], there[1][key])
    np.testing.assert_array_equal(starts[0][0]["observation.image"], starts[0][4]["observation.image"])
    for step in range(3):
        actions = {row: np.array([100.0 + 50 * step, 20.0 * row], np.float32) for row in rows[step % 2 :]}
        here, there = (pool.step(actions) for pool in pools)
        assert list(here) == list(there) == list(actions)
        for row in actions:
            np.testing.assert_array_equal(here[row].observation["observation.image"],
                                          there[row].observation["observation.image"])  # fmt: skip
            assert here[row][1:] == there[row][1:]
    with pytest.raises(UsageError, match="2 finite numbers"):
        pools[1].step({3: np.array([np.nan, 0.0])})
    for process, _, _ in pools[1]._workers:
        process.kill()
    with pytest.raises(RobodiffError, match="died"):
        pools[1].step({3: np.zeros(2), 4: np.zeros(2)})
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_fails_is_named_with_its_seed(workers: int) -> None:
    pool = EnvPool(get_env_spec("pusht"), KEYS[:1], [0, 1], workers)
    try:
        with pytest.raises(
            RobodiffError, match=r"^the environment pusht cannot begin the episode of seed -5: Error: .*\d\)$"
        ):
            pool.reset({0: 3, 1: -5})
        pool.reset({0: 3, 1: 4})  # the others, and it, go on
        pool.step({0: np.zeros(2), 1: np.zeros(2)})
        with pytest.raises(RobodiffError, match=r"failed at step 1 of the episode of seed 4: \w+Error: "):
            pool.step({1: "left"})  # type: ignore[dict-item]
    finally:
        pool.close()


def test_as_many_processes_as_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 3, 5}, raising=False)
    assert useful_workers(get_env_spec("pusht"), KEYS, 50) == 3
    monkeypatch.delattr("os.sched_getaffinity")
    assert useful_workers(get_env_spec("pusht"), KEYS, 50) == 50


def test_plugins_are_loaded_by_workers_and_figures_of_an_episode_are_passed_on(plugin: Path) -> None:
    spec = get_env_spec("two_agents")
    assert spec.agents == {"0": slice(0, 2), "1": slice(2, 4)}
    rows, actions = [0, 1, 2], np.array([0.05, 0, 0, -0.05])
    steps = []
    for workers in (0, 2):
        pool = EnvPool(spec, ["agents.1.observation.state"], rows, workers)
        pool.reset(dict.fromkeys(rows, 5))
        for _ in range(MOST):
            last = pool.step(dict.fromkeys(rows, actions))
        steps.append(last)
        pool.close()
    assert [step.ended for step in steps[0].values()] == [True] * 3  # after max_steps
    for row in rows:
        assert list(steps[0][row].observation) == ["agents.1.observation.state"]
        np.testing.assert_array_equal(*(each[row].observation["agents.1.observation.state"] for each in steps))
        assert steps[0][row].extra == steps[1][row].extra == {"distance": -steps[0][row].reward}


def test_what_was_only_registered_in_python_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(get_env_spec("pusht"), name="mine")
    assert useful_workers(spec, KEYS, 50) == min(cores(), 50)
    use_env(monkeypatch, spec)
    assert useful_workers(spec, KEYS, 50) == 0


@pytest.mark.parametrize("info", [{"extra": {"score": np.inf}}, {"extra": {"score": "high"}}])
def test_figures_that_are_none_are_refused(info: dict[str, Any]) -> None:
    class Odd(PushTEnv):
        def step(self, action: Any) -> Any:
            observation, reward, *ended, found = super().step(action)
            return observation, reward, *ended, found | info

    pool = EnvPool(replace(get_env_spec("pusht"), make=Odd), KEYS[:1], [0])
    pool.reset({0: 1})
    with pytest.raises(RobodiffError, match=r"failed at step 0 of the episode of seed 1: ValueError"):
        pool.step({0: np.zeros(2)})


def test_only_drawing_is_worth_processes() -> None:
    spec = get_env_spec("pusht")
    assert useful_workers(spec, KEYS[:1], 50) == 0
    assert useful_workers(spec, KEYS, 1) == 0
    assert 1 <= useful_workers(spec, KEYS, 2) <= 2


def test_one_policy_for_all_agents_observes_what_they_observe_joined(plugin: Path) -> None:
    spec, own = get_env_spec("team:two_agents"), get_env_spec("two_agents")
    assert {key: feature.shape for key, feature in spec.features.items()} == {
        "observation.state": (8,), "action": (4,)
    }  # fmt: skip
    pools = [EnvPool(spec, ["observation.state"], [0, 1], workers) for workers in (0, 1)]
    apart = EnvPool(own, ["agents.0.observation.state", "agents.1.observation.state"], [0, 1])
    expected = {row: np.concatenate([*states.values()]) for row, states in apart.reset({0: 3, 1: 4}).items()}
    for pool in pools:
        for row, observation in pool.reset({0: 3, 1: 4}).items():
            np.testing.assert_array_equal(observation["observation.state"], expected[row])
        pool.close()
    with pytest.raises(UsageError, match=r"team:two_agents does not observe .* it has observation.state"):
        spec.make(["observation.image"])


def test_actions_are_joined_in_the_order_of_the_ids_whatever_the_environment_has(
    plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, taken = get_env_spec("two_agents"), []
    ended: Any = {}, 0.0, True, True, {}
    monkeypatch.setattr(own.make, "step", lambda _, action: taken.append(action.tolist()) or ended)
    use_env(monkeypatch, replace(own, name="turned", agents={"1": slice(0, 2), "0": slice(2, 4)}))
    for name in ("two_agents", "turned"):
        get_env_spec(f"team:{name}").make([]).step(np.arange(4.0))
    assert taken == [[0, 1, 2, 3], [2, 3, 0, 1]]


@pytest.mark.kind("a worker that is killed")
def test_a_killed_worker_takes_its_sibling_along(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(pool_module, "SECONDS_TO_END", 1.0)
    pool = EnvPool(get_env_spec("pusht"), KEYS[1:], range(60), workers=2)
    pool.reset(dict.fromkeys(range(60), 1))
    (first, _, _), (second, connection, share) = pool._workers
    first.kill()
    with pytest.raises(RobodiffError, match="a process that steps environments died"):
        pool.step(dict.fromkeys(range(60), np.zeros(2)))
    connection.send(("step", dict.fromkeys(share, np.zeros(2))))  # more images than a pipe takes: it is stuck
    pool.close()
    assert not first.is_alive()
    assert not second.is_alive()
    assert "Traceback" not in capfd.readouterr().err
