"""The autoencoder of class values: its parts, against formulas written out, and that it learns."""

import pytest
import torch
import torch.nn.functional as F

from robodiff.networks.vae import DiscreteVae

CLASSES = (2, 5, 2)


def every_pattern() -> torch.Tensor:
    return torch.cartesian_prod(*(torch.arange(each) for each in CLASSES))  # (20, 3)


def test_the_loss_is_cross_entropy_and_the_divergence() -> None:
    torch.manual_seed(0)
    vae, values = DiscreteVae(CLASSES, latent_dim=4), every_pattern()
    noise = torch.randn(len(values), 4)
    loss, parts = vae.loss(values, noise, beta=0.1)
    one_hot = F.one_hot(values[:, 1], 5)
    inputs = 2 * torch.cat([values[:, :1], one_hot, values[:, 2:]], 1).float() - 1
    mean, log_variance = vae.encoder(inputs).chunk(2, 1)
    scale = (log_variance / 2).exp()
    logits = vae.decoder(mean + scale * noise)
    # Against targets of 0 and 1, not of -1 and 1.
    chances = logits[:, [0, 6]].sigmoid()
    bits = values[:, [0, 2]].float()
    binary = -(bits * chances.log() + (1 - bits) * (1 - chances).log())
    classes = -logits[:, 1:6].log_softmax(1)[torch.arange(20), values[:, 1]]
    reconstruction = torch.cat([binary, classes[:, None]], 1).mean()
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, scale), normal(0, torch.ones_like(scale)))
    torch.testing.assert_close(parts["reconstruction"], reconstruction.detach())
    torch.testing.assert_close(parts["kl"], divergence.sum(1).mean().detach())
    torch.testing.assert_close(loss, reconstruction + 0.1 * divergence.sum(1).mean())
    assert parts["latent_range"] == mean.abs().max()


@pytest.mark.parametrize("shape", [(20, 3), (4, 5, 3)])
def test_it_learns_to_give_every_pattern_back(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    vae, values = DiscreteVae(CLASSES, latent_dim=8), every_pattern().reshape(shape)
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    for _ in range(400):
        loss, parts = vae.loss(values, torch.randn(*shape[:-1], 8), beta=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["accuracy"] == 1
    assert vae.decode(vae.encode(values)[0]).equal(values)
