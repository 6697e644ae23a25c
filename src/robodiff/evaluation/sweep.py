"""Ways of acting with one policy, measured over the same seeds: which are better with certainty, which are cheaper."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from robodiff.documents import AtLeast, Between, Document, NotEmpty
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.actor import make_runner, together
from robodiff.evaluation.chunks import acting_as, chunk_latencies, open_policy
from robodiff.evaluation.comparison import paired, paired_counts
from robodiff.evaluation.conditions import Sampling
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.evaluate import Prepared, first_observation, measure, prepare
from robodiff.evaluation.members import Members
from robodiff.evaluation.results import EnvResult, SweepCell, SweepResult, write_result
from robodiff.evaluation.sequential import LEVEL
from robodiff.evaluation.statistics import holm, mcnemar_exact
from robodiff.policies.checkpoint import change_acting, find_policy, load_policy, save_policy
from robodiff.policies.options import MOST_CHUNKS

AS_CHEAP = 1.1
"""Times that differ by no more than this factor count as the same."""

Ways = dict[Sampling, Prepared]
"""By how it acts, the policy; its own way first."""


@dataclass(frozen=True, kw_only=True)
class Grid(Document):
    """Ways of acting: every combination of what is listed, and the policy's own of what is not."""

    sampler: Annotated[list[str], NotEmpty()] | None = None
    steps: Annotated[list[Annotated[int, Between(1, 10_000)]], NotEmpty()] | None = None
    n_action_steps: Annotated[list[Annotated[int, AtLeast(1)]], NotEmpty()] | None = None
    best_of: Annotated[list[Annotated[int, Between(1, MOST_CHUNKS)]], NotEmpty()] | None = None

    def cells(self) -> Iterator[dict[str, Any]]:
        """Yield each combination as options of ``EvalConfig``."""
        listed = {name: values for name, values in vars(self).items() if values is not None}
        for values in itertools.product(*listed.values()):
            yield dict(zip(listed, values, strict=True))


def open_ways(members: Members, config: EvalConfig, grid: Grid) -> Ways:
    """Return a policy, or a team, in its own way and in each of a grid's; the weights are loaded once.

    Raises:
        UsageError: it cannot act in one of the ways; the message names it.
    """
    opened = {agent: open_policy(path, config) for agent, path in members.items()}
    ways: Ways = {}
    for cell in [{}, *grid.cells()]:
        with _naming(cell):
            asked = replace(config, **cell)
            acting = together({agent: acting_as(*each, asked) for agent, each in opened.items()})
            prepared = prepare(members, config, acting)
        ways.setdefault(prepared.evaluated.sampling, prepared)
    return ways


def run_sweep(ways: Ways, out: Path, config: EvalConfig, advance: Callable[[int, str], None]) -> SweepResult:
    """Measure each way of acting that was not yet measured under the same conditions, then all latencies in turns.

    Args:
        ways: from ``open_ways``.
        out: folder for ``sweep.json``; in it each way has a folder as ``evaluate`` writes it.
        config: where, and how many episodes of each.
        advance: called with the number of episodes of all ways that have ended, and in words with those that run.

    Returns:
        What was written to ``sweep.json``.
    """
    results: list[EnvResult] = []
    for number, (way, prepared) in enumerate(ways.items()):

        def show(finished: int, step: str, way: Sampling = way, before: int = number * config.episodes) -> None:
            advance(before + finished, f"{way}: {step}")

        show(0, "begins")
        results.append(measure(prepared, out / folder_name(way), config, show, again=False))
    cells = _cells(ways, results, config)
    chosen = choose(cells, results)
    result = SweepResult(
        evaluated=results[0].evaluated,
        episodes=config.episodes,
        cells=cells,
        chosen=chosen,
        conclusion=_conclusion(cells, cells[chosen]),
    )
    write_result(out, result)
    return result


def folder_name(way: Sampling) -> str:
    """Return what the folder of a way of acting is called."""
    executed = [] if way.n_action_steps is None else [f"act{way.n_action_steps}"]
    return re.sub(r"[^\w.+-]", "-", "-".join([way.sampler, str(way.steps), *executed, f"best{way.best_of}"]))


def choose(cells: Sequence[SweepCell], results: Sequence[EnvResult]) -> int:
    """Return the place of the way of acting that comes off best.

    It is the cheapest, by the time for an executed action, of those whose success is within one standard error of the
    highest: the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees), with the standard
    error of the paired difference. Of those that are as cheap it is the policy's own way, else the one that succeeds
    most often. Where none ever succeeds, nothing can be chosen, and the policy's own stays.
    """

    def merit(place: int) -> tuple[float, float]:
        return cells[place].success_rate, cells[place].mean_max_reward

    best = max(range(len(cells)), key=merit)
    if cells[best].success_rate == 0:
        return 0
    close = [place for place, result in enumerate(results) if _is_within_error(result, results[best])]
    least = min(cells[place].action_ms for place in close)
    cheap = [place for place in close if cells[place].action_ms <= AS_CHEAP * least]
    return 0 if 0 in cheap else max(cheap, key=merit)


def write_way(members: Members, result: SweepResult) -> list[Path]:
    """Make the way of acting that came off best the policy's own, and return the folders that were written.

    Only ``config.json`` says another thing then; a run's own configuration stays as it is.

    Raises:
        RobodiffError: a policy is not as it was measured.
    """
    way, measured = result.cells[result.chosen].way, result.evaluated
    policies, folders = {}, [find_policy(path) for path in members.values()]
    for (agent, path), folder in zip(members.items(), folders, strict=True):
        policies[folder] = policy = load_policy(folder)
        if policy.policy_hash != measured.policies.get(agent, measured.policy):
            raise RobodiffError(f"{path}: has changed since it was measured; sweep again")
        asked = {"n_action_steps": way.n_action_steps, "best_of": way.best_of}
        change_acting(policy, sampler=way.sampler, steps=way.steps, **asked)
    for folder, policy in policies.items():
        save_policy(policy, folder)
    return folders


def _is_within_error(result: EnvResult, best: EnvResult) -> bool:
    """Tell whether a result is within one standard error of the best, as McNemar's test has it, in episodes."""
    here, there = _discordant(result, best)
    return there - here <= math.sqrt(here + there)


def _discordant(first: EnvResult, second: EnvResult) -> tuple[int, int]:
    """Return in how many episodes the first alone succeeded, and the second."""
    counts = paired_counts(paired(first, second))
    return counts["only_first"], counts["only_second"]


def _cells(ways: Ways, results: Sequence[EnvResult], config: EvalConfig) -> list[SweepCell]:
    """Return the figures of all ways, each compared with the first."""
    prepared = [*ways.values()]
    runners = [make_runner(each.policies, each.spec) for each in prepared]
    latencies = chunk_latencies(runners, first_observation(prepared[0].policies, prepared[0].spec, config.seed))
    costs = [latency.p50 / _executed(each) for latency, each in zip(latencies, prepared, strict=True)]
    p_values = [mcnemar_exact(*_discordant(result, results[0])) for result in results]
    corrected = [1.0, *holm(p_values[1:])]
    points = [(result.success_rate, cost) for result, cost in zip(results, costs, strict=True)]
    return [
        SweepCell(
            way=way,
            success_rate=result.success_rate,
            success_rate_ci95=result.success_rate_ci95,
            mean_max_reward=result.mean_max_reward,
            latency_ms=latencies[place],
            action_ms=costs[place],
            success_difference=result.success_rate - results[0].success_rate,
            mcnemar_p=p_values[place],
            holm_p=corrected[place],
            efficient=not dominated(points[place], points),
        )
        for place, (way, result) in enumerate(zip(ways, results, strict=True))
    ]


def _executed(prepared: Prepared) -> int:
    """Return how many actions of a chunk are executed; of a team whose agents differ the fewest."""
    policies = prepared.policies
    each = policies.values() if isinstance(policies, Mapping) else [policies]
    return min(policy.timing.n_action_steps for policy in each)


def dominated(point: tuple[float, float], points: Sequence[tuple[float, float]]) -> bool:
    """Tell whether another (success, cost) is no worse in either, and better in one."""
    return any(each != point and each[0] >= point[0] and each[1] <= point[1] for each in points)


def _conclusion(cells: Sequence[SweepCell], chosen: SweepCell) -> str:
    """Return in words which ways are better than the policy's own with certainty, and which comes off best."""
    own, best = cells[0], max(cells, key=lambda each: each.success_rate)
    if best.success_rate == 0:
        return f"No way of acting ever succeeds, so none can be preferred to the policy's own ({own.way})."
    if better := [each for each in cells if each.holm_p < LEVEL and each.success_difference > 0]:
        named = "; ".join(f"{each.way} (p = {each.holm_p:.2g})" for each in better)
        first = f"More often than the policy's own way of acting ({own.way}) succeed: {named}."
    else:
        first = f"No way of acting succeeds more often than the policy's own ({own.way}) with certainty."
    within = f"within one standard error of the highest success ({best.success_rate:.2f})"
    if chosen is own:
        return f"{first}\nOf those {within} none is cheaper than the policy's own."
    ratio = own.action_ms / chosen.action_ms
    cost = f"{ratio:.1f} times as fast an action as" if ratio >= 1 else f"{1 / ratio:.1f} times as long an action as"
    difference = f"{chosen.success_difference:+.2f} in success (p = {chosen.holm_p:.2g})"
    return f"{first}\nOf those {within} the cheapest is {chosen.way}: {cost} the policy's own, {difference}."


@contextmanager
def _naming(cell: Mapping[str, Any]) -> Iterator[None]:
    """Name a way of acting in what is said of its failure."""
    try:
        yield
    except UsageError as error:
        words = " ".join(f"{name}={value}" for name, value in cell.items())
        raise UsageError(f"--sweep {words}: {error}" if cell else str(error)) from None
