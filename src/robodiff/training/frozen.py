"""Encode every frame once, before training, where frozen backbones would give the same at every step."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch import Tensor

from robodiff.data.cache import cached, folder_of
from robodiff.data.datamodule import WindowDataModule
from robodiff.errors import notice
from robodiff.networks.vision import CameraEncoders
from robodiff.progress import bar
from robodiff.training.module import PolicyTraining

FRAMES_AT_ONCE = 32


class EncodeOnce(Callback):
    """Give the loaders, in place of images, what the policy's frozen backbones give of them, as float16.

    It is kept in the cache, by a fingerprint of the images, of how they are prepared, and of the weights.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Encode what is not in the cache: the weights are those of the checkpoint by now, if there is one."""
        cameras, data = pl_module.policy.cameras, trainer.datamodule  # pyright: ignore
        if cameras.config.freeze and cameras.encoders and not cameras.feature_shapes:
            notice("random crops and color_jitter make the frozen backbone encode every frame anew at every step")
        data.encoded = {key: encode(cameras, key, data) for key in cameras.feature_shapes}


def encode(cameras: CameraEncoders, key: str, data: WindowDataModule) -> np.ndarray:
    """Return what the backbone gives of a camera's frames, (N, ...) float16; of frames in no window nothing."""
    images, shape = data.episodes.arrays[key], (len(data.episodes.arrays[key]), *cameras.feature_shapes[key])
    frames = np.union1d(data.train_windows.episode_frames, data.val_windows.episode_frames)
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    blocks = [run[start : start + FRAMES_AT_ONCE] for run in runs for start in range(0, len(run), FRAMES_AT_ONCE)]
    digest = hashlib.sha256(f"{shape} {cameras.preparation} {cameras.config.backbone}".encode())
    for block in blocks:
        digest.update(np.ascontiguousarray(images[block[0] : block[-1] + 1]).data)
        digest.update(block[[0, -1]].tobytes())
    constants = cameras.constants(key)
    for tensor in constants:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)

    def write(path: Path) -> None:
        """Write the file, the frames that are not used as holes."""
        header = np.lib.format.open_memmap(path, "w+", np.float16, shape).offset
        with path.open("r+b") as file, bar(Console(stderr=True), "frames", len(frames)) as show, torch.no_grad():
            for done, block in enumerate(blocks):
                seen = torch.from_numpy(np.ascontiguousarray(images[block[0] : block[-1] + 1]))
                features: Tensor = cameras.features(key, seen.to(constants[0].device))
                file.seek(header + int(block[0]) * features[0].numel() * 2)
                file.write(features.half().cpu().contiguous().numpy().data)
                show(min(len(frames), (done + 1) * FRAMES_AT_ONCE))

    what = f"{data.episodes.source}: {key}: encoding"
    return cached(what, digest.hexdigest()[:24], shape, np.dtype(np.float16), write, folder_of(data.config.cache_dir))
