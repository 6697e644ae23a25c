"""Measure two policies on the same seeds, block by block, until it is decided which is better."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from robodiff.evaluation.comparison import shared_seeds
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.evaluate import keep, prepare, recorder_of
from robodiff.evaluation.members import Members
from robodiff.evaluation.results import EnvResult
from robodiff.evaluation.rollout import EpisodeRecord, waves
from robodiff.evaluation.sequential import tally, verdict
from robodiff.files import locked


def evaluate_until_decided(
    first: tuple[Members, Path],
    second: tuple[Members, Path] | EnvResult,
    config: EvalConfig,
    advance: Callable[[int, str], None] = lambda pairs, step: None,
) -> tuple[EnvResult, EnvResult]:
    """Run ``num_envs`` episodes of each policy at a time until it is decided which is better; write both evaluations.

    The same call gives the same results, also after one that was interrupted, which leaves nothing.

    Args:
        first: the policy of interest, and the folder to write to.
        second: what it is held against, likewise; or an evaluation of it, with as many of the seeds as that has.
        config: how they are measured; its ``stopping`` is the rule.
        advance: called with the number of pairs that have ended, and in words with the step of those that run.

    Raises:
        UsageError: a policy does not fit the environment, or the evaluation has none of the seeds.
    """
    stopping = config.stopping
    assert stopping is not None
    seeds: Sequence[int] = range(config.seed, config.seed + config.episodes)
    sides, earlier = [first], {}
    if isinstance(second, EnvResult):
        seeds = sorted(shared_seeds(seeds, second))
        earlier = {episode.seed: episode.success for episode in second.episodes}
        config = replace(config, episodes=len(seeds))
    else:
        sides.append(second)
    prepared = [prepare(members, config) for members, _ in sides]
    records: list[list[EpisodeRecord]] = [[] for _ in sides]

    def stepped(_: int, step: str) -> None:
        advance(len(records[-1]), step)

    with ExitStack() as stack:
        for _, out in sides:
            stack.enter_context(locked(out))
        recorders = [recorder_of(each, config) for each in prepared]
        running = [
            stack.enter_context(
                closing(waves(each.policies, each.spec, seeds, config.num_envs, stepped, watcher=recorder))
            )
            for each, recorder in zip(prepared, recorders, strict=True)
        ]
        for blocks in zip(*running, strict=True):
            for so_far, block in zip(records, blocks, strict=True):
                so_far += block
            won = [{record.seed: record.success for record in so_far} for so_far in records]
            if verdict(*tally(won[0], earlier or won[-1]), stopping):
                break
        results = [
            keep(each, of_it, out, config, recorder)
            for each, of_it, (_, out), recorder in zip(prepared, records, sides, recorders, strict=True)
        ]
    return results[0], second if isinstance(second, EnvResult) else results[1]
