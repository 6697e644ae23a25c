"""Environments in several processes: the same as in one."""

import numpy as np
import pytest

from robodiff.envs.pool import EnvPool, useful_workers
from robodiff.envs.spec import get_env_spec
from robodiff.errors import RobodiffError, UsageError

KEYS = ["observation.state", "observation.image"]


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
    with pytest.raises(UsageError, match="two finite numbers"):
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


def test_only_drawing_is_worth_processes() -> None:
    spec = get_env_spec("pusht")
    assert useful_workers(spec, KEYS[:1], 50) == 0
    assert useful_workers(spec, KEYS, 1) == 0
    assert 1 <= useful_workers(spec, KEYS, 2) <= 2
