"""Discrete actions as continuous codes, which can be denoised, and back to exact class values."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION, SMALLEST_RANGE, Episodes
from robodiff.errors import UsageError
from robodiff.networks.vae import DiscreteVae
from robodiff.policies.config import PolicyConfig

MOST_NAMED = 16
"""Values that a message lists."""


class DiscreteCodec(nn.Module, ABC):
    """A map from the class values of a chunk, (B, n, D), to codes (B, n, dim) within [-1, 1], and back.

    Args:
        classes: the values that each number can have, D times.
    """

    dim: int
    """Numbers of the code of each time step."""
    spans_chunk = False
    """Whether a code describes all time steps together."""

    _values: Tensor

    def __init__(self, classes: Sequence[tuple[float, ...]]) -> None:
        super().__init__()
        self.classes, self.counts = tuple(classes), tuple(map(len, classes))
        padded = [[*each, *[math.inf] * (max(self.counts) - len(each))] for each in classes]
        self.register_buffer("_values", torch.tensor(padded, device="cpu"), persistent=False)  # (D, K), infinite: none

    @abstractmethod
    def encode(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the codes of class values; ``noise`` is of ``noise_shape``, or None for none."""

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """Return the class values whose codes are nearest, or most likely."""

    def noise_shape(self, size: int) -> tuple[int, ...] | None:
        """Return the shape of the noise that the loss of ``size`` windows needs; None where it needs none."""
        return None

    def weights(self, known: Tensor) -> Tensor:
        """Return how far the numbers of the code are known, (B, n, dim), from how far all values are, (B, n, D)."""
        whole = known.amin(-1, keepdim=True)
        if self.spans_chunk:
            whole = whole.amin(1, keepdim=True).expand_as(whole)
        return whole.expand(*whole.shape[:2], self.dim)

    def indices(self, values: Tensor) -> Tensor:
        """Return the place of each value among its classes, (..., D) int64; any place for unknown values, or NaN."""
        return (values.nan_to_num().unsqueeze(-1) - self._values).abs().argmin(-1)

    def values(self, indices: Tensor) -> Tensor:
        """Invert ``indices``."""
        return self._values.expand(*indices.shape, -1).gather(-1, indices.unsqueeze(-1)).squeeze(-1)


class TableCodec(DiscreteCodec):
    """A fixed code of each class; the nearest one decides.

    Args:
        classes: the values that each number can have, D times.
        bits: a class is the binary digits of its place as -1 and 1, the "analog bits" of Chen et al. 2022
            (arXiv:2208.04202); else its value, scaled to [-1, 1].
    """

    def __init__(self, classes: Sequence[tuple[float, ...]], bits: bool) -> None:
        super().__init__(classes)
        tables = [_bits(len(each)) if bits else _numbers(each) for each in classes]
        for place, table in enumerate(tables):  # (K, w)
            self.register_buffer(f"_table{place}", table, persistent=False)
        self._widths = [table.shape[1] for table in tables]
        self.dim = sum(self._widths)

    def encode(self, values: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: D102
        return torch.cat([table[i] for table, i in zip(self._tables, self.indices(values).unbind(-1), strict=True)], -1)

    def decode(self, code: Tensor) -> Tensor:  # noqa: D102
        parts = zip(code.split(self._widths, dim=-1), self._tables, strict=True)
        nearest = [(part.unsqueeze(-2) - table).square().sum(-1).argmin(-1) for part, table in parts]  # (B, n) each
        return self.values(torch.stack(nearest, -1))

    @property
    def _tables(self) -> list[Tensor]:
        return [self.get_buffer(f"_table{place}") for place in range(len(self.counts))]


class VaeCodec(DiscreteCodec):
    """The latent of a variational autoencoder, scaled so that those of the training data fill [-1, 1].

    Args:
        classes: the values that each number can have, D times.
        config: ``vae_per`` step, a latent for each time step; or chunk, one for all, which every step repeats and whose
            mean over the steps is decoded.
        steps: time steps of a chunk.
    """

    low: Tensor
    high: Tensor

    def __init__(self, classes: Sequence[tuple[float, ...]], config: PolicyConfig, steps: int) -> None:
        super().__init__(classes)
        self.config, self.steps, self.dim = config, steps, config.vae_latent_dim
        self.spans_chunk = config.vae_per == "chunk"
        self.vae = DiscreteVae(self.counts * (steps if self.spans_chunk else 1), self.dim, config.vae_hidden_dim)
        for name, value in (("low", -1.0), ("high", 1.0)):
            self.register_buffer(name, torch.full((self.dim,), value))

    def noise_shape(self, size: int) -> tuple[int, ...] | None:  # noqa: D102
        return (size, self.dim) if self.spans_chunk else (size, self.steps, self.dim)

    def loss(self, values: Tensor, noise: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of the autoencoder on class values (B, n, D), and its parts."""
        joined = self._joined(values)
        if noise is None:
            noise = torch.randn(*joined.shape[:-1], self.dim, device=values.device)
        return self.vae.loss(joined, noise, self.config.vae_beta)

    def encode(self, values: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: D102
        latent, log_variance = self.vae.encode(self._joined(values))
        if noise is not None and self.config.vae_target == "sample":
            latent = latent + (log_variance / 2).exp() * noise
        code = (latent - self._centre) / self._scale
        return code.unsqueeze(1).expand(-1, values.shape[1], -1) if self.spans_chunk else code

    def decode(self, code: Tensor) -> Tensor:  # noqa: D102
        latent = (code.mean(1) if self.spans_chunk else code) * self._scale + self._centre
        return self.values(self.vae.decode(latent).reshape(*code.shape[:2], -1))

    @torch.no_grad()
    def fit(self, values: Tensor) -> float:
        """Scale the latent by that of the training data; return the share of their values that come back.

        Args:
            values: of all training chunks, (N, n, D).
        """
        patterns, counts = self._joined(values).flatten(0, -2).unique(dim=0, return_counts=True)
        mean, _ = self.vae.encode(patterns)
        self.low.copy_(mean.amin(0))
        self.high.copy_(mean.amax(0))
        return float(((self.vae.decode(mean) == patterns).float().mean(-1) * counts).sum() / counts.sum())

    def _joined(self, values: Tensor) -> Tensor:
        indices = self.indices(values)
        return indices.flatten(1) if self.spans_chunk else indices

    @property
    def _centre(self) -> Tensor:
        return (self.low + self.high) / 2

    @property
    def _scale(self) -> Tensor:
        half = (self.high - self.low) / 2
        return torch.where(half < SMALLEST_RANGE / 2, 1, half)


def make_codec(config: PolicyConfig, classes: Sequence[tuple[float, ...]]) -> DiscreteCodec | None:
    """Return the codec that a configuration names; None where no action is discrete."""
    if not classes:
        return None
    if config.discrete_codec == "vae":
        return VaeCodec(classes, config, config.denoised_steps)
    return TableCodec(classes, bits=config.discrete_codec == "analog_bits")


def check_classes(episodes: Episodes, classes: dict[int, tuple[float, ...]]) -> None:
    """Refuse a recording with actions that are no class values.

    Args:
        episodes: all of them, held-out ones too.
        classes: the values of each discrete dimension of the action, by its number.

    Raises:
        UsageError: the first such value, with its frame and episode.
    """
    names = episodes.features[ACTION].names
    for dimension, known in classes.items():
        recorded = np.asarray(episodes.arrays[ACTION][:, dimension])
        wrong = np.flatnonzero(~np.isin(recorded, np.array(known, recorded.dtype)))
        if not len(wrong):
            continue
        what = f"{ACTION} {dimension}" + (f" ({names[dimension]})" if names else "")
        expected = " or ".join(f"{each:g}" for each in known[:MOST_NAMED]) + ", ..." * (len(known) > MOST_NAMED)
        if len(known) > 2 and known == (*range(len(known)),):
            expected = f"a class, 0 to {known[-1]}"
        more = f", and in {len(wrong) - 1:,} more frames" if len(wrong) > 1 else ""
        remedy = "correct the recording, or name the range in model.action_discrete that holds classes"
        found = np.unique(recorded)
        if 1 < len(found) <= MOST_NAMED and np.isfinite(found).all():
            every = {**classes, dimension: found.tolist()}
            asked = {f"{number}:{number + 1}": [*map(_shortest, values)] for number, values in every.items()}
            remedy = f"correct it, or say that all of these are classes: --model.action_discrete '{json.dumps(asked)}'"
        place = f"{episodes.source}: {what}: {episodes.where(int(wrong[0]))}"
        raise UsageError(f"{place}: expected {expected}; found {recorded[wrong[0]]:g}{more}\n{remedy}")


def _shortest(value: float) -> float:
    """Return the shortest number that is the same as float32."""
    return int(value) if float(value).is_integer() else float(str(np.float32(value)))


def _numbers(values: tuple[float, ...]) -> Tensor:
    """Return class values scaled to [-1, 1], (K, 1)."""
    numbers = torch.tensor(values, device="cpu").unsqueeze(1)
    low, high = numbers.min(), numbers.max()
    return (2 * numbers - low - high) / (high - low)


def _bits(classes: int) -> Tensor:
    """Return the binary digits of 0 ... classes - 1 as -1 and 1, (K, digits)."""
    digits = torch.arange(max(1, (classes - 1).bit_length()), device="cpu")
    return (torch.arange(classes, device="cpu").unsqueeze(1) >> digits & 1) * 2.0 - 1
