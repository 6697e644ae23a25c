"""Encode every frame once, before training, where frozen backbones would give the same at every step."""

import hashlib
import math
import signal
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch import Tensor

from robodiff.data.cache import cached, folder_of
from robodiff.data.datamodule import WindowDataModule
from robodiff.errors import UsageError, notice
from robodiff.networks.vision import CameraEncoders
from robodiff.progress import bar
from robodiff.training.callbacks import Interrupted
from robodiff.training.module import PolicyTraining

PIXELS_AT_ONCE = {"cpu": 160_000, "cuda": 8_000_000}
"""In one call of the network: more take longer each on a CPU, whose caches they leave."""


class EncodeOnce(Callback):
    """Give the loaders, in place of images, what the policy's frozen backbones give of them, as float16.

    It is kept in the cache, by a fingerprint of the images, of how they are prepared, and of the weights.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Encode what is not in the cache: the weights are those of the checkpoint by now, if there is one."""
        cameras, data = pl_module.policy.cameras, trainer.datamodule  # pyright: ignore
        if cameras.config.freeze and cameras.encoders and not cameras.feature_shapes:
            notice("random crops and color_jitter make the frozen backbone encode every frame anew at every step")
        try:
            data.encoded = {key: encode(cameras, key, data) for key in cameras.feature_shapes}
        except KeyboardInterrupt:  # which Lightning takes for the end of the process
            raise Interrupted(signal.SIGINT, saved=False) from None


def encode(cameras: CameraEncoders, key: str, data: WindowDataModule) -> np.ndarray:
    """Return what the backbone gives of a camera's frames, (N, ...) float16; of frames in no window nothing.

    Raises:
        UsageError: numbers that are not finite, or too large for float16.
        RobodiffError: the cache cannot be written.
    """
    images = data.episodes.arrays[key]
    shape = len(images), *cameras.feature_shapes[key]
    constants = cameras.constants(key)
    device, (height, width) = constants[0].device, cameras.preparation.size(key, images.shape[1:])
    size = max(1, PIXELS_AT_ONCE.get(device.type, 160_000) // (height * width))
    frames = np.union1d(data.train_windows.episode_frames, data.val_windows.episode_frames)
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    blocks = [slice(each[0], each[-1] + 1) for run in runs for each in np.split(run, range(size, len(run), size))]
    backbone = cameras.config.backbone
    digest = hashlib.sha256(f"{shape} {cameras.preparation} {backbone.name} {backbone.stride}".encode())
    for block in blocks:
        digest.update(f"{block}".encode())
        digest.update(np.ascontiguousarray(images[block]).data)
    for tensor in constants:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)

    def write(path: Path) -> None:
        """Write the file, the frames that are not used as holes."""
        header = np.lib.format.open_memmap(path, "w+", np.float16, shape).offset
        frame_size = math.prod(shape[1:]) * 2  # bytes
        with path.open("r+b") as file, bar(Console(stderr=True), "frames", len(frames)) as show, torch.no_grad():
            encoder, done = _fast(cameras, key, _pixels(images[blocks[0]], device)), 0
            for block in blocks:
                file.seek(header + int(block.start) * frame_size)
                features = encoder.features(key, _pixels(images[block], device)).half().cpu()
                if not (sound := features.isfinite().flatten(1).all(1)).all():
                    frame = int(block.start) + int((~sound).nonzero()[0])
                    fault = f"{backbone.name}, frozen, gives numbers that are not finite or too large for float16"
                    remedy = "use other pretrained_backbone_weights, or another backbone_stride"
                    raise UsageError(f"{data.episodes.source}: {key}: frame {frame}: {fault}\n{remedy}")
                file.write(features.contiguous().numpy().data)
                done += len(features)
                show(done)

    what = f"{data.episodes.source}: {key}: encoding"
    return cached(what, digest.hexdigest()[:24], shape, np.dtype(np.float16), write, folder_of(data.config.cache_dir))


def _fast(cameras: CameraEncoders, key: str, frames: Tensor) -> CameraEncoders:
    """Return the encoders with normalisation folded into convolutions, where that gives the same of some frames."""
    folded = cameras.folded()
    before, after = cameras.features(key, frames), folded.features(key, frames)
    return folded if torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.std())) else cameras


def _pixels(images: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(images.copy()).to(device)  # memory-mapped, torch would warn that it cannot be written to
