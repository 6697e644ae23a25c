"""What a run keeps of its training and its evaluations: typed here, read and written as JSON.

Numbers are of a size that can be drawn and printed, so a page or a comparison made of results needs no checks.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from robodiff.data.provenance import Planning
from robodiff.documents import NotEmpty, read_json, write_json
from robodiff.errors import RobodiffError
from robodiff.evaluation.conditions import Count, Evaluated, EvaluatedOffline, Number, Sampling
from robodiff.evaluation.config import Stopping
from robodiff.policies.runtime import Latency

Interval = tuple[Number, Number]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is kept in a file of its kind."""

    file: ClassVar[str]
    advice: ClassVar[str] = "evaluate again with robodiff eval"
    """What to do where it is broken."""


@dataclass(frozen=True, kw_only=True)
class RunFacts(Result):
    """How long a run took, and on what; written by ``fit`` when training ends."""

    file = "run.json"
    advice = "remove it: it says how long training took, and the report leaves that out then"

    minutes: Number
    steps: Count
    """Optimizer steps."""
    machine: str
    samples_per_second: Number | None = None
    gpu_memory_gb: Number | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """What came of one episode."""

    seed: Count
    success: bool
    max_reward: Number
    length: Count
    """Steps that the environment took."""
    non_finite: bool = False
    """Whether an action that is not finite stopped it."""
    extra: dict[str, Number] = field(default_factory=dict)
    """Metrics of the environment's own, after the last step."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures over all episodes."""

    success_rate: Number
    success_rate_ci95: Interval
    """Wilson's interval."""
    mean_max_reward: Number
    mean_episode_length: Number
    non_finite_actions: Count = 0
    """Episodes that an action which is not finite stopped."""
    out_of_range: Count = 0
    """Episodes in which an observation lay far outside of the range of training."""
    policy_collisions: Number | None = None
    """Share of the episodes in which the policy made a robot touch what it must not; None where nobody looked."""
    extra: dict[str, Number] = field(default_factory=dict)
    """Means of the episodes' own ``extra``."""

    @property
    def means(self) -> str:
        """``extra`` in words, but for collisions, which have a name of their own."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.extra.items() if name != "collision")


@dataclass(frozen=True, kw_only=True)
class EnvResult(Summary, Result):
    """An evaluation in an environment."""

    file = "metrics.json"

    episodes: Annotated[list[EpisodeResult], NotEmpty()]
    evaluated: Evaluated
    latency_ms: Latency
    demonstrations: Planning | None = None
    """How often motion planning failed for the demonstrations that the policy was trained on, where that is known."""


@dataclass(frozen=True, kw_only=True)
class DimensionErrors:
    """Errors of one dimension of the action, or of one rotation, over the executed steps, in its unit."""

    name: str
    unit: str | None
    moves: bool
    """False where its range is too small to be learnt."""
    mae: Number
    """Mean absolute error."""
    rmse: Number
    hold: Number
    """Mean absolute error of holding the last action."""
    mean: Number
    """Mean absolute error of the mean action."""
    spread: Number
    """Mean absolute difference between two samples."""

    @property
    def scale(self) -> float:
        """The error that its own is a share of: that of holding, or of the mean action where holding makes none."""
        return self.hold or self.mean


@dataclass(frozen=True, kw_only=True)
class StepErrors:
    """Errors at one step of a chunk from now on, each list by dimension as in ``DimensionErrors``."""

    step: Count
    executed: bool
    windows: Count
    """Windows that have a recorded action at this step."""
    mae: list[Number]
    rmse: list[Number]
    hold: list[Number]
    mean: list[Number]


@dataclass(frozen=True, kw_only=True)
class ActionErrors:
    """How far a policy's actions are from recorded ones."""

    relative_to_hold: Number | None
    """Share of the error of holding the last action, all moving dimensions together; None where nothing moves."""
    relative_to_mean: Number | None
    """Share of the error of the mean action."""
    worst_dimension: Count | None
    """Place in ``dimensions`` of the moving one whose error is the largest share of its ``scale``."""
    dimensions: Annotated[list[DimensionErrors], NotEmpty()]
    steps: Annotated[list[StepErrors], NotEmpty()]


@dataclass(frozen=True, kw_only=True)
class OfflineResult(ActionErrors, Result):
    """An evaluation on recorded episodes."""

    file = "offline.json"

    evaluated: EvaluatedOffline
    latency_ms: Latency


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Two evaluations over the same seeds; differences are the first's less the second's."""

    file = "comparison.json"
    advice = "compare again with robodiff eval --against"

    against: str
    """The second, as the command line named it."""
    episodes: Count
    """Seeds that both were evaluated on."""
    both: Count
    """Episodes in which both succeeded."""
    only_first: Count
    only_second: Count
    neither: Count
    success_difference: Number
    success_difference_ci95: Interval
    """Newcombe's method 10; with ``stopping`` the confidence sequence, which holds whenever one stops."""
    mcnemar_p: Number | None
    """McNemar's exact test, two-sided; None with ``stopping``, for it holds for a fixed number of episodes alone."""
    anytime_p: Number | None = None
    """With ``stopping``: the p-value of a paired test that holds whenever one stops."""
    reward_difference: Number
    """In the mean maximum reward."""
    reward_difference_ci95: Interval | None
    """Of the mean of the episodes' differences; seeded bootstrap; None with ``stopping``, likewise."""
    stopping: Stopping | None = None
    """When the trial was to stop, where the number of episodes was not fixed beforehand."""
    conclusion: str
    """In one sentence."""
    evaluated: Evaluated | None = None
    """The first, and under which conditions; None where an earlier version did not write it."""
    evaluated_against: Evaluated | None = None
    """The second."""

    @property
    def p(self) -> float:
        """The p-value of the test that holds here."""
        return self.mcnemar_p if self.mcnemar_p is not None else self.anytime_p if self.anytime_p is not None else 1.0


@dataclass(frozen=True, kw_only=True)
class DimensionDifference:
    """Mean absolute errors of two policies in one dimension of the action, in its unit."""

    name: str
    unit: str | None
    first: Number
    second: Number
    hold: Number
    """Of holding the last action."""
    difference_ci95: Interval | None
    """Of the first's less the second's; None with a single episode."""


@dataclass(frozen=True, kw_only=True)
class StepDifference:
    """Errors of two policies at one step of a chunk, as shares of that of holding the last action over all steps."""

    step: Count
    first: Number
    second: Number
    hold: Number


@dataclass(frozen=True, kw_only=True)
class OfflineComparison(Result):
    """Two evaluations at the same windows of a recording, over the steps that both execute.

    Errors are shares of that of holding the last action; differences are the first's less the second's.
    """

    file = "offline_comparison.json"
    advice = "compare again with robodiff eval --against"

    against: str
    """The second, as the command line named it."""
    windows: Count
    """That both were measured at."""
    episodes: Count
    """In which these lie."""
    executed: Count
    """Steps of each chunk that are compared."""
    first: Number
    second: Number
    difference: Number
    difference_ci95: Interval | None
    """Over episodes; None with a single one."""
    dimensions: list[DimensionDifference]
    """Those that move."""
    steps: list[StepDifference]
    conclusion: str
    """In one sentence."""
    evaluated: EvaluatedOffline
    evaluated_against: EvaluatedOffline


@dataclass(frozen=True, kw_only=True)
class SweepCell:
    """One way of acting, measured."""

    way: Sampling
    success_rate: Number
    success_rate_ci95: Interval
    """Wilson's interval."""
    mean_max_reward: Number
    latency_ms: Latency
    """Measured in turns with the others."""
    action_ms: Number
    """The median of it for each action that is executed."""
    success_difference: Number
    """Its success less that of the policy's own way, over the same seeds."""
    mcnemar_p: Number
    """McNemar's exact test against the policy's own way, two-sided."""
    holm_p: Number
    """The same, corrected for the number of ways that are compared (Holm 1979)."""
    efficient: bool
    """Whether no other succeeds as often or more often at less or the same time an action."""


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """Ways of acting with one policy over the same seeds."""

    file = "sweep.json"
    advice = "sweep again with robodiff eval --sweep"

    evaluated: Evaluated
    """The policy, acting in its own way, and under which conditions."""
    episodes: Count
    """Of each way of acting."""
    cells: Annotated[list[SweepCell], NotEmpty()]
    """The policy's own way first."""
    chosen: Count
    """Place in ``cells`` of the way that comes off best; see ``sweep.choose``."""
    conclusion: str
    """In words."""


R = TypeVar("R", bound=Result)


def read_result(folder: Path, kind: type[R]) -> R:
    """Read a result from the file of its kind in a folder.

    Raises:
        RobodiffError: the file is missing or broken; the message names the place, and what to do.
    """
    result = read_json(folder / kind.file, kind, kind.advice)
    if isinstance(result, OfflineResult):
        count = len(result.dimensions)
        lengths = {len(errors) for step in result.steps for errors in (step.mae, step.rmse, step.hold, step.mean)}
        if lengths != {count} or (result.worst_dimension or 0) >= count:
            raise RobodiffError(f"{folder / kind.file}: dimensions: found {count}, steps have {lengths}; {kind.advice}")
    return result


def write_result(folder: Path, result: Result) -> None:
    """Write a result to the file of its kind in a folder, whole or not at all."""
    write_json(folder / result.file, result)
