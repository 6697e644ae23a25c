"""Episodes depend on their seeds alone; what is not finite never reaches the environment."""

import dataclasses
import itertools
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tests.conftest import PUSHT_FEATURES, SMALL_MODEL
from tests.policies.test_diffusion import FLOW

from robodiff.data.episodes import PAST_ACTION, Feature
from robodiff.envs.pool import Step
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.errors import UsageError
from robodiff.evaluation.actor import seen_by
from robodiff.evaluation.chunks import chunk_latency
from robodiff.evaluation.evaluate import summary
from robodiff.evaluation.rollout import EpisodeRecord, rollout
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner, Team

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
    told: list[tuple[int, str]] = []
    records = rollout(small_policy(**FLOW), get_env_spec("pusht"), range(5), 2, lambda *words: told.append(words))
    assert [r.seed for r in records] == [0, 1, 2, 3, 4]
    seen = [finished for finished, _ in told]
    assert (seen[0], seen[-1]) == (0, 5)
    assert seen == sorted(seen)
    assert told[1] == (0, "step 2")


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
        seen_by(policy, dataclasses.replace(spec, features=lacking))
    with pytest.raises(UsageError, match=r"acts at 10 Hz .* pusht at 15"):
        seen_by(policy, dataclasses.replace(spec, fps=15.0))


@pytest.mark.usefixtures("quick")
def test_a_slower_policy_sees_and_acts_at_its_own_rate(small_policy: Make) -> None:
    policy, spec = small_policy(**FLOW), get_env_spec("pusht")
    slow = DiffusionPolicy(policy.config, PUSHT_FEATURES, fps=5.0).eval()
    slow.load_state_dict(policy.state_dict())
    environment, runner = spec.make(list(spec.features)[:2]), PolicyRunner(slow, seeds=[7])
    observation, _ = environment.reset(seed=7)
    actions = []
    for step in range(30):
        actions.append(runner.act(observation) if step % 2 == 0 else actions[-1])
        observation = environment.step(actions[-1])[0]
    (record,) = rollout(slow, spec, [7], num_envs=1)
    np.testing.assert_array_equal(record.actions, actions)


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
    assert chunk_latency(PolicyRunner(policy), observation_of(spec), chunks=2).p50 > 0


def test_the_maximum_reward_is_one_that_was_given() -> None:
    record = EpisodeRecord(seed=7)
    assert record.max_reward == 0.0
    for reward, highest in ((-3.0, -3.0), (-1.5, -1.5), (-2.0, -1.5)):
        record.add(np.zeros(2), Step({}, reward, ended=False, success=False, extra={}))
        assert record.max_reward == highest


@pytest.mark.parametrize(("seconds", "measured"), [(0.1, 30), (0.25, 17), (10.0, 5)])
def test_a_slow_policy_is_not_waited_for(
    small_policy: Make, monkeypatch: pytest.MonkeyPatch, seconds: float, measured: int
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("robodiff.evaluation.chunks.time", Mock(perf_counter=lambda: next(clock) * seconds))
    latency = chunk_latency(PolicyRunner(small_policy(**FLOW)), observation_of(get_env_spec("pusht")))
    assert (latency.p50, latency.p95) == pytest.approx((seconds * 1e3, seconds * 1e3))
    assert next(clock) == 2 * (3 + measured)  # the warm-up included


def observation_of(spec: EnvSpec) -> dict[str, np.ndarray]:
    return {key: np.full(feature.shape, 256, np.float32) for key, feature in spec.features.items() if key != "action"}


def moving(state: int, action: int, seed: int) -> DiffusionPolicy:
    """A policy that acts on a state of so many numbers."""
    torch.manual_seed(seed)
    features = {
        key: Feature("vector", (d,), "float32") for key, d in (("observation.state", state), ("action", action))
    }
    return (
        DiffusionConfig(**SMALL_MODEL, **FLOW, observation_keys=["observation.state"]).make_policy(features, 10).eval()
    )


def test_a_policy_for_each_agent(meet: EnvSpec) -> None:
    team = {"0": moving(4, 2, seed=0), "1": moving(4, 2, seed=1)}
    records = rollout(team, meet, range(4), num_envs=2)
    assert plain(rollout(team, meet, [3, 1], num_envs=2)) == plain([records[3], records[1]])
    environment = meet.make(list(meet.features))
    observation, _ = environment.reset(seed=2)
    runner = Team({agent: PolicyRunner(policy, rows=2) for agent, policy in team.items()}, meet.agents)
    runner.reset(seeds=[2, 2])
    for expected in records[2].actions:
        batch = {key: np.stack([value] * 2) for key, value in observation.items()}
        np.testing.assert_allclose(runner.act(batch)[0], expected, atol=1e-5)
        observation, *_, info = environment.step(expected)
    assert records[2].extra == pytest.approx(info["extra"])
    distances = [record.extra["distance"] for record in records]
    assert summary(records).extra == {"distance": pytest.approx(np.mean(distances))}
    for policies, message in (
        ({"0": team["0"]}, "agents 0, 1; found policies for 0"),
        ({**team, "1": moving(8, 2, 0)}, "is .8,. for"),
    ):
        with pytest.raises(UsageError, match=message):
            rollout(policies, meet, [0], 1)


def test_one_policy_for_all_agents(meet: EnvSpec) -> None:
    (record,) = rollout(moving(8, 4, seed=0), meet, [5], num_envs=1)
    assert (record.length, record.actions[0].shape) == (10, (4,))
    with pytest.raises(UsageError, match=r"observation\.state is"):
        rollout(moving(4, 2, seed=0), meet, [5], num_envs=1)


def test_metrics_of_an_environment_that_are_not_finite_are_left_out() -> None:
    record = EpisodeRecord(seed=7)
    for extra in ({"force": 3.0}, {"force": float("nan"), "distance": 2}):
        record.add(np.zeros(2), Step({}, 0.0, ended=False, success=False, extra=extra))
    assert record.result.extra == {"distance": 2.0}
    assert summary([record, EpisodeRecord(seed=8)]).extra == {"distance": 2.0}
