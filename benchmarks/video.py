"""Training windows a second from the cache of decoded frames, against random-access decoding of the same video."""

import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import torch

from benchmarks.common import keep, side_by_side
from robodiff.data.datamodule import WindowLoader
from robodiff.data.episodes import ACTION
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.meta import read_meta
from robodiff.data.windows import Windows, WindowShape, epoch_order

SHAPE = WindowShape(n_obs_steps=2, horizon=16, n_action_steps=8)
CAMERA = "observation.image"
BATCH, BATCHES, ALONE = 256, 20, 64


def main() -> None:
    folder = os.environ.get("ROBODIFF_TEST_DATA")
    if not folder:
        print("video: skipped, ROBODIFF_TEST_DATA does not name a folder of recorded data")
        return
    root = Path(folder) / "lerobot_pusht_v3"
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        episodes = LeRobotConfig(root=str(root), cache_dir=cache).read([CAMERA])
        first = time.perf_counter() - start
        measure(root, episodes.episode_ends, episodes.arrays, first)


def measure(root: Path, ends: np.ndarray, arrays: Mapping[str, np.ndarray], first: float) -> None:
    """One row: the same windows from the cache, and decoded one by one from the open video."""
    windows = Windows(ends, SHAPE)
    order = epoch_order(len(windows), seed=0, epoch=0)
    with warnings.catch_warnings(action="ignore"):  # that nothing may be written to mapped memory, and nothing is
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    loader = WindowLoader(tensors, windows, BATCH, order=lambda _: order, position=lambda: 0)
    meta = read_meta(root)
    path = meta.episodes[0].videos[CAMERA].video

    def cached() -> None:
        for batch in range(BATCHES):
            loader.gather(order[batch * BATCH : (batch + 1) * BATCH])

    with av.open(root / path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"

        def decode(first: int, last: int) -> dict[int, np.ndarray]:
            """One seek for a window. The episodes follow one another without a gap: frame i is shown at i / fps."""
            container.seek(round(first / meta.fps / stream.time_base), stream=stream)
            found: dict[int, np.ndarray] = {}
            for image in container.decode(stream):
                frame = round(image.time * meta.fps)
                if frame >= first:
                    found[frame] = image.to_ndarray(format="rgb24").transpose(2, 0, 1)
                if frame >= last:
                    break
            return found

        def random_access() -> None:
            for window in order[:ALONE]:
                frames, _ = windows.frames(np.array([window]))
                observed = frames[0, : SHAPE.n_obs_steps]
                decoded = decode(observed[0], observed[-1])
                images = np.stack([decoded[frame] for frame in observed])
                assert np.array_equal(images, arrays[CAMERA][observed])
                tensors[ACTION][frames[0]]

        seconds = side_by_side({"cached": cached, "random": random_access}, rounds=5)
    rate = {"cached": BATCH * BATCHES / seconds["cached"], "random": ALONE / seconds["random"]}
    keep("video", [{
        "windows": "AV1, 2 frames of 96 x 96, 16 actions",
        "from robodiff's cache, per second": f"{rate['cached']:,.0f}",
        "decoded when needed, per second": f"{rate['random']:,.0f}",
        "ratio": f"{rate['cached'] / rate['random']:.0f}",
        f"decoding all {len(arrays[CAMERA]):,} frames once, s": f"{first:.1f}",
    }])  # fmt: skip


if __name__ == "__main__":
    main()
