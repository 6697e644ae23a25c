"""How a policy is measured, in an environment and on recorded episodes."""

from dataclasses import dataclass
from typing import Annotated

from robodiff.documents import AtLeast, Between, Document
from robodiff.errors import notice
from robodiff.policies.options import MOST_CHUNKS
from robodiff.text import counted

ROLLOUT_SEED = 50_000
"""Of the first rollout during training, unless another is asked for; demonstrations begin at 0."""
SEED = 100_000
"""Of the first episode of an evaluation, likewise."""
SWEEP_SEED = 300_000
"""Of the first episode of a sweep: a way of acting that some episodes chose is then measured on others."""
TAKE_OVER_SEED = 1_000_000
"""Of the first episode that an expert takes over; those by which a policy is evaluated once more are usually below."""
SmallestDifference = Annotated[float, Between(0.01, 1)]


def note_measured_seeds(first: int, episodes: int) -> None:
    """Tell where demonstrations are about to be recorded on seeds that evaluations use."""
    if leak := measured_seeds(first, episodes, "give --seed"):
        notice(leak)


def measured_seeds(first: int, episodes: int, choose: str) -> str:
    """Return what is wrong with demonstrations on seeds that evaluations use; empty where these are none.

    Args:
        first: seed of the first demonstration, the others follow.
        episodes: how many there are.
        choose: how another seed is chosen, such as ``give --seed``.
    """
    if not episodes or first >= TAKE_OVER_SEED or first + episodes <= SEED:
        return ""
    leak = f"seeds from {SEED} to {TAKE_OVER_SEED - 1} are those of evaluations, which should be new to a policy"
    return f"{leak}; {choose} below {ROLLOUT_SEED} if one is to be trained on these episodes"


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a trial of two policies stops: as soon as it is decided which is better, or that it does not matter."""

    most: Annotated[int, Between(1, 10**15)]
    """Episodes of each after which it stops undecided."""
    smallest_difference: SmallestDifference | None = None
    """In success, that matters: it also stops when this and all larger ones are excluded; None to go on."""

    def __str__(self) -> str:
        least = self.smallest_difference
        alike = "" if least is None else f" or a difference of {least:g} was excluded"
        return f"as soon as it was decided{alike}, of at most {counted(self.most, 'episode')}"


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Document):
    """How a policy acts while it is measured; sampler and what follows is its own when None."""

    seed: Annotated[int, AtLeast(0)] = SEED
    """Of the first episode, the others follow; on recorded episodes, of the noise."""
    sampler: str | None = None
    steps: Annotated[int, Between(1, 10_000)] | None = None
    """Denoising steps."""
    n_action_steps: Annotated[int, AtLeast(1)] | None = None
    """Actions of each chunk that are executed."""
    best_of: Annotated[int, Between(1, MOST_CHUNKS)] | None = None
    """Chunks that are drawn at once."""
    contrast: str | None = None
    """What the run calls the weaker policy that chunks are to be unlike, such as ``epoch-0100``."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class EvalConfig(SamplingConfig):
    """An evaluation in an environment."""

    env: str
    episodes: Annotated[int, AtLeast(1)] = 100
    num_envs: Annotated[int, AtLeast(1)] = 100
    """Episodes stepped together, and rows of every call of the policy."""
    videos: Annotated[int, AtLeast(0)] = 3
    """Of so many successes, and of so many failures."""
    clips: Annotated[int, Between(0, 1000)] = 100
    """The first episodes, so many, are kept to look at; until they are written, each takes about 2 MB of memory."""
    until_decided: bool = False
    """Whether two policies are measured together, ``num_envs`` episodes of each at a time, until it is decided which is
    better; ``episodes`` are then the most."""
    smallest_difference: SmallestDifference | None = None

    @property
    def stopping(self) -> Stopping | None:
        """When two policies that are measured together stop; None where the number of episodes is fixed."""
        least = self.smallest_difference
        return Stopping(most=self.episodes, smallest_difference=least) if self.until_decided else None


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(SamplingConfig):
    """An evaluation on recorded episodes."""

    windows: Annotated[int, AtLeast(1)] = 2000
    """Evenly spread windows; all where there are fewer."""
