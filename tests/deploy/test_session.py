"""A session: its history, its noise, and what it refuses; equal to a ``PolicyRunner`` that observes the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.conftest import CAMERAS, STATE, TOP, WRIST
from tests.deploy.serving import Plain, seen

from robodiff.deploy.session import Question, Session
from robodiff.errors import RobodiffError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.history import Gap
from robodiff.policies.runner import PolicyRunner
from robodiff.policies.runtime import Timing, draw_noise

Make = Callable[..., DiffusionPolicy]


def new(policy: Any = None, key_map: dict[str, str | None] | None = None) -> Session:
    policy = policy or Plain()
    return Session(policy, policy.timing, key_map or {})


def window(question: Question | int) -> list[float]:
    """The first number of each observation of the window."""
    assert isinstance(question, Question)
    return question.observation[STATE][0, :, 0].tolist()


def test_a_client_that_asks_at_every_step_gets_what_a_runner_would_do(small_policy: Make) -> None:
    policy = small_policy(n_action_steps=1)
    runner, session = PolicyRunner(policy, seeds=[7]), new(policy)
    for step in range(4):
        message = seen(100.0 + 10 * step) | ({"seed": 7} if step == 0 else {})
        question = session.ask(message, 0.1 * step)
        assert isinstance(question, Question)
        chunk = policy.predict_chunk(question.observation, noise=question.noise)
        np.testing.assert_array_equal(chunk.executed(policy.timing)[0, 0], runner.act(seen(100.0 + 10 * step)))


def test_several_chunks_of_each_window_may_be_asked_for() -> None:
    windows = {key: np.stack([np.stack([value, value])] * 2) for key, value in seen(1).items()}
    windows[STATE][1] = 2
    question = new().ask({**windows, "noise": np.zeros((1, 6, 8, 2), np.float32)}, 0.0)
    assert isinstance(question, Question)
    assert (question.rows, question.observation[STATE][:, 0, 0].tolist()) == (6, [1, 2])
    with pytest.raises(RobodiffError, match=r"expected shape \(5, 2, .*found \(2, 2"):
        new().ask({**windows, "noise": np.zeros((1, 5, 8, 2), np.float32)}, 0.0)


def test_the_first_observation_stands_for_those_before() -> None:
    question = new().ask(seen(1), 50.0)
    assert window(question) == [1, 1]
    assert question.seen == 1  # type: ignore[union-attr]


def test_the_newest_stands_in_where_a_client_asks_once_a_chunk() -> None:
    session = new()
    for arrived, number in ((0.0, 1), (0.8, 2), (1.6, 3)):
        question = session.ask(seen(number), arrived)
        assert (window(question), question.seen) == ([number, number], 1)  # type: ignore[union-attr]


def test_observations_between_chunks_complete_the_window() -> None:
    session = new()
    assert session.ask(seen(1), 0.0).seen == 1  # type: ignore[union-attr]
    assert session.ask(seen(2) | {"only_observe": True}, 0.7) == 1
    question = session.ask(seen(3), 0.81)
    assert (window(question), question.seen) == ([2, 3], 2)  # type: ignore[union-attr]
    np.testing.assert_array_equal(question.noise, draw_noise((1, 1, 8, 2), 0, 1, 0))  # type: ignore[union-attr]


def test_timestamps_of_the_client_count_and_not_the_arrival() -> None:
    session = new()
    session.ask(seen(1) | {"timestamp": 5.0}, 0.0)
    assert window(session.ask(seen(2) | {"timestamp": np.float32(5.1).item()}, 0.001)) == [1, 2]
    with pytest.raises(RobodiffError, match="timestamp: expected with every observation of an episode or with none"):
        session.ask(seen(3), 0.002)
    with pytest.raises(RobodiffError, match="must not go back"):
        session.ask(seen(3) | {"timestamp": 4.0}, 0.002)
    assert window(session.ask(seen(3) | {"timestamp": 5.2}, 0.002)) == [2, 3]
    assert window(session.ask(seen(4) | {"reset": True}, 0.003)) == [4, 4]  # and no timestamps from now on


def test_a_long_pause_of_the_client_is_forgotten_and_one_of_its_clock_is_told() -> None:
    session = new()
    session.ask(seen(1), 0.0)
    assert window(session.ask(seen(2), 1000.0)) == [2, 2]
    session.ask(seen(3) | {"reset": True, "timestamp": 1.0}, 1000.1)
    with pytest.raises(Gap, match="timestamps are seconds"):
        session.ask(seen(4) | {"timestamp": 500.0}, 1000.2)
    assert window(session.ask(seen(5) | {"timestamp": 500.1}, 1000.3)) == [5, 5]


def test_two_observations_at_once_are_in_order() -> None:
    session = new()
    session.ask(seen(1), 1.0)
    assert window(session.ask(seen(2), 1.0))[-1] == 2


def test_a_seed_and_a_reset_start_the_noise_over() -> None:
    session, noise = new(), []
    for arrived, extra in enumerate([{}, {}, {"reset": True}, {"seed": 3}, {}, {"reset": True, "seed": 0}]):
        question = session.ask(seen(1) | extra, float(arrived))
        assert isinstance(question, Question)
        noise.append(question.noise)
    drawn = [draw_noise((1, 1, 8, 2), *numbers, 0) for numbers in ((0, 0), (0, 1), (0, 0), (3, 0), (3, 1), (0, 0))]
    np.testing.assert_array_equal(noise, drawn)


def test_a_window_is_used_as_it_is() -> None:
    session = new()
    session.ask(seen(9), 0.0)
    windows = {key: np.stack([value, value + 1]) for key, value in seen(1).items()}
    question = session.ask(windows, 0.1)
    assert (window(question), question.seen) == ([1, 2], 2)  # type: ignore[union-attr]
    assert window(session.ask(seen(10), 0.1)) == [9, 10]


def test_images_may_have_their_channels_last(seeing_policy: Make) -> None:
    random = np.random.default_rng(0)
    top, wrist = random.integers(0, 256, (3, 48, 40), np.uint8), random.integers(0, 256, (3, 40, 48), np.uint8)
    session = new(seeing_policy(), {"top": TOP, "prompt": None})
    last = {"top": top.transpose(1, 2, 0), WRIST: wrist.transpose(1, 2, 0), STATE: [1, 2], "prompt": "push the T"}
    question = session.ask(last, 0.0)
    np.testing.assert_array_equal(question.observation[TOP], np.stack([top, top])[None])  # type: ignore[union-attr]
    assert question.observation[TOP].flags.c_contiguous  # type: ignore[union-attr]
    windows = {"top": last["top"][None].repeat(2, 0), WRIST: np.stack([wrist, wrist]), STATE: [[1, 2], [3, 4]]}
    np.testing.assert_array_equal(session.ask(windows, 0.1).observation[WRIST][0, 1], wrist)  # type: ignore[union-attr]
    for broken in (top.astype(np.float32), top[:, ::2], top.transpose(2, 1, 0)):
        with pytest.raises(RobodiffError, match=TOP):
            session.ask(last | {"top": broken}, 0.2)
    assert CAMERAS[TOP].shape == top.shape


BROKEN = {
    "lacks": ({"observation.environment_state": np.zeros(16)}, "the policy observes 'observation.state'; the message"),
    "unknown": (seen(1) | {"observation.stat": 1}, "Did you mean 'observation.state'?"),
    "unread": (seen(1) | {"prompt": "x"}, """--key_map '{"prompt": null}'"""),
    "shape": (seen(1) | {STATE: np.zeros(3)}, "observation.state: expected shape (2,), found (3,)"),
    "one window": (seen(1) | {STATE: np.zeros((2, 2))}, "observation.environment_state: expected shape (2, 16)"),
    "long window": ({k: np.stack([v] * 3) for k, v in seen(1).items()}, "expected shape (2, 2), found (3, 2)"),
    "nan": (seen(np.nan), "observation.state: expected finite numbers"),
    "overflow": (seen(1e300), "observation.state: expected finite numbers"),
    "text": (seen(1) | {STATE: "up"}, "observation.state: expected real numbers; found text"),
    "null": (seen(1) | {STATE: None}, "observation.state: expected real numbers"),
    "ragged": (seen(1) | {STATE: [1, [2]]}, "observation.state: expected real numbers"),
    "map": (seen(1) | {STATE: {"x": 1}}, "observation.state: expected real numbers"),
    "bool": (seen(1) | {STATE: np.ones(2, bool)}, "observation.state: expected real numbers; found bool"),
    "timestamp": (seen(1) | {"timestamp": "now"}, "timestamp: expected"),
    "not finite": (seen(1) | {"timestamp": np.nan}, "timestamp: expected"),
    "seed": (seen(1) | {"seed": -1}, "seed: expected"),
    "reset": (seen(1) | {"reset": 1}, "reset: expected"),
    "only a window": ({k: np.stack([v] * 2) for k, v in seen(1).items()} | {"only_observe": True}, "only_observe"),
    "twice": (seen(1) | {"state": np.zeros(2)}, "observation.state: found twice"),
}


@pytest.mark.parametrize(("message", "problem"), BROKEN.values(), ids=BROKEN)
def test_what_is_refused_leaves_no_trace(message: dict[str, Any], problem: str) -> None:
    session = new(key_map={"state": STATE})
    session.ask(seen(1), 0.0)
    with pytest.raises(RobodiffError) as error:
        session.ask({**message, "reset": message.get("reset", True)}, 0.05)
    assert problem in str(error.value)
    assert len(str(error.value)) < 300
    question = session.ask(seen(2), 0.1)
    assert window(question) == [1, 2]
    np.testing.assert_array_equal(question.noise, draw_noise((1, 1, 8, 2), 0, 1, 0))  # type: ignore[union-attr]


ROWS = {key: np.stack([[value] * 2] * 3) for key, value in seen(1).items()} | {"noise": np.zeros((1, 3, 8, 2))}


def test_windows_with_their_noise_are_asked_as_they_are() -> None:
    weights = np.ones((3, 8, 2), bool)
    question = new().ask(ROWS | {"known": np.zeros((3, 8, 2)), "known_weights": weights}, 0.0)
    assert isinstance(question, Question)
    assert (question.rows, question.seen, question.noise.dtype) == (3, None, np.float32)
    assert question.known is not None
    assert question.known[1].dtype == bool


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"noise": np.zeros((1, 0, 8, 2))}, "noise: expected 1 to 256 chunks; found 0"),
        ({"noise": np.zeros((1, 257, 8, 2))}, "noise: expected 1 to 256 chunks; found 257"),
        ({"noise": 1.0}, "noise: expected 1 to 256 chunks"),
        ({"noise": np.zeros((1, 3, 9, 2))}, "noise: expected shape (1, 3, 8, 2), found (1, 3, 9, 2)"),
        ({"noise": np.full((1, 3, 8, 2), np.nan)}, "noise: expected finite"),
        ({"noise": np.zeros((1, 2, 8, 2))}, "expected shape (2, 2, "),
        ({"known": np.zeros((3, 8, 2))}, "known_weights: expected real numbers"),
        ({"known": np.zeros((3, 7, 2)), "known_weights": np.ones((3, 7, 2))}, "known: expected shape (3, 8, 2)"),
        ({"known": np.zeros((3, 8, 2)), "known_weights": np.full((3, 8, 2), 2)}, "from 0 to 1"),
        ({"reset": True}, "'reset' is not observed"),
    ],
)
def test_windows_that_do_not_fit_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RobodiffError) as error:
        new().ask(ROWS | changes, 0.0)
    assert problem in str(error.value)


def test_the_rows_of_a_window_may_have_other_clocks() -> None:
    policy = Plain()
    policy.timing = Timing(3, 4, 0.1)
    session = new(policy)
    for step in range(3):
        question = session.ask(seen(step) | {"timestamp": 0.1 * step}, 0.0)
    assert window(question) == [0, 1, 2]
    assert window(session.ask(seen(9) | {"timestamp": 0.4}, 0.0)) == [2, 9, 9]  # nothing at 0.3
