"""Episodes of a policy in an environment, many at once, each of which depends on its seed alone."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.envs.pool import EnvPool, Step, useful_workers
from robodiff.envs.spec import EnvSpec
from robodiff.errors import UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import NonFiniteActions, NonFiniteChunk, PolicyRunner

WARM_UP, LEAST_CHUNKS, SECONDS_OF_CHUNKS = 3, 5, 5.0


@dataclass
class EpisodeRecord:
    """What happened in one episode."""

    seed: int
    success: bool = False
    max_reward: float = 0.0
    """Over the steps taken; 0 where none was."""
    actions: list[np.ndarray] = field(default_factory=list)
    """Every executed action, each (Da,): with the seed they are the whole episode."""
    non_finite: NonFiniteChunk | None = None
    """The chunk that ended the episode because it is not finite; nothing of it was executed."""

    @property
    def length(self) -> int:
        """Steps that the environment took."""
        return len(self.actions)

    def add(self, action: np.ndarray, step: Step) -> None:
        """Take in one more step."""
        self.max_reward = max(self.max_reward, step.reward) if self.actions else step.reward
        self.actions.append(action.copy())
        self.success = self.success or step.success


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

    An episode in which the policy's chunk is not finite ends there, with what it had reached; the others go on.

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
    """
    check_fit(policy, spec)
    records = [EpisodeRecord(seed) for seed in seeds]
    queues: dict[int, list[EpisodeRecord]] = {}  # by row
    for record in records:
        queues.setdefault(record.seed % num_envs, []).append(record)
    keys = _asked_of(spec, policy)
    environments = EnvPool(spec, keys, sorted(queues), useful_workers(spec, keys, len(queues)))
    runner = PolicyRunner(policy, rows=num_envs)
    finished = 0
    try:
        while wave := {row: queue.pop(0) for row, queue in sorted(queues.items()) if queue}:
            for running in _episodes(runner, environments, wave):
                if on_step is not None:
                    on_step(finished + len(wave) - running, running)
            finished += len(wave)
    finally:
        environments.close()
    return records


def _episodes(runner: PolicyRunner, environments: EnvPool, wave: dict[int, EpisodeRecord]) -> Iterator[int]:
    """Step the episodes of a wave, one a row, until all have ended; yields how many still run."""
    observations = environments.reset({row: record.seed for row, record in wave.items()})
    some = next(iter(wave))  # rows without an episode observe what this one does; nobody asks what they do
    rows = [row if row in wave else some for row in range(len(runner.seeds))]
    runner.reset(seeds=[wave[row].seed for row in rows])
    batch = {key: np.stack([observations[row][key] for row in rows]) for key in observations[some]}
    running = dict(wave)
    while running:
        try:
            actions = runner.act(batch)
        except NonFiniteActions as error:
            actions = error.actions
            for row in running.keys() & error.chunks.keys():
                running.pop(row).non_finite = error.chunks[row]
        for row, step in environments.step({row: actions[row] for row in running}).items():
            running[row].add(actions[row], step)
            for key, value in batch.items():
                value[row] = step.observation[key]
            if step.ended:
                del running[row]
        yield len(running)


def chunk_latency(policy: DiffusionPolicy, spec: EnvSpec, seed: int, chunks: int = 30) -> list[float]:
    """``time_chunks`` at the first observation of an episode."""
    environment = spec.make(_asked_of(spec, policy))
    try:
        observation, _ = environment.reset(seed=seed)
        return time_chunks(policy, observation, chunks)
    finally:
        environment.close()


def time_chunks(policy: DiffusionPolicy, observation: Mapping[str, np.ndarray], chunks: int = 30) -> list[float]:
    """Milliseconds from an observation of one robot to its chunk of actions, after a warm-up.

    Of a slow policy fewer chunks than asked for, but ``LEAST_CHUNKS``: it is not waited for much longer than
    ``SECONDS_OF_CHUNKS``.
    """
    runner = PolicyRunner(policy)
    times: list[float] = []
    while len(times) < WARM_UP + chunks:
        runner.reset()
        start = time.perf_counter()
        with suppress(NonFiniteActions):  # it takes as long as any other
            runner.act(observation)
        times.append((time.perf_counter() - start) * 1e3)
        if sum(times) >= SECONDS_OF_CHUNKS * 1e3 and len(times) >= WARM_UP + LEAST_CHUNKS:
            break
    return times[WARM_UP:]


def check_fit(policy: DiffusionPolicy, spec: EnvSpec) -> None:
    """Raise ``UsageError`` unless the policy's features are the environment's; past actions are known to the runner."""
    for key, feature in policy.features.items():
        there = spec.features.get(ACTION if key == PAST_ACTION and key not in spec.features else key)
        if there is None:
            offered = ", ".join(k for k in spec.features if k != ACTION)
            raise UsageError(f"the policy observes {key!r}, which the environment {spec.name} lacks; it has {offered}")
        if there.shape != feature.shape:
            raise UsageError(f"{key} is {feature.shape} for the policy and {there.shape} in {spec.name}; "
                             "a policy must be trained on what the environment gives")  # fmt: skip
    rate = policy.fps / policy.config.frame_stride
    if abs(rate - spec.fps) > 1e-6:
        raise UsageError(
            f"the policy acts at {rate:g} Hz (its recording's), the environment {spec.name} at {spec.fps:g}"
        )


def _asked_of(spec: EnvSpec, policy: DiffusionPolicy) -> list[str]:
    """What the environment observes for the policy: all but what the runner knows itself."""
    return [key for key in policy.observation_keys if key in spec.features]
