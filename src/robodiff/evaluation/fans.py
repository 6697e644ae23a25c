"""Chunks that a policy might have drawn at moments of an episode that it went through: a fan of what it considered."""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from robodiff.data.episodes import PAST_ACTION
from robodiff.envs.pool import Observation
from robodiff.envs.spec import EnvSpec
from robodiff.evaluation.actor import Policies, steps_held
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.policies.history import History
from robodiff.policies.runner import observation_of
from robodiff.policies.runtime import Arrays, draw_noise, observed

SAMPLES = 8
LEAST_MOMENTS, MOST_MOMENTS = 3, 8
"""Of an episode."""
SHARE = 1 / 15
"""Of all chunks that an evaluation draws, how many more it draws for fans, about."""
_STREAM = 0xFA4
"""In the seed of their noise, which no chunk that is executed shares."""


def chunk_steps(policies: Policies, spec: EnvSpec) -> int:
    """Return how many steps of an environment lie between two chunks."""
    every = policies.values() if isinstance(policies, Mapping) else [policies]
    return min(policy.timing.n_action_steps for policy in every) * steps_held(policies, spec)


def moments_of_each(records: Sequence[EpisodeRecord], shown: int, chunk: int) -> int:
    """Return at how many moments of each episode that is shown chunks are sampled.

    Args:
        records: of all episodes.
        shown: how many of them are.
        chunk: steps of the environment from one chunk to the next.
    """
    drawn = sum(math.ceil(record.length / chunk) for record in records)
    affordable = int(SHARE * drawn / (SAMPLES * max(1, shown)))
    return min(max(affordable, LEAST_MOMENTS), MOST_MOMENTS)


class FanSampler:
    """Sample chunks while an episode is gone through again, each from noise of its own.

    Args:
        policies: that acted.
        spec: the environment, as they see it.
        record: of the episode.
        moments: at how many of its chunks, spread evenly.
    """

    def __init__(self, policies: Policies, spec: EnvSpec, record: EpisodeRecord, moments: int) -> None:
        self._agents = policies if isinstance(policies, Mapping) else {"": policies}
        self._parts = spec.agents if isinstance(policies, Mapping) else {"": slice(None)}
        self._record, self._held = record, steps_held(policies, spec)
        self._histories = {agent: History.empty(policy.timing, 1) for agent, policy in self._agents.items()}
        due = range(0, record.length, chunk_steps(policies, spec))
        self._moments = {due[place] for place in np.arange(moments) * len(due) // moments} if due else set()
        self._sampled: dict[int, np.ndarray] = {}
        self.seconds = 0.0
        """That sampling took."""

    def observe(self, step: int, observation: Observation) -> None:
        """Take in what is observed before a step; sample chunks if it is one of the moments."""
        if step % self._held or not self._moments:
            return
        start = time.perf_counter()
        for agent, policy in self._agents.items():
            seen = observation_of(agent, observation) if agent else observation
            past = self._record.actions[step - 1] if step else np.zeros_like(self._record.actions[0])
            own = {PAST_ACTION: past[self._parts[agent]].astype(np.float32)} if PAST_ACTION in policy.features else {}
            values = observed(policy.features, {**own, **seen})
            history = self._histories[agent].after({key: value[None] for key, value in values.items()})
            self._histories[agent] = history
        if step in self._moments:
            self._sampled[step] = self._sample(step)
        self.seconds += time.perf_counter() - start

    def _sample(self, step: int) -> np.ndarray:
        """Return chunks from now on, (S, n, Da), an action for each step of the environment."""
        chunks = {agent: self._chunks(agent, place, step) for place, agent in enumerate(self._agents)}
        length = min(chunk.shape[1] for chunk in chunks.values())
        joined = np.empty((SAMPLES, length, len(self._record.actions[0])), np.float32)
        for agent, chunk in chunks.items():
            joined[:, :, self._parts[agent]] = chunk[:, :length]
        return np.repeat(joined, self._held, axis=1)

    def _chunks(self, agent: str, place: int, step: int) -> np.ndarray:
        policy = self._agents[agent]
        window: Arrays = {k: np.repeat(v, SAMPLES, axis=0) for k, v in self._histories[agent].window().items()}
        shape, numbers = policy.noise_shape(1), (self._record.seed, step, place)
        noise = np.concatenate([draw_noise(shape, *numbers, draw, _STREAM) for draw in range(SAMPLES)], axis=1)
        return np.asarray(policy.predict_chunk(window, noise=noise).from_now(policy.timing), np.float32)

    @property
    def sampled(self) -> dict[int, np.ndarray]:
        """By moment its chunks (S, n, Da), where all are finite."""
        return {step: chunks for step, chunks in self._sampled.items() if np.isfinite(chunks).all()}
