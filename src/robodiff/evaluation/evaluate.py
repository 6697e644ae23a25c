"""Measure a policy in an environment: episodes, their figures, and what is kept to look at them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.provenance import Planning
from robodiff.envs.pool import Observation
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.errors import notice
from robodiff.evaluation.actor import (
    Policies,
    check_agents,
    make_runner,
    needed_keys,
    open_policies,
    seen_by,
    steps_held,
)
from robodiff.evaluation.chunks import chunk_latency
from robodiff.evaluation.conditions import Evaluated, Sampled
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.fans import chunk_steps
from robodiff.evaluation.members import ALONE, Members, planning_of
from robodiff.evaluation.replay import replay_some
from robodiff.evaluation.results import Comparison, EnvResult, Summary, read_result, write_result
from robodiff.evaluation.rollout import FAR_OUTSIDE, EpisodeRecord, rollout
from robodiff.evaluation.runs import NON_FINITE_FOLDER, VIDEO_FOLDER, non_finite_files
from robodiff.evaluation.statistics import wilson_interval
from robodiff.evaluation.trace_recorder import TraceRecorder, write_traces
from robodiff.evaluation.traces import remove_traces
from robodiff.files import locked, replacing


@dataclass(frozen=True)
class Prepared:
    """Policies and an environment, checked to fit each other."""

    policies: Policies
    spec: EnvSpec
    """As they see it."""
    evaluated: Evaluated
    demonstrations: Planning | None
    """How motion planning went for those that the policies were trained on."""


def evaluate(
    members: Members,
    out: Path,
    config: EvalConfig,
    advance: Callable[[int, str], None] = lambda finished, step: None,
    again: bool = True,
) -> EnvResult:
    """Run episodes of a policy; write ``metrics.json``, videos, traces, and what made actions that are not finite.

    Everything in the file but ``latency_ms`` is the same at every call with the same arguments. A comparison that an
    earlier evaluation left in ``out`` is removed.

    Args:
        members: where the policies are, see ``find_members``.
        out: folder to write to.
        config: where, how many episodes, and how the policy samples.
        advance: called with the number of episodes that have ended, and in words with the step of those that run.
        again: False takes over what an earlier evaluation of just this left in ``out``.

    Returns:
        What was written to ``metrics.json``.
    """
    return measure(prepare(members, config), out, config, advance, again)


def measure(
    prepared: Prepared,
    out: Path,
    config: EvalConfig,
    advance: Callable[[int, str], None] = lambda finished, step: None,
    again: bool = True,
) -> EnvResult:
    """Do what ``evaluate`` does with policies that are prepared."""
    policies, spec, evaluated = prepared.policies, prepared.spec, prepared.evaluated
    if not again and (out / EnvResult.file).is_file():
        earlier = read_result(out, EnvResult)
        if earlier.evaluated == evaluated and len(earlier.episodes) == config.episodes:
            return earlier
    seeds = range(config.seed, config.seed + config.episodes)
    recorder = recorder_of(prepared, config)
    with locked(out):
        records = rollout(policies, spec, seeds, config.num_envs, advance, watcher=recorder)
        return keep(prepared, records, out, config, recorder)


def recorder_of(prepared: Prepared, config: EvalConfig) -> TraceRecorder:
    """Return what records the episodes that are kept to look at."""
    seeds = range(config.seed, config.seed + min(config.episodes, config.clips))
    return TraceRecorder(prepared.spec, seeds, chunk_steps(prepared.policies, prepared.spec))


def keep(
    prepared: Prepared, records: Sequence[EpisodeRecord], out: Path, config: EvalConfig, recorder: TraceRecorder
) -> EnvResult:
    """Write what came of some episodes that a recorder watched, see ``evaluate``."""
    policies, spec = prepared.policies, prepared.spec
    result = EnvResult(
        **vars(summary(records)),
        episodes=[record.result for record in records],
        evaluated=prepared.evaluated,
        latency_ms=chunk_latency(make_runner(policies, spec), first_observation(policies, spec, config.seed)),
        demonstrations=prepared.demonstrations,
    )
    (out / Comparison.file).unlink(missing_ok=True)
    remove_traces(out)  # of another evaluation: it takes a while until there are those of this one
    write_result(out, result)  # first: videos may fill the disk
    write_non_finite(records, out / NON_FINITE_FOLDER)
    fans = replay_some(policies, spec, records, config.videos, recorder.seeds, out / VIDEO_FOLDER)
    write_traces(spec, records, recorder, fans, out)
    return result


def prepare(members: Members, config: EvalConfig, opened: tuple[Policies, Sampled] | None = None) -> Prepared:
    """Return the policies, the environment as they see it, and under which conditions they are to be measured.

    Raises:
        UsageError: they do not fit each other.
    """
    spec = get_env_spec(config.env)
    if ALONE not in members:
        check_agents(members, spec)
    policies, sampled = opened or open_policies(members, config)
    spec = seen_by(policies, spec)
    if (name := spec.name.removeprefix("team:")) != config.env:
        notice(f"measured in {name}, as the policy needs it")
    if (held := steps_held(policies, spec)) > 1:
        notice(
            f"each action is held for {held} steps: the policy acts at {spec.fps / held:g} Hz, {name} at {spec.fps:g}"
        )
    return Prepared(
        policies,
        spec,
        Evaluated(
            **vars(sampled),
            environment=config.env,
            environment_version=spec.version(),
            success_means=spec.success,
            success_reward=spec.success_reward,
            first_seed=config.seed,
            num_envs=config.num_envs,
            stopping=config.stopping,
        ),
        planning_of(members),
    )


def first_observation(policies: Policies, spec: EnvSpec, seed: int) -> Observation:
    """Return what is observed for policies at the beginning of an episode."""
    with closing(spec.make(needed_keys(policies, spec))) as environment:
        return environment.reset(seed=seed)[0]


def summary(records: Sequence[EpisodeRecord]) -> Summary:
    """Return the figures over all episodes."""
    successes = sum(record.success for record in records)
    names = dict.fromkeys(name for record in records for name in record.extra)
    extra = {name: float(np.mean([each.extra[name] for each in records if name in each.extra])) for name in names}
    return Summary(
        success_rate=successes / len(records),
        success_rate_ci95=wilson_interval(successes, len(records)),
        mean_max_reward=float(np.mean([record.max_reward for record in records])),
        mean_episode_length=float(np.mean([record.length for record in records])),
        non_finite_actions=sum(record.non_finite is not None for record in records),
        out_of_range=sum(record.out_of_range > FAR_OUTSIDE for record in records),
        policy_collisions=extra.get("collision"),
        extra=extra,
    )


def write_non_finite(records: Sequence[EpisodeRecord], folder: Path) -> None:
    """Write of each episode that was stopped the ``step``, the ``action`` (Ta, Da) that was to be executed from there,
    and the observations (To, ...) that led to it; files of an earlier evaluation in the folder are removed."""
    for old in non_finite_files(folder):
        old.unlink()
    for record in records:
        if (chunk := record.non_finite) is not None:
            prefix = "" if chunk.agent is None else f"agents.{chunk.agent}."
            observation = {f"{prefix}{key}": value for key, value in chunk.observation.items()}
            arrays: Mapping[str, Any] = {"step": record.length, f"{prefix}action": chunk.actions, **observation}
            with replacing(folder / f"seed-{record.seed}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
