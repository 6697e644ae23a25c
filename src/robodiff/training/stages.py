"""Which stage of training runs: a function of the optimizer step and of the number of all steps alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from robodiff.errors import UsageError
from robodiff.policies.config import Stage


@dataclass(frozen=True)
class Span:
    """A stage, and where it lies in a run."""

    stage: Stage
    start: int
    """Its first optimizer step."""
    steps: int | None
    """How many it has; None while nobody knows how many the run has."""
    is_last: bool


def spans(stages: Sequence[Stage], total_steps: int | None) -> Iterator[Span]:
    """Yield the stages of a run of ``total_steps``, None while that is not known; some may have no step.

    A stage that takes a share of the run, or the rest of it, is the last one that is known to run until then.
    """
    start = 0
    for number, (stage, steps) in enumerate(zip(stages, _lengths(stages, total_steps), strict=True)):
        is_last = number == len(stages) - 1
        if total_steps is not None:
            left = max(0, total_steps - start)
            steps = left if is_last or steps is None else min(steps, left)
        yield Span(stage, start, None if is_last and total_steps is None else steps, is_last)
        if steps is None:
            return
        start += steps


def span_at(stages: Sequence[Stage], step: int, total_steps: int | None) -> Span:
    """Return the stage of optimizer step 0, 1, ..."""
    *earlier, last = spans(stages, total_steps)
    return next((span for span in earlier if span.steps is not None and step < span.start + span.steps), last)


def check_stages(policy: nn.Module, stages: Sequence[Stage]) -> None:
    """Refuse stages that the policy cannot run.

    Raises:
        UsageError: a stage without an objective, or one that trains no parameter.
    """
    names = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    for stage in stages:
        if not callable(getattr(policy, stage.loss, None)):
            raise UsageError(f"stage {stage.name}: {type(policy).__name__} has no method {stage.loss!r}")
        if not any(name.startswith(stage.trains) for name in names):
            raise UsageError(f"stage {stage.name}: trains nothing; no parameter's name begins with {stage.trains}")


def _lengths(stages: Sequence[Stage], total_steps: int | None) -> list[int | None]:
    """Return the steps of each stage; None where they are not known."""
    if total_steps is None:
        return [stage.steps if isinstance(stage.steps, int) else None for stage in stages]
    known = [round(s.steps * total_steps) if isinstance(s.steps, float) else s.steps for s in stages]
    rest = max(0, total_steps - sum(steps for steps in known if steps is not None))
    return [rest if steps is None else steps for steps in known]
