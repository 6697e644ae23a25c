"""Episodes depend on their seeds alone; what is not finite never reaches the environment."""

import dataclasses
import itertools
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tests.conftest import PUSHT_FEATURES
from tests.policies.test_diffusion import FLOW

from robodiff.data.episodes import PAST_ACTION
from robodiff.envs.pool import Step
from robodiff.envs.spec import get_env_spec
from robodiff.errors import UsageError
from robodiff.evaluation.rollout import EpisodeRecord, check_fit, chunk_latency, rollout
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner

Make = Callable[..., DiffusionPolicy]


def plain(records: list[EpisodeRecord]) -> list[tuple]:
    return [(r.seed, r.success, r.max_reward, r.length, np.stack(r.actions).tolist()) for r in records]


@pytest.mark.usefixtures("quick")
def test_an_episode_depends_on_its_seed_alone(small_policy: Make) -> None:
    policy, spec = small_policy(**FLOW), get_env_spec("pusht")
    together = plain(rollout(policy, spec, range(100, 112), num_envs=12))
    assert [r[0] for r in together] == list(range(100, 112))
    assert all(r[3] == 30 or r[1] for r in together)
    apart = [r for first in (100, 103, 106, 109) for r in plain(rollout(policy, spec, range(first, first + 3), 12))]
    assert apart == together  # 12 at once or 4 x 3, at equal batch size
    assert plain(rollout(policy, spec, range(100, 112), num_envs=12)) == together
    other = plain(rollout(policy, spec, range(101, 113), num_envs=12))
    assert other[:-1] == together[1:]  # each in another row of the batch


@pytest.mark.usefixtures("quick")
def test_more_episodes_than_rows_run_in_waves(small_policy: Make) -> None:
    seen: list[tuple[int, int]] = []
    spec = get_env_spec("pusht")
    records = rollout(
        small_policy(**FLOW), spec, range(5), 2, on_step=lambda done, running: seen.append((done, running))
    )
    assert [r.seed for r in records] == [0, 1, 2, 3, 4]
    assert seen[-1] == (5, 0)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("past", [False, True])
def test_an_episode_is_what_a_runner_does_in_a_plain_loop(small_policy: Make, past: bool) -> None:
    policy, spec = small_policy(**FLOW), get_env_spec("pusht")
    if past:
        features = {**PUSHT_FEATURES, PAST_ACTION: PUSHT_FEATURES["action"]}
        policy = DiffusionPolicy(policy.config, features, fps=10.0).eval()
    environment, runner = spec.make(list(spec.features)[:2]), PolicyRunner(policy, seeds=[7])
    observation, _ = environment.reset(seed=7)
    ended, actions = False, []
    while not ended:
        actions.append(runner.act(observation))
        observation, _, terminated, truncated, _ = environment.step(actions[-1])
        ended = terminated or truncated
    (record,) = rollout(policy, spec, [7], num_envs=1)
    np.testing.assert_array_equal(record.actions, actions)


def test_a_policy_that_does_not_fit_is_refused(small_policy: Make) -> None:
    policy, spec = small_policy(), get_env_spec("pusht")
    lacking = {k: f for k, f in spec.features.items() if k != "observation.environment_state"}
    with pytest.raises(UsageError, match=r"observes 'observation\.environment_state', which .* pusht lacks"):
        check_fit(policy, dataclasses.replace(spec, features=lacking))
    with pytest.raises(UsageError, match=r"acts at 10 Hz .* pusht at 20"):
        check_fit(policy, dataclasses.replace(spec, fps=20.0))


@pytest.mark.usefixtures("quick")
def test_an_action_that_is_not_finite_stops_its_episode_alone(small_policy: Make) -> None:
    policy, seeds = small_policy(**FLOW), range(100, 106)  # two waves
    sound = rollout(policy, get_env_spec("pusht"), seeds, num_envs=4)
    records = rollout(policy, get_env_spec("broken"), seeds, num_envs=4)
    stopped, undisturbed = records.pop(3), sound.pop(3)
    assert plain(records) == plain(sound)
    assert all(record.non_finite is None for record in records)
    assert stopped.seed == 103
    assert stopped.length == 8  # the second chunk was made from what step 8 gave
    np.testing.assert_array_equal(stopped.actions, undisturbed.actions[:8])
    assert stopped.non_finite is not None
    assert "what was observed is not finite in observation.state" in str(stopped.non_finite)
    assert stopped.non_finite.actions.shape == (8, 2)
    assert not np.isfinite(stopped.non_finite.actions).all()
    observed = stopped.non_finite.observation
    assert {key: value.shape for key, value in observed.items()} == {
        "observation.state": (2, 2),
        "observation.environment_state": (2, 16),
    }
    assert np.isnan(observed["observation.state"]).tolist() == [[False, False], [False, True]]


@pytest.mark.usefixtures("quick")
def test_a_policy_without_a_finite_action_does_nothing(small_policy: Make) -> None:
    policy, spec = small_policy(**FLOW), get_env_spec("pusht")
    with torch.no_grad():
        policy.denoiser.final[1].bias.fill_(float("nan"))
    (record,) = rollout(policy, spec, [7], 1)
    assert (record.length, record.max_reward, record.success) == (0, 0.0, False)
    assert "all that was observed is finite" in str(record.non_finite)
    assert len(chunk_latency(policy, spec, seed=0, chunks=2)) == 2


def test_the_maximum_reward_is_one_that_was_given() -> None:
    record = EpisodeRecord(seed=7)
    assert record.max_reward == 0.0
    for reward, highest in ((-3.0, -3.0), (-1.5, -1.5), (-2.0, -1.5)):
        record.add(np.zeros(2), Step({}, reward, ended=False, success=False))
        assert record.max_reward == highest


@pytest.mark.parametrize(("seconds", "measured"), [(0.1, 30), (0.25, 17), (10.0, 5)])
def test_a_slow_policy_is_not_waited_for(
    small_policy: Make, monkeypatch: pytest.MonkeyPatch, seconds: float, measured: int
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("robodiff.evaluation.rollout.time", Mock(perf_counter=lambda: next(clock) * seconds))
    assert chunk_latency(small_policy(**FLOW), get_env_spec("pusht"), seed=0) == pytest.approx(
        [seconds * 1e3] * measured
    )


def test_latency_is_measured_chunk_by_chunk(small_policy: Make) -> None:
    times = chunk_latency(small_policy(**FLOW), get_env_spec("pusht"), seed=0, chunks=5)
    assert len(times) == 5
    assert min(times) > 0
