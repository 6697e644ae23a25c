"""A blind trial of two policies on one robot: who acts when, what came of it, and the answer, in ``trial.json``.

Both policies act once in each pair, from one start that a person restores, in an order that is a function of the seed.
What drifts over a day (light, friction, the person) meets both alike, and neither the output nor the file says which
policy acts until the trial has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from robodiff.deploy.config import LoopConfig
from robodiff.documents import FromTo
from robodiff.errors import UsageError
from robodiff.evaluation.conditions import Count, Number
from robodiff.evaluation.config import Stopping
from robodiff.evaluation.results import Interval, Result, read_result, write_result
from robodiff.evaluation.sequential import anytime_interval, anytime_p, conclude, tally, verdict

Place = Annotated[int, FromTo(0, 2)]
"""Of two: policies in the order of the command line, or the episodes of a pair."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the policies."""

    name: str
    """As the command line has it."""
    policy: str
    """Hash of its weights and its configuration; empty where a server does not say it."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What must stay as it is from the first episode to the last."""

    policies: tuple[Contender, Contender]
    robot: str
    seed: Count
    """Of the order; of pair n seed + n is that of the policies' noise and of a simulated world."""
    seconds: Number | None
    """Length of an episode; None where the robot ends it."""
    success_means: str
    loop: LoopConfig

    def actor(self, pair: int, turn: int) -> int:
        """Return which policy acts in an episode of a pair."""
        return int(np.random.default_rng([self.seed, pair]).integers(2)) ^ turn


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An episode that counts."""

    pair: Count
    turn: Place
    success: bool
    steps: Count
    reason: str
    """Why it ended."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What came of both policies from one start."""

    pair: Count
    began: Place
    """The policy that acted before the other."""
    successes: tuple[bool, bool]
    """By policy."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a trial found out."""

    pairs: list[Pair]
    successes: tuple[Count, Count]
    """By policy."""
    success_difference: Number
    """The first policy's less the second's."""
    success_difference_ci95: Interval
    """The confidence sequence, which holds whenever one stops."""
    anytime_p: Number
    """Of a paired test, which likewise does."""
    conclusion: str
    """In one sentence."""


@dataclass(frozen=True, kw_only=True)
class Trial(Result):
    """A trial so far."""

    file = "trial.json"
    advice = "begin another trial in another --out FOLDER"

    setup: Setup
    stopping: Stopping
    attempts: list[Attempt] = field(default_factory=list)
    answer: Answer | None = None
    """None until it has ended: before, nothing says which policy an attempt was of."""

    def next(self) -> tuple[int, int] | None:
        """Return the pair and the turn of the episode that is due; None where the trial is over."""
        pairs, turn = divmod(len(self.attempts), 2)
        is_over = pairs >= self.stopping.most or (pairs > 0 and verdict(*tally(*self._successes()), self.stopping))
        return None if self.answer or is_over else (pairs, turn)

    def ended(self) -> "Trial":
        """Return the trial with its answer."""
        first, second = self._successes()
        this, that = (policy.name for policy in self.setup.policies)
        counts = tally(first, second)
        answer = Answer(
            pairs=[
                Pair(pair=pair, began=self.setup.actor(pair, 0), successes=(first[pair], second[pair]))
                for pair in first
            ],
            successes=(sum(first.values()), sum(second.values())),
            success_difference=(counts[0] - counts[1]) / counts[2],
            success_difference_ci95=anytime_interval(*counts),
            anytime_p=anytime_p(*counts[:2]),
            conclusion=conclude(*counts, self.stopping, (this, that)),
        )
        return replace(self, answer=answer)

    def _successes(self) -> tuple[Mapping[int, bool], Mapping[int, bool]]:
        """Return of each policy in which whole pairs it succeeded."""
        both: tuple[dict[int, bool], dict[int, bool]] = {}, {}
        for each in self.attempts[: len(self.attempts) // 2 * 2]:
            both[self.setup.actor(each.pair, each.turn)][each.pair] = each.success
        return both


def open_trial(folder: Path, setup: Setup, stopping: Stopping) -> Trial:
    """Return the trial that a folder holds, or begin one there.

    Raises:
        UsageError: it holds one of other policies, or on other terms.
    """
    trial = Trial(setup=setup, stopping=stopping)
    if (folder / Trial.file).is_file() and (earlier := read_result(folder, Trial)).attempts:
        for each in fields(Setup):
            was, now = (getattr(one, each.name) for one in (earlier.setup, setup))
            if was != now:
                raise UsageError(
                    f"{folder}: holds a trial with other {each.name}: {was}; now {now}\n"
                    "go on with those, or begin another trial with --out FOLDER"
                )
        trial = earlier if earlier.answer else replace(earlier, stopping=stopping)
    write_result(folder, trial)
    return trial
