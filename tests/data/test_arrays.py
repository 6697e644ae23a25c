"""Images, whichever way they were stored."""

from pathlib import Path

import numpy as np
import pytest

from robodiff.data import arrays
from robodiff.data.arrays import as_images


def test_images_in_memory_become_contiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    images = as_images("made up", "image", stored)
    assert images.flags.c_contiguous
    np.testing.assert_array_equal(images, stored.transpose(0, 3, 1, 2))
    assert as_images("made up", "image", images) is images
    np.save(tmp_path / "cached.npy", stored)
    mapped = np.load(tmp_path / "cached.npy", mmap_mode="r")
    assert np.shares_memory(as_images("made up", "image", mapped), mapped)  # it may be larger than memory
    np.testing.assert_array_equal(as_images("made up", "image", mapped), images)
    monkeypatch.setattr(arrays, "memory_free", lambda: stored.nbytes)
    assert np.shares_memory(as_images("made up", "image", stored), stored)  # there is no room for both
