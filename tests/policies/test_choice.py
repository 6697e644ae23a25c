"""Which of several chunks is executed: the one that is nearest to what the last one left, whatever else is drawn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.conftest import PUSHT_FEATURES
from tests.policies.test_known import ACTIONS, FEATURES, made
from tests.policies.test_runner import seen

from robodiff.data.episodes import ACTION
from robodiff.errors import UsageError
from robodiff.policies.choice import Contrasted, contrast, distances, predict_best
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner, Team
from robodiff.policies.runtime import Chunk, Timing, draw_noise

RANGE = np.array([[-1.0, 0.0], [1.0, 50.0]])
SHAPE = (1, 1, 7, 2)


class Echo:
    """Its chunks are the noise, one step before now and six from now on, of which two are executed."""

    features = PUSHT_FEATURES
    timing = Timing(n_obs_steps=2, n_action_steps=2, spacing=0.1, best_of=5)

    def __init__(self, spoil: Callable[[np.ndarray], None] = lambda actions: None) -> None:
        self.spoil = spoil

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        return (1, batch_size, 7, 2)

    def predict_chunk(self, observation: Mapping[str, np.ndarray], *, noise: np.ndarray) -> Chunk:
        actions = noise[0].copy()
        self.spoil(actions)
        return Chunk(actions, first_step=0, ranges={ACTION: RANGE})


def nearest_chunks(seed: int, chunks: int, count: int = 5) -> np.ndarray:
    """What the runner is to execute, worked out one number at a time, (2 * chunks, 2)."""
    executed, rest = [], None
    for number in range(chunks):
        drawn = [draw_noise(SHAPE, seed, number, 0, *([k] if k else []))[0, 0, 1:] for k in range(count)]
        best, least = 0, np.inf
        for k, chunk in enumerate(drawn if rest is not None else []):
            apart = 0.0
            for step in range(4):
                across, along = chunk[step] - rest[step]  # type: ignore[index]
                apart += 0.5**step * np.hypot(across / 2, along / 50)
            best, least = (k, apart) if apart < least else (best, least)
        executed.append(drawn[best][:2])
        rest = drawn[best][2:]
    return np.concatenate(executed)


def acted(runner: PolicyRunner | Team, steps: int, rows: int | None = None) -> np.ndarray:
    return np.stack([runner.act(seen(step, rows)) for step in range(steps)])


def test_the_nearest_to_what_was_left_is_executed() -> None:
    expected = nearest_chunks(3, 8)
    np.testing.assert_array_equal(acted(PolicyRunner(Echo(), seeds=[3]), 16), expected)
    assert not np.array_equal(expected, nearest_chunks(3, 8, count=1))


def test_rows_choose_by_themselves_and_anew_after_a_reset() -> None:
    runner = PolicyRunner(Echo(), rows=3, seeds=[5, 6, 7])
    together = acted(runner, 9, rows=3)  # (9, 3, 2)
    for row, seed in enumerate((5, 6, 7)):
        np.testing.assert_array_equal(together[:, row], nearest_chunks(seed, 5)[:9])
    runner.reset(rows=[1])
    again = acted(runner, 5, rows=3)
    np.testing.assert_array_equal(again[:, 1], nearest_chunks(6, 3)[:5])
    np.testing.assert_array_equal(again[:, 0], nearest_chunks(5, 7)[9:])


def test_one_chunk_is_the_first_of_several() -> None:
    timing = replace(Echo.timing, best_of=1)
    np.testing.assert_array_equal(
        acted(PolicyRunner(Echo(), seeds=[3], timing=timing), 8), nearest_chunks(3, 4, count=1)
    )
    np.testing.assert_array_equal(acted(PolicyRunner(Echo(), seeds=[3]), 2), nearest_chunks(3, 1, count=1))


def test_a_chunk_that_is_not_finite_is_not_chosen() -> None:
    def spoil(actions: np.ndarray) -> None:
        actions[0, 3] = np.nan

    actions = acted(PolicyRunner(Echo(spoil), seeds=[3]), 8)
    drawn = [[draw_noise(SHAPE, 3, number, 0, k)[0, 0, 1:3] for k in range(1, 5)] for number in range(4)]
    np.testing.assert_array_equal(actions[:2], drawn[0][0])
    for number in range(1, 4):
        assert any(np.array_equal(actions[2 * number : 2 * number + 2], each) for each in drawn[number])


@pytest.mark.parametrize(
    ("rest", "weak", "drawn"),
    [(None, False, 1), (np.zeros((1, 0, 2)), False, 1), (np.zeros((1, 1, 2)), False, 5), (None, True, 5)],
)
def test_one_chunk_is_drawn_where_there_is_nothing_to_choose_by(
    rest: np.ndarray | None, weak: bool, drawn: int
) -> None:
    counts = []
    policy = Echo(lambda actions: counts.append(len(actions)))
    window = {"observation.state": np.zeros((1, 2, 2), np.float32)}
    asked: Any = Contrasted(policy, Echo()) if weak else policy
    predict_best(asked, Echo.timing, window, np.array([[3, 0, 0]]), rest)
    assert counts == [drawn]


def test_agents_of_a_team_choose_by_themselves() -> None:
    agents = {"0": slice(0, 2), "1": slice(2, 4)}
    team = Team({agent: PolicyRunner(Echo(), seeds=[3]) for agent in agents}, agents)
    actions = acted(team, 8)
    np.testing.assert_array_equal(actions[:, :2], nearest_chunks(3, 4))
    assert not np.array_equal(actions[:, 2:], actions[:, :2])  # its noise is its own


def test_far_steps_count_less_than_near_ones() -> None:
    rest = np.zeros((1, 3, 1))
    chunks = np.array([[[0.0, 0.0, 1.75, 9.0], [1.75, 0.0, 0.0, 9.0], [0.0, 0.0, np.inf, 9.0]]])[..., None]
    assert distances(chunks, rest).tolist() == [[0.25, 1.0, np.inf]]
    assert distances(chunks, np.full((1, 3, 1), np.nan)).tolist() == [[0, 0, 0]]


def test_a_chunk_like_the_others_and_unlike_the_weak_ones_scores_best() -> None:
    chunks, weak = (np.array([each])[..., None, None] for each in ([0.0, 1.0, 5.0, 9.0], [1.0, 1.5, 2.0, 30.0]))
    expected = [np.mean([1, 5]) - np.mean([1, 1.5]), np.mean([1, 4]) - np.mean([0, 0.5]),
                np.mean([4, 4]) - np.mean([3, 3.5]), np.mean([4, 8]) - np.mean([7, 7.5])]  # fmt: skip
    np.testing.assert_allclose(contrast(chunks, weak), [expected])


def test_a_weak_policy_is_contrasted_with() -> None:
    class Weak(Echo):
        def predict_chunk(self, observation: Mapping[str, np.ndarray], *, noise: np.ndarray) -> Chunk:
            return Chunk(noise[0] / 2, 0, {ACTION: RANGE})

    runner = PolicyRunner(Contrasted(Echo(), Weak()), seeds=[3])
    scale, rest, expected = RANGE[1] - RANGE[0], None, []
    for number in range(4):
        noise = np.stack([draw_noise(SHAPE, 3, number, 0, *([k] if k else []))[0, 0, 1:] for k in range(5)])
        scores = contrast(noise[None] / scale, noise[None] / 2 / scale)[0]
        if rest is not None:
            scores = scores + distances(noise[None] / scale, rest[None] / scale)[0]
        expected.append(noise[scores.argmin()][:2])
        rest = noise[scores.argmin()][2:]
    np.testing.assert_array_equal(acted(runner, 8), np.concatenate(expected))


@pytest.mark.parametrize("actions", ["absolute", "relative", "rotated", "discrete", "inpaint", "executed only"])
@pytest.mark.parametrize("is_given", [False, True])
def test_several_chunks_of_an_observation_are_those_of_it_alone(actions: str, is_given: bool) -> None:
    policy = made(DiffusionConfig, "Flow", **{"action_relative_to": {}, **ACTIONS[actions]})
    random = np.random.default_rng(0)
    observation = {"observation.state": random.normal(size=(2, 2, 2)).astype(np.float32)}
    noise = np.concatenate([draw_noise(policy.noise_shape(1), number) for number in range(6)], axis=1)
    known = None
    if is_given:
        shape = (6, policy.config.denoised_steps, *FEATURES[ACTION].shape)
        known = np.ones(shape, np.float32), np.linspace(0, 1, 6, dtype=np.float32)[:, None, None] * np.ones(shape)
    together = policy.predict_chunk(observation, noise=noise, known=known).actions
    assert len(together) == 6
    for number, chunk in enumerate(together):
        one = {"observation.state": observation["observation.state"][[number // 3]]}
        given = known and tuple(each[[number]] for each in known)
        alone = policy.predict_chunk(one, noise=noise[:, [number]], known=given).actions[0]
        np.testing.assert_allclose(chunk, alone, atol=1e-4)


def test_a_policy_that_draws_several_chunks_acts_by_its_configuration(
    small_policy: Callable[..., DiffusionPolicy],
) -> None:
    policy = small_policy(num_inference_steps=2)
    one = acted(PolicyRunner(policy, seeds=[1]), 32)
    policy.set_sampler(policy.config.acting(best_of=8))
    assert policy.timing.best_of == 8
    several = acted(PolicyRunner(policy, seeds=[1]), 32)
    np.testing.assert_allclose(several[:8], one[:8], rtol=1e-4)  # the batch is another
    assert not np.allclose(several[8:], one[8:], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({}, {"n_action_steps": 16}, "n_action_steps: the policy executes at most 15, .* found 16"),
        ({}, {"n_action_steps": 15, "best_of": 2}, "best_of 2 compares .*, and all 15 actions of a chunk are executed"),
        ({"pred_action_steps_only": True}, {"n_action_steps": 4}, r"plans the n_action_steps 8 that it .*leave"),
        ({"pred_action_steps_only": True}, {"best_of": 2}, "all 8 actions of a chunk are executed, n_action_steps 8"),
        ({}, {"best_of": 0}, "best_of: expected int >= 1"),
        ({}, {"sampler": "runge"}, "runge"),
    ],
)
def test_ways_of_acting_that_do_not_fit(changes: Any, asked: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DiffusionConfig(**changes).acting(**asked)
