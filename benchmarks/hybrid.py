"""Foot contacts beside joint targets, in five ways, on a robot that walks: how often it does, pushed or not.

Preset ``biped_hybrid``, of which each way has as many parameters as can be and the same optimizer steps of diffusion;
the first stage, where there is a VAE to train, comes before them. Every job is a training and its episodes, in a
process with one thread. It leaves a line of JSON; jobs that have one are not done again, and the table is made of all.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from rich.console import Console

from benchmarks.common import hardware, keep
from benchmarks.tabletop_skill import robodiff
from robodiff.cli.configuration import find_config, to_yaml
from robodiff.data.episodes import ACTION
from robodiff.data.formats.zarr_writer import write_zarr
from robodiff.data.recordings import open_path
from robodiff.envs.mujoco.walker import FEATURES, WalkerEnv, WalkerOptions, walker_spec
from robodiff.envs.spec import EnvSpec
from robodiff.evaluation.config import SEED
from robodiff.evaluation.rollout import rollout
from robodiff.evaluation.statistics import wilson_interval
from robodiff.machine import cores
from robodiff.policies.checkpoint import load_policy
from robodiff.training.fit import fit

TOUCH = "measured touch"
WAYS: dict[str, dict[str, Any]] = {
    "vae per step": {"discrete_codec": "vae", "vae_per": "step", "hidden_dim": 512},
    "vae per chunk": {"discrete_codec": "vae", "vae_per": "chunk", "hidden_dim": 512},
    "analog bits, self-conditioned": {"discrete_codec": "analog_bits", "self_conditioning": True, "hidden_dim": 502},
    "numbers": {"discrete_codec": "none", "hidden_dim": 528},
    TOUCH: {"hidden_dim": 532},
}
"""Options of the model, with the width that gives each about two million parameters. Without self-conditioning, analog
bits of two classes are the numbers. By touch: the policy has joint targets alone, and the flags are what the soles
measured."""
DEMONSTRATIONS = (100, 50, 25)
PUSHES = (0, 100, 150)
"""N."""
STEPS = 1500


class Job(NamedTuple):
    """One training, and its episodes."""

    seed: int
    demonstrations: int
    way: str


class Options(NamedTuple):
    """What all jobs share."""

    folder: Path
    results: Path
    steps: int
    episodes: int
    device: str

    @property
    def walks(self) -> Path:
        """The recording."""
        return self.folder / "walk.zarr"

    @property
    def walks_without_flags(self) -> Path:
        """The recording with the actions' flags cut off."""
        return self.folder / "walk-without-flags.zarr"


class TouchEnv(WalkerEnv):
    """The walker, acted on by joint targets alone: of each leg the flag is whether its sole touched the ground."""

    def __init__(self, keys: Collection[str], options: WalkerOptions) -> None:
        super().__init__(keys, options)
        self.action_space = gymnasium.spaces.Box(self._low, self._high)

    def step(self, action: np.ndarray) -> Any:
        """Act with the flags that were measured after the step before."""
        return super().step(np.concatenate([action, self.biped.touch]))


def environment(way: str, push: float) -> EnvSpec:
    options = WalkerOptions(push_newton=push)
    spec = walker_spec(options)
    if way != TOUCH:
        return spec
    features = {**FEATURES, ACTION: FEATURES[ACTION].part(range(21))}
    return replace(spec, make=lambda keys: TouchEnv(keys, options), features=features)


def record(options: Options) -> None:
    """Collect the demonstrations, unless they are there."""
    if not options.walks.exists():
        robodiff("collect", "biped", "--episodes", max(DEMONSTRATIONS), "--out", options.walks)
    if not options.walks_without_flags.exists():
        episodes = open_path(str(options.walks)).read()
        action = episodes.arrays[ACTION][:, :21]
        features = {**episodes.features, ACTION: episodes.features[ACTION].part(range(21))}
        cut = replace(episodes, arrays={**episodes.arrays, ACTION: action}, features=features)
        write_zarr(cut, options.walks_without_flags)


def train(job: Job, options: Options, run: Path) -> None:
    draft = find_config("biped_hybrid")
    if job.way == TOUCH:
        draft.choose("model", "DiffusionMlpConfig")
    draft.choose("data", str(options.walks_without_flags if job.way == TOUCH else options.walks))
    draft.values["data"]["episodes"] = [*range(job.demonstrations)]
    draft.values["model"].update(WAYS[job.way])
    draft.top["seed_everything"] = job.seed
    draft.clear_length()
    draft.values["trainer"].update(max_steps=options.steps, accelerator=options.device, devices=1, tensorboard=False)
    config = draft.build()
    if len(config.model.stages()) > 1:
        steps = options.steps + config.model.n_vae_training_steps
        config = replace(config, trainer=replace(config.trainer, max_steps=steps))
    fit(config, run, to_yaml(config), console=Console(quiet=True))


def measure(job: Job, options: Options) -> None:
    """Train, let walk, and add a line to the results."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        train(job, options, Path(folder) / "run")
        policy = load_policy(Path(folder) / "run" / "policy-last")
    minutes = (time.monotonic() - begun) / 60
    walked = {}
    for push in PUSHES:
        seeds = range(SEED, SEED + options.episodes)
        records = rollout(policy, environment(job.way, push), seeds, num_envs=options.episodes)
        walked[str(push)] = sum(record.success for record in records)
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    said = {"minutes of training": minutes, "parameters": parameters, "steps": options.steps}
    line = {**job._asdict(), **said, "episodes": options.episodes, "successes": walked, "hardware": hardware()}
    print(*job, walked, flush=True)
    with options.results.open("a") as file:
        file.write(json.dumps(line) + "\n")


def table(lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One row for each way and number of demonstrations, over all training seeds."""
    rows = []
    for demonstrations in DEMONSTRATIONS:
        for way in WAYS:
            some = [each for each in lines if (each["demonstrations"], each["way"]) == (demonstrations, way)]
            if some:
                cells = {f"pushes of {push} N" if push else "not pushed": cell(some, str(push)) for push in PUSHES}
                seeds = {"training seeds": str(len(some)), "parameters": f"{some[0]['parameters']:,}"}
                rows.append({"demonstrations": str(demonstrations), "contacts": way, **cells, **seeds})
    return rows


def cell(lines: list[dict[str, Any]], push: str) -> str:
    """Success with its interval over all episodes, and from which to which training seed it differs."""
    successes, episodes = sum(each["successes"][push] for each in lines), sum(each["episodes"] for each in lines)
    low, high = wilson_interval(successes, episodes)
    rates = [each["successes"][push] / each["episodes"] for each in lines]
    return f"**{successes / episodes:.2f}** ({low:.2f} to {high:.2f}), seeds {min(rates):.2f} to {max(rates):.2f}"


def lines_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("hybrid"), help="where the demonstrations go")
    parser.add_argument("--results", type=Path, default=Path("hybrid.jsonl"), help="a line for each job")
    parser.add_argument("--jobs", type=int, default=cores(), help="at once")
    parser.add_argument("--device", default="cpu", help="of training; cpu or cuda")
    parser.add_argument("--steps", type=int, default=STEPS, help="of diffusion")
    parser.add_argument("--episodes", type=int, default=100, help="a cell and training seed")
    parser.add_argument("--demonstrations", type=int, nargs="+", default=DEMONSTRATIONS)
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    given = parser.parse_args()
    options = Options(given.folder, given.results, given.steps, given.episodes, given.device)
    record(options)
    done = {Job(*(line[name] for name in Job._fields)) for line in lines_of(given.results)}
    jobs = [Job(*job) for job in itertools.product(range(given.seeds), given.demonstrations, WAYS)]
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(measure, job, options) for job in jobs if job not in done]
    for each in running:
        each.result()  # raises what the job did
    lines = lines_of(given.results)
    keep("hybrid" if given.steps == STEPS else f"hybrid_{given.steps}", table(lines), lines[-1]["hardware"])


if __name__ == "__main__":
    main()
