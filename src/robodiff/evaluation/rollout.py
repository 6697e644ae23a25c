"""Episodes of a policy in an environment, many at once, each of which depends on its seed alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.envs.registry import EnvSpec
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner


@dataclass
class EpisodeRecord:
    """What happened in one episode."""

    seed: int
    success: bool = False
    max_reward: float = 0.0
    length: int = 0
    actions: list[np.ndarray] = field(default_factory=list)
    """Every executed action, each (Da,): with the seed they are the whole episode."""


def rollout(
    policy: DiffusionPolicy,
    spec: EnvSpec,
    seeds: Sequence[int],
    num_envs: int,
    on_step: Callable[[int, int], None] | None = None,
) -> list[EpisodeRecord]:
    """Run one episode a seed.

    ``num_envs`` episodes are stepped together and the policy is called with that many rows at every call, also when
    fewer episodes are left: another batch size may round differently, and then an episode would depend on how many
    others run beside it.

    Args:
        policy: on any device, in evaluation mode.
        spec: the environment.
        seeds: one an episode.
        num_envs: rows of the policy's batch.
        on_step: called after every step with (episodes finished, episodes running).

    Raises:
        UsageError: the environment lacks something that the policy observes.
        RobodiffError: the policy's actions do not fit the environment, or are not finite.
    """
    check_fit(policy, spec)
    records: list[EpisodeRecord] = []
    environments = [spec.make(policy.observation_keys) for _ in range(min(num_envs, len(seeds)))]
    try:
        runner = PolicyRunner(policy, rows=num_envs)
        for first in range(0, len(seeds), num_envs):
            wave = seeds[first : first + num_envs]

            def report(running: int, done: int = first, size: int = len(wave)) -> None:
                if on_step is not None:
                    on_step(done + size - running, running)

            records += _wave(runner, environments, wave, report)
    finally:
        for environment in environments:
            environment.close()
    return records


def _wave(
    runner: PolicyRunner, environments: list[Any], seeds: Sequence[int], report: Callable[[int], None]
) -> list[EpisodeRecord]:
    """One episode in each of the first environments, until all have ended."""
    records = [EpisodeRecord(seed) for seed in seeds]
    rows = len(runner.seeds)
    observations = [environments[i].reset(seed=seed)[0] for i, seed in enumerate(seeds)]
    spare = rows - len(seeds)  # rows that only keep the batch at its size
    runner.reset(seeds=[*seeds, *[0] * spare])
    observations += observations[:1] * spare
    batch = {key: np.stack([o[key] for o in observations]) for key in runner.policy.observation_keys}
    running = list(range(len(seeds)))
    while running:
        actions = runner.act(batch)
        for row in tuple(running):
            action, record = actions[row], records[row]
            if not np.isfinite(action).all():
                raise RobodiffError(f"the policy's action is not finite in episode {record.seed}, step {record.length}")
            observation, reward, terminated, truncated, info = environments[row].step(action)
            record.actions.append(action.copy())
            record.max_reward = max(record.max_reward, float(reward))
            record.success = record.success or bool(info["is_success"])
            record.length += 1
            for key, value in batch.items():
                value[row] = observation[key]
            if terminated or truncated:
                running.remove(row)
        report(len(running))
    return records


def chunk_latency(policy: DiffusionPolicy, spec: EnvSpec, seed: int, chunks: int = 30) -> list[float]:
    """Milliseconds from an observation of one robot to its chunk of actions, after a warm-up."""
    environment = spec.make(policy.observation_keys)
    try:
        runner = PolicyRunner(policy)
        observation, _ = environment.reset(seed=seed)
        times = []
        for _ in range(chunks + 3):
            runner.reset()
            start = time.perf_counter()
            runner.act(observation)
            times.append((time.perf_counter() - start) * 1e3)
        return times[3:]
    finally:
        environment.close()


def check_fit(policy: DiffusionPolicy, spec: EnvSpec) -> None:
    """Raise ``UsageError`` unless the policy's features are the environment's."""
    for key, feature in policy.features.items():
        there = spec.features.get(key)
        if there is None:
            offered = ", ".join(k for k in spec.features if k != ACTION)
            raise UsageError(f"the policy observes {key!r}, which the environment {spec.name} lacks; it has {offered}")
        if there.shape != feature.shape:
            raise UsageError(f"{key} is {feature.shape} for the policy and {there.shape} in {spec.name}")
    rate = policy.fps / policy.config.frame_stride
    if abs(rate - spec.fps) > 1e-6:
        raise UsageError(
            f"the policy acts at {rate:g} Hz (its recording's), the environment {spec.name} at {spec.fps:g}"
        )
