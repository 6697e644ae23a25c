"""Why a perceptron that predicts noise does not walk where one that predicts clean actions does.

A prediction type says two things at once: what the network gives, and in what its error is measured. Here both are
chosen apart, on ``biped`` with the contacts as numbers, each at the same steps: what the network gives is converted
into what the loss is taken of. Beside success: how far sampled actions are from held-out ones, in radians over the
joints that move, how much of that differs from draw to draw, and how far one estimate of the clean actions is from
noise as at the first step of the sampler and as in the middle.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

import robodiff
from benchmarks.common import keep
from benchmarks.tabletop_skill import robodiff as command
from robodiff.cli.configuration import find_config, to_yaml
from robodiff.data.datamodule import WindowDataModule
from robodiff.data.episodes import ACTION
from robodiff.diffusion.objective import clean, target
from robodiff.diffusion.schedule import NoiseSchedule, make_schedule
from robodiff.envs.mujoco.walker import walker_spec
from robodiff.evaluation.config import SEED
from robodiff.evaluation.rollout import rollout
from robodiff.machine import cores
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.hybrid import HybridDiffusionConfig
from robodiff.training.config import FitConfig
from robodiff.training.fit import fit

DEMONSTRATIONS, EPISODES = 100, 50
DRAWS = 8
FAINTEST = 0.15
"""The least share of the clean actions that noise is divided by: levels with less, which no sampler step of these
visits, would outweigh all others."""
COSINE = {"beta_schedule": "squaredcos_cap_v2", "noise_scheduler_type": "DDIM", "num_inference_steps": 8}
FLOW = {"beta_schedule": "flow", "noise_scheduler_type": "Flow", "num_inference_steps": 4}
PERCEPTRON = {"denoiser": "mlp"}
UNET = {"denoiser": "unet", "down_dims": (96, 192), "kernel_size": 3}
NAMES = {"sample": "clean actions", "epsilon": "noise", "v_prediction": "v", "velocity": "velocity"}


class Row(NamedTuple):
    """One training."""

    gives: str
    loss: str
    steps: int = 1200
    options: dict[str, Any] = COSINE
    network: dict[str, Any] = PERCEPTRON


DIFFUSION = ("sample", "v_prediction", "epsilon")
ROWS = (
    *(Row(gives, loss) for gives in DIFFUSION for loss in DIFFUSION),
    *(Row(each, each, options=FLOW) for each in ("sample", "velocity")),
    Row("epsilon", "epsilon", steps=4800),
    *(Row(each, each, network=UNET) for each in ("sample", "epsilon")),
)


@dataclass(frozen=True, kw_only=True)
class ConvertedConfig(HybridDiffusionConfig):
    """A policy whose network gives another prediction type than the one that is the objective."""

    gives: Literal["sample", "epsilon", "v_prediction", "velocity"] = "sample"

    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> nn.Module:
        """Return the network, and what converts its predictions."""
        network = super().make_denoiser(trajectory_dim, condition_dim)
        schedule = make_schedule(self.beta_schedule, self.num_train_timesteps)
        return Converted(network, schedule, self.gives, self.prediction_type)


class Converted(nn.Module):
    """A denoiser that gives one prediction type, computed from another that its network gives."""

    def __init__(self, network: nn.Module, schedule: NoiseSchedule, gives: str, wanted: str) -> None:
        super().__init__()
        self.network, self.schedule, self.gives, self.wanted = network, schedule, gives, wanted

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Predict, (B, n, W)."""
        prediction = self.network(x, timestep, condition)
        if self.gives == self.wanted:
            return prediction
        alpha, sigma = self.schedule.coefficients(timestep, x.dtype)
        x0 = clean(self.gives, x, prediction, alpha.clamp(min=FAINTEST), sigma)
        noise = (x - alpha[:, None, None] * x0) / sigma[:, None, None]
        return target(self.wanted, x0, noise, alpha, sigma)


def configuration(row: Row, data: Path, device: str) -> FitConfig:
    draft = find_config("biped_hybrid")
    draft.choose("model", ConvertedConfig.__name__)
    draft.choose("data", str(data))
    process = {**row.options, "prediction_type": row.loss, "gives": row.gives}
    draft.values["model"].update(discrete_codec="none", **process, **row.network)
    draft.values["data"]["val_batch_size"] = 1000
    draft.clear_length()
    draft.values["trainer"].update(max_steps=row.steps, accelerator=device, devices=1, tensorboard=False)
    return draft.build()


@torch.no_grad()
def errors(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> dict[str, float]:
    """How far joint targets are off, root mean square in radians over those that move and the executed steps."""
    torch.manual_seed(0)
    actions, config = batch[ACTION], policy.config
    moving = actions[..., :21].flatten(0, 1).std(0) > 1e-4
    executed = slice(config.n_obs_steps - 1, config.n_obs_steps - 1 + config.n_action_steps)

    def size(difference: Tensor) -> float:  # (..., n, 23)
        return float(difference[..., executed, :21][..., moving].square().mean().sqrt())

    draws = torch.stack([policy.predict_chunk(batch).actions for _ in range(DRAWS)])  # (K, B, n, 23)
    found = {"sampled": size(draws - actions), "by draw": size(draws - draws.mean(0))}
    assert policy.codec is not None
    values = policy.normalizer.normalize(ACTION, policy.representation.encode(actions, {}))
    trajectory = torch.cat([values, policy.codec.encode(policy.representation.discrete(actions))], -1)  # (B, n, W)
    condition = policy.embed(batch, config.n_obs_steps)
    levels = policy.sampler.timesteps
    for name, timestep in (("first", levels[0]), ("middle", levels[len(levels) // 2])):
        timesteps = torch.full((len(actions),), timestep)
        coefficients = policy.schedule.coefficients(timesteps)
        noisy = policy.schedule.add_noise(trajectory, torch.randn_like(trajectory), timesteps)
        x0 = clean(config.prediction_type, noisy, policy.denoiser(noisy, timesteps, condition), *coefficients)
        back = policy.normalizer.unnormalize(ACTION, x0.clamp(-1, 1)[..., :21])
        found[name] = size(torch.cat([back, actions[..., 21:]], -1) - actions)
    return found


def measure(row: Row, data: Path, device: str) -> dict[str, str]:
    """Train and measure one row."""
    torch.set_num_threads(1)
    robodiff.register(ConvertedConfig)
    config = configuration(row, data, device)
    with TemporaryDirectory() as folder:
        fit(config, Path(folder) / "run", to_yaml(config), console=Console(quiet=True))
        policy = load_policy(Path(folder) / "run" / "policy-last")
    windows = WindowDataModule(config.data, config.model.window, config.model.observation_keys, config.seed_everything)
    off = errors(policy, next(iter(windows.val_dataloader())))
    walks = {}
    for steps in (2, 4):
        policy.set_sampler(replace(policy.config, n_action_steps=steps))
        records = rollout(policy, walker_spec(), range(SEED, SEED + EPISODES), num_envs=EPISODES)
        walks[steps] = sum(record.success for record in records) / EPISODES
    line = {
        "network gives": f"{NAMES[row.gives]}{' (U-Net)' if row.network == UNET else ''}",
        "loss is of": NAMES[row.loss],
        "schedule": "flow" if row.options == FLOW else "cosine",
        "steps": f"{row.steps:,}",
        **{f"{name}, rad" if name != "sampled" else "action error, rad": f"{off[name]:.3f}" for name in off},
        **{f"success, {steps} steps executed": f"{rate:.2f}" for steps, rate in walks.items()},
    }
    print(line, flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("hybrid"), help="where the demonstrations go")
    parser.add_argument("--jobs", type=int, default=cores(), help="at once")
    parser.add_argument("--device", default="cpu", help="of training; cpu or cuda")
    given = parser.parse_args()
    data = given.folder / "walk.zarr"
    if not data.exists():
        command("collect", "biped", "--episodes", DEMONSTRATIONS, "--out", data)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        measured = [
            *pool.map(partial(measure, data=data, device=given.device), ROWS[::-1])
        ]  # those that take longest first
    keep("prediction_types", measured[::-1])


if __name__ == "__main__":
    main()
