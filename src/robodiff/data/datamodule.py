"""Batches for the trainer: windows gathered by index from arrays in memory, memory-mapped, or on the GPU."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from robodiff.data.check import read_sound
from robodiff.data.episodes import ACTION, INTERVENTION, with_expert_actions, with_past_action
from robodiff.data.provenance import TrainedOn, divide
from robodiff.data.recordings import DataConfig
from robodiff.data.symmetry import Symmetry, with_symmetries
from robodiff.data.windows import Windows, WindowShape, epoch_order
from robodiff.errors import UsageError


class WindowDataModule(LightningDataModule):
    """Recorded episodes, divided into training and held-out ones, as batches of windows.

    Args:
        config: which recording, and the sizes of the batches.
        shape: the time steps of one window.
        observation_keys: what to read; all when None.
        seed: of the order of the training windows.
        limit_train_batches: how many batches, or which share of all, make an epoch; all when None.
        limit_val_batches: the same of a validation; 0 validates never.
        recorded: what a run that goes on was trained on.
        symmetries: under each of them the training episodes are trained on, too.
    """

    def __init__(
        self,
        config: DataConfig,
        shape: WindowShape,
        observation_keys: list[str] | None,
        seed: int,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        recorded: TrainedOn | None = None,
        symmetries: Sequence[Symmetry] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.limit, self.val_limit = limit_train_batches, limit_val_batches
        episodes = read_sound(config, observation_keys)
        self.division = divide(config, episodes, recorded)
        self.train_episodes = self.division.to_train
        self.symmetries = symmetries
        episodes, origins = with_symmetries(episodes, self.train_episodes, symmetries)
        trained = np.flatnonzero(np.isin(origins, self.train_episodes))
        self.shape = config.window(shape, episodes.fps)
        self.episodes = with_expert_actions(with_past_action(episodes, observation_keys, self.shape.frame_stride))
        self.train_windows, self.val_windows = (
            Windows(episodes.episode_ends, self.shape, some, episodes.expert)
            for some in (trained, self.division.to_hold_out)
        )
        if len(self.train_episodes) == 0:
            raise UsageError(f"{episodes.source}: all episodes that are left were held out; begin a new run")
        if len(self.train_windows) == 0:
            raise UsageError(f"{episodes.source}: an expert acts at no frame that could be trained on ({INTERVENTION})")
        if self.windows_in_epoch == 0:
            raise UsageError(f"{episodes.source}: data.weights leave no window in an epoch; give larger ones")
        self.encoded: dict[str, np.ndarray] = {}
        """Per camera what takes the place of its images, (N, ...): what a frozen backbone gives of each frame."""
        self._tensors: dict[str, Tensor] | None = None

    def train_dataloader(self) -> "WindowLoader":
        """Give every training window once an epoch, or as often as the data say; (seed, epoch) decide the order."""
        trainer = self.trainer
        assert trainer is not None
        module: Any = trainer.lightning_module
        if self.windows_in_epoch < trainer.world_size:
            raise UsageError(f"{self.episodes.source}: has fewer windows to train on than there are devices; use fewer")
        if self.config.train_batch_size < module.least_windows:
            raise UsageError("batch normalisation learns nothing from one window; set data.train_batch_size 2 or more")
        return WindowLoader(
            self._resident(),
            self.train_windows,
            self.config.train_batch_size,
            order=self.order,
            position=lambda: module.micro_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            limit=self.limit,
            least=module.least_windows,
            device=self._device,
        )

    def val_dataloader(self) -> "WindowLoader | list":
        """Give every held-out window once, always in the same shuffled order: the first batches are a fair sample."""
        if len(self.val_windows) == 0 or self.val_limit == 0:
            return []
        order = epoch_order(len(self.val_windows), self.config.val_split_seed, 0)
        size, device = self.config.val_batch_size, self._device
        epoch = (lambda _: order), (lambda: 0)
        return WindowLoader(self._resident(), self.val_windows, size, *epoch, limit=self.val_limit, device=device)

    def order(self, epoch: int) -> np.ndarray:
        """Return which training windows come in an epoch, in which order."""
        often = self.config.repeats(self.episodes)
        often = None if often is None else often[self.episodes.at(self.train_windows.now)]
        return epoch_order(len(self.train_windows), self.seed, epoch, often)

    @cached_property
    def windows_in_epoch(self) -> int:
        """How many training windows come in an epoch."""
        return len(self.order(0))

    @property
    def largest_batch(self) -> int:
        """Windows that a batch has at most, on each rank."""
        return min(self.config.train_batch_size, self.windows_in_epoch)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _resident(self) -> dict[str, Tensor]:
        """Return the arrays as tensors, on the GPU when all of them take at most half of its free memory."""
        if self._tensors is None:
            device, arrays = self._device, {**self.episodes.arrays, **self.encoded}
            arrays.pop(INTERVENTION, None)  # the windows have it
            if device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(device)
                if sum(array.nbytes for array in arrays.values()) > free / 2:
                    device = torch.device("cpu")
            with torch.no_grad():
                self._tensors = {key: _tensor(array).to(device) for key, array in arrays.items()}
        return self._tensors


@dataclass(eq=False)
class WindowLoader:
    """An epoch of batches, gathered by index.

    Where an epoch starts is asked of ``position``, so a run that is resumed goes on with the very next batch.
    """

    tensors: dict[str, Tensor]
    """Per key (N, ...), all on one device."""
    windows: Windows
    """Which windows there are."""
    batch_size: int
    """Windows in one batch on each rank."""
    order: Callable[[int], np.ndarray]
    """Epoch -> which windows come, in which order, as many in every epoch."""
    position: Callable[[], int]
    """How many batches have been taken in all epochs so far."""
    rank: int = 0
    """Of this process."""
    world_size: int = 1
    """How many processes share each epoch."""
    limit: int | float | None = None
    """How many batches, or which share of all, an epoch has; all when None."""
    least: int = 1
    """The fewest windows on a rank that make a batch; a smaller rest of the epoch goes with the batch before."""
    device: torch.device | None = None
    """Where batches go; that of ``tensors`` when None."""

    @cached_property
    def _in_epoch(self) -> int:
        return len(self.order(0))

    def __len__(self) -> int:
        """Return the batches in an epoch."""
        whole, rest = divmod(self._in_epoch, self.batch_size * self.world_size)
        return limited(max(1, whole + (rest >= self.least * self.world_size)), self.limit)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        epoch, first = divmod(self.position(), len(self))
        order = self.order(epoch)
        size = self.batch_size * self.world_size
        for batch in range(first, len(self)):
            end = (batch + 1) * size
            end = end if len(order) - end >= self.least * self.world_size else len(order)
            yield self.gather(order[batch * size : end][self.rank :: self.world_size])

    def gather(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """Return windows: observations (B, To or T, ...), ``action`` (B, T, Da), ``action_is_pad`` (B, T).

        Where policies acted, ``action_is_expert`` (B, T) tells which of the actions are targets.
        """
        frames, is_pad = self.windows.frames(chosen)
        resident = self.tensors[ACTION].device
        device = self.device or resident
        every = send(torch.from_numpy(frames), resident)  # (B, T)
        observed = every[:, : self.windows.shape.obs_steps_in_batch]  # (B, To), or (B, T)
        batch = {
            key: _take(tensor, every if key == ACTION else observed, device) for key, tensor in self.tensors.items()
        }
        told = {"action_is_pad": is_pad}
        if self.windows.expert is not None:
            told["action_is_expert"] = self.windows.expert[frames]
        return batch | {key: send(torch.from_numpy(array), device) for key, array in told.items()}


def limited(batches: int, limit: int | float | None) -> int:
    """Return how many batches a limit leaves of an epoch: a number, or a share, of at least one batch."""
    if limit is None:
        return batches
    return min(batches, limit if isinstance(limit, int) else max(1, round(limit * batches)))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on ``device``, without waiting for a GPU: only from pinned memory it copies on its own."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _take(tensor: Tensor, frames: Tensor, device: torch.device) -> Tensor:
    """Take frames (B, T) of (N, ...) to ``device``; index_select is ten times as fast as fancy indexing."""
    shape = frames.numel(), *tensor.shape[1:]
    pinned = tensor.device.type == "cpu" and device.type == "cuda"  # ``send`` would copy once more
    taken = torch.empty(shape, dtype=tensor.dtype, device=tensor.device, pin_memory=pinned)
    torch.index_select(tensor, 0, frames.reshape(-1), out=taken)
    return taken.to(device, non_blocking=pinned).unflatten(0, frames.shape)


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # a memory-mapped file is read-only, and nothing here writes
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
