"""Episodes that a policy begins and the expert ends: they depend on their seeds, the policy and the options alone."""

import dataclasses
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SMALL_MODEL, use_env
from tests.policies.test_diffusion import FLOW

from robodiff.data.episodes import ACTION, INTERVENTION
from robodiff.data.normalize import Statistics
from robodiff.envs.collect import Demonstration
from robodiff.envs.mujoco.take_over import TableTakeOver
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.envs.team import team_spec
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation import takeover
from robodiff.evaluation.members import ALONE
from robodiff.evaluation.rollout import rollout
from robodiff.evaluation.takeover import TakeOverConfig, TakeOvers
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy

STATE = "observation.state"


def untrained(env: EnvSpec, keys: Collection[str]) -> DiffusionPolicy:
    """A small policy of random weights."""
    features = {key: env.features[key] for key in (*keys, ACTION)}
    policy = DiffusionConfig(**{**SMALL_MODEL, **FLOW}).make_policy(features, env.fps)  # pyright: ignore
    ends = {key: np.ones(each.shape[0]) for key, each in policy.features.items() if each.kind == "vector"}
    policy.normalizer.fit({key: Statistics(-one, one, 0 * one, one / 3) for key, one in ends.items()})
    return policy


@pytest.fixture(scope="module")
def bad_policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that moves an arm at random, on ``lift_cube``."""
    folder = tmp_path_factory.mktemp("takeover") / "policy"
    save_policy(untrained(get_env_spec("lift_cube"), (STATE, "observation.environment_state")), folder)
    return str(folder)


def made(policy: str, env: str = "lift_cube", **options: object) -> TakeOvers:
    return TakeOvers({ALONE: policy}, env, False, TakeOverConfig(**{"num_envs": 2, **options}))  # pyright: ignore


def assert_same(one: Demonstration, other: Demonstration) -> None:
    assert (one.seed, one.word) == (other.seed, other.word)
    assert one.arrays.keys() == other.arrays.keys()
    for key in one.arrays:
        np.testing.assert_array_equal(one.arrays[key], other.arrays[key], key)


@pytest.fixture(scope="module")
def four(bad_policy: str) -> list[Demonstration]:
    return [*made(bad_policy, random=0.5).collect(4, seed=21)]


def test_an_episode_does_not_depend_on_where_a_collection_begins(bad_policy: str, four: list[Demonstration]) -> None:
    resumed = next(made(bad_policy, random=0.5).collect(1, seed=four[2].seed))
    assert_same(resumed, four[2])


@pytest.mark.slow
def test_an_episode_does_not_depend_on_workers(bad_policy: str, four: list[Demonstration]) -> None:
    for one, other in zip(four, made(bad_policy, random=0.5).collect(4, seed=21, workers=2), strict=True):
        assert_same(one, other)


def test_each_frame_says_who_acted(bad_policy: str, four: list[Demonstration]) -> None:
    """The policy did what it does in an evaluation; the expert what it does from there."""
    spec = get_env_spec("lift_cube")
    records = rollout(load_policy(bad_policy), spec, [each.seed for each in four], 2)
    for episode, record in zip(four, records, strict=True):
        flags, actions = episode.arrays[INTERVENTION], episode.arrays[ACTION]
        assert (flags.shape, flags.dtype) == ((len(actions), 1), np.float32)
        (begin,) = np.flatnonzero(np.diff(flags[:, 0])) + 1  # it takes over once, for good
        assert flags[begin:].all()
        np.testing.assert_array_equal(actions[:begin], record.actions[:begin])
        env = spec.make((STATE,))
        seen, _ = env.reset(seed=episode.seed)
        expert = TableTakeOver().actions(env)  # pyright: ignore
        for step, action in enumerate(actions):
            np.testing.assert_array_equal(episode.arrays[STATE][step], seen[STATE])
            if step >= begin:
                np.testing.assert_array_equal(action, next(expert))
            seen, _, _, _, info = env.step(action)
        assert info["is_success"]
        with pytest.raises(StopIteration):
            next(expert)


def test_random_moments_are_a_function_of_the_seed() -> None:
    config = TakeOverConfig(random=0.4)
    moments = [config.moment(seed, 300) for seed in range(1000)]
    assert moments == [config.moment(seed, 300) for seed in range(1000)]
    drawn = [each for each in moments if each is not None]
    assert 350 < len(drawn) < 450
    assert (min(drawn) >= 1, max(drawn) <= 150) == (True, True)
    assert not any(TakeOverConfig(random=0.0).moment(seed, 300) for seed in range(50))


def test_why_the_expert_took_over_and_how_often_the_policy_did_without(bad_policy: str) -> None:
    every = made(bad_policy, random=1.0)
    episodes = [*every.collect(3)]
    lengths = [int((each.arrays[INTERVENTION] == 0).sum()) for each in episodes]
    moments = [every.config.moment(each.seed, 100) for each in episodes]
    for episode, length, moment in zip(episodes, lengths, moments, strict=True):
        assert (episode.word == "took_over_random") == (length == moment)
    table = {"seed": np.array([200_000, 200_004]), "success": np.ones(2, bool), "unaided": np.array([0, 2]),
             "took_over_stalled": np.array([1, 0]), "took_over_random": np.array([0, 1])}  # fmt: skip
    alone = sum(made(bad_policy).config.moment(seed, 100) is None for seed in range(200_000, 200_005))
    assert made(bad_policy).summary(table, 200_000) == (
        "the expert took over to success (random 1, stalled 1), and failed on 1 seed (no success 1); "
        f"by itself the policy succeeded on 2 of {alone} seeds"
    )


class Sleepy:
    """An expert that is never needed, or that does nothing."""

    def needs_help(self, env: object) -> str | None:
        return None

    def actions(self, env: object) -> Iterator[np.ndarray]:
        yield from ()
        return "asleep"


def test_seeds_without_an_expert_in_them_are_counted_and_left_out(
    bad_policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_env(monkeypatch, dataclasses.replace(get_env_spec("lift_cube"), name="sleepy", take_over=Sleepy, max_steps=3))
    with pytest.raises(RobodiffError, match=r"brought to success on 100 seeds in a row, up to 99 \(asleep 100, "):
        next(made(bad_policy, "sleepy", random=0.0, num_envs=50).collect(1, seed=0))


def test_an_expert_that_fails_is_told_in_a_line(bad_policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TableTakeOver, "needs_help", lambda self, env: env.none)
    with pytest.raises(RobodiffError, match=r"the expert of lift_cube failed at seed 1000000: .*none"):
        next(made(bad_policy).collect(1))


def test_who_cannot_take_over_is_told(bad_policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_env(monkeypatch, dataclasses.replace(get_env_spec("lift_cube"), name="alone", take_over=None))
    with pytest.raises(UsageError, match=r"the expert of alone cannot take over; that of pusht, lift_cube, .* can"):
        made(bad_policy, "alone")


def test_seeds_come_in_blocks_that_end_where_rows_begin_anew() -> None:
    blocks = [*itertools.islice(takeover._blocks(21, 4), 3)]
    assert blocks == [range(21, 24), range(24, 28), range(28, 32)]


def test_a_joint_policy_of_a_team_is_taken_over_as_a_whole(tmp_path: Path) -> None:
    save_policy(untrained(team_spec("lift_barrier"), (STATE,)), tmp_path / "policy")
    (episode,) = made(str(tmp_path / "policy"), "lift_barrier", random=1.0, num_envs=1).collect(1)
    assert {"agents.0.action", "agents.1.action", INTERVENTION, "agents.0.observation.state"} <= episode.arrays.keys()
    assert ACTION not in episode.arrays
    env = get_env_spec("lift_barrier").make(())
    env.reset(seed=episode.seed)
    actions = np.concatenate([episode.arrays[f"agents.{agent}.action"] for agent in (0, 1)], axis=1)
    assert [env.step(action)[4]["is_success"] for action in actions][-1]


def test_what_a_policy_sees_is_recorded(tmp_path: Path) -> None:
    for name, key in (("lift_cube?size=64x64", "observation.images.head"),
                      ("lift_barrier?size=64x64", "observation.images.agent0_head")):  # fmt: skip
        spec = get_env_spec(name)
        save_policy(untrained(team_spec(name) if spec.agents else spec, (key,)), tmp_path / spec.name)
        features = made(str(tmp_path / spec.name), name).features
        heads = {"agents.0.observation.images.head", "agents.1.observation.images.head"} if spec.agents else {key}
        assert {key for key, each in features.items() if each.kind == "image"} == heads
