"""Success against the time that a policy takes: the robot waits, chunks take over late, or chunks go on from the last.

In virtual time: a chunk that is asked for at a step arrives a number of steps later, whatever it takes here. That is
the delay in steps of the environment's policy, rounded up. The first chunk of an episode is there at once. What plans
is ``robodiff.deploy.planner``, as in ``robodiff run``.

robodiff fit --config pusht_keypoints --run runs/pusht
robodiff collect stack_cube_mycobot --episodes 200 --out cube.zarr
robodiff fit --config tabletop_state --data cube.zarr --rollout.env stack_cube_mycobot --run runs/cube
python -m benchmarks.delay --policy pusht=runs/pusht --policy stack_cube_mycobot=runs/cube [--device cuda]
"""

import argparse
import math
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.common import keep
from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.deploy.opening import open_runtime
from robodiff.deploy.planner import ChunkPlanner
from robodiff.envs.pool import EnvPool, useful_workers
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.evaluation.actor import needed_keys, seen_by, steps_held
from robodiff.evaluation.statistics import wilson_interval
from robodiff.policies.history import History
from robodiff.policies.runtime import as_recorded, draw_noise

MODES = {
    "synchronous": {"mode": "synchronous"},
    "naive": {"mode": "naive"},
    "real time": {"mode": "real_time"},
    "real time, soft": {"mode": "real_time", "soft": True},
}
DELAYS = (0, 50, 100, 200)
"""Milliseconds."""
FIRST_SEED = 100_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", action="append", required=True, help="ENVIRONMENT=RUN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--replan", type=int, help="steps from one chunk to the next; the policy's own when not given")
    parser.add_argument("--out", default="delay")
    options = parser.parse_args()
    rows = []
    for name, path in (each.split("=", 1) for each in options.policy):
        policy = open_runtime(path, options.device)
        spec = seen_by(policy, get_env_spec(name))
        seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
        for delay in DELAYS:
            steps = math.ceil(delay / 1000 / policy.timing.spacing - 1e-9)
            row = {"environment": name, "delay_ms": delay, "delay_steps": steps, "episodes": options.episodes}
            for mode, how in MODES.items():
                planner = ChunkPlanner(policy.timing, replan=options.replan, **how)
                successes, rewards = episodes(policy, spec, seeds, planner, steps)
                low, high = wilson_interval(sum(successes), len(successes))
                row[mode] = f"{np.mean(successes):.2f} ({low:.2f}-{high:.2f})"
                row[f"{mode}: reward"] = round(float(np.mean(rewards)), 3)
                print(row, flush=True)
            rows.append(row)
    keep(options.out, rows)


def episodes(
    policy: Any, spec: EnvSpec, seeds: range, planner: ChunkPlanner, delay: int
) -> tuple[list[bool], list[float]]:
    """Return whether each seed's episode succeeded, and its largest reward, where chunks arrive so many steps late."""
    rows, keys, held = [*range(len(seeds))], needed_keys(policy, spec), steps_held(policy, spec)
    successes, rewards, running = [False] * len(rows), [-math.inf] * len(rows), {*rows}
    history, shape = History.empty(policy.timing, len(rows)), policy.noise_shape(1)
    action = np.zeros((len(rows), *policy.features[ACTION].shape), np.float32)
    arrives, chunk, asked = 0, None, 0
    with closing(EnvPool(spec, keys, rows, useful_workers(spec, keys, len(rows)))) as pool:
        seen = pool.reset(dict(enumerate(seeds)))
        step = 0
        while running:
            history = history.after(observation(policy, seen, action))
            late = delay if asked else 0  # the first is there at once
            if planner.is_due(step, late):
                known = planner.ask(step, late)
                noise = np.concatenate([draw_noise(shape, seed, asked) for seed in seeds], axis=1)
                chunk, arrives, asked = (
                    policy.predict_chunk(history.window(), noise=noise, known=known),
                    step + late,
                    asked + 1,
                )
            if chunk is not None and step == arrives:
                planner.take(chunk, step)
                chunk = None
            planned = planner.action(step)
            action = action if planned is None else planned
            planner.executed(step, action)
            for _ in range(held):
                for row, result in pool.step({row: action[row] for row in sorted(running)}).items():
                    seen[row] = result.observation
                    successes[row] |= result.success
                    rewards[row] = max(rewards[row], result.reward)
                    if result.ended:
                        running.discard(row)
            step += 1
    return successes, rewards


def observation(policy: Any, seen: Mapping[int, Mapping[str, np.ndarray]], action: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is observed in all rows, per key (B, ...)."""
    batch = {PAST_ACTION: action}
    for key in next(iter(seen.values())):
        batch[key] = np.stack([each[key] for each in seen.values()])
    observed = [key for key in policy.features if key != ACTION]
    return {key: as_recorded(key, batch[key], policy.features[key], (len(seen),)) for key in observed}


if __name__ == "__main__":
    main()
