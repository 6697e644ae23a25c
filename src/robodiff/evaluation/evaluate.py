"""Measure a policy in an environment: episodes, their figures, and videos of what they looked like."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.envs.pool import Observation
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.evaluation.actor import check_fit, needed_keys, seen_by
from robodiff.evaluation.chunks import chunk_latency
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.results import Comparison, EnvResult, Evaluated, Summary, read_result, write_result
from robodiff.evaluation.rollout import EpisodeRecord, rollout
from robodiff.evaluation.runs import NON_FINITE_FOLDER, VIDEO_FOLDER, non_finite_files, video_files
from robodiff.evaluation.statistics import wilson_interval
from robodiff.files import locked, replacing
from robodiff.machine import describe_machine
from robodiff.policies.checkpoint import find_policy, load_policy, policy_hash
from robodiff.policies.diffusion import DiffusionPolicy


def evaluate(
    policy_path: str | Path,
    out: Path,
    config: EvalConfig,
    on_step: Callable[[int, int], None] | None = None,
    again: bool = True,
) -> EnvResult:
    """Run episodes of a policy; write ``metrics.json``, videos, and what made actions that are not finite to ``out``.

    Everything in the file but ``latency_ms`` is the same at every call with the same arguments. A comparison that an
    earlier evaluation left in ``out`` is removed.

    Args:
        policy_path: a policy, a run, or a repository of the hub.
        out: folder to write to.
        config: where, how many episodes, and how the policy samples.
        on_step: called with (episodes finished, episodes running).
        again: False takes over what an earlier evaluation of just this left in ``out``.

    Returns:
        What was written to ``metrics.json``.
    """
    spec = get_env_spec(config.env)
    folder = find_policy(policy_path)
    policy = load_policy(folder, config.device, sampler=config.sampler, steps=config.steps)
    check_fit(policy, spec)
    spec = seen_by(policy, spec)
    evaluated = Evaluated(
        policy=policy_hash(folder),
        environment=config.env,
        environment_version=spec.version(),
        success_means=spec.success,
        sampler=policy.config.noise_scheduler_type,
        steps=policy.config.inference_steps,
        first_seed=config.seed,
        num_envs=config.num_envs,
        device=f"{policy.device.type} ({describe_machine(str(policy.device))})",
    )
    if not again and (out / EnvResult.file).is_file():
        earlier = read_result(out, EnvResult)
        if earlier.evaluated == evaluated and len(earlier.episodes) == config.episodes:
            return earlier
    with locked(out):
        records = rollout(policy, spec, range(config.seed, config.seed + config.episodes), config.num_envs, on_step)
        result = EnvResult(
            **vars(summary(records)),
            episodes=[record.result for record in records],
            evaluated=evaluated,
            latency_ms=chunk_latency(policy, _first_observation(policy, spec, config.seed)),
        )
        (out / Comparison.file).unlink(missing_ok=True)
        write_result(out, result)  # first: videos may fill the disk
        write_non_finite(records, out / NON_FINITE_FOLDER)
        write_videos(spec, records, out / VIDEO_FOLDER, config.videos)
    return result


def _first_observation(policy: DiffusionPolicy, spec: EnvSpec, seed: int) -> Observation:
    environment = spec.make(needed_keys(policy, spec))
    try:
        return environment.reset(seed=seed)[0]
    finally:
        environment.close()


def summary(records: Sequence[EpisodeRecord]) -> Summary:
    """Return the figures over all episodes."""
    successes = sum(record.success for record in records)
    extra: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.extra.items():
            extra.setdefault(name, []).append(value)
    return Summary(
        success_rate=successes / len(records),
        success_rate_ci95=wilson_interval(successes, len(records)),
        mean_max_reward=float(np.mean([record.max_reward for record in records])),
        mean_episode_length=float(np.mean([record.length for record in records])),
        non_finite_actions=sum(record.non_finite is not None for record in records),
        extra={name: float(np.mean(values)) for name, values in extra.items()},
    )


def write_non_finite(records: Sequence[EpisodeRecord], folder: Path) -> None:
    """Write of each episode that was stopped the ``step``, the ``action`` (Ta, Da) that was to be executed from there,
    and the observations (To, ...) that led to it; files of an earlier evaluation in the folder are removed."""
    for old in non_finite_files(folder):
        old.unlink()
    for record in records:
        if (chunk := record.non_finite) is not None:
            arrays: Mapping[str, Any] = {"step": record.length, "action": chunk.actions, **chunk.observation}
            with replacing(folder / f"seed-{record.seed}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)


def write_videos(spec: EnvSpec, records: Sequence[EpisodeRecord], folder: Path, count: int) -> None:
    """Write the first ``count`` successes and failures; videos of an earlier evaluation in the folder are removed."""
    from robodiff.evaluation.video import replay, write_video  # needs av

    for old in video_files(folder):
        old.unlink()
    if not spec.renders:
        return
    for success, name in ((True, "success"), (False, "failure")):
        for record in [record for record in records if record.success == success][:count]:
            write_video(folder / f"{name}-{record.seed}.mp4", replay(spec, record), spec.fps)
