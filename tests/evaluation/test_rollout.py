"""Episodes depend on their seeds alone; policies that do not fit are refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.policies.test_diffusion import FLOW

from robodiff.envs.registry import get_env_spec
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.rollout import EpisodeRecord, check_fit, chunk_latency, rollout
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]


def plain(records: list[EpisodeRecord]) -> list[tuple]:
    return [(r.seed, r.success, r.max_reward, r.length, np.stack(r.actions).tolist()) for r in records]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of at most 30 steps."""
    import dataclasses

    from robodiff.envs import registry
    from robodiff.envs.pusht import PushTEnv

    short = dataclasses.replace(registry.ENVIRONMENTS["pusht"], make=lambda keys: PushTEnv(keys, max_steps=30))
    monkeypatch.setitem(registry.ENVIRONMENTS, "pusht", short)


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


def test_a_policy_that_does_not_fit_is_refused(small_policy: Make) -> None:
    import dataclasses

    policy, spec = small_policy(), get_env_spec("pusht")
    lacking = {k: f for k, f in spec.features.items() if k != "observation.environment_state"}
    with pytest.raises(UsageError, match=r"observes 'observation\.environment_state', which .* pusht lacks"):
        check_fit(policy, dataclasses.replace(spec, features=lacking))
    with pytest.raises(UsageError, match=r"acts at 10 Hz .* pusht at 20"):
        check_fit(policy, dataclasses.replace(spec, fps=20.0))


def test_actions_that_are_not_finite_never_reach_the_environment(small_policy: Make) -> None:
    policy = small_policy(**FLOW)
    with torch.no_grad():
        policy.denoiser.final[1].bias.fill_(float("nan"))
    with pytest.raises(RobodiffError, match="not finite in episode 7, step 0"):
        rollout(policy, get_env_spec("pusht"), [7], 1)


def test_latency_is_measured_chunk_by_chunk(small_policy: Make) -> None:
    times = chunk_latency(small_policy(**FLOW), get_env_spec("pusht"), seed=0, chunks=5)
    assert len(times) == 5
    assert min(times) > 0
