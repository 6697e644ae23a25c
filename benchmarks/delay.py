"""Success against the time that a policy takes: the robot waits, chunks take over late, or chunks go on from the last.

In virtual time: a chunk that is asked for at a step arrives a number of steps later, whatever it takes here: the delay
in steps of the policy, rounded up. The first chunk of an episode is there at once. What plans is
``robodiff.deploy.planner``, as in ``robodiff run``. The jump is by how much the action changes where a chunk takes over
as a multiple of what it changes by elsewhere.

robodiff fit --config pusht_keypoints --run runs/pusht
robodiff collect stack_cube_mycobot --episodes 200 --out cube.zarr
robodiff fit --config tabletop_state --data cube.zarr --rollout.env stack_cube_mycobot --run runs/cube
python -m benchmarks.delay --policy pusht=runs/pusht --policy stack_cube_mycobot=runs/cube [--device cuda]
"""

import argparse
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks.common import keep
from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.deploy.opening import open_runtime
from robodiff.deploy.planner import ChunkPlanner
from robodiff.envs.pool import EnvPool, useful_workers
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.evaluation.actor import needed_keys, seen_by, steps_held
from robodiff.evaluation.statistics import wilson_interval
from robodiff.machine import cores
from robodiff.policies.history import History
from robodiff.policies.runtime import as_recorded, draw_noise

MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"mode": "synchronous"},
    "naive": {"mode": "naive"},
    "real_time": {"mode": "real_time"},
    "real_time, soft": {"mode": "real_time", "soft": True},
}
DELAYS = (0, 50, 100, 200)
"""Milliseconds."""
FIRST_SEED = 100_000


@dataclass(frozen=True)
class Cell:
    """What is measured at once."""

    environment: str
    path: str
    """Of the policy."""
    device: str
    episodes: int
    delay: int
    """Steps."""
    mode: str

    def measure(self) -> str:
        """Return the share of successes with its interval, the mean reward, and the jump."""
        torch.set_num_threads(1)
        policy = open_runtime(self.path, self.device)
        spec = seen_by(policy, get_env_spec(self.environment))  # pyright: ignore[reportArgumentType]
        planner = ChunkPlanner(policy.timing, **MODES[self.mode])  # pyright: ignore[reportAttributeAccessIssue]
        seeds = range(FIRST_SEED, FIRST_SEED + self.episodes)
        successes, rewards, jump = run(policy, spec, seeds, planner, self.delay)
        low, high = wilson_interval(sum(successes), self.episodes)
        share = f"{sum(successes) / self.episodes:.2f} ({low:.2f} to {high:.2f})"
        return f"{share}, {np.mean(rewards):.3f}, {jump:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", action="append", required=True, help="ENVIRONMENT=RUN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--delays", type=int, nargs="+", default=DELAYS, help="milliseconds")
    parser.add_argument("--processes", type=int, default=cores())
    options = parser.parse_args()
    asked = []
    for environment, path in (each.split("=", 1) for each in options.policy):
        spacing = open_runtime(path).timing.spacing  # pyright: ignore[reportAttributeAccessIssue]
        asked += [(environment, path, delay, math.ceil(delay / 1000 / spacing - 1e-9)) for delay in options.delays]
    cells = [
        Cell(environment, path, options.device, options.episodes, steps, mode)
        for environment, path, steps in dict.fromkeys((each[0], each[1], each[3]) for each in asked)
        for mode in MODES
    ]
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        measured = dict(zip(cells, pool.map(Cell.measure, cells), strict=True))
    rows = []
    for environment, path, delay, steps in asked:
        of_modes = {
            mode: measured[Cell(environment, path, options.device, options.episodes, steps, mode)] for mode in MODES
        }
        rows.append({"environment": environment, "delay (ms)": delay, "steps": steps, **of_modes})
    keep("delay", rows)


def run(
    policy: Any, spec: EnvSpec, seeds: range, planner: ChunkPlanner, delay: int
) -> tuple[list[bool], list[float], float]:
    """Run an episode a seed, where chunks arrive so many steps late.

    Returns:
        Which episodes succeeded, the largest reward of each, and the jump.
    """
    rows, keys, held = [*range(len(seeds))], needed_keys(policy, spec), steps_held(policy, spec)
    successes, rewards, running = [False] * len(rows), [-math.inf] * len(rows), {*rows}
    history, shape = History.empty(policy.timing, len(rows)), policy.noise_shape(1)
    action = np.zeros((len(rows), *policy.features[ACTION].shape), np.float32)
    step, number, arrives, chunk = 0, 0, 0, None
    changes: dict[bool, list[float]] = {True: [], False: []}  # by whether a chunk took over
    with closing(EnvPool(spec, keys, rows, useful_workers(spec, keys, len(rows)))) as pool:
        seen = pool.reset(dict(enumerate(seeds)))
        while running:
            history = history.after(observation(policy, seen, action))
            late = delay if number else 0  # the first is there at once
            if planner.is_due(step, late):
                known = planner.ask(step, late)
                noise = np.concatenate([draw_noise(shape, seed, number) for seed in seeds], axis=1)
                chunk = policy.predict_chunk(history.window(), noise=noise, known=known)
                arrives, number = step + late, number + 1
            takes_over = chunk is not None and step == arrives
            if chunk is not None and takes_over:
                planner.take(chunk, step)
                chunk = None
            planned, last = planner.action(step), action
            action = last if planned is None else planned
            planner.executed(step, action)
            if step > 0 and planned is not None:
                changes[takes_over].append(float(np.linalg.norm((action - last)[sorted(running)], axis=1).mean()))
            for _ in range(held):
                for row, result in pool.step({row: action[row] for row in sorted(running)}).items():
                    seen[row] = result.observation
                    successes[row] |= result.success
                    rewards[row] = max(rewards[row], result.reward)
                    running -= {row} if result.ended else set()
            step += 1
    return successes, rewards, float(np.mean(changes[True]) / np.mean(changes[False]))


def observation(policy: Any, seen: Mapping[int, Mapping[str, np.ndarray]], action: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is observed in all rows, per key (B, ...), and what was executed last."""
    batch = {PAST_ACTION: action}
    batch |= {key: np.stack([each[key] for each in seen.values()]) for key in next(iter(seen.values()))}
    observed = [key for key in policy.features if key != ACTION]
    return {key: as_recorded(key, batch[key], policy.features[key], (len(seen),)) for key in observed}


if __name__ == "__main__":
    main()
