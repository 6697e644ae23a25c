"""Epochs that several processes share: every window once, whatever the numbers are."""

from itertools import product

import numpy as np
import torch

from robodiff.data.datamodule import WindowLoader
from robodiff.data.episodes import ACTION
from robodiff.data.windows import Windows, WindowShape, epoch_order

SHAPE = WindowShape(n_obs_steps=1, horizon=1, n_action_steps=1)


def loaders(windows: int, batch_size: int, world_size: int, **changes: int) -> list[WindowLoader]:
    """One loader a rank; of a window its action is its number."""
    tensors = {ACTION: torch.arange(windows, dtype=torch.float32)[:, None]}
    every = Windows(np.array([windows]), SHAPE)
    return [
        WindowLoader(tensors, every, batch_size, lambda e: epoch_order(windows, 0, e), lambda: 0, rank, world_size,
                     **changes)
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


def test_a_shortened_epoch() -> None:
    (loader,) = loaders(101, 10, 1, limit=3)
    assert [len(batch[ACTION]) for batch in loader] == [10, 10, 10]
