"""Epochs that are shortened: how many batches they have, and where one that is gone on with starts."""

import numpy as np
import pytest
import torch

from robodiff.data.datamodule import WindowLoader
from robodiff.data.windows import Windows, WindowShape


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
