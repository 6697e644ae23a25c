"""Epochs that are shortened, gone on with, or shared by several processes."""

from itertools import product

import numpy as np
import pytest
import torch

from robodiff.data.datamodule import WindowLoader
from robodiff.data.episodes import ACTION
from robodiff.data.windows import Windows, WindowShape, epoch_order

SHAPE = WindowShape(n_obs_steps=1, horizon=1, n_action_steps=1)


def loaders(windows: int, batch_size: int, world_size: int) -> list[WindowLoader]:
    """One loader a rank; of a window its action is its number."""
    tensors = {ACTION: torch.arange(windows, dtype=torch.float32)[:, None]}
    every = Windows(np.array([windows]), SHAPE)
    return [
        WindowLoader(tensors, every, batch_size, lambda e: epoch_order(windows, 0, e), lambda: 0, rank, world_size)
        for rank in range(world_size)
    ]  # fmt: skip


def test_every_window_once_and_as_many_batches_on_every_rank() -> None:
    for windows, batch_size, world_size in product((4, 9, 20, 21, 22, 23, 101), (1, 3, 10), (1, 2, 4)):
        ranks = [list(loader) for loader in loaders(windows, batch_size, world_size)]
        assert {len(batches) for batches in ranks} == {len(loaders(windows, batch_size, world_size)[0])}
        seen = torch.cat([batch[ACTION].flatten() for batches in ranks for batch in batches])
        assert sorted(seen.tolist()) == list(range(windows)), (windows, batch_size, world_size)
        sizes = [len(batch[ACTION]) for batches in ranks for batch in batches]
        assert min(sizes) >= 1
        assert max(sizes) <= batch_size + 1
        together = [sum(len(batch[ACTION]) for batch in batches) for batches in zip(*ranks, strict=True)]
        assert set(together[:-1]) <= {batch_size * world_size}


@pytest.mark.kind("an epoch's rest that batch normalisation cannot learn from")
@pytest.mark.parametrize("windows", range(1, 26))
def test_a_rest_of_one_window_goes_with_the_batch_before(windows: int) -> None:
    for world_size, batch_size in product((1, 2), (2, 4, 8)):
        ranks = loaders(windows, batch_size, world_size)
        for rank in ranks:
            rank.least = 2
        batches = [[len(batch[ACTION]) for batch in rank] for rank in ranks]
        assert [*map(len, batches)] == [len(rank) for rank in ranks]
        assert sum(map(sum, batches)) == windows
        if windows >= 2 * world_size:
            assert min(size for sizes in batches for size in sizes) >= 2


def loader(limit: int | float | None, position: int = 0) -> WindowLoader:
    """Batches of 4 of the windows at the 38 frames of an episode, the epoch's number added to each."""
    windows = Windows(np.array([38]), WindowShape(1, 1, 1))
    order = lambda epoch: (np.arange(38) + epoch) % 38  # noqa: E731
    return WindowLoader({"action": torch.arange(38.0)[:, None]}, windows, 4, order, lambda: position, limit=limit)


@pytest.mark.parametrize(("limit", "batches"), [(None, 10), (3, 3), (100, 10), (1, 1), (1.0, 10), (0.25, 2), (0.01, 1)])
def test_an_epoch_has_as_many_batches_as_it_is_limited_to(limit: int | float | None, batches: int) -> None:
    assert len(loader(limit)) == len(list(loader(limit))) == batches


def test_a_shortened_epoch_is_followed_by_the_next() -> None:
    first = [batch["action"][:, 0, 0].tolist() for batch in loader(3, position=4)]  # of the second epoch, one is done
    assert first == [[5, 6, 7, 8], [9, 10, 11, 12]]
