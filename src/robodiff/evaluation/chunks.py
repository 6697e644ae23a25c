"""The chunks that a policy samples at recorded observations, many at once, and how long one takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, Episodes, Feature, same_unit, unit_in_words
from robodiff.data.windows import Windows, WindowShape
from robodiff.deploy.artefact import is_exported
from robodiff.deploy.runtime import ExportedPolicy, load_exported
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.conditions import Sampled, Sampling
from robodiff.evaluation.config import SamplingConfig
from robodiff.evaluation.members import kept
from robodiff.evaluation.runs import run_of
from robodiff.machine import describe_machine
from robodiff.policies.checkpoint import change_acting, load_policy
from robodiff.policies.choice import Contrasted
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import NonFiniteActions, PolicyRunner, Team
from robodiff.policies.runtime import Latency, draw_noise
from robodiff.text import counted

Policy = DiffusionPolicy | ExportedPolicy
WARM_UP, LEAST_CHUNKS, SECONDS_OF_CHUNKS = 3, 5, 5.0
BATCH, BATCH_OF_IMAGES = 64, 16
"""Windows sampled together; encoding two images of 480 x 640 for each of 16 takes about a gigabyte."""


def open_policy(path: str | Path, config: SamplingConfig) -> tuple[Policy, Sampled]:
    """Return the policy to measure, and what a result says of it.

    Raises:
        UsageError: see ``acting_as``.
    """
    if is_exported(path):
        policy = load_exported(path)
        device = f"{policy.words}, {counted(policy.threads, 'thread')} ({describe_machine()})"
    else:
        policy = load_policy(path, config.device)
        device = f"{policy.device.type} ({describe_machine(str(policy.device))})"
    own = sampling_of(policy)
    sampled = Sampled(**vars(own), policy=policy.policy_hash or "", device=device, own=own)
    policy, sampled = acting_as(policy, sampled, config)
    if config.contrast is None:
        return policy, sampled
    if policy.timing.best_of < 2:
        raise UsageError("--contrast chooses among several chunks; give --best_of, too")
    weak, weaker = open_policy(kept(str(run_of(Path(path)) or path), config.contrast), replace(config, contrast=None))
    if (weak.features, weak.timing) != (policy.features, policy.timing):
        raise UsageError(f"--contrast {config.contrast}: is a policy of another kind than {path}")
    contrasted: Any = Contrasted(policy, weak)  # which stands for the policy in all that is asked of one
    return contrasted, replace(sampled, contrast=config.contrast, contrast_policy=weaker.policy)


def acting_as(policy: Policy, sampled: Sampled, config: SamplingConfig) -> tuple[Policy, Sampled]:
    """Return a policy that acts as it is asked to, with the weights of this one, and what a result says of it.

    Raises:
        UsageError: what does not fit it, such as another sampler or device than an exported policy has.
    """
    asked = {"n_action_steps": config.n_action_steps, "best_of": config.best_of}
    if isinstance(policy, ExportedPolicy):
        policy.check_options(config.sampler, config.steps, config.device)
        policy = policy.acting(**asked)
    else:
        policy = copy(policy)
        change_acting(policy, sampler=config.sampler, steps=config.steps, **asked)
    return policy, replace(sampled, **vars(sampling_of(policy)))


def sampling_of(policy: Policy) -> Sampling:
    """Return how a policy acts."""
    config = policy.config
    sampler, steps = config.noise_scheduler_type, config.inference_steps
    return Sampling(sampler=sampler, steps=steps, n_action_steps=config.n_action_steps, best_of=config.best_of)


def window_shape(policy: Policy, episodes: Episodes) -> WindowShape:
    """Return the time steps of the policy's windows in a recording, whose rate may be a multiple of its own.

    Raises:
        UsageError: it is not.
    """
    rate = 1 / policy.timing.spacing
    stride = round(episodes.fps / rate)
    if stride < 1 or abs(episodes.fps / rate - stride) > 1e-3 * stride:
        found = f"{episodes.source} has {counted(episodes.fps, 'frame')} a second"
        raise UsageError(f"the policy acts at {rate:g} Hz, and {found}, which is not a multiple of it")
    return replace(policy.config.window, frame_stride=stride)


def check_features(policy: Policy, features: Mapping[str, Feature], source: str) -> None:
    """Raise ``UsageError`` unless the policy's features are among those of a recording or an environment.

    Their shapes must be equal and, where both sides say them, their units.
    """
    for key, feature in policy.features.items():
        if key not in features:
            names = ", ".join(name for name in features if name != ACTION)
            raise UsageError(f"the policy observes {key!r}, which {source} lacks; it has {names}")
        other = features[key]
        if other.shape != feature.shape:
            raise UsageError(f"{key} is {feature.shape} for the policy and {other.shape} in {source}")
        if not same_unit(feature.unit, other.unit):
            own, others = map(unit_in_words, (feature.unit, other.unit))
            remedy = f"measure it on data in {own}, or train a policy on data in {others}"
            raise UsageError(f"{key} is in {own} for the policy and in {others} in {source}\n{remedy}")


def sample_chunks(
    policy: Policy,
    episodes: Episodes,
    windows: Windows,
    asked: np.ndarray,
    seed: int,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
    on_row: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Sample chunks, whose noise is a function of the seed, the frame that is now, and the number of the draw.

    Args:
        policy: in evaluation mode.
        episodes: the recording.
        windows: of some of its episodes, in steps of ``window_shape``.
        asked: (A, 2), for each chunk its window and the number of the draw.
        seed: of the noise.
        batch_size: chunks sampled together; it changes results by rounding alone.
        advance: called with the number of chunks done.
        on_row: passed on to ``predict_chunk`` with each batch, by a policy in torch.

    Returns:
        The actions from now on, (A, n, Da), in recorded units; a policy may give some that are not finite.
    """
    now, shape, chunks = policy.timing.n_obs_steps - 1, policy.noise_shape(1), []
    size = batch_size or (BATCH_OF_IMAGES if any(f.kind == "image" for f in policy.features.values()) else BATCH)
    for first in range(0, len(asked), size):
        numbers, draws = asked[first : first + size].T
        drawn_for = zip(windows.now[numbers], draws, strict=True)
        noise = np.concatenate([draw_noise(shape, seed, frame, draw) for frame, draw in drawn_for], axis=1)
        watching: dict[str, Any] = {} if on_row is None else {"on_row": on_row}
        chunk = policy.predict_chunk(observed_at(policy, episodes, windows, numbers), noise=noise, **watching)
        chunks.append(chunk.actions[:, now - chunk.first_step :])
        advance(first + len(numbers))
    return np.concatenate(chunks)


def observed_at(policy: Policy, episodes: Episodes, windows: Windows, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the policy observes at windows, (B,): per key (B, To, ...), as recorded."""
    frames = windows.frames(numbers)[0][:, : policy.timing.n_obs_steps]  # (B, To)
    return {key: np.asarray(episodes.arrays[key][frames]) for key in policy.observation_keys}


def check_finite(episodes: Episodes, frames: np.ndarray, chunks: np.ndarray) -> None:
    """Raise ``RobodiffError`` if the actions (A, n, Da) that were sampled at frames (A,) are not all finite."""
    finite = np.isfinite(chunks).all((1, 2))
    if not finite.all():
        place = f"{episodes.where(frames[finite.argmin()])} of {episodes.source}"
        raise RobodiffError(f"the policy's actions are not finite at {place}; look at what it observes there")


def chunk_latency(runner: PolicyRunner | Team, observation: Mapping[str, np.ndarray], chunks: int = 30) -> Latency:
    """Measure how long it takes from an observation of one robot, or of a team, to the chunk of actions."""
    (latency,) = chunk_latencies([runner], observation, chunks)
    return latency


def chunk_latencies(
    runners: Sequence[PolicyRunner | Team], observation: Mapping[str, np.ndarray], chunks: int = 30
) -> list[Latency]:
    """Measure how long chunks take, after a warm-up; in turns, so that a change of the machine's speed meets all.

    Of slow policies fewer chunks than asked for, but ``LEAST_CHUNKS``, are timed, which takes little longer than
    ``SECONDS_OF_CHUNKS`` for each.
    """
    rounds: list[list[float]] = []  # (rounds, runners) seconds
    enough = SECONDS_OF_CHUNKS * len(runners)
    while len(rounds) < WARM_UP + (chunks if sum(map(sum, rounds)) < enough else LEAST_CHUNKS):
        frames = {key: value + np.uint8(len(rounds)) for key, value in observation.items() if value.dtype == np.uint8}
        rounds.append([_seconds(runner, {**observation, **frames}) for runner in runners])
    p50s, p95s = 1e3 * np.percentile(rounds[WARM_UP:], (50, 95), axis=0)
    return [Latency(p50=p50, p95=p95) for p50, p95 in zip(p50s.tolist(), p95s.tolist(), strict=True)]


def _seconds(runner: PolicyRunner | Team, observation: Mapping[str, np.ndarray]) -> float:
    """Return how long a chunk takes; of new frames, for an exported policy remembers those that it saw."""
    runner.reset()
    start = time.perf_counter()
    with suppress(NonFiniteActions):  # it takes as long as any other
        runner.act(observation)
    return time.perf_counter() - start
