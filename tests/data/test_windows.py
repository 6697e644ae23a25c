"""Windows against a plain definition, and the orders in which they come."""

import numpy as np
import pytest

from robodiff.data.windows import Windows, WindowShape, epoch_order, split_episodes
from robodiff.errors import UsageError


def reference(ends: list[int], shape: WindowShape) -> list[tuple[list[int], list[bool]]]:
    """Frame numbers and padding of every window, one at a time, by the words of the contract."""
    found, start = [], 0
    for end in ends:
        length = end - start
        unexecuted = shape.horizon - shape.n_action_steps - shape.n_obs_steps + 1
        for t in range(max(1, length - unexecuted * shape.frame_stride)):
            wanted = [start + t + (k - shape.n_obs_steps + 1) * shape.frame_stride for k in range(shape.horizon)]
            found.append(([min(max(f, start), end - 1) for f in wanted], [not start <= f < end for f in wanted]))
        start = end
    return found


@pytest.mark.parametrize(
    "shape", [WindowShape(2, 16, 8), WindowShape(1, 4, 4), WindowShape(3, 8, 6), WindowShape(2, 16, 8, frame_stride=3)]
)
def test_windows_are_those_of_the_definition(shape: WindowShape) -> None:
    ends = [50, 51, 60, 90, 99]  # one of a single frame, and some that are shorter than a window
    windows = Windows(np.array(ends), shape)
    frames, is_pad = windows.frames(np.arange(len(windows)))
    expected = reference(ends, shape)
    assert frames.tolist() == [f for f, _ in expected]
    assert is_pad.tolist() == [p for _, p in expected]


def test_a_fifty_frame_episode_has_the_originals_windows() -> None:
    windows = Windows(np.array([50]), WindowShape(2, 16, 8))
    assert windows.now.tolist() == list(range(43))  # t = 0..42, as measured in diffusion_policy and LeRobot
    frames, is_pad = windows.frames(np.array([0, 42]))
    assert frames[0].tolist() == [0, *range(15)]
    assert is_pad[0].tolist() == [True, *[False] * 15]
    assert frames[1].tolist() == [*range(41, 50), *[49] * 7]


def test_only_chosen_episodes_are_used() -> None:
    windows = Windows(np.array([30, 60, 90]), WindowShape(2, 16, 8), np.array([2, 0]))
    frames, _ = windows.frames(np.arange(len(windows)))
    assert not ((frames >= 30) & (frames < 60)).any()
    assert {0, 60} <= set(windows.now.tolist())


def test_episode_frames_are_all_of_the_chosen_episodes() -> None:
    windows = Windows(np.array([5, 25, 26]), WindowShape(2, 16, 8, frame_stride=3), np.array([2, 0]))
    assert windows.episode_frames.tolist() == [0, 1, 2, 3, 4, 25]  # 1 and 2 are in no window


def test_executed_actions_are_never_padding() -> None:
    shape = WindowShape(2, 16, 8)
    windows = Windows(np.array([40, 100]), shape)
    _, is_pad = windows.frames(np.arange(len(windows)))
    assert not is_pad[:, shape.n_obs_steps - 1 : shape.n_obs_steps - 1 + shape.n_action_steps].any()


@pytest.mark.parametrize("values", [(0, 16, 8), (2, 16, 0), (2, 8, 8), (2, 16, 8, 0)])
def test_impossible_shapes_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        WindowShape(*values)


def test_an_epoch_is_a_permutation_that_seed_and_number_decide() -> None:
    order = epoch_order(100, seed=3, epoch=1)
    assert sorted(order) == list(range(100))
    assert order.tolist() == epoch_order(100, 3, 1).tolist()
    assert order.tolist() != epoch_order(100, 3, 2).tolist() != epoch_order(100, 4, 1).tolist()


def test_split_divides_by_episode() -> None:
    train, held_out = split_episodes(20, 0.1, seed=1)
    assert len(held_out) == 2
    assert sorted([*train, *held_out]) == list(range(20))
    assert split_episodes(20, 0.01, 1)[1].size == 1  # a share above nothing holds at least one out
    assert split_episodes(20, 0.0, 1)[1].size == 0
    assert split_episodes(1, 0.5, 1)[0].size == 1  # and one is always left to train on
