"""A variational autoencoder that turns class values into a continuous latent, and back."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robodiff.networks.layers import Mish


class DiscreteVae(nn.Module):
    """Encodes a vector of class values as a Gaussian, and decodes a latent into logits (Kingma and Welling, 2014).

    A binary value enters as -1 or 1, and one of K > 2 classes as K numbers, 1 for its class and -1 for the others. The
    decoder gives one logit for a binary value and K for the others.

    Args:
        classes: how many classes each value has, (D,).
        latent_dim: numbers of the latent, L.
        hidden_dim: width of the two hidden layers, of the encoder and of the decoder.
    """

    def __init__(self, classes: Sequence[int], latent_dim: int = 16, hidden_dim: int = 64) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self._widths = [1 if each == 2 else each for each in classes]
        self.encoder = _mlp(sum(self._widths), hidden_dim, 2 * latent_dim)
        self.decoder = _mlp(latent_dim, hidden_dim, sum(self._widths))

    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (..., L) of the posterior of class values (..., D) int64."""
        mean, log_variance = self.encoder(2 * self._one_hot(values) - 1).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """Return the most likely class values (..., D) int64 of latents (..., L)."""
        logits = self.decoder(latent).split(self._widths, dim=-1)
        return torch.cat([each.argmax(-1, True) if each.shape[-1] > 1 else (each > 0).long() for each in logits], -1)

    def loss(self, values: Tensor, noise: Tensor, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return reconstruction + beta KL, and its parts.

        The reconstruction is the mean over the values of the binary cross-entropy against {0, 1}, or of the
        cross-entropy against the class; the divergence from the standard normal is summed over the latent.

        Args:
            values: (..., D) int64.
            noise: standard normal (..., L), with which the posterior is sampled.
            beta: weight of the divergence.
        """
        mean, log_variance = self.encode(values)
        latent = mean + (log_variance / 2).exp() * noise
        logits = self.decoder(latent).split(self._widths, dim=-1)
        errors = [_cross_entropy(each, value) for each, value in zip(logits, values.unbind(-1), strict=True)]
        reconstruction = torch.stack(errors).mean()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean() / 2
        accuracy = (self.decode(mean) == values).float().mean()
        parts = {"reconstruction": reconstruction, "kl": divergence, "accuracy": accuracy}
        parts["latent_range"] = mean.abs().max()
        return reconstruction + beta * divergence, {name: value.detach() for name, value in parts.items()}

    def _one_hot(self, values: Tensor) -> Tensor:
        parts = [
            value.unsqueeze(-1) if width == 1 else F.one_hot(value, width)
            for value, width in zip(values.unbind(-1), self._widths, strict=True)
        ]
        return torch.cat(parts, dim=-1).float()


def _cross_entropy(logits: Tensor, value: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), value.to(logits.dtype))
    return F.cross_entropy(logits.flatten(0, -2), value.flatten())


def _mlp(first: int, hidden: int, last: int) -> nn.Sequential:
    layers = [nn.Linear(first, hidden), Mish(), nn.Linear(hidden, hidden), Mish(), nn.Linear(hidden, last)]
    return nn.Sequential(*layers)
