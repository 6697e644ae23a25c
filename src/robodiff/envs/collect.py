"""Collecting demonstrations, on several processes, in the order of their seeds."""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, WHERE, Feature
from robodiff.documents import plain, typed
from robodiff.envs.spec import EnvSpec, Expert, get_env_spec, raise_for_env
from robodiff.envs.workers import in_order
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.text import counted

_MOST_FAILURES = 100
"""An expert that fails so many times in a row is broken: better an error than a search without end."""
NO_SUCCESS = "no success"
"""The failure of an expert that says nothing of it."""
_COLUMNS = ("seed", "success", *WHERE)
"""Of the table, for something else."""


@dataclass(frozen=True)
class Attempt:
    """What came of one seed."""

    arrays: dict[str, np.ndarray] | None
    """Per key (L, ...), the action of all agents as one; None of a failure."""
    word: str | None = None
    """Of a failure why, of a success what else there is to say of it: a column of the recording's table counts both."""


Attempts = Generator[tuple[int, Attempt], None, None]


@dataclass(frozen=True)
class Demonstration:
    """One episode that succeeded."""

    arrays: dict[str, np.ndarray]
    """Per key (L, ...), under the environment's own names; actions of several agents as ``agents.<id>.action``."""
    seed: int
    """What it depends on, together with the expert's options."""
    failures: Mapping[str, int]
    """By the word that the expert says for it, how many seeds since the episode before gave no success and were
    skipped."""
    word: str | None = None
    """What else there is to say of it, see ``Attempt``."""


def collect(
    env: str,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    *,
    images: bool | Collection[str] = False,
    **expert_options: Any,
) -> Iterator[Demonstration]:
    """Yield successful demonstrations for the seeds ``seed``, ``seed + 1``, ... in that order.

    A collection that was cut off goes on with the seed after its last: a demonstration depends on its own seed and on
    the options of the expert, and on nothing else, the number of ``workers`` included.

    Args:
        env: name of the environment, with its options.
        episodes: how many, at least 1.
        seed: of the first.
        workers: processes; an environment that was only registered in Python stays in this one.
        images: whether the environment's images are recorded, too; or those of which cameras, by the last parts of
            their names, of all agents that have one of that name.
        expert_options: fields of the environment's ``expert_options``.

    Raises:
        UsageError: what cannot be collected, at once.
        RobodiffError: the expert failed on 100 seeds in a row, or a process died.
    """
    spec = get_env_spec(env)
    if spec.expert is None:
        raise UsageError(f"nobody demonstrates on {env}: it has no scripted expert")
    keys = [key for key in recorded_features(spec, images) if key in spec.features and key != ACTION]
    work = _Work(env, keys, plain(typed(spec.expert_options, expert_options)))
    doing, workers = f"collects demonstrations on {env}", workers if spec.is_portable else 1
    attempts = in_order(work.demonstrate, itertools.count(seed), workers, doing)
    return successes(attempts, spec, episodes, "the scripted expert failed")


def recorded_features(spec: EnvSpec, images: bool | Collection[str]) -> dict[str, Feature]:
    """Return what is recorded; of several agents, each has its own part of the action.

    Raises:
        UsageError: ``images``, as ``collect`` has them, that the environment does not have.
    """
    features = {key: feature for key, feature in spec.features.items() if key != ACTION}
    cameras = {key: key.rpartition(".")[2] for key, feature in features.items() if feature.kind == "image"}
    if images and not cameras:
        raise UsageError(f"{spec.name} has no images; it observes {', '.join(features)}")
    known = dict.fromkeys(cameras.values())
    chosen = known if images is True else images or ()
    if unknown := [camera for camera in chosen if camera not in known]:
        advice = nearest(unknown[0], known)
        raise UsageError(f"{spec.name} has no camera {unknown[0]!r}; it has {', '.join(known)}.{advice}")
    features = {key: feature for key, feature in features.items() if key not in cameras or cameras[key] in chosen}
    action = spec.features[ACTION]
    for agent, share in spec.agents.items():
        own = action.part(range(action.shape[0])[share])
        names = own.names and tuple(name.removeprefix(f"{agent}.") for name in own.names)
        features[f"agents.{agent}.{ACTION}"] = replace(own, names=names)
    return features if spec.agents else {**features, ACTION: action}


def in_numbers(failures: Mapping[str, int]) -> str:
    """Return how often what happened, such as ``collision 1, unreachable 2``."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(failures.items()))


def successes(attempts: Attempts, spec: EnvSpec, episodes: int, failed: str) -> Iterator[Demonstration]:
    """Yield so many successes among attempts, which are closed then, the failures before each counted.

    Args:
        attempts: by seed, without end.
        spec: the environment, whose agents' actions are told apart.
        episodes: how many, at least 1.
        failed: what is said of attempts that fail again and again.

    Raises:
        RobodiffError: 100 seeds in a row failed.
    """
    failures = Counter(dict.fromkeys(spec.failures, 0))
    try:
        for seed, attempt in attempts:
            if attempt.arrays is None:
                failures[_reason(spec.name, attempt.word)] += 1
                if failures.total() >= _MOST_FAILURES:
                    row = f"{counted(failures.total(), 'seed')} in a row, up to {seed}"
                    raise RobodiffError(f"{failed} on {row} ({in_numbers(failures)})")
                continue
            arrays = {**attempt.arrays}
            if spec.agents:
                action = arrays.pop(ACTION)
                arrays |= {f"agents.{agent}.{ACTION}": action[:, share] for agent, share in spec.agents.items()}
            yield Demonstration(arrays, seed, failures, attempt.word and _reason(spec.name, attempt.word))
            failures = Counter(dict.fromkeys(spec.failures, 0))
            episodes -= 1
            if episodes == 0:
                return
    finally:
        attempts.close()  # stops the workers


def _reason(env: str, word: str | None) -> str:
    """Return why an expert failed, which is a column of the recording's table.

    Raises:
        RobodiffError: it cannot be one.
    """
    is_name = isinstance(word, str) and re.fullmatch(r"\w[\w -]*", word) and word not in _COLUMNS
    if word and not is_name:
        raise RobodiffError(
            f"the expert of {env} says why it failed: expected a word such as collision; found {word!r}"
        )
    return word or NO_SUCCESS


class _Work:
    """Make demonstrations, in any process: the expert is made where it is first asked.

    Args:
        env: name of the environment.
        keys: what is observed.
        options: of the expert.
    """

    def __init__(self, env: str, keys: Sequence[str], options: Mapping[str, Any]) -> None:
        self.env, self._keys, self._options = env, keys, options
        self._expert: Expert | None = None

    def demonstrate(self, seed: int) -> Attempt:
        """Return the demonstration of a seed, why where the expert failed."""
        with raise_for_env(f"the expert of {self.env} failed at seed {seed}"):
            if self._expert is None:
                self._expert = get_env_spec(self.env).expert(**self._options)  # pyright: ignore[reportOptionalCall]
            found = self._expert.demonstrate(seed, self._keys)
        return Attempt(found) if isinstance(found, dict) else Attempt(None, found)
