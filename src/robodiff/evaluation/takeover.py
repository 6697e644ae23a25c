"""Episodes that a policy begins and the environment's expert ends: how to get out of where the policy gets.

DAgger (Ross et al., 2011, arXiv:1011.0686) with whole episodes: the expert is not asked about single states, it takes
over for good, as a person at a robot does. What is recorded says frame by frame who acted.
"""

import itertools
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch

from robodiff import registry
from robodiff.data.episodes import ACTION, INTERVENTION, Feature
from robodiff.documents import AtLeast, Between, Document
from robodiff.envs.collect import NO_SUCCESS, Attempt, Attempts, Demonstration, in_numbers, recorded_features, successes
from robodiff.envs.pool import Observation, Rows, Step
from robodiff.envs.spec import EnvSpec, TakeOver, get_env_spec, raise_for_env
from robodiff.envs.team import TeamView
from robodiff.envs.workers import in_order
from robodiff.errors import UsageError
from robodiff.evaluation.actor import Policies, needed_keys, open_policies, seen_by
from robodiff.evaluation.config import TAKE_OVER_SEED, SamplingConfig
from robodiff.evaluation.members import Members
from robodiff.evaluation.rollout import rollout
from robodiff.text import counted

UNAIDED, UNAIDED_EARLY = "unaided", "unaided early"
"""Words for seeds on which the policy succeeded by itself; for the second a random moment was drawn that came later."""
NOT_FINITE = "not finite"
"""The word for a policy whose action was not finite."""
LATE, RANDOM = "late", "random"
"""Words for why the expert took over: the episode had ended without success, or a moment was drawn."""
TOOK_OVER = "took_over_"
"""Before the word for why the expert took over: a column of the recording's table, 1 where it did."""
USUAL_STEPS = 300
"""Taken for the length of an episode where the environment does not say it."""


@dataclass(frozen=True, kw_only=True)
class TakeOverConfig(Document):
    """When the expert takes over, and how many episodes are stepped together."""

    random: Annotated[float, Between(0, 1)] = 0.3
    """Share of the seeds on which the expert takes over at a random moment in the first half of an episode, if nothing
    made it do so before."""
    num_envs: Annotated[int, AtLeast(1)] = 16
    """Rows of every call of the policy."""

    def moment(self, seed: int, steps: int) -> int | None:
        """Return before which action of an episode the expert takes over at random; None where it does not."""
        rng = np.random.default_rng([seed, 0xDA99E2])
        return int(rng.integers(1, steps // 2 + 1)) if rng.random() < self.random else None


def check_expert(env: str) -> None:
    """Raise ``UsageError`` unless the expert of an environment can take over; the message lists those that can."""
    if get_env_spec(env).take_over is None:
        found = (registry.find("envs", name) for name in registry.names("envs"))
        able = [each.name for each in found if isinstance(each, EnvSpec) and each.take_over]
        raise UsageError(f"the expert of {env} cannot take over; that of {', '.join(able)} can")


class TakeOvers:
    """What can be collected with some policies in an environment.

    Args:
        members: where the policies are, see ``find_members``.
        env: name of the environment, with its options.
        images: whether images are recorded, or of which cameras, see ``collect``; what the policies observe always is.
        config: when the expert takes over.

    Raises:
        UsageError: the policies do not fit the environment, or its expert cannot take over.
    """

    def __init__(self, members: Members, env: str, images: bool | Collection[str], config: TakeOverConfig) -> None:
        check_expert(env)
        policies, sampled = open_policies(members, SamplingConfig())
        seen = seen_by(policies, get_env_spec(env))
        self.spec = get_env_spec(seen.name.removeprefix("team:"))
        """The environment, with the options that the policies need."""
        self.config = config
        parts = TeamView(self.spec).parts if seen.name != self.spec.name else {}
        needed = [part for key in needed_keys(policies, seen) for part in parts.get(key, (key,))]
        cameras = {key.rpartition(".")[2] for key in needed if self.spec.features[key].kind == "image"}
        images = images if images is True else sorted({*(images or ()), *cameras})
        self.features = recorded_features(self.spec, images) | {INTERVENTION: Feature("vector", (1,), "float32")}
        """What is recorded."""
        self.recipe = {"env": self.spec.name, "images": images, "policy": sampled.policy, **vars(config)}
        """What episodes depend on beside their seeds."""
        observed = [key for key in self.features if key in self.spec.features and key != ACTION]
        self._work = _Work(members, self.spec.name, observed, config)

    def collect(self, episodes: int, seed: int = TAKE_OVER_SEED, workers: int = 1) -> Iterator[Demonstration]:
        """Yield episodes that the expert took over and ended in success, for the seeds ``seed``, ``seed + 1``, ...

        ``Demonstration.failures`` counts, among the seeds that gave none, those on which the policy succeeded by
        itself, ``Demonstration.word`` says why the expert took over. An episode depends on its seed, the policies and
        ``config``; neither on ``workers`` nor on the seed that was the first.

        Args:
            episodes: how many, at least 1.
            seed: of the first.
            workers: processes; an environment that was only registered in Python stays in this one.

        Raises:
            RobodiffError: 100 seeds in a row gave none, or a process died.
        """
        workers, doing = workers if self.spec.is_portable else 1, f"collects episodes on {self.spec.name}"
        blocks = in_order(self._work.attempts, _blocks(seed, self.config.num_envs), workers, doing, ahead=1)
        return successes(_by_seed(blocks), self.spec, episodes, "no episode was taken over and brought to success")

    def summary(self, table: Mapping[str, np.ndarray], first: int) -> str:
        """Return in a sentence why the expert took over, and how often the policy succeeded by itself.

        That is told of the seeds on which no random moment was drawn.

        Args:
            table: of the episodes that were recorded.
            first: seed of the first episode that was tried.
        """
        seeds = range(first, int(table["seed"][-1]) + 1)
        alone = sum(self.config.moment(seed, _steps(self.spec)) is None for seed in seeds)
        counts = {name: int(column.sum()) for name, column in table.items() if name not in ("seed", "success")}
        why = {name.removeprefix(TOOK_OVER): counts.pop(name) for name in [*counts] if name.startswith(TOOK_OVER)}
        unaided, early = counts.pop(UNAIDED, 0), counts.pop(UNAIDED_EARLY, 0)
        counts[NO_SUCCESS] = len(seeds) - len(table["seed"]) - unaided - early - sum(counts.values())
        failed = {name: count for name, count in counts.items() if count}
        failures = f", and failed on {counted(sum(failed.values()), 'seed')} ({in_numbers(failed)})" if failed else ""
        own = f"by itself the policy succeeded on {unaided} of {counted(alone, 'seed')}"
        return f"the expert took over to success ({in_numbers(why)}){failures}; {own}"


def _blocks(seed: int, size: int) -> Iterator[range]:
    """Yield seeds from ``seed`` on, without end, in blocks that end at multiples of ``size``: no two have one row."""
    for end in itertools.count(seed - seed % size + size, size):
        yield range(max(seed, end - size), end)


def _by_seed(blocks: Generator[tuple[range, list[Attempt]], None, None]) -> Attempts:
    with closing(blocks):  # stops the workers
        for seeds, attempts in blocks:
            yield from zip(seeds, attempts, strict=True)


def _steps(spec: EnvSpec) -> int:
    return spec.max_steps or USUAL_STEPS


class _Work:
    """Run blocks of seeds, in any process: policies are opened where they are first needed."""

    def __init__(self, members: Members, env: str, keys: Sequence[str], config: TakeOverConfig) -> None:
        self._members, self._env, self._keys, self._config = members, env, keys, config
        self._policies: Policies | None = None

    def attempts(self, seeds: range) -> list[Attempt]:
        """Return what came of each seed.

        On one thread, whatever the machine has: matrix products on several may round differently.
        """
        pools: list[_WatchedRows] = []

        def watched(seen: EnvSpec, observed: Collection[str], rows: Collection[int]) -> "_WatchedRows":
            pools.append(_WatchedRows(spec, self._keys, rows, seen, observed, self._config))
            return pools[0]

        spec, threads = get_env_spec(self._env), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if self._policies is None:
                self._policies = open_policies(self._members, SamplingConfig())[0]
            rollout(self._policies, spec, seeds, self._config.num_envs, make_pool=watched)
        finally:
            torch.set_num_threads(threads)
        return [pools[0].attempts.get(seed, Attempt(None, NOT_FINITE)) for seed in seeds]


@dataclass
class _Episode:
    """One episode while it goes on."""

    seed: int
    help: TakeOver
    moment: int | None
    """Before which action the expert takes over if nothing made it do so before."""
    seen: Observation
    """What is observed now."""
    frames: list[Observation] = field(default_factory=list)
    """What was observed before each action."""
    actions: list[np.ndarray] = field(default_factory=list)
    by_expert: list[bool] = field(default_factory=list)

    def add(self, action: np.ndarray, step: Step, by_expert: bool) -> None:
        """Take in one more step."""
        self.frames.append(self.seen)
        self.actions.append(np.asarray(action, np.float32))
        self.by_expert.append(by_expert)
        self.seen = step.observation

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what is recorded, each (L, ...)."""
        arrays = {key: np.stack([frame[key] for frame in self.frames]) for key in self.seen}
        flags = np.array(self.by_expert, np.float32)[:, None]
        return arrays | {ACTION: np.stack(self.actions), INTERVENTION: flags}


class _WatchedRows(Rows):
    """Environments in which the expert takes over when it should; for the policy the episode ends there.

    Args:
        spec: the environment that is recorded.
        keys: what is recorded.
        rows: the numbers of the environments.
        seen: the environment as the policies see it: ``spec``, or that as one for a whole team sees it.
        observed: what they observe of it.
        config: when the expert takes over.
    """

    def __init__(
        self,
        spec: EnvSpec,
        keys: Collection[str],
        rows: Collection[int],
        seen: EnvSpec,
        observed: Collection[str],
        config: TakeOverConfig,
    ) -> None:
        self._view, self._observed, self._config = TeamView(spec) if seen.name != spec.name else None, observed, config
        super().__init__(spec, keys, rows)
        self._running: dict[int, _Episode] = {}  # by row
        self.attempts: dict[int, Attempt] = {}
        """By seed, what came of the episodes that have ended."""

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Observation]:
        """Start an episode in each row that is named."""
        observations = super().reset(seeds)
        for row, seed in seeds.items():
            moment = self._config.moment(seed, _steps(self.spec))
            assert self.spec.take_over is not None
            self._running[row] = _Episode(seed, self.spec.take_over(), moment, observations[row])
        return {row: self._shown(observation) for row, observation in observations.items()}

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """Take one action of the policy in each row that is named; where help is needed the expert ends the episode."""
        own = {row: self._view.action(action) if self._view else action for row, action in actions.items()}
        steps = super().step(own)
        for row, step in steps.items():
            episode = self._running[row]
            episode.add(own[row], step, by_expert=False)
            with raise_for_env(f"the expert of {self.spec.name} failed at seed {episode.seed}"):
                if step.success:
                    self.attempts[episode.seed] = Attempt(None, UNAIDED if episode.moment is None else UNAIDED_EARLY)
                elif word := self._why_now(episode, step, row):
                    self.attempts[episode.seed] = self._taken_over(episode, row, word)
            ended = episode.seed in self.attempts
            steps[row] = step._replace(observation=self._shown(step.observation), ended=ended)
        return steps

    def _why_now(self, episode: _Episode, step: Step, row: int) -> str | None:
        """Return why the expert takes over now; None where it does not."""
        if word := episode.help.needs_help(self.environments[row]):
            return word
        if step.ended:
            return LATE
        return RANDOM if episode.moment == len(episode.actions) else None

    def _taken_over(self, episode: _Episode, row: int, why: str) -> Attempt:
        """Let the expert act until it has nothing left to do; success is what it ends with."""
        actions, success = episode.help.actions(self.environments[row]), False
        while True:
            try:
                action = np.asarray(next(actions), np.float32)
            except StopIteration as end:
                return Attempt(episode.arrays(), TOOK_OVER + why) if success else Attempt(None, end.value)
            step = super().step({row: action})[row]
            episode.add(action, step, by_expert=True)
            success = step.success

    def _shown(self, observation: Observation) -> Observation:
        """Return what the policies observe of all that is."""
        if self._view:
            return self._view.observation(observation, self._observed)
        return {key: observation[key] for key in self._observed}
