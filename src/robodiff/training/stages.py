"""Which stage of training runs: a function of the optimizer step and of the lengths of the stages alone."""

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
    """How many it has; None while nobody knows."""
    is_last: bool


def spans(stages: Sequence[Stage], lengths: Sequence[int]) -> Iterator[Span]:
    """Yield the stages whose lengths are known, and the one after them, which runs until its length is known."""
    start = 0
    for stage, steps in zip(stages, [*lengths, None], strict=False):
        yield Span(stage, start, steps, stage is stages[-1])
        start += steps or 0


def span_at(stages: Sequence[Stage], step: int, lengths: Sequence[int]) -> Span:
    """Return the stage of optimizer step 0, 1, ..."""
    *earlier, last = spans(stages, lengths)
    return next((span for span in earlier if span.steps is not None and step < span.start + span.steps), last)


def lengths_of(stages: Sequence[Stage], total_steps: int, known: Sequence[int] = ()) -> list[int]:
    """Return the optimizer steps of each stage in a run of ``total_steps``, some of which may have none.

    Args:
        stages: all of them.
        total_steps: of the run.
        known: the steps of the first stages, where they have been found already.
    """
    wanted = [round(s.steps * total_steps) if isinstance(s.steps, float) else s.steps for s in stages]
    wanted[: len(known)] = known
    rest = max(0, total_steps - sum(steps for steps in wanted if steps is not None))
    lengths: list[int] = []
    for steps in wanted:
        left = max(0, total_steps - sum(lengths))
        lengths.append(min(rest if steps is None else steps, left))
    lengths[-1] = max(0, total_steps - sum(lengths[:-1]))
    return lengths


def check_stages(policy: nn.Module, stages: Sequence[Stage]) -> None:
    """Refuse stages that the policy cannot run.

    Raises:
        UsageError: a stage without an objective, or one that trains no parameter.
    """
    names = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    for stage in stages:
        for method in filter(None, (stage.loss, stage.prepare)):
            if not callable(getattr(policy, method, None)):
                raise UsageError(f"stage {stage.name}: {type(policy).__name__} has no method {method!r}")
        if not any(name.startswith(stage.trains) for name in names):
            raise UsageError(f"stage {stage.name}: trains nothing; no parameter's name begins with {stage.trains}")
