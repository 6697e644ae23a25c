"""The options of the denoisers: a U-Net over time, a transformer, a perceptron. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from robodiff.documents import AtLeast, Between, NotEmpty
from robodiff.policies.config import PolicyConfig
from robodiff.policies.options import Channels, Layers, NotNegative, Share

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(PolicyConfig):
    """A conditional U-Net over time denoises; the observation scales and shifts its channels (FiLM).

    ``horizon``, or ``n_action_steps`` with ``pred_action_steps_only``, is divisible by 2^(levels - 1).
    """

    down_dims: Annotated[tuple[Channels, ...], NotEmpty(most=13)] = (256, 512, 1024)
    """Channels of each level of the U-Net; each divisible by n_groups."""
    kernel_size: Literal[3, 5] = 5
    """Kernel of the convolutions over time."""
    n_groups: Channels = 8
    """Groups of the group normalisations."""
    diffusion_step_embed_dim: Annotated[int, Between(4, 16_384, step=2)] = 256
    """Size of the embedding of the diffusion timestep; even, at least 4."""
    use_film_scale_modulation: bool = True
    """The observation scales and shifts the channels; else it shifts them only."""

    optimizer_weight_decay: NotNegative = 1e-6
    """Weight decay."""

    def network_conflicts(self) -> Iterator[str]:  # noqa: D102
        dims, steps, factor = list(self.down_dims), self.denoised_steps, 2 ** (len(self.down_dims) - 1)
        if steps % factor:
            name = "n_action_steps" if self.pred_action_steps_only else "horizon"
            nearest = max(factor, round(steps / factor) * factor)
            yield f"{name} must be divisible by {factor} for down_dims {dims}; found {steps}, nearest {nearest}"
        if any(dim % self.n_groups for dim in dims):
            yield f"down_dims must be divisible by n_groups {self.n_groups}; found {dims}"

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "nn.Module":  # noqa: D102
        from robodiff.networks.unet import ConditionalUnet1d

        network = self.down_dims, self.kernel_size, self.n_groups, self.diffusion_step_embed_dim
        condition = self.n_obs_steps * condition_dim
        return ConditionalUnet1d(trajectory_dim, condition, *network, self.use_film_scale_modulation)

    def weight_decay(self, name: str, ndim: int) -> float:  # noqa: D102
        return self.optimizer_weight_decay


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformerConfig(PolicyConfig):
    """A transformer denoises; its tokens are time steps, which attend to the observation. Any horizon will do."""

    n_layer: Layers = 8
    """Layers that denoise."""
    n_head: Annotated[int, Between(1, 1024)] = 4
    """Heads of each attention."""
    n_emb: Annotated[int, Between(4, 16_384, step=2)] = 256
    """Size of a token; divisible by n_head."""
    n_cond_layers: Annotated[int, Between(0, 1024)] = 0
    """Layers that encode the condition first; two linear layers when 0. Through more, early time steps see later
    observations."""
    p_drop_emb: Share = 0.0
    """Share of the embedded tokens' numbers that training drops."""
    p_drop_attn: Share = 0.3
    """Share that training drops in each layer."""
    causal_attn: bool = True
    """A time step attends to itself and earlier ones, and to observations up to its own; else to all."""
    time_as_cond: bool = True
    """The timestep of the diffusion is attended to beside the observation; else it is one more token of the sequence,
    with conditioning inpaint."""
    mask_first_step: Annotated[int, AtLeast(0)] | None = None
    """Which step of the window causal_attn takes the first that is denoised to be; the one that it is when null. With
    pred_action_steps_only the original diffusion_policy takes 0, which hides the newest observations from the first
    actions: for weights that were trained so."""

    optimizer_betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of the averages of the gradient and of its square."""
    transformer_weight_decay: NotNegative = 1e-3
    """Weight decay of the transformer's matrices; its biases, norms and positions have none."""
    obs_encoder_weight_decay: NotNegative = 1e-6
    """Weight decay of the image encoders."""

    def network_conflicts(self) -> Iterator[str]:  # noqa: D102
        if self.n_emb % self.n_head:
            yield f"n_emb must be divisible by n_head {self.n_head}; found {self.n_emb}"
        if not self.time_as_cond and self.n_cond_layers:
            yield f"time_as_cond false has no condition to encode; set n_cond_layers: 0, found {self.n_cond_layers}"
        if not self.time_as_cond and self.conditioning != "inpaint":
            yield "time_as_cond false has no place for conditioning global; set conditioning: inpaint"
        if self.mask_first_step is not None and not self.causal_attn:
            yield f"causal_attn false masks nothing; leave mask_first_step out, found {self.mask_first_step}"
        elif self.mask_first_step is not None and self.mask_first_step >= self.horizon:
            yield f"mask_first_step must be within horizon {self.horizon}, from 0 on; found {self.mask_first_step}"

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "nn.Module":  # noqa: D102
        from robodiff.networks.transformer import ConditionalTransformer

        steps = self.denoised_steps, self.n_obs_steps
        network = self.n_layer, self.n_head, self.n_emb, self.n_cond_layers, self.p_drop_emb, self.p_drop_attn
        first_step = self.first_step if self.mask_first_step is None else self.mask_first_step
        attention = self.causal_attn, self.time_as_cond, first_step
        return ConditionalTransformer(trajectory_dim, condition_dim, *steps, *network, *attention)

    def weight_decay(self, name: str, ndim: int) -> float:  # noqa: D102
        if not name.startswith("denoiser."):
            return self.obs_encoder_weight_decay
        return self.transformer_weight_decay if ndim == 2 else 0.0


@dataclass(frozen=True, kw_only=True)
class DiffusionMlpConfig(PolicyConfig):
    """A multi-layer perceptron denoises a single action, or a short chunk as one vector. Any horizon will do."""

    residual: bool = True
    """Blocks that add to what they are given (layer normalisation, two linear layers); else plain layers one after the
    other."""
    hidden_dim: Channels = 512
    """Width of the layers."""
    num_mlp_layers: Layers = 3
    """Residual blocks, or plain hidden layers."""
    activation: Literal["relu", "mish"] = "mish"
    """Between the layers; with time_in_each_layer it is GELU, whatever is said here."""
    p_drop: Share = 0.0
    """Share that training drops after each activation."""
    diffusion_step_embed_dim: Annotated[int, Between(4, 16_384, step=2)] = 64
    """Size of the embedding of the diffusion timestep; even, at least 4."""
    time_in_each_layer: bool = False
    """Plain layers with layer normalisation and GELU that are, but for the first, each told the timestep: for weights
    of the myCobot code base's later network."""

    optimizer_weight_decay: NotNegative = 1e-6
    """Weight decay."""

    def network_conflicts(self) -> Iterator[str]:  # noqa: D102
        if self.time_in_each_layer and (self.residual or self.p_drop):
            yield "time_in_each_layer is for plain layers without dropout; set residual: false and p_drop: 0"

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "nn.Module":  # noqa: D102
        from robodiff.networks.mlp import Mlp, TimedMlp

        condition = self.n_obs_steps * condition_dim
        if self.time_in_each_layer:
            network = self.hidden_dim, self.num_mlp_layers, self.diffusion_step_embed_dim
            return TimedMlp(trajectory_dim, self.denoised_steps, condition, *network)
        network = self.residual, self.hidden_dim, self.num_mlp_layers, self.activation, self.p_drop
        return Mlp(trajectory_dim, self.denoised_steps, condition, *network, self.diffusion_step_embed_dim)

    def weight_decay(self, name: str, ndim: int) -> float:  # noqa: D102
        return self.optimizer_weight_decay
