"""The normalizer: ranges, round trips, dimensions that do not move."""

import numpy as np
import pytest
import torch

from robodiff.data.normalize import Normalizer, Statistics
from robodiff.errors import UsageError


@pytest.fixture
def values() -> np.ndarray:
    random = np.random.default_rng(0)
    values = random.normal(5, [1, 100, 1e-3], (500, 3))
    return np.concatenate([values, np.full((500, 1), 7.0)], axis=1).astype(np.float32)  # the last never moves


def fitted(values: np.ndarray, mode: object) -> Normalizer:
    normalizer = Normalizer({"action": values.shape[1]}, {"action": mode})  # type: ignore[dict-item]
    normalizer.fit({"action": Statistics.of(values, np.arange(len(values)))})
    return normalizer


def test_limits_map_the_range_to_plus_minus_one(values: np.ndarray) -> None:
    out = fitted(values, "limits").normalize("action", torch.from_numpy(values))
    torch.testing.assert_close(out[:, :3].amin(0), -torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(out[:, :3].amax(0), torch.ones(3), atol=1e-3, rtol=0)


def test_mean_std_standardises(values: np.ndarray) -> None:
    out = fitted(values, "mean_std").normalize("action", torch.from_numpy(values)).double()
    torch.testing.assert_close(out[:, :2].mean(0), torch.zeros(2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(out[:, :2].std(0, correction=0), torch.ones(2).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["limits", "mean_std", "identity", {"0:2": "limits", "2:4": "identity"}])
def test_round_trip(values: np.ndarray, mode: object) -> None:
    normalizer = fitted(values, mode)
    there = normalizer.normalize("action", torch.from_numpy(values))
    assert there.isfinite().all()
    torch.testing.assert_close(normalizer.unnormalize("action", there), torch.from_numpy(values), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["limits", "mean_std"])
def test_a_dimension_that_does_not_move_is_centred_and_not_blown_up(values: np.ndarray, mode: str) -> None:
    normalizer = fitted(values, mode)
    moved = torch.tensor([[5.0, 5.0, 5.0, 7.001]])
    assert normalizer.normalize("action", torch.from_numpy(values))[:, 3].abs().max() == 0
    assert normalizer.normalize("action", moved)[0, 3] == 0
    anything = torch.randn(50, 4)
    assert (normalizer.unnormalize("action", anything)[:, 3] == 7).all()


def test_ranges_are_normalised_apart(values: np.ndarray) -> None:
    normalizer = fitted(values, {"0:2": "limits", "2:4": "identity"})
    out = normalizer.normalize("action", torch.from_numpy(values))
    assert out[:, :2].abs().max() <= 1 + 1e-5
    torch.testing.assert_close(out[:, 2:], torch.from_numpy(values[:, 2:]))


@pytest.mark.parametrize("mode", ["max", {"0:2": "limits"}, {"0:3": "limits", "2:4": "limits"}, {"a": "limits"}])
def test_wrong_modes_are_refused(mode: object) -> None:
    with pytest.raises(UsageError, match="normalization of action"):
        Normalizer({"action": 4}, {"action": mode})  # type: ignore[dict-item]


def test_statistics_are_of_the_chosen_frames_only(values: np.ndarray) -> None:
    s = Statistics.of(values, np.arange(10))
    np.testing.assert_allclose(s.max, values[:10].max(0))


def test_it_is_saved_with_the_weights(values: np.ndarray) -> None:
    other = Normalizer({"action": 4}, {"action": "limits"})
    other.load_state_dict(fitted(values, "limits").state_dict())
    x = torch.from_numpy(values)
    assert other.normalize("action", x).equal(fitted(values, "limits").normalize("action", x))


def test_statistics_of_two_joined_are_those_of_all_frames() -> None:
    random = np.random.default_rng(0)
    one, two = random.normal(3, 2, (50, 3)), random.normal(-100, 0.5, (50, 3))
    joined = Statistics.of(one, np.arange(50)).joined(Statistics.of(two, np.arange(50)))
    expected = Statistics.of(np.concatenate([one, two]), np.arange(100))
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(getattr(joined, name), getattr(expected, name))
