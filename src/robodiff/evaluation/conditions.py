"""Which policy was evaluated, and under which conditions: its own ones or others, and what another must share.

Every result holds them. A report's headline takes what was measured under a policy's own conditions alone, and two
results are compared only where the conditions of both are equal.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, NamedTuple

import msgspec

from robodiff.documents import FromTo, NotEmpty
from robodiff.evaluation.config import SEED, Stopping
from robodiff.text import counted

Number = Annotated[float, msgspec.Meta(gt=-1e15, lt=1e15)]
Count = Annotated[int, FromTo(0, 10**15)]

HELD_OUT = "held out from its training"
TRAINED_ON = "all of which it was trained on, for none were held out"
OTHERS = "of another recording than its run's"
OWN_AGAIN = "of its run's own recording, on some of which it may have been trained"
SEEN = "of which it was trained on"
"""After how many of the episodes it was trained on."""
NEVER_SEEN = "which it was never trained on; its recording has changed since"
"""What the episodes of a recording are to the policy that is measured on them."""
ANOTHER = "one may have been trained on what the other holds out; --data PATH measures both on what is new to both"
"""What to do where two were measured on different episodes."""
STRIDE = "train both on recordings of the same rate, with the same model.frame_stride"
"""What to do where two act at different rates."""
SAME_SEEDS = "measure both with the same --seed"
"""What to do where episodes or noise have different seeds."""
ACTING = "--sampler, --steps, --n_action_steps and --best_of"
"""Options that say how a policy acts."""
AGAIN = f"name a policy after --against, not an evaluation, and both are measured with the same {ACTING}"
"""What to do where two acted in different ways."""
WEAKER = "measure both again with the same weaker policy"
"""What to do where what ``--contrast`` names has other weights by now."""


class Condition(NamedTuple):
    """One thing that two evaluations must have in common, or they answer different questions."""

    value: object
    """None where it is not known, which goes with anything."""
    words: str
    """As in "an evaluation in pusht"."""
    remedy: str
    """How to make it equal."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How chunks are drawn and executed."""

    sampler: str
    steps: Count
    """Of denoising."""
    n_action_steps: Count | None = None
    """Actions of each chunk that are executed; None where a team's agents differ in it, or an earlier version did not
    write it."""
    best_of: Count = 1
    """Chunks that are drawn at once."""
    contrast: str | None = None
    """What the run calls the weaker policy that chunks are to be unlike."""

    def __str__(self) -> str:
        return self.beside(None)

    def beside(self, other: "Sampling | None") -> str:
        """Return it in words, without what another, where there is one, does in the same way beyond the sampler."""
        words = [self.sampler, counted(self.steps, "step")]
        if self.n_action_steps is not None and (other is None or other.n_action_steps != self.n_action_steps):
            words.append(counted(self.n_action_steps, "action"))
        if self.best_of != (1 if other is None else other.best_of):
            words.append(f"best of {self.best_of}")
        if self.contrast is not None:
            words.append(f"unlike {self.contrast}")
        return ", ".join(words)

    def differing(self, other: "Sampling") -> set[str]:
        """Return the fields in which another is not the same, of those that both know."""
        unknown = {"n_action_steps"} if None in (self.n_action_steps, other.n_action_steps) else set[str]()
        names = {each.name for each in fields(Sampling)} - unknown
        return {name for name in names if getattr(self, name) != getattr(other, name)}


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Which policy was evaluated, and how it sampled."""

    policy: str
    """Hash of its weights and its configuration; of a team the hash of all of these."""
    policies: dict[str, str] = field(default_factory=dict)
    """The hashes of a team's policies, by agent; empty of one policy."""
    sampler: str
    steps: Count
    """Of denoising."""
    n_action_steps: Count | None = None
    """See ``Sampling``, as for the next one."""
    best_of: Count = 1
    contrast: str | None = None
    contrast_policy: str | None = None
    """Hash of the weaker policy that ``contrast`` names, as ``policy`` is of the one that acts; None where there is
    none, or an earlier version did not write it."""
    device: str
    own: Sampling | None = None
    """How the policy acts unless it is told otherwise; None where an earlier version did not write it."""

    @property
    def sampling(self) -> Sampling:
        """How it acted."""
        return Sampling(**{each.name: getattr(self, each.name) for each in fields(Sampling)})

    @property
    def asked(self) -> set[str]:
        """The fields of ``Sampling`` in which it did not act as it does by itself; all where that is not known."""
        return {each.name for each in fields(Sampling)} if self.own is None else self.own.differing(self.sampling)

    @property
    def is_own(self) -> bool:
        """Whether it acted as it does by itself."""
        return not self.asked

    @property
    def way(self) -> str:
        """How it acted in words."""
        if self.own is None or self.is_own:
            return self.sampling.beside(self.own)
        return f"{self.sampling.beside(self.own)} in place of its own {self.own.beside(self.sampling)}"

    def what_if(self) -> list[str]:
        """Return in words what was asked for in place of what a policy is measured under by default.

        An evaluation with any of it tells what would be if, and never stands for the policy. How many episodes or
        windows there are, and the device, are none of it: they change how certain a result is, or its last digits.
        """
        return [] if self.is_own else [self.way]


@dataclass(frozen=True, kw_only=True)
class Evaluated(Sampled):
    """What was evaluated, where and how."""

    environment: str
    environment_version: str
    success_means: str
    """One sentence: what counts as success."""
    success_reward: Number | None = None
    """The reward of a step that counts as success, if there is one."""
    first_seed: Count | None = None
    num_envs: Count | None = None
    stopping: Stopping | None = None
    """What decided how many episodes there are; None where that was fixed. Of a trial that stops when one policy is
    ahead, the success and its interval favour that one: such an evaluation compares, and never stands for a policy."""

    def what_if(self) -> list[str]:  # noqa: D102
        seeds = [] if self.first_seed == SEED else [f"seeds from {self.first_seed}"]
        return super().what_if() + seeds + ([f"stopped {self.stopping}"] if self.stopping else [])

    def conditions(self) -> list[Condition]:
        """Return what an evaluation that is compared with this one must have in common with it, sampling aside."""
        version, success, again = self.environment_version, self.success_means, "measure both again on this machine"
        reward = self.success_reward
        return [
            Condition(self.environment, f"in {self.environment}", "measure both with the same --env"),
            Condition(version, f"in {version}", again),
            Condition(success, f"where success means '{success}'", again),
            Condition(reward, f"where success is a reward of {reward or 0:g}", again),
        ]


@dataclass(frozen=True, kw_only=True)
class EvaluatedOffline(Sampled):
    """What was evaluated, on which recording and how."""

    data: str
    episodes: Annotated[list[Count], NotEmpty()]
    which: str
    """What the episodes are to the policy, in words."""
    windows: Count
    of_windows: Count
    seed: Count
    """Of the noise."""
    rate: Number | None = None
    """Actions per second."""
    actions: str | None = None
    """Hash of what was recorded in these episodes: equal hashes are equal actions at equal frames."""

    def what_if(self) -> list[str]:  # noqa: D102
        noise = [] if self.seed == SEED else [f"noise of seed {self.seed}"]
        return super().what_if() + noise + ([f"on {self.data}"] if self.which not in (HELD_OUT, TRAINED_ON) else [])

    def conditions(self) -> list[Condition]:
        """Return what an evaluation that is compared with this one must have in common with it, sampling aside."""
        numbers = ", ".join(map(str, self.episodes[:8])) + (", ..." if len(self.episodes) > 8 else "")
        is_mixed = self.which == OWN_AGAIN or self.which.endswith(SEEN)
        mine = self.policy if is_mixed else ""  # another may have been trained on others of them
        recorded = None if self.actions is None else (self.actions, self.which, mine)
        return [
            Condition(recorded, f"on episodes {numbers} of {self.data} ({self.which})", ANOTHER),
            Condition(self.rate, f"at {self.rate or 0:g} actions per second", STRIDE),
            Condition(self.seed, f"with noise of seed {self.seed}", SAME_SEEDS),
        ]
