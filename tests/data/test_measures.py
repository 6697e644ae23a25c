"""What the data doctor measures, on signals whose answer is known."""

from functools import partial

import numpy as np
import pytest

from robodiff.data.arrays import blocks
from robodiff.data.measures import blank_and_same, lag_of, runs, steps


def followed(lag: int, velocity: bool = False, smooth: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A robot with three joints, the second at rest, whose move from t on follows the action of t + lag."""
    random = np.random.default_rng(0)
    noise = np.cumsum(random.normal(0, 1, (1000, 2)), axis=0)
    action = np.stack([np.convolve(n, np.ones(smooth) / smooth, mode="same") for n in noise.T], axis=1)
    action = np.diff(action, axis=0, prepend=0) if velocity else action
    state = np.zeros((1000, 3))
    for t in range(3, 996):
        told = action[t + lag]
        state[t + 1, [0, 2]] = state[t, [0, 2]] + (told if velocity else 0.4 * (told - state[t, [0, 2]]))
    return state, action


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("lag", [-3, -1, 0, 1, 3])
def test_the_lag_is_found(lag: int, velocity: bool) -> None:
    state, action = followed(lag, velocity)
    assert lag_of(state, action, np.arange(10, 990)) == lag


def test_no_lag_is_named_where_none_can_be_told() -> None:
    state, action = followed(0)
    assert lag_of(state, action, np.arange(10, 30)) is None  # too few
    assert lag_of(np.random.default_rng(1).normal(size=state.shape), action, np.arange(10, 990)) is None  # not driven
    assert lag_of(np.zeros_like(state), action, np.arange(10, 990)) is None  # at rest
    state, action = followed(0, smooth=50)  # neighbouring actions are nearly the same,
    state += np.random.default_rng(1).normal(0, 0.01, state.shape)  # and their difference is lost in noise
    assert lag_of(state, action, np.arange(100, 900)) is None


def test_steps_do_not_cross_episodes_and_angles_wrap() -> None:
    assert steps(np.array([0.0, 1, 9, 8]), np.array([2, 4])).tolist() == [0, 1, 0, 1]
    angle = np.mod(np.arange(0, 20, 0.1), 2 * np.pi)
    np.testing.assert_allclose(steps(angle, np.array([200]))[1:], 0.1, atol=1e-6)
    turned = np.where(np.arange(200) == 100, np.mod(angle + np.pi, 2 * np.pi), angle)
    assert steps(turned, np.array([200]))[100] > 3


@pytest.mark.parametrize("block", [1, 700, 2**25])  # bytes: less than an image, three of them, all
def test_blank_and_same_images(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("robodiff.data.measures.blocks", partial(blocks, size=block))
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 10, 7)).astype(np.uint8)
    images[4] = [[[5]], [[90]], [[200]]]
    images[6:10] = images[5]
    images[8, 1, 9, 6] ^= 64  # a single pixel
    blank, same = blank_and_same(images)
    assert np.flatnonzero(blank).tolist() == [4]
    assert np.flatnonzero(same).tolist() == [6, 7]
    assert runs(same) == [(6, 8)]
    assert runs(np.array([True, False, True])) == [(0, 1), (2, 3)]
