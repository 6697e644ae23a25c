"""The policies that there are, each with the options that base.py does not have. Imports no torch: help is instant."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from robodiff.errors import UsageError
from robodiff.policies.base import COMBINATIONS, PolicyConfig
from robodiff.policies.plain import checked, from_plain

if TYPE_CHECKING:
    from robodiff.networks.transformer import ConditionalTransformer
    from robodiff.networks.unet import ConditionalUnet1d


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(PolicyConfig):
    """A conditional U-Net over time denoises; the observation scales and shifts its channels (FiLM).

    ``horizon``, or ``n_action_steps`` with ``pred_action_steps_only``, is divisible by 2^(levels - 1).
    """

    down_dims: tuple[int, ...] = (256, 512, 1024)
    """Channels of each level of the U-Net; each divisible by n_groups."""
    kernel_size: Literal[3, 5] = 5
    """Kernel of the convolutions over time."""
    n_groups: int = 8
    """Groups of the group normalisations."""
    diffusion_step_embed_dim: int = 256
    """Size of the embedding of the diffusion timestep; even, at least 4."""
    use_film_scale_modulation: bool = True
    """The observation scales and shifts the channels; else it shifts them only."""

    optimizer_weight_decay: float = 1e-6
    """Weight decay."""

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "ConditionalUnet1d":  # noqa: D102
        from robodiff.networks.unet import ConditionalUnet1d

        return ConditionalUnet1d(
            trajectory_dim,
            self.n_obs_steps * condition_dim,
            self.down_dims,
            self.kernel_size,
            self.n_groups,
            self.diffusion_step_embed_dim,
            self.use_film_scale_modulation,
        )

    def weight_decay(self, name: str, ndim: int) -> float:  # noqa: D102
        return self.optimizer_weight_decay

    def _check_network(self) -> None:
        self._check_not_negative("optimizer_weight_decay")
        if not self.down_dims:
            raise UsageError("down_dims must name at least one level, such as [256, 512, 1024]; found none")
        factor, steps = 2 ** (len(self.down_dims) - 1), self.denoised_steps
        if steps % factor:
            name = "n_action_steps" if self.pred_action_steps_only else "horizon"
            raise UsageError(
                f"{name} must be divisible by {factor} for {len(self.down_dims)} levels (down_dims "
                f"{list(self.down_dims)}); found {steps}, nearest {max(factor, round(steps / factor) * factor)}"
            )
        if self.kernel_size not in (3, 5):
            raise UsageError(f"kernel_size must be 3 or 5; found {self.kernel_size}")
        if self.n_groups < 1 or any(dim < 1 or dim % self.n_groups for dim in self.down_dims):
            raise UsageError(f"down_dims must be divisible by n_groups {self.n_groups}; found {list(self.down_dims)}")
        if self.diffusion_step_embed_dim < 4 or self.diffusion_step_embed_dim % 2:
            raise UsageError(
                f"diffusion_step_embed_dim must be even and at least 4; found {self.diffusion_step_embed_dim}"
            )


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformerConfig(PolicyConfig):
    """A transformer denoises; its tokens are time steps, which attend to the observation. Any horizon will do."""

    n_layer: int = 8
    """Layers that denoise."""
    n_head: int = 4
    """Heads of each attention."""
    n_emb: int = 256
    """Size of a token; divisible by n_head."""
    n_cond_layers: int = 0
    """Layers that encode the condition first; two linear layers when 0. Through more, early time steps see later
    observations."""
    p_drop_emb: float = 0.0
    """Share of the embedded tokens' numbers that training drops."""
    p_drop_attn: float = 0.3
    """Share that training drops in each layer."""
    causal_attn: bool = True
    """A time step attends to itself and earlier ones, and to observations up to its own; else to all."""
    time_as_cond: bool = True
    """The timestep of the diffusion is attended to beside the observation; else it is one more token of the sequence,
    with conditioning inpaint."""

    optimizer_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the averages of the gradient and of its square."""
    transformer_weight_decay: float = 1e-3
    """Weight decay of the transformer's matrices; its biases, norms and positions have none."""
    obs_encoder_weight_decay: float = 1e-6
    """Weight decay of the image encoders."""

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "ConditionalTransformer":  # noqa: D102
        from robodiff.networks.transformer import ConditionalTransformer

        return ConditionalTransformer(
            trajectory_dim,
            condition_dim,
            self.denoised_steps,
            self.n_obs_steps,
            self.n_layer,
            self.n_head,
            self.n_emb,
            self.n_cond_layers,
            self.p_drop_emb,
            self.p_drop_attn,
            self.causal_attn,
            self.time_as_cond,
            self.first_step,
        )

    def weight_decay(self, name: str, ndim: int) -> float:  # noqa: D102
        if not name.startswith("denoiser."):
            return self.obs_encoder_weight_decay
        return self.transformer_weight_decay if ndim == 2 else 0.0

    def _check_network(self) -> None:
        for name in ("transformer_weight_decay", "obs_encoder_weight_decay", "n_cond_layers"):
            self._check_not_negative(name)
        for name in ("n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; found {getattr(self, name)}")
        if self.n_emb < 4 or self.n_emb % 2 or self.n_emb % self.n_head:
            raise UsageError(f"n_emb must be even, at least 4 and divisible by n_head {self.n_head}; "
                             f"found {self.n_emb}")  # fmt: skip
        for name in ("p_drop_emb", "p_drop_attn"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1); found {getattr(self, name)}")
        if not self.time_as_cond and self.n_cond_layers:
            raise UsageError(f"n_cond_layers encode a condition, and time_as_cond false has none; set n_cond_layers 0, "
                             f"found {self.n_cond_layers}")  # fmt: skip
        if not self.time_as_cond and self.conditioning != "inpaint":
            raise UsageError(
                "time_as_cond false leaves the transformer without a condition to attend to, and conditioning global "
                "is one; " + COMBINATIONS
            )


def config_to_dict(config: PolicyConfig) -> dict[str, Any]:
    """A configuration as plain values, for JSON."""
    return {"class": type(config).__name__, **dataclasses.asdict(config)}


def config_from_dict(values: dict[str, Any]) -> PolicyConfig:
    """The configuration that ``config_to_dict`` wrote.

    Raises:
        UsageError: an unknown class or field, a value of the wrong type, or values that do not go together.
    """
    values = dict(values)
    name = checked(values.pop("class", None), str, "class")
    known = {kind.__name__: kind for kind in PolicyConfig.__subclasses__()}
    if name not in known:
        raise UsageError(f"unknown configuration class {name!r}; this version knows {', '.join(known)}")
    return from_plain(known[name], values, name)
