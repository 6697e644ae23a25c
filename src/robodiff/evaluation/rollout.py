"""Episodes of a policy in an environment, many at once, each of which depends on its seed alone."""

import itertools
import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np

from robodiff.envs.pool import EnvPool, Rows, Step, useful_workers
from robodiff.envs.spec import EnvSpec
from robodiff.evaluation.actor import Policies, make_runner, needed_keys, seen_by, steps_held
from robodiff.evaluation.results import EpisodeResult
from robodiff.policies.runner import NonFiniteActions, NonFiniteChunk, PolicyRunner, Team

Pool = EnvPool | Rows
NO_CHUNKS: Mapping[int, np.ndarray] = MappingProxyType({})

FAR_OUTSIDE = 0.25
"""Share of the range of training by which an observation lies outside of it, from which on evaluations count it."""


@dataclass
class EpisodeRecord:
    """What happened in one episode."""

    seed: int
    success: bool = False
    max_reward: float = 0.0
    """Over the steps taken; 0 where none was."""
    actions: list[np.ndarray] = field(default_factory=list)
    """Every executed action, each (Da,): with the seed they are the whole episode."""
    rewards: list[float] = field(default_factory=list)
    """Of every step."""
    non_finite: NonFiniteChunk | None = None
    """The chunk that ended the episode because it is not finite; nothing of it was executed."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """The environment's own metrics after the last step, those that are finite."""
    out_of_range: float = 0.0
    """The largest share by which an observation lay outside of its range of training, see ``Report``."""

    @property
    def length(self) -> int:
        """Steps that the environment took."""
        return len(self.actions)

    @property
    def result(self) -> EpisodeResult:
        """What is kept of it in ``metrics.json``."""
        return EpisodeResult(
            seed=self.seed,
            success=self.success,
            max_reward=float(self.max_reward),
            length=self.length,
            non_finite=self.non_finite is not None,
            extra=dict(self.extra),
        )

    def add(self, action: np.ndarray, step: Step) -> None:
        """Take in one more step."""
        self.max_reward = max(self.max_reward, step.reward) if self.actions else step.reward
        self.actions.append(action.copy())
        self.rewards.append(step.reward)
        self.success = self.success or step.success
        self.extra = {name: float(value) for name, value in step.extra.items() if math.isfinite(value)}


class Watcher(Protocol):
    """Watches episodes while they run, and changes nothing in them."""

    def watch(
        self,
        environments: Pool,
        episodes: Mapping[int, EpisodeRecord],
        observations: Mapping[str, np.ndarray],
        ended: Collection[int] = (),
        chunks: Mapping[int, np.ndarray] = NO_CHUNKS,
    ) -> None:
        """Take in what is so after a step, or before the first one.

        Args:
            environments: as they are now; they may be drawn.
            episodes: by row, those that took the step.
            observations: per key (rows, ...), what is observed now.
            ended: rows whose episode this step ended.
            chunks: by row whose chunk began with this step, that chunk: (n, Da), an action for each step.
        """
        ...


def _fastest(spec: EnvSpec, keys: Collection[str], rows: Collection[int]) -> Pool:
    return EnvPool(spec, keys, rows, useful_workers(spec, keys, len(rows)))


def rollout(
    policy: Policies,
    spec: EnvSpec,
    seeds: Sequence[int],
    num_envs: int,
    advance: Callable[[int, str], None] = lambda finished, step: None,
    make_pool: Callable[[EnvSpec, Collection[str], Collection[int]], Pool] = _fastest,
    watcher: Watcher | None = None,
) -> list[EpisodeRecord]:
    """Run one episode a seed.

    Up to ``num_envs`` episodes are stepped together. The policy is called with that many rows at every call, also when
    fewer episodes run, and an episode has the row seed % num_envs: matrix products round differently for another size
    of the batch, and for another place in it, and then an episode would depend on which others run beside it.

    An episode in which the policy's chunk is not finite ends there, with what it had reached; the others go on.

    Args:
        policy: on any device, in evaluation mode; one of each agent, by its id, act as a team.
        spec: the environment.
        seeds: one an episode, all different.
        num_envs: rows of the policy's batch.
        advance: called after every step with the number of episodes that have ended, and in words which step it was.
        make_pool: makes the environments, from how the policy sees them, what it observes, and their rows.
        watcher: sees every step; None where nobody watches.

    Returns:
        One record a seed, in their order.

    Raises:
        UsageError: the environment lacks something that the policy observes, or an agent has no policy.
    """
    together = waves(policy, spec, seeds, num_envs, advance, make_pool, watcher)
    records = {record.seed: record for wave in together for record in wave}
    return [records[seed] for seed in seeds]


def waves(
    policy: Policies,
    spec: EnvSpec,
    seeds: Sequence[int],
    num_envs: int,
    advance: Callable[[int, str], None] = lambda finished, step: None,
    make_pool: Callable[[EnvSpec, Collection[str], Collection[int]], Pool] = _fastest,
    watcher: Watcher | None = None,
) -> Generator[list[EpisodeRecord], None, None]:
    """Run episodes as ``rollout`` does; yield those that ran together, at most one a row, when all of them have ended.

    Seeds that follow one another run in their order, ``num_envs`` at a time.
    """
    spec = seen_by(policy, spec)
    runner, keys, held = make_runner(policy, spec, num_envs), needed_keys(policy, spec), steps_held(policy, spec)
    queues: dict[int, list[EpisodeRecord]] = {}  # by row
    for seed in seeds:
        queues.setdefault(seed % num_envs, []).append(EpisodeRecord(seed))
    finished = 0
    with closing(make_pool(spec, keys, sorted(queues))) as environments:
        while wave := {row: queue.pop(0) for row, queue in sorted(queues.items()) if queue}:
            finished += len(wave)
            steps = _episodes(runner, num_envs, environments, wave, held, watcher)
            for step, running in enumerate(steps, start=1):
                advance(finished - running, f"step {step} of {spec.max_steps}" if spec.max_steps else f"step {step}")
            yield [*wave.values()]


def _episodes(
    runner: PolicyRunner | Team,
    num_envs: int,
    environments: Pool,
    wave: dict[int, EpisodeRecord],
    held: int,
    watcher: Watcher | None,
) -> Iterator[int]:
    """Step the episodes of a wave, one a row, until all have ended; yield how many still run.

    The runner is asked before every ``held``-th step; in those between, its action holds.
    """
    observations = environments.reset({row: record.seed for row, record in wave.items()})
    some = next(iter(wave))  # rows without an episode observe what this one does; nobody asks what they do
    rows = [row if row in wave else some for row in range(num_envs)]
    runner.reset(seeds=[wave[row].seed for row in rows])
    batch = {key: np.stack([observations[row][key] for row in rows]) for key in observations[some]}
    running, actions, chunks = dict(wave), np.empty(0), NO_CHUNKS
    if watcher is not None:
        watcher.watch(environments, running, batch)
    for taken in itertools.count():
        if not running:
            break
        if taken % held == 0:
            actions = _acting(runner, batch, running)
            if watcher is not None:
                chunks = {row: np.repeat(chunk, held, axis=0) for row, chunk in runner.chunks.items()}
        steps = environments.step({row: actions[row] for row in running})
        for row, step in steps.items():
            running[row].add(actions[row], step)
            for key, value in batch.items():
                value[row] = step.observation[key]
        ended = [row for row, step in steps.items() if step.ended]
        if watcher is not None:
            watcher.watch(environments, running, batch, ended, chunks)
            chunks = NO_CHUNKS
        running = {row: record for row, record in running.items() if row not in ended}
        yield len(running)


def _acting(
    runner: PolicyRunner | Team, batch: Mapping[str, np.ndarray], running: dict[int, EpisodeRecord]
) -> np.ndarray:
    """Return the actions of all rows; an episode whose chunk is not finite runs no longer."""
    try:
        actions = runner.act(batch)
    except NonFiniteActions as error:
        actions = error.actions
        for row in running.keys() & error.chunks.keys():
            running.pop(row).non_finite = error.chunks[row]
    for shares in runner.last.out_of_range.values():
        for row, record in running.items():
            record.out_of_range = max(record.out_of_range, float(shares[row]))
    return actions
