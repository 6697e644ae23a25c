"""The hybrid diffusion policy: continuous and discrete actions together, by any of the denoisers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

from robodiff.data.episodes import ACTION, Feature
from robodiff.documents import AtLeast, hints
from robodiff.errors import UsageError
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig, DiffusionTransformerConfig

if TYPE_CHECKING:
    from torch import nn

    from robodiff.policies.diffusion import DiffusionPolicy

NETWORKS: dict[str, type[PolicyConfig]] = {
    "unet": DiffusionConfig,
    "transformer": DiffusionTransformerConfig,
    "mlp": DiffusionMlpConfig,
}
"""By their short names, the configurations that make each denoiser."""


@dataclass(frozen=True, kw_only=True)
class HybridDiffusionConfig(DiffusionConfig, DiffusionTransformerConfig, DiffusionMlpConfig):
    """Continuous and discrete actions together, in the order [continuous, discrete], such as joint targets and foot
    contacts: a VAE turns the discrete ones into a latent, which is denoised beside the others.

    Options of other denoisers than the chosen one have no meaning, and are refused.
    """

    denoiser: Literal["unet", "transformer", "mlp"] = "unet"
    """The network: a U-Net (down_dims, ...), a transformer (n_layer, ...) or a perceptron (hidden_dim, ...)."""
    continuous_action_dim: Annotated[int, AtLeast(0)] = 21
    """How many numbers of the action are continuous; they come first."""
    discrete_action_dim: Annotated[int, AtLeast(1)] = 2
    """How many are discrete; 0 or 1, unless action_discrete gives them other classes."""
    discrete_codec: Literal["vae", "analog_bits", "none"] = "vae"
    """As in the other models, but with a VAE as the default."""
    num_vae_training_steps: Annotated[int, AtLeast(1)] | None = None
    """Another name of n_vae_training_steps."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        if self.num_vae_training_steps is not None:
            usual = HybridDiffusionConfig.n_vae_training_steps
            if self.n_vae_training_steps not in (usual, self.num_vae_training_steps):
                yield "n_vae_training_steps and num_vae_training_steps are the same option; give one of them"
            object.__setattr__(self, "n_vae_training_steps", self.num_vae_training_steps)
            object.__setattr__(self, "num_vae_training_steps", None)
        start, stop = self.continuous_action_dim, self.continuous_action_dim + self.discrete_action_dim
        if not self.action_discrete:
            object.__setattr__(self, "action_discrete", [f"{start}:{stop}"])
        yield from super().conflicts()

    def network_conflicts(self) -> Iterator[str]:  # noqa: D102
        network = NETWORKS[self.denoiser]
        others = {each.name for kind in NETWORKS.values() for each in fields(kind)} - {*hints(network)}
        for each in fields(self):
            if each.name in others and getattr(self, each.name) != each.default:
                yield f"{each.name} is no option of denoiser {self.denoiser}; leave it at {each.default}"
        yield from network.network_conflicts(self)

    def make_policy(self, features: Mapping[str, Feature], fps: float) -> "DiffusionPolicy":
        """Return the policy, with random weights, as ``PolicyConfig`` does.

        Raises:
            UsageError: the recorded action has another number of dimensions, or others of them are discrete.
        """
        first, last, found = self.continuous_action_dim, self.discrete_action_dim, features[ACTION].shape
        if found != (first + last,):
            asked = f"continuous_action_dim {first} + discrete_action_dim {last} is {first + last} numbers"
            raise UsageError(f"model: {asked} of an action; the recording has {found[0]}")
        policy = super().make_policy(features, fps)
        if [*policy.representation.classes] != [*range(first, first + last)]:
            named = f"action_discrete names {', '.join(self.discrete_classes)}"
            raise UsageError(f"model: {named}; expected all of {first}:{first + last}, the last numbers, and no others")
        return policy

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "nn.Module":  # noqa: D102
        return NETWORKS[self.denoiser].make_denoiser(self, trajectory_dim, condition_dim)

    def weight_decay(self, name: str, ndim: int) -> float:  # noqa: D102
        return NETWORKS[self.denoiser].weight_decay(self, name, ndim)
