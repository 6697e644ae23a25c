"""Milliseconds of one chunk: robodiff's sampler tables against diffusers' schedulers, around the same network."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from benchmarks.common import keep, side_by_side
from robodiff.diffusion.denoise import denoise, make_table
from robodiff.diffusion.schedule import make_schedule
from robodiff.networks.unet import ConditionalUnet1d

NETWORKS = {"1.2 M U-Net (32-64-128)": ((32, 64, 128), 64), "66 M U-Net (256-512-1024)": ((256, 512, 1024), 256)}
SCHEDULERS = {
    ("DDPM", 100): lambda: DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=100),
    ("DDIM", 10): lambda: DDIMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=100),
    ("DPMSolver++", 10): lambda: DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", num_train_timesteps=100, timestep_spacing="trailing",
        final_sigmas_type="zero",
    ),
}  # fmt: skip


def theirs(scheduler: object, steps: int, network: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """The loop of a policy that uses diffusers."""
    scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
    for t in scheduler.timesteps:  # type: ignore[attr-defined]
        x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample  # type: ignore[attr-defined]
    return x


@torch.no_grad()
def main() -> None:
    schedule = make_schedule("squaredcos_cap_v2", 100)
    rows = []
    for name, (down_dims, embed) in NETWORKS.items():
        net = ConditionalUnet1d(2, 36, down_dims, step_embed_dim=embed).eval()
        condition = torch.randn(1, 36)

        def network(x: Tensor, t: Tensor, net: ConditionalUnet1d = net, condition: Tensor = condition) -> Tensor:
            return net(x, t, condition)

        for (sampler, steps), make in SCHEDULERS.items():
            table, scheduler = make_table(sampler, schedule, "epsilon", steps), make()
            noise = torch.randn(table.noise_rows, 1, 16, 2)
            clip = None if sampler == "DPMSolver++" else 1.0
            seconds = side_by_side(
                {
                    "ours": lambda t=table, n=noise, c=clip, f=network: denoise(t, f, n, c),
                    "theirs": lambda s=scheduler, k=steps, n=noise, f=network: theirs(s, k, f, n[0]),
                    "network": lambda k=steps, n=noise, f=network: [f(n[0], torch.tensor([5])) for _ in range(k)],
                },
                rounds=3,
            )
            ms = {key: value * 1e3 for key, value in seconds.items()}
            rows.append(
                {
                    "network": name,
                    "sampler": f"{sampler}, {steps} steps",
                    "robodiff, ms": f"{ms['ours']:.1f}",
                    "diffusers, ms": f"{ms['theirs']:.1f}",
                    "the network alone, ms": f"{ms['network']:.1f}",
                    "ratio": f"{ms['theirs'] / ms['ours']:.2f}",
                }
            )
    keep("samplers", rows)


if __name__ == "__main__":
    main()
