"""``TraceRecorder``: a watcher of episodes that keeps what ``traces`` reads, and writes it."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.images import encode_sheet
from robodiff.envs.spec import EnvSpec
from robodiff.envs.touch import Shape
from robodiff.errors import RobodiffError, first_line, notice
from robodiff.evaluation.fans import FanSampler
from robodiff.evaluation.results import write_result
from robodiff.evaluation.rollout import NO_CHUNKS, EpisodeRecord, Pool
from robodiff.evaluation.traces import COLUMNS, TRACE_FOLDER, Dimension, TracesInfo, look_of
from robodiff.files import replacing

LONGEST_SIDE = 128
"""Pixels of a picture, at most."""
MOST_PICTURES = 36
"""Of an episode, about."""
SHARE = 0.1
"""Of the time that episodes take, for drawing them."""
QUALITY = 62
"""Of the pictures, as WebP counts it."""


@dataclass
class _Episode:
    """What the recorder keeps of one episode while it runs."""

    observations: dict[str, list[np.ndarray]] = field(default_factory=dict)
    first_images: dict[str, np.ndarray] = field(default_factory=dict)
    chunks: dict[int, np.ndarray] = field(default_factory=dict)
    """By the step at which it begins."""
    poses: list[list[tuple[float, float, float]]] = field(default_factory=list)
    drawn_at: list[int] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)


class TraceRecorder:
    """A ``Watcher`` that records episodes and draws them while they run, in a small share of their time.

    Where the environment sketches its bodies, they are noted at every step. Else it draws at the first and at the last
    step and, in between, every so many steps: from how long the first steps and the first pictures took follows how
    many.

    Args:
        spec: the environment.
        seeds: of the episodes that are recorded.
        chunk: steps of the environment from one chunk to the next.
    """

    def __init__(self, spec: EnvSpec, seeds: Collection[int], chunk: int) -> None:
        self._chunk, self.seeds = chunk, frozenset(seeds)
        self._sketches = spec.touch is not None and spec.touch.sketch is not None
        self._draws = spec.renders and not self._sketches
        self.bodies: list[Shape] = []
        """Of the scene, once they have been noted."""
        self._every = 0  # steps from one picture to the next; 0 while that is not known
        self._drawing = self._resumed = 0.0  # seconds that the first pictures took, and when they were drawn
        self.episodes: dict[int, _Episode] = {}
        self._told = 0.0  # when the last step was watched
        self.seconds = 0.0
        """That watching took."""
        self.of_seconds = 0.0
        """That the episodes took, with it: not what another policy did between them."""

    def watch(
        self,
        environments: Pool,
        episodes: Mapping[int, EpisodeRecord],
        observations: Mapping[str, np.ndarray],
        ended: Collection[int] = (),
        chunks: Mapping[int, np.ndarray] = NO_CHUNKS,
    ) -> None:
        """Take in what is so after a step, see ``Watcher``."""
        start = time.perf_counter()
        if any(record.length for record in episodes.values()):
            self.of_seconds += start - self._told
        self._watch(environments, episodes, observations, ended, chunks, start)
        self._told = time.perf_counter()
        self.seconds += self._told - start
        self.of_seconds += self._told - start

    def _watch(
        self,
        environments: Pool,
        episodes: Mapping[int, EpisodeRecord],
        observations: Mapping[str, np.ndarray],
        ended: Collection[int],
        chunks: Mapping[int, np.ndarray],
        start: float,
    ) -> None:
        watched = {row: record for row, record in episodes.items() if record.seed in self.seeds}
        if not watched:
            return
        step = max(record.length for record in watched.values())
        for row, record in watched.items():
            self._observe(record, {key: value[row] for key, value in observations.items()})
            if row in chunks and np.isfinite(chunks[row]).all():
                self.episodes[record.seed].chunks[record.length - 1] = chunks[row]
        if self._sketches:
            self._note(environments, watched)
            return
        if step == self._chunk and not self._every:
            self._every = self._spacing((start - self._resumed) / step)
        if not self._resumed:  # the first time, what draws has to be made
            self._pictures(environments, watched)
            start = time.perf_counter()
        due = step == 0 or (self._every and step % self._every == 0)
        drawn = {row: record for row, record in watched.items() if due or row in ended}
        for row, picture in self._pictures(environments, drawn).items():
            self.episodes[drawn[row].seed].pictures.append(picture)
            self.episodes[drawn[row].seed].drawn_at.append(drawn[row].length)
        if due:
            self._thin_out([self.episodes[record.seed] for row, record in watched.items() if row not in ended])
        if step == 0:
            self._resumed = time.perf_counter()
            self._drawing = self._resumed - start

    def _observe(self, record: EpisodeRecord, observation: Mapping[str, np.ndarray]) -> None:
        episode = self.episodes.setdefault(record.seed, _Episode())
        for key, value in observation.items():
            if value.ndim == 1:
                episode.observations.setdefault(key, []).append(value.copy())
            elif key not in episode.first_images:
                episode.first_images[key] = look_of(value)

    def _note(self, environments: Pool, episodes: Mapping[int, EpisodeRecord]) -> None:
        try:
            sketches = environments.sketch(episodes)
            if not self.bodies:
                self.bodies = [body.shape for body in next(iter(sketches.values()))]
                if not all(np.isfinite([*np.ravel(shape.outline), shape.radius]).all() for shape in self.bodies):
                    raise RobodiffError("the sketch has a body whose outline is not finite")
            if any(len(bodies) != len(self.bodies) for bodies in sketches.values()):
                raise RobodiffError("the sketch has not the same bodies at every step")
        except RobodiffError as error:
            self._cannot_draw(error)
            return
        for row, record in episodes.items():
            self.episodes[record.seed].poses.append([body.pose for body in sketches[row]])

    def _cannot_draw(self, error: Exception) -> None:
        self._draws = self._sketches = False
        self.bodies = []
        for episode in self.episodes.values():
            episode.poses.clear()
        notice(f"there are no pictures of the episodes: {first_line(error)}")

    def _spacing(self, a_step: float) -> int:
        """Return how many steps, which take so many seconds each, lie between two pictures."""
        return max(self._chunk, math.ceil(self._drawing / max(1e-9, SHARE * a_step)))

    def _pictures(self, environments: Pool, rows: Collection[int]) -> dict[int, np.ndarray]:
        """Draw the scene in some rows; in none where that is not possible."""
        if not (self._draws and rows):
            return {}
        try:
            return environments.draw(dict.fromkeys(rows, LONGEST_SIDE))
        except (RobodiffError, ModuleNotFoundError) as error:
            self._cannot_draw(error)
            return {}

    def _thin_out(self, running: Sequence[_Episode]) -> None:
        """Keep every second picture of episodes that have many, and draw them half as often from here on."""
        if max((len(episode.pictures) for episode in running), default=0) <= MOST_PICTURES:
            return
        self._every *= 2
        for episode in running:
            del episode.pictures[1::2], episode.drawn_at[1::2]


def write_traces(
    spec: EnvSpec,
    records: Sequence[EpisodeRecord],
    recorder: TraceRecorder,
    samplers: Mapping[int, FanSampler],
    out: Path,
) -> None:
    """Write what was recorded of some episodes in place of what an earlier evaluation left.

    Args:
        spec: the environment, as the policy saw it.
        records: of all episodes.
        recorder: that watched them.
        samplers: by seed of some, that sampled chunks at moments of them.
        out: folder of the evaluation.
    """
    start = time.perf_counter()
    with replacing(out / TRACE_FOLDER) as folder:
        folder.mkdir()
        for record in records:
            if (episode := recorder.episodes.get(record.seed)) is not None:
                _write_episode(folder, spec, record, episode, samplers.get(record.seed))
        seen = next(iter(recorder.episodes.values()), _Episode()).observations
        later = sum(each.seconds for each in samplers.values()) + time.perf_counter() - start
        info = TracesInfo(
            fps=spec.fps,
            dimensions={key: _dimensions(spec.features[key]) for key in (ACTION, *seen) if key in spec.features},
            extent=spec.scene and spec.scene.extent,
            bodies=recorder.bodies,
            seconds=recorder.seconds + later,
            of_seconds=recorder.of_seconds + later,
        )
        write_result(folder, info)


def _write_episode(
    folder: Path, spec: EnvSpec, record: EpisodeRecord, episode: _Episode, sampler: FanSampler | None
) -> None:
    arrays = {
        "action": np.array(record.actions, np.float32).reshape(record.length, *spec.features[ACTION].shape),
        "reward": np.array(record.rewards, np.float32),
        "drawn_at": np.array(episode.drawn_at, np.int64),
        **{f"first/{key}": image for key, image in episode.first_images.items()},
        **{f"seen/{key}": np.array(values, np.float32) for key, values in episode.observations.items()},
    }
    if episode.chunks:
        arrays |= {"chunk_at": np.array([*episode.chunks]), "chunks": np.stack([*episode.chunks.values()])}
    if sampler is not None and sampler.sampled:
        arrays |= {"fan_at": np.array([*sampler.sampled]), "fans": np.stack([*sampler.sampled.values()])}
    if episode.poses:
        arrays["poses"] = np.array(episode.poses, np.float32)
    if episode.pictures:
        arrays["picture"] = np.array(episode.pictures[0].shape[:2])
        sheet = encode_sheet(episode.pictures, COLUMNS, "WEBP", quality=QUALITY, method=2)
        (folder / f"seed-{record.seed}.webp").write_bytes(sheet)
    np.savez_compressed(folder / f"seed-{record.seed}.npz", **arrays)


def _dimensions(feature: Feature) -> list[Dimension]:
    names = feature.names or map(str, range(feature.shape[0]))
    return [(name, unit or "") for name, unit in zip(names, feature.units, strict=True)]
