"""Training windows gathered per second, against a plain Dataset that makes one window at a time."""

import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import keep, side_by_side
from robodiff.data.datamodule import WindowLoader
from robodiff.data.episodes import ACTION, Episodes
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.windows import Windows, WindowShape, epoch_order

SHAPE = WindowShape(n_obs_steps=2, horizon=16, n_action_steps=8)
BATCH, BATCHES = 256, 20


class PlainDataset(Dataset):
    """One window an item, as a straightforward reader of the same arrays makes it."""

    def __init__(self, episodes: Episodes, windows: Windows) -> None:
        self.arrays = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in episodes.arrays.items()}
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        frames, is_pad = self.windows.frames(np.array([index]))
        item = {
            key: array[frames[0] if key == ACTION else frames[0, : SHAPE.n_obs_steps]]
            for key, array in self.arrays.items()
        }
        return {**item, "action_is_pad": torch.from_numpy(is_pad[0])}


def compare(what: str, episodes: Episodes) -> dict[str, str]:
    """One row: windows per second of either way, over the same windows in the same order."""
    windows = Windows(episodes.episode_ends, SHAPE)
    order = epoch_order(len(windows), seed=0, epoch=0)[: BATCH * BATCHES]
    tensors = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in episodes.arrays.items()}
    loader = WindowLoader(tensors, windows, BATCH, order=lambda _: order, position=lambda: 0)
    plain = DataLoader(PlainDataset(episodes, windows), BATCH, sampler=order.tolist())

    def gathered() -> None:
        for start in range(0, len(order), BATCH):
            loader.gather(order[start : start + BATCH])

    seconds = side_by_side({"gathered": gathered, "plain": lambda: [None for _ in plain]}, rounds=5)
    rate = {name: BATCH * BATCHES / value for name, value in seconds.items()}
    return {
        "windows": what,
        "gathered by index, per second": f"{rate['gathered']:,.0f}",
        "one item at a time, per second": f"{rate['plain']:,.0f}",
        "ratio": f"{rate['gathered'] / rate['plain']:.1f}",
    }


def main() -> None:
    rows = [compare("keypoints: 2 x 18 numbers, 16 actions", ZarrConfig(path="builtin:pusht").read())]
    folder = os.environ.get("ROBODIFF_TEST_DATA")
    if folder:
        human = ZarrConfig(path=str(Path(folder) / "pusht" / "pusht_human.zarr.zip"), layout="pusht")
        images = human.read(["observation.image", "observation.state"])
        rows.append(compare("pixels: 2 frames of 96 x 96, 16 actions", images))
    keep("windows", rows)


if __name__ == "__main__":
    main()
