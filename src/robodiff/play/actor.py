"""A policy that is watched: beside every chunk that it executes, others that it might have drawn."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robodiff.data.episodes import PAST_ACTION, Feature
from robodiff.diffusion.samplers import find_sampler
from robodiff.envs.pool import Observation
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.envs.team import TeamView
from robodiff.evaluation.actor import make_runner, needed_keys, open_policies, seen_by, steps_held
from robodiff.evaluation.chunks import Policy, acting_as, sampling_of
from robodiff.evaluation.conditions import Sampled
from robodiff.evaluation.config import SamplingConfig
from robodiff.evaluation.members import ALONE, Members
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import Arrays, Chunk, Known, Timing

SAMPLES = 12
"""Chunks that are shown beside the one that is executed, until another number is asked for."""
STAGES = 5
"""Of the way from noise to a chunk, that are shown before the chunk itself."""


@dataclass(frozen=True)
class Fan:
    """Chunks that were drawn at one moment."""

    agent: int
    """Whose, in the order of ``EnvSpec.agents``."""
    stages: np.ndarray
    """(stages, samples, n, D), actions from that moment on while they came about: from noise on to the chunks, the last
    ones; of several agents this one's part. The chunks alone of a policy that does not let itself be watched."""
    chosen: int
    """Which of them is executed."""
    number: int
    """Another one of every draw."""

    @property
    def actions(self) -> np.ndarray:
        """The chunks, (samples, n, D)."""
        return self.stages[-1]


class Watched:
    """Stands for a policy in all that a runner asks of one, and draws further chunks to be shown.

    Args:
        policy: to watch.
        samples: further chunks.
    """

    def __init__(self, policy: Policy, samples: int) -> None:
        self.policy, self.samples = policy, samples
        self.drawn: np.ndarray | None = None
        """(stages, chunks, n, Da), the last ones from now on, those that the runner asked for first; see ``Fan``."""
        self._random = np.random.default_rng(0)

    @property
    def features(self) -> Mapping[str, Feature]:
        """See ``Runtime``."""
        return self.policy.features

    @property
    def timing(self) -> Timing:
        """When the policy observes and acts."""
        return self.policy.timing

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """See ``Runtime``."""
        return self.policy.noise_shape(batch_size)

    def predict_chunk(self, observation: Arrays, *, noise: np.ndarray, known: Known | None = None) -> Chunk:
        """Return what the runner asks for, of one robot; keep that and further samples."""
        asked = noise.shape[1]
        further = self._random.standard_normal((noise.shape[0], self.samples, *noise.shape[2:]), dtype=np.float32)
        noise = np.concatenate([noise, further], axis=1)
        if isinstance(self.policy, DiffusionPolicy):
            rows: list[np.ndarray] = []
            chunk = self.policy.predict_chunk(observation, noise=noise, on_row=lambda _, actions: rows.append(actions))
            rows = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, STAGES + 1).round().astype(int))]
        else:
            chunk = self.policy.predict_chunk(observation, noise=noise)
            rows = [chunk.actions]
        self.drawn = np.stack([replace(chunk, actions=actions).from_now(self.timing) for actions in rows])
        return replace(chunk, actions=chunk.actions[:asked])


class Actor:
    """Who acts where no person does: a policy, or one of each agent.

    Args:
        members: where the policies are, see ``find_members``.
        env: name of the environment.
        config: how they sample.
        samples: further chunks to be shown.

    Raises:
        UsageError: the policies do not fit the environment, or what was asked for does not fit them.
    """

    def __init__(self, members: Members, env: str, config: SamplingConfig, samples: int = SAMPLES) -> None:
        policies, self.sampled = open_policies(members, config)
        seen = seen_by(policies, get_env_spec(env))
        self.spec: EnvSpec = get_env_spec(seen.name.removeprefix("team:"))
        """The environment, with the options that the policies need."""
        self._view = TeamView(self.spec) if seen.name != self.spec.name else None
        self._needed, self._held = needed_keys(policies, seen), steps_held(policies, seen)
        every = policies if isinstance(policies, Mapping) else {ALONE: policies}
        self._watched = {agent: Watched(policy, samples) for agent, policy in every.items()}
        standing: Any = self._watched if isinstance(policies, Mapping) else self._watched[ALONE]
        self._runner = make_runner(standing, seen)
        self.samples, self.fans = samples, list[Fan]()
        """Of the present chunk."""
        self.age = self.milliseconds = 0
        """Actions of it that were handed out; and how long it took."""
        self._action, self._rest, self._draws = np.empty(0), 0, 0
        self._past = dict[str, np.ndarray]()

    @property
    def keys(self) -> list[str]:
        """What the environment observes for it."""
        parts = self._view.parts if self._view else {}
        return [part for key in self._needed for part in parts.get(key, (key,))]

    @property
    def samplers(self) -> Sequence[str]:
        """Those that fit."""
        return find_sampler(self.sampled.sampler).process.samplers

    def sample(self, sampler: str | None, steps: int | None) -> None:
        """Sample otherwise from the next chunk on.

        Raises:
            UsageError: what does not fit the policies; they then sample as before.
        """
        config, others = SamplingConfig(sampler=sampler, steps=steps), {}
        for agent, watched in self._watched.items():
            own = sampling_of(watched.policy)
            others[agent] = acting_as(watched.policy, Sampled(**vars(own), policy="", device=""), config)[0]
        for agent, policy in others.items():
            self._watched[agent].policy = policy
        self.sampled = replace(self.sampled, **vars(sampling_of(next(iter(others.values())))))

    def show(self, samples: int) -> None:
        """Draw so many further samples from the next chunk on."""
        self.samples = samples
        for watched in self._watched.values():
            watched.samples = samples

    def reset(self, seed: int, executed: Sequence[np.ndarray] = ()) -> None:
        """Begin an episode, or go on after somebody else has acted: of before the last action alone is remembered.

        Args:
            seed: of the noise.
            executed: the environment's actions in this episode so far.
        """
        self._runner.reset(seeds=[seed])
        self.fans, self.age, self._rest = [], 0, 0
        self._past = self._past_of(executed[-self._held]) if len(executed) >= self._held else {}

    def _past_of(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Return what policies that observe their last action are told of the environment's."""
        if ALONE in self._watched:
            return {PAST_ACTION: action if self._view is None else action[self._view.order]}
        return {f"agents.{agent}.{PAST_ACTION}": action[part] for agent, part in self.spec.agents.items()}

    def act(self, observation: Observation) -> np.ndarray:
        """Return the environment's next action.

        Raises:
            RobodiffError: see ``PolicyRunner.act``.
        """
        if self._rest == 0:
            seen = observation if self._view is None else self._view.observation(observation, self._needed)
            for watched in self._watched.values():
                watched.drawn = None
            start = time.perf_counter()
            action = np.asarray(self._runner.act({key: seen[key] for key in self._needed} | self._past))
            self._past = {}  # from now on the runner knows it
            drawn = {agent: each.drawn for agent, each in self._watched.items() if each.drawn is not None}
            if drawn:
                self.milliseconds = round(1e3 * (time.perf_counter() - start))
                self._draws += 1
                fans = [fan for agent, stages in drawn.items() for fan in self._fans(agent, stages, action)]
                others = {fan.agent for fan in self.fans} - {fan.agent for fan in fans}  # execute more of theirs
                rest = [replace(fan, stages=fan.stages[:, :, self.age :]) for fan in self.fans if fan.agent in others]
                self.fans, self.age = fans + rest, 0
            self._action, self._rest = self._view.action(action) if self._view else action, self._held
            self.age += 1
        self._rest -= 1
        return self._action

    def _fans(self, agent: str, stages: np.ndarray, action: np.ndarray) -> list[Fan]:
        """Return what one policy has drawn, by the agents that it moves; ``action`` is what the runner chose."""
        agents = self.spec.agents
        own = action if agent == ALONE else action[agents[agent]]
        chosen = int(np.linalg.norm(stages[-1, :, 0] - own, axis=1).argmin())
        if agent != ALONE or not agents:
            return [Fan([*agents].index(agent) if agents else 0, stages, chosen, self._draws)]
        order = stages if self._view is None else stages[..., np.argsort(self._view.order)]
        return [Fan(place, order[..., share], chosen, self._draws) for place, share in enumerate(agents.values())]
