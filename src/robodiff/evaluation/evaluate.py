"""Measure a policy: episodes, their interval, what was measured, and videos of what it looked like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.evaluation.rollout import EpisodeRecord, check_fit, chunk_latency, rollout
from robodiff.evaluation.runs import (
    COMPARISON_FILE,
    METRICS_FILE,
    NON_FINITE_FOLDER,
    non_finite_files,
    read_evaluation,
    video_files,
)
from robodiff.evaluation.statistics import wilson_interval
from robodiff.files import locked, replacing, write_json
from robodiff.machine import describe_machine
from robodiff.policies.checkpoint import find_policy, load_policy, policy_hash


def evaluate(
    policy_path: str | Path,
    env: str,
    out: Path,
    episodes: int = 100,
    seed: int = 100_000,
    num_envs: int = 100,
    sampler: str | None = None,
    steps: int | None = None,
    device: str = "cpu",
    videos: int = 3,
    on_step: Callable[[int, int], None] | None = None,
    again: bool = True,
) -> dict[str, Any]:
    """Run episodes of a policy; write ``metrics.json``, videos, and what made actions that are not finite to ``out``.

    Everything in the file but ``latency_ms`` is the same at every call with the same arguments. A comparison that an
    earlier evaluation left in ``out`` is removed.

    Args:
        policy_path: a policy, a run, or a repository of the hub.
        env: name of the environment.
        out: folder to write to.
        episodes: how many, at least 1.
        seed: of the first, at least 0; the others follow.
        num_envs: episodes stepped together, and rows of every call of the policy, at least 1.
        sampler: in place of the policy's own.
        steps: denoising steps in place of the policy's own.
        device: where the policy runs.
        videos: of how many successes, and of how many failures.
        on_step: called with (episodes finished, episodes running).
        again: False takes over what an earlier evaluation of just this left in ``out``.

    Returns:
        What was written to ``metrics.json``.
    """
    spec = get_env_spec(env)
    folder = find_policy(policy_path)
    policy = load_policy(folder, device, sampler=sampler, steps=steps)
    check_fit(policy, spec)
    evaluated = {
        "policy": policy_hash(folder),
        "environment": env,
        "environment_version": spec.version(),
        "success_means": spec.success,
        "sampler": policy.config.noise_scheduler_type,
        "steps": policy.config.inference_steps,
        "first_seed": seed,
        "num_envs": num_envs,
        "device": f"{policy.device.type} ({describe_machine(str(policy.device))})",
    }
    if not again and (out / METRICS_FILE).is_file():
        earlier = read_evaluation(out).metrics
        if earlier["evaluated"] == evaluated and len(earlier["episodes"]) == episodes:
            return earlier
    with locked(out):
        records = rollout(policy, spec, range(seed, seed + episodes), num_envs, on_step)
        latency = chunk_latency(policy, spec, seed)
        metrics = {
            **summary(records),
            "episodes": [
                {
                    "seed": r.seed,
                    "success": r.success,
                    "max_reward": r.max_reward,
                    "length": r.length,
                    "non_finite": r.non_finite is not None,
                }
                for r in records
            ],
            "extra": {},
            "evaluated": evaluated,
            "latency_ms": {"p50": float(np.percentile(latency, 50)), "p95": float(np.percentile(latency, 95))},
        }
        (out / COMPARISON_FILE).unlink(missing_ok=True)
        write_json(out / METRICS_FILE, metrics)  # first: videos may fill the disk
        write_non_finite(records, out / NON_FINITE_FOLDER)
        write_videos(spec, records, out / "videos", videos)
    return metrics


def summary(records: list[EpisodeRecord]) -> dict[str, Any]:
    """The figures over all episodes."""
    successes = sum(record.success for record in records)
    return {
        "success_rate": successes / len(records),
        "success_rate_ci95": list(wilson_interval(successes, len(records))),
        "mean_max_reward": float(np.mean([record.max_reward for record in records])),
        "mean_episode_length": float(np.mean([record.length for record in records])),
        "non_finite_actions": sum(record.non_finite is not None for record in records),
    }


def write_non_finite(records: list[EpisodeRecord], folder: Path) -> None:
    """Write of each episode that was stopped the ``step``, the ``action`` (Ta, Da) that was to be executed from there,
    and the observations (To, ...) that led to it; files of an earlier evaluation in the folder are removed."""
    for old in non_finite_files(folder):
        old.unlink()
    for record in records:
        if (chunk := record.non_finite) is not None:
            arrays: dict[str, Any] = {"step": record.length, "action": chunk.actions, **chunk.observation}
            with replacing(folder / f"seed-{record.seed}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)


def write_videos(spec: EnvSpec, records: list[EpisodeRecord], folder: Path, count: int) -> list[Path]:
    """Write the first ``count`` successes and failures; videos of an earlier evaluation in the folder are removed."""
    from robodiff.evaluation.video import replay, write_video

    for old in video_files(folder):
        old.unlink()
    written = []
    for success, name in ((True, "success"), (False, "failure")):
        for record in [r for r in records if r.success == success][:count]:
            path = folder / f"{name}-{record.seed}.mp4"
            write_video(path, replay(spec, record), spec.fps)
            written.append(path)
    return written
