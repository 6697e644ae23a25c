"""The transformer denoiser of Diffusion Policy (Chi et al., 2023), after minGPT.

The structure is that of ``TransformerForDiffusion`` in real-stanford/diffusion_policy: the same layers, parameters of
the same names and shapes, so that published weights fit (its two masks, which it keeps with them, are made anew here).
Matrices start as those of PyTorch's layers do: from the original's normal weights of 0.02 small networks take longer to
learn what they are told of the observation.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robodiff.networks.layers import Mish, SinusoidalEmbedding


class ConditionalTransformer(nn.Module):
    """Denoise an action trajectory, given when in the diffusion it stands and what was observed.

    A decoder reads the trajectory, one token a step, and attends to tokens of the timestep and of each observation.
    With ``time_as_cond=False`` one encoder reads the timestep and the trajectory as a single sequence.

    Args:
        action_dim: numbers per time step of the trajectory.
        condition_dim: numbers that describe the observation of one step; 0 without a condition.
        horizon: time steps of the trajectory, T.
        n_obs_steps: steps of the condition, To.
        n_layer: layers that read the trajectory.
        n_head: heads of each attention.
        n_emb: channels of each token; even, at least 4, divisible by ``n_head``.
        n_cond_layers: layers that read the condition; with 0 each of its tokens goes through an MLP alone.
        p_drop_emb: dropout of the embedded tokens.
        p_drop_attn: dropout in the layers.
        causal_attn: a step attends to no later step of the trajectory and to no later observation; but
            ``n_cond_layers``, where there are any, let each observation's token see the others.
        time_as_cond: the timestep is a token of the condition; else the first of the trajectory, without a condition.
        first_step: which step of the window, counted from the oldest observation, the trajectory starts with. The
            original takes it to be 0 always; a trajectory from now on would then not see what is observed now.

    Raises:
        ValueError: sizes that do not fit each other, or a condition that ``time_as_cond=False`` leaves no place for.
    """

    mask: Tensor | None
    memory_mask: Tensor | None

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        horizon: int,
        n_obs_steps: int,
        n_layer: int = 8,
        n_head: int = 4,
        n_emb: int = 256,
        n_cond_layers: int = 0,
        p_drop_emb: float = 0.0,
        p_drop_attn: float = 0.3,
        causal_attn: bool = True,
        time_as_cond: bool = True,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        if condition_dim and not time_as_cond:
            raise ValueError(f"time_as_cond=False takes no condition: condition_dim must be 0, is {condition_dim}")
        tokens = horizon if time_as_cond else 1 + horizon
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device="cpu").tril()  # True where attention may go
        memory_mask = self.cond_obs_emb = None
        self.input_emb = nn.Linear(action_dim, n_emb)
        self.pos_emb = _positions(tokens, n_emb)
        self.time_emb = SinusoidalEmbedding(n_emb)
        self.drop = nn.Dropout(p_drop_emb)
        if time_as_cond:
            if condition_dim:
                self.cond_obs_emb = nn.Linear(condition_dim, n_emb)
                memory_mask = torch.ones(tokens, 1 + n_obs_steps, dtype=torch.bool, device="cpu")
                memory_mask = memory_mask.tril(1 + first_step)  # token 0 is the timestep
            self.cond_pos_emb = _positions(1 + n_obs_steps if condition_dim else 1, n_emb)
            if n_cond_layers:
                self.encoder = Layers(EncoderLayer(n_emb, n_head, p_drop_attn) for _ in range(n_cond_layers))
            else:
                self.encoder = nn.Sequential(nn.Linear(n_emb, 4 * n_emb), Mish(), nn.Linear(4 * n_emb, n_emb))
            self.decoder = Layers(DecoderLayer(n_emb, n_head, p_drop_attn) for _ in range(n_layer))
        else:
            self.encoder = Layers(EncoderLayer(n_emb, n_head, p_drop_attn) for _ in range(n_layer))
            self.decoder = None
        self.ln_f = nn.LayerNorm(n_emb)
        self.head = nn.Linear(n_emb, action_dim)
        self.register_buffer("mask", mask if causal_attn else None, persistent=False)
        self.register_buffer("memory_mask", memory_mask if causal_attn else None, persistent=False)

    def forward(self, trajectory: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the denoising target.

        Args:
            trajectory: (B, T, action_dim).
            timestep: (B,), as the noise schedule counts.
            condition: (B, To, condition_dim); None without a condition.

        Returns:
            (B, T, action_dim).
        """
        return self.denoise(trajectory, self.timestep_part(timestep), self.condition_part(condition))

    def timestep_part(self, timestep: Tensor) -> Tensor:
        """Return the token of timesteps (R,), (R, 1, n_emb)."""
        return self.time_emb(timestep).unsqueeze(1)

    def condition_part(self, condition: Tensor | None) -> Tensor | None:
        """Return the tokens of what was observed, (B, To, n_emb)."""
        return None if self.cond_obs_emb is None else self.cond_obs_emb(condition)

    def denoise(self, trajectory: Tensor, timestep_part: Tensor, condition_part: Tensor | None) -> Tensor:
        """Predict as ``forward`` does, from the tokens; of one timestep for all of B, too."""
        x = self.input_emb(trajectory)  # (B, T, n_emb)
        time = timestep_part.expand(x.shape[0], -1, -1)  # (B, 1, n_emb)
        if self.decoder is None:
            x = self.drop(torch.cat([time, x], dim=1) + self.pos_emb)  # (B, 1 + T, n_emb)
            x = self.encoder(x, self.mask)[:, 1:]
        else:
            memory = time if condition_part is None else torch.cat([time, condition_part], dim=1)
            memory = self.encoder(self.drop(memory + self.cond_pos_emb))  # (B, 1 + To, n_emb)
            x = self.decoder(self.drop(x + self.pos_emb), memory, self.mask, self.memory_mask)
        return self.head(self.ln_f(x))


def _positions(tokens: int, dim: int) -> nn.Parameter:
    """Return an embedding of the place of each token, (1, tokens, dim)."""
    return nn.Parameter(torch.normal(0.0, 0.02, (1, tokens, dim)))


class Layers(nn.Module):
    """Layers one after the other, each with the same context."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        for layer in self.layers:
            x = layer(x, *context)
        return x


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each after a layer normalisation and with a residual path."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, T, dim) and (T, T), True where a row may attend to a column, to (B, T, dim)."""
        h = self.norm1(x)
        x = x + self.drop(self.self_attn(h, h, mask))
        h = self.drop(F.gelu(self.linear1(self.norm2(x))))  # (B, T, 4 dim)
        return x + self.drop(self.linear2(h))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory and an MLP, each after a layer normalisation and with a residual path."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads, dropout)
        self.multihead_attn = Attention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None) -> Tensor:
        """Map (B, T, dim), (B, S, dim), (T, T) and (T, S), True where a row may attend to a column, to (B, T, dim)."""
        h = self.norm1(x)
        x = x + self.drop(self.self_attn(h, h, mask))
        x = x + self.drop(self.multihead_attn(self.norm2(x), memory, memory_mask))
        h = self.drop(F.gelu(self.linear1(self.norm3(x))))  # (B, T, 4 dim)
        return x + self.drop(self.linear2(h))


class Attention(nn.Module):
    """Multi-head attention, with the parameters of ``nn.MultiheadAttention``: queries, keys and values stacked."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, dim) attends to (B, S, dim) where the (T, S) mask is True: (B, T, dim)."""
        if memory is x:
            projected = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            sizes = (x.shape[-1], 2 * x.shape[-1])
            for_x, for_memory = zip(self.in_proj_weight.split(sizes), self.in_proj_bias.split(sizes), strict=True)
            projected = F.linear(x, *for_x), *F.linear(memory, *for_memory).chunk(2, dim=-1)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projected)  # (B, heads, T or S, _)
        h = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(h.transpose(1, 2).flatten(2))
