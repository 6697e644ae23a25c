"""Which of a run's evaluations stands for its policy, which only tell what would be if, and how it is measured."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from robodiff.evaluation.conditions import Sampled
from robodiff.evaluation.results import Comparison, OfflineComparison, read_result
from robodiff.evaluation.runs import Evaluation, OfflineEvaluation, Run, has_policy, nested
from robodiff.policies.checkpoint import policy_hash

E = TypeVar("E", Evaluation, OfflineEvaluation)


def is_current(run: Run, evaluated: Sampled) -> bool:
    """Tell whether it is the run's present policy, or a team's, that was evaluated: it may have been trained on
    since."""
    if not is_made(run):
        return True
    if run.members:
        return evaluated.policies == {agent: policy_hash(each.folder / "policy") for agent, each in run.members.items()}
    return evaluated.policy == policy_hash(run.folder / "policy")


def is_made(run: Run) -> bool:
    """Tell whether a run, or each of a team's, has a policy."""
    return all(has_policy(each.folder) for each in run.parts().values())


def current(run: Run, evaluations: Iterable[E]) -> list[E]:
    """Return the evaluations of the run's present policy."""
    return [each for each in evaluations if is_current(run, each.result.evaluated)]


def answer(run: Run, evaluations: Iterable[E]) -> E | None:
    """Return the evaluation that a run's headline takes: of its present policy, under that policy's own conditions.

    Of several it is the largest and, of those, the latest. An evaluation that lies in no run is its own page's subject,
    whatever its conditions.
    """
    measured = current(run, evaluations)
    own = [each for each in measured if not run.config or not run.what_if(each.result.evaluated)]
    return max(own, key=size, default=None)


def size(evaluation: Evaluation | OfflineEvaluation) -> int:
    """Return how many episodes or windows were measured."""
    if isinstance(evaluation, Evaluation):
        return len(evaluation.result.episodes)
    return evaluation.result.evaluated.windows


@dataclass(frozen=True)
class WhatIf:
    """A row of the table of evaluations under other conditions than the policy's own."""

    folder: str
    measured: str
    size: str
    conditions: str
    compared: str
    """What was concluded from a comparison under these conditions."""


def what_ifs(run: Run) -> list[WhatIf]:
    """Return the rows of all evaluations under other conditions, or of another policy of the run."""
    rows = []
    for each in [*run.evaluations, *run.offline]:
        current = is_current(run, each.result.evaluated)
        conditions = run.what_if(each.result.evaluated) + ([] if current else ["an earlier policy, or another one"])
        if conditions:
            rows.append(WhatIf(each.folder.name, *_measured(each), "; ".join(conditions), conclusion(each)))
    return rows


def _measured(each: Evaluation | OfflineEvaluation) -> tuple[str, str]:
    if isinstance(each, Evaluation):
        low, high = (f"{100 * end:.0f}" for end in each.result.success_rate_ci95)
        where = each.result.evaluated.environment
        success = f"{100 * each.result.success_rate:.0f} % success ({low} to {high} %)"
        return f"{success}, reward {each.result.mean_max_reward:.3f}", f"{size(each)} episodes of {where}"
    share = each.result.relative_to_hold
    error = "nothing moves" if share is None else f"{100 * share:.0f} % of the error of holding the last action"
    return error, f"{size(each)} windows"


def conclusion(each: Evaluation | OfflineEvaluation | None) -> str:
    """Return what a comparison of just this evaluation concluded; empty where there is none."""
    if each is None:
        return ""
    kind = Comparison if isinstance(each, Evaluation) else OfflineComparison
    if not (each.folder / kind.file).is_file():
        return ""
    comparison = read_result(each.folder, kind)
    return comparison.conclusion if comparison.evaluated == each.result.evaluated else ""


def command(run: Run, env: str | None = None, readable: bool = True) -> str:
    """Return the command that measures a run's policy under its own conditions.

    Args:
        run: where the policy is.
        env: the environment where its own configuration and evaluations name none; recorded episodes if None, too.
        readable: whether its demonstrations can still be read where its configuration says that they are.
    """
    known = [each.result.evaluated.environment for each in run.evaluations]
    name = run.env or (known[0] if known else env)
    name = name or ("ENV" if run.members else None)  # a team has no error on recorded episodes
    more = () if name or readable else ("--data", "PATH")
    return measuring(run, name, *more) + (
        "" if is_made(run) else f", once robodiff fit --resume {run.folder} has made its policy"
    )


def measuring(run: Run, env: str | None, *more: str) -> str:
    """Return the command that measures a run's policy in an environment or, without one, on recorded episodes."""
    options = next(iter(run.parts().values())).options
    words = [word for plugin in nested(options, "plugins") or () for word in ("--plugin", str(plugin))]
    return shlex.join(["robodiff", "eval", str(run.folder), *(["--env", env] if env else []), *more, *words])
