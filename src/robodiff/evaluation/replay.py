"""Episodes gone through again, from their seeds and actions: for their videos, and for what the policy considered."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from robodiff.envs.spec import AnyEnv, EnvSpec, raise_for_env
from robodiff.errors import RobodiffError, first_line, notice
from robodiff.evaluation.actor import Policies, needed_keys
from robodiff.evaluation.fans import FanSampler, chunk_steps, moments_of_each
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.evaluation.runs import video_files
from robodiff.files import replacing


def replay_some(
    policies: Policies,
    spec: EnvSpec,
    records: Sequence[EpisodeRecord],
    count: int,
    kept: Collection[int],
    folder: Path,
) -> dict[int, FanSampler]:
    """Replay the first ``count`` successes and failures: write their videos, and sample chunks at moments of them.

    Videos of an earlier evaluation in the folder are removed. Where the environment cannot draw here, that is told, and
    there are none: results need no videos.

    Args:
        policies: that acted.
        spec: the environment, as they see it.
        records: of all episodes.
        count: of so many successes, and of so many failures.
        kept: seeds of the episodes that are kept to look at; of others no chunks are sampled.
        folder: for the videos.

    Returns:
        By seed what was sampled.
    """
    for old in video_files(folder):
        old.unlink()
    outcomes = [[record for record in records if record.success is success][:count] for success in (True, False)]
    chosen, samplers, draws = [record for some in outcomes for record in some], {}, spec.renders
    moments = moments_of_each(records, len(chosen), chunk_steps(policies, spec))
    for record in chosen:
        keys, each = (needed_keys(policies, spec), moments) if record.seed in kept else ([], 0)
        sampler = FanSampler(policies, spec, record, each)
        if draws:
            try:
                _write_video(folder, spec, record, keys, sampler)
            except _CannotDraw as error:
                notice(f"there are no videos: {error}")
                draws, sampler = False, FanSampler(policies, spec, record, each)
        if not draws and each:
            for _ in _replay(spec, record, keys, sampler):
                pass
        samplers[record.seed] = sampler
    return samplers


def _write_video(
    folder: Path, spec: EnvSpec, record: EpisodeRecord, keys: Collection[str], sampler: FanSampler
) -> None:
    from robodiff.data.formats.lerobot.video import encode_video  # needs av

    frames = (_drawn(spec, environment) for environment in _replay(spec, record, keys, sampler))
    with replacing(folder / f"{'success' if record.success else 'failure'}-{record.seed}.mp4") as temporary:
        encode_video(temporary, frames, spec.fps, "h264", key_frames=250)


def _replay(spec: EnvSpec, record: EpisodeRecord, keys: Collection[str], sampler: FanSampler) -> Iterator[AnyEnv]:
    """Yield the environment before each action of an episode, and after the last."""
    with closing(spec.make(keys)) as environment:
        observation, _ = environment.reset(seed=record.seed)
        for step, action in enumerate(record.actions):
            sampler.observe(step, observation)
            yield environment
            observation, *_ = environment.step(action)
        yield environment


class _CannotDraw(RobodiffError):
    """The environment raised something in place of drawing."""


def _drawn(spec: EnvSpec, environment: AnyEnv) -> np.ndarray:
    """Return a frame, (3, H, W) uint8."""
    try:
        with raise_for_env(f"{spec.name} cannot be drawn"):
            return np.asarray(environment.render()).transpose(2, 0, 1)
    except (RobodiffError, ModuleNotFoundError) as error:
        raise _CannotDraw(first_line(error)) from error
