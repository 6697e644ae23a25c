"""A recording ten times as large as the memory there is: batches come from it all the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

EPISODES, LENGTH, SIZE = 100, 100, (3, 96, 96)
ROOM = EPISODES * LENGTH * int(np.prod(SIZE)) // 10
"""Bytes of memory that are free: a tenth of the images."""

CHILD = """
import resource, sys, threading
threading.stack_size(2**18)  # of which each thread takes its own
import robodiff.data.formats.zarr_reader
from robodiff.data import cache
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.datamodule import WindowDataModule
from robodiff.data.windows import WindowShape
path, free, room = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))  # private memory; mapped files do not count
cache.memory_free = lambda: free
config = ZarrConfig(path=path, fps=10, val_split=0.9, val_batch_size=16, accept_unwritten=True)
data = WindowDataModule(config, WindowShape(2, 16, 8), None, seed=0)
windows = bright = 0
for batch in data.val_dataloader():
    windows += len(batch["action"])
    bright += int((batch["observation.image"] == 200).all((2, 3, 4)).sum())
print(windows, len(data.val_windows), bright)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which only those of one episode are on the disk: a chunk that is absent is dark."""
    path = tmp_path_factory.mktemp("large") / "large.zarr"
    group, frames = zarr.open_group(path, mode="w"), EPISODES * LENGTH
    for key in ("observation.state", "action"):
        walk = np.random.default_rng(0).normal(size=(frames, 2)).cumsum(0)
        group.create_array(f"data/{key}", data=walk.astype(np.float32))
    images = group.create_array("data/observation.image", shape=(frames, *SIZE), chunks=(25, *SIZE), dtype="uint8")
    images[7 * LENGTH : 8 * LENGTH] = np.full((LENGTH, *SIZE), 200, np.uint8)
    group.create_array("meta/episode_ends", data=np.arange(1, EPISODES + 1) * LENGTH)
    return path


def epoch(large: Path, cache: Path, free: int) -> subprocess.CompletedProcess[str]:
    """Gather an epoch with ``ROOM`` bytes of memory, when ``free`` is believed to be there."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(large), str(free), str(ROOM)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "ROBODIFF_CACHE": str(cache)},
    )  # fmt: skip


def test_an_epoch_of_more_than_memory_holds(large: Path, tmp_path: Path) -> None:
    done = epoch(large, tmp_path / "cache", free=ROOM)
    assert done.returncode == 0, done.stderr
    windows, expected, bright = map(int, done.stdout.split())
    assert windows == expected == 90 * (LENGTH - 7)
    assert bright == 2 * (LENGTH - 7)
    cached = next((tmp_path / "cache").glob("*.npy"))
    assert cached.stat().st_size > 10 * ROOM
    cached.unlink()


def test_what_is_taken_into_memory_fails_with_so_little(large: Path, tmp_path: Path) -> None:
    done = epoch(large, tmp_path / "cache", free=1000 * ROOM)
    assert done.returncode != 0
    assert "Unable to allocate" in done.stderr
