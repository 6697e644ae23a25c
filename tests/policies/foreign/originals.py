"""Small networks in the structure, and with the names, of diffusion_policy and LeRobot, sampled by diffusers."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from diffusers.schedulers import scheduling_ddpm
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]


class Sinusoidal(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        half = self.dim // 2
        angles = t[:, None] * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))[None]
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class ConvBlock(nn.Module):
    def __init__(self, inp: int, out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(inp, out, kernel, padding=kernel // 2), nn.GroupNorm(groups, out), nn.Mish()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Residual(nn.Module):
    """diffusion_policy's block; LeRobot's has other names."""

    def __init__(self, inp: int, out: int, cond: int, kernel: int, groups: int, scale: bool, lerobot: bool) -> None:
        super().__init__()
        convolutions = [ConvBlock(inp, out, kernel, groups), ConvBlock(out, out, kernel, groups)]
        if lerobot:
            self.conv1, self.conv2 = convolutions
        else:
            self.blocks = nn.ModuleList(convolutions)
        self.pair = lambda: convolutions
        self.scale, self.out = scale, out
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(cond, 2 * out if scale else out))
        self.residual_conv = nn.Conv1d(inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        first, second = self.pair()
        h, embed = first(x), self.cond_encoder(cond)[..., None]
        if self.scale:
            embed = embed.reshape(len(x), 2, self.out, 1)
            h = embed[:, 0] * h + embed[:, 1]
        else:
            h = h + embed
        return second(h) + self.residual_conv(x)


class Resample(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Unet(nn.Module):
    """``ConditionalUnet1D``, and LeRobot's ``DiffusionConditionalUnet1d``."""

    def __init__(self, dim: int, cond: int, options: Mapping[str, Any], lerobot: bool = False) -> None:
        super().__init__()
        step, dims = options["diffusion_step_embed_dim"], [dim, *options["down_dims"]]
        self.diffusion_step_encoder = nn.Sequential(
            Sinusoidal(step), nn.Linear(step, step * 4), nn.Mish(), nn.Linear(step * 4, step)
        )
        scale = options["use_film_scale_modulation"] if lerobot else options["cond_predict_scale"]
        end = options["kernel_size"], options["n_groups"]
        more = step + cond, *end, scale, lerobot
        wrap: Callable[[nn.Module], nn.Module] = (lambda conv: conv) if lerobot else Resample
        pairs = list(pairwise(dims))
        self.mid_modules = nn.ModuleList([Residual(dims[-1], dims[-1], *more) for _ in range(2)])
        self.down_modules = nn.ModuleList(
            nn.ModuleList([Residual(a, b, *more), Residual(b, b, *more),
                           wrap(nn.Conv1d(b, b, 3, 2, 1)) if n < len(pairs) - 1 else nn.Identity()])
            for n, (a, b) in enumerate(pairs)
        )  # fmt: skip
        self.up_modules = nn.ModuleList(
            nn.ModuleList([Residual(b * 2, a, *more), Residual(a, a, *more), wrap(nn.ConvTranspose1d(a, a, 4, 2, 1))])
            for a, b in reversed(pairs[1:])
        )
        self.final_conv = nn.Sequential(
            ConvBlock(dims[1], dims[1], options["kernel_size"], 8), nn.Conv1d(dims[1], dim, 1)
        )

    def forward(self, sample: Tensor, timestep: Tensor, cond: Tensor | None) -> Tensor:
        x, h = sample.moveaxis(-1, -2), []
        feature = self.diffusion_step_encoder(timestep)
        feature = feature if cond is None else torch.cat([feature, cond.flatten(1)], -1)
        for first, second, down in self.down_modules:  # type: ignore[misc]
            x = second(first(x, feature), feature)
            h.append(x)
            x = down(x)
        for middle in self.mid_modules:
            x = middle(x, feature)
        for first, second, up in self.up_modules:  # type: ignore[misc]
            x = up(second(first(torch.cat((x, h.pop()), 1), feature), feature))
        return self.final_conv(x).moveaxis(-1, -2)


class Transformer(nn.Module):
    """``TransformerForDiffusion``."""

    def __init__(self, dim: int, horizon: int, n_obs_steps: int, cond: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        emb, layer = options["n_emb"], {"batch_first": True, "norm_first": True, "activation": "gelu"}
        layer |= {"nhead": options["n_head"], "dim_feedforward": 4 * emb, "dropout": 0.1}
        as_cond, layers = options.get("time_as_cond", True), options.get("n_cond_layers", 0)
        T, S = (horizon if as_cond else horizon + 1), (1 if as_cond else 0) + (n_obs_steps if cond else 0)
        self.input_emb, self.pos_emb = nn.Linear(dim, emb), nn.Parameter(0.02 * torch.randn(1, T, emb))
        self.time_emb, self.cond_obs_emb = Sinusoidal(emb), nn.Linear(cond, emb) if cond else None
        self.cond_pos_emb, self.decoder = None, None
        if S:
            self.cond_pos_emb = nn.Parameter(0.02 * torch.randn(1, S, emb))
            mlp = nn.Sequential(nn.Linear(emb, 4 * emb), nn.Mish(), nn.Linear(4 * emb, emb))
            self.encoder = _encoder(layers, emb, layer) if layers else mlp
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(emb, **layer), options["n_layer"])  # type: ignore[arg-type]
        else:
            self.encoder = _encoder(options["n_layer"], emb, layer)
        self.ln_f, self.head = nn.LayerNorm(emb), nn.Linear(emb, dim)
        self._dummy_variable = nn.Parameter(torch.zeros(0))
        t, s = torch.meshgrid(torch.arange(T), torch.arange(S), indexing="ij")
        is_causal = options.get("causal_attn", False)
        hide = lambda shown: torch.zeros(shown.shape).masked_fill(~shown, -math.inf)  # noqa: E731
        self.register_buffer("mask", hide(torch.ones(T, T).tril().bool()) if is_causal else None)
        self.register_buffer("memory_mask", hide(t >= s - 1) if is_causal and as_cond and cond else None)

    def forward(self, sample: Tensor, timestep: Tensor, cond: Tensor | None) -> Tensor:
        time, x = self.time_emb(timestep)[:, None], self.input_emb(sample)
        if self.decoder is None:
            x = self.encoder(torch.cat([time, x], 1) + self.pos_emb, mask=self.mask)[:, 1:]
        else:
            seen = time if cond is None else torch.cat([time, self.cond_obs_emb(cond)], 1)  # type: ignore[misc]
            memory = self.encoder(seen + self.cond_pos_emb)
            x = self.decoder(x + self.pos_emb, memory, tgt_mask=self.mask, memory_mask=self.memory_mask)
        return self.head(self.ln_f(x))


def _encoder(layers: int, emb: int, layer: Any) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(emb, **layer), layers, enable_nested_tensor=False)


class SpatialSoftmax(nn.Module):
    def __init__(self, keypoints: int, rows: int, columns: int, lerobot: bool) -> None:
        super().__init__()
        self.nets = nn.Conv2d(512, keypoints, 1)
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        self.grid = torch.stack([x.flatten(), y.flatten()], 1)
        if lerobot:
            self.register_buffer("pos_grid", self.grid)
        else:
            self.register_buffer("temperature", torch.ones(1))
            self.register_buffer("pos_x", self.grid[:, 0])
            self.register_buffer("pos_y", self.grid[:, 1])

    def forward(self, features: Tensor) -> Tensor:
        return self.nets(features).flatten(2).softmax(-1) @ self.grid


def resnet(groups: bool) -> nn.Module:
    norm = (lambda channels: nn.GroupNorm(channels // 16, channels)) if groups else nn.BatchNorm2d
    network = torchvision.models.resnet18(norm_layer=norm)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network


class VisualCore(nn.Module):
    """robomimic's encoder of a camera: its backbone and pool are in a sequence, too."""

    def __init__(self, keypoints: int, cells: tuple[int, int], groups: bool) -> None:
        super().__init__()
        self.backbone, self.pool = nn.Module(), SpatialSoftmax(keypoints, *cells, lerobot=False)
        self.backbone.nets = nn.Sequential(*list(resnet(groups).children())[:-2])
        self.nets = nn.Sequential(self.backbone, self.pool, nn.Flatten(), nn.Linear(2 * keypoints, 2 * keypoints))

    def forward(self, images: Tensor) -> Tensor:
        return self.nets[3](self.pool(self.backbone.nets(images)).flatten(1)).relu()  # type: ignore[operator]


class RgbEncoder(nn.Module):
    """LeRobot's encoder of a camera."""

    def __init__(self, keypoints: int, cells: tuple[int, int], groups: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(resnet(groups).children())[:-2])
        self.pool, self.out = SpatialSoftmax(keypoints, *cells, lerobot=True), nn.Linear(2 * keypoints, 2 * keypoints)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.pool(self.backbone(images)).flatten(1)).relu()


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    sampler: str,
    steps: int,
    known: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """``conditional_sample``: noise (rows, B, T, D); what is known, values and mask, is written over it."""
    scheduler = {"DDPM": scheduling_ddpm.DDPMScheduler, "DDIM": DDIMScheduler}[sampler](**options)
    scheduler.set_timesteps(steps)
    x, fresh = noise[0].clone(), iter(noise[1:])
    values, mask = (torch.zeros(()), torch.tensor(False)) if known is None else known
    with torch.no_grad(), patch.object(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(fresh)):
        for t in scheduler.timesteps:
            x = torch.where(mask, values, x)
            x = scheduler.step(denoise(x, t.expand(len(x))), t, x).prev_sample
    return torch.where(mask, values, x)
