"""Compare an exported policy with the original, on recorded observations and in an environment."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robodiff.data.episodes import with_past_action
from robodiff.data.recordings import DataConfig
from robodiff.data.windows import Windows
from robodiff.deploy.artefact import Successes, Verified
from robodiff.deploy.engines import Precision
from robodiff.deploy.runtime import ExportedPolicy, load_exported
from robodiff.errors import RobodiffError
from robodiff.evaluation.chunks import check_features, chunk_latency, observed_at, window_shape
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.config import SEED, EvalConfig
from robodiff.evaluation.evaluate import evaluate
from robodiff.evaluation.members import ALONE
from robodiff.machine import describe_machine
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner
from robodiff.policies.runtime import draw_noise

TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.02, "int8": 0.05}
"""Bounds on the difference of normalised actions: the largest in fp32, and the mean in other precisions, where rounding
may now and then choose another of several ways to go."""
LEVEL = 0.05
"""Fewer successes count as a failure when chance alone would show them less often than this."""
WINDOWS, BATCH = 64, 8
Sample = tuple[dict[str, np.ndarray], np.ndarray]
"""The observations of some windows, per key (B, To, ...), and noise."""


def read_samples(policy: DiffusionPolicy, source: DataConfig) -> list[Sample]:
    """Return the observations of evenly spread windows of a recording, each with noise seeded by its frame.

    Raises:
        UsageError: the recording does not hold what the policy observes.
        RobodiffError: the recording cannot be read.
    """
    episodes = source.read(policy.observation_keys)
    shape = window_shape(policy, episodes)
    episodes = with_past_action(episodes, policy.observation_keys, shape.frame_stride)
    check_features(policy, episodes.features, episodes.source)
    every = Windows(episodes.episode_ends, shape)
    picks = np.linspace(0, len(every) - 1, min(WINDOWS, len(every))).astype(int)
    samples = []
    for first in range(0, len(picks), BATCH):
        numbers = picks[first : first + BATCH]
        noise = [draw_noise(policy.noise_shape(1), SEED, frame) for frame in every.now[numbers]]
        samples.append((observed_at(policy, episodes, every, numbers), np.concatenate(noise, axis=1)))
    return samples


def verify(policy: DiffusionPolicy, folder: Path, samples: list[Sample], data: str) -> Verified:
    """Return how an exported policy differs from the original, and the latency of both.

    Args:
        policy: in torch, on the CPU.
        folder: of the exported policy.
        samples: from ``read_samples``.
        data: name of the recording that they were read from.
    """
    exported = load_exported(folder)
    errors = np.concatenate([_errors(policy, exported, *sample).ravel() for sample in samples])
    first = {key: value[0, -1] for key, value in samples[0][0].items()}
    own, in_torch = (chunk_latency(PolicyRunner(each), first) for each in (exported, policy))
    return Verified(
        windows=sum(noise.shape[1] for _, noise in samples),
        data=data,
        mean_error=float(errors.mean()),
        max_error=float(errors.max()),
        tolerance=TOLERANCES[exported.described.precision],
        latency_ms=own,
        torch_latency_ms=in_torch,
        threads=exported.threads,
        machine=describe_machine(),
        megabytes=sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
    )


def _errors(
    policy: DiffusionPolicy, exported: ExportedPolicy, observation: Mapping[str, np.ndarray], noise: np.ndarray
) -> np.ndarray:
    """Return the absolute differences of both policies' normalised actions, (B, n, action_dim)."""
    observed = {key: torch.from_numpy(value) for key, value in observation.items()}
    own, others = (
        torch.from_numpy(each.predict_chunk(observation, noise=noise).actions) for each in (exported, policy)
    )
    return policy.difference(own, others, observed).numpy()


def compare_success(policy: str, folder: Path, config: EvalConfig) -> tuple[Successes, bool]:
    """Return how often both succeed on the same seeds, and whether the exported policy is significantly worse.

    Args:
        policy: the path of the one in torch.
        folder: of the exported one.
        config: of the evaluation; its sampler and steps are those of the export.
    """
    own = replace(config, sampler=None, steps=None)
    with tempfile.TemporaryDirectory() as out:
        exported = evaluate({ALONE: str(folder)}, Path(out) / "exported", own)
        in_torch = evaluate({ALONE: policy}, Path(out) / "torch", config)
    paired = compare(exported, in_torch, "the exported policy", "the one in torch")
    worse = paired.p < LEVEL and paired.success_difference < 0
    return Successes(
        env=config.env,
        episodes=paired.episodes,
        exported=exported.success_rate,
        torch=in_torch.success_rate,
        conclusion=paired.conclusion,
    ), worse


def check_verified(verified: Verified, precision: Precision, is_worse: bool) -> None:
    """Raise ``RobodiffError`` if an exported policy does not act like the original."""
    which, error = ("largest", verified.max_error) if precision == "fp32" else ("mean", verified.mean_error)
    if not error <= verified.tolerance:  # also refuses NaN
        found = f"{error:.2g} ({which}), more than {verified.tolerance:g}"
        problem = f"normalised actions differ from torch's by {found}"
    elif is_worse and verified.success is not None:
        problem = verified.success.conclusion
    else:
        return
    remedy = "export with another --precision, or keep it anyway with --accept_errors"
    raise RobodiffError(f"not exported: {problem}\n{remedy}")
