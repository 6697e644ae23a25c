"""Episodes of a policy in an environment, many at once, each of which depends on its seed alone."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.envs.pool import EnvPool, useful_workers
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

    Up to ``num_envs`` episodes are stepped together. The policy is called with that many rows at every call, also when
    fewer episodes run, and an episode has the row seed % num_envs: matrix products round differently for another size
    of the batch, and for another place in it, and then an episode would depend on which others run beside it.

    Args:
        policy: on any device, in evaluation mode.
        spec: the environment.
        seeds: one an episode, all different.
        num_envs: rows of the policy's batch.
        on_step: called after every step with (episodes finished, episodes running).

    Returns:
        One record a seed, in their order.

    Raises:
        UsageError: the environment lacks something that the policy observes.
        RobodiffError: the policy's actions are not finite.
    """
    check_fit(policy, spec)
    records = {seed: EpisodeRecord(seed) for seed in seeds}
    waves: list[dict[int, EpisodeRecord]] = []  # in each, the episode of every row that has one
    for record in records.values():
        row = record.seed % num_envs
        wave = next((wave for wave in waves if row not in wave), None)
        if wave is None:
            waves.append(wave := {})
        wave[row] = record
    rows = sorted({row for wave in waves for row in wave})
    keys = policy.observation_keys
    environments = EnvPool(spec, keys, rows, useful_workers(spec, keys, len(rows)))
    runner = PolicyRunner(policy, rows=num_envs)
    finished = 0
    try:
        for wave in waves:
            for running in _episodes(runner, environments, wave):
                if on_step is not None:
                    on_step(finished + len(wave) - running, running)
            finished += len(wave)
    finally:
        environments.close()
    return list(records.values())


def _episodes(runner: PolicyRunner, environments: EnvPool, wave: dict[int, EpisodeRecord]) -> Iterator[int]:
    """Step the episodes of a wave until all have ended; yields how many still run."""
    observations = environments.reset({row: record.seed for row, record in wave.items()})
    some = next(iter(observations.values()))  # what rows without an episode observe; nobody asks what they do
    rows = range(len(runner.seeds))
    runner.reset(seeds=[wave[row].seed if row in wave else 0 for row in rows])
    batch = {
        key: np.stack([observations.get(row, some)[key] for row in rows]) for key in runner.policy.observation_keys
    }
    running = dict(wave)
    while running:
        actions = runner.act(batch)
        for row, record in running.items():
            if not np.isfinite(actions[row]).all():
                raise RobodiffError(f"the policy's action is not finite in episode {record.seed}, step {record.length}")
            record.actions.append(actions[row].copy())
        for row, step in environments.step({row: actions[row] for row in running}).items():
            record = running[row]
            record.max_reward = max(record.max_reward, step.reward)
            record.success = record.success or step.success
            record.length += 1
            for key, value in batch.items():
                value[row] = step.observation[key]
            if step.ended:
                del running[row]
        yield len(running)


def chunk_latency(policy: DiffusionPolicy, spec: EnvSpec, seed: int, chunks: int = 30) -> list[float]:
    """``time_chunks`` at the first observation of an episode."""
    environment = spec.make(policy.observation_keys)
    try:
        observation, _ = environment.reset(seed=seed)
        return time_chunks(policy, observation, chunks)
    finally:
        environment.close()


def time_chunks(policy: DiffusionPolicy, observation: Mapping[str, np.ndarray], chunks: int = 30) -> list[float]:
    """Milliseconds from an observation of one robot to its chunk of actions, after a warm-up."""
    runner = PolicyRunner(policy)
    times = []
    for _ in range(chunks + 3):
        runner.reset()
        start = time.perf_counter()
        runner.act(observation)
        times.append((time.perf_counter() - start) * 1e3)
    return times[3:]


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
