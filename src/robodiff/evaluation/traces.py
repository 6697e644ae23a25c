"""What an evaluation keeps of its episodes for those who look at them: the scene, actions, rewards, chunks.

In the folder ``traces/`` beside an evaluation: ``seed-N.npz`` of each episode, and what they have in common in
``traces.json``. The scene is where its bodies were at every step, where the environment has a ``Touch.sketch``; else
some small pictures in ``seed-N.webp``. Nothing that is measured depends on them.
"""

import math
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import numpy as np

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.images import encode_sheet
from robodiff.documents import Between
from robodiff.envs.touch import Shape
from robodiff.errors import RobodiffError, first_line, notice
from robodiff.evaluation.conditions import Number
from robodiff.evaluation.results import Result, read_result, write_result
from robodiff.files import reading, replacing

if TYPE_CHECKING:  # a page is made of traces where there is no simulator
    from robodiff.envs.spec import EnvSpec
    from robodiff.evaluation.fans import FanSampler
    from robodiff.evaluation.rollout import EpisodeRecord, Pool

TRACE_FOLDER = "traces"
LONGEST_SIDE = 128
"""Pixels of a picture, at most."""
MOST_PICTURES = 36
"""Of an episode, about."""
SHARE = 0.1
"""Of the time that episodes take, for drawing them."""
COLUMNS = 6
"""Pictures in a row of a sheet."""
LOOK = 12
"""Pixels across to which the first images of an episode are reduced, to compare them with those of others."""
QUALITY = 62
"""Of the pictures, as WebP counts it."""

Dimension = tuple[str, str]
"""Its name and its unit, which may be empty."""


@dataclass(frozen=True, kw_only=True)
class TracesInfo(Result):
    """What the traces of an evaluation have in common."""

    file = "traces.json"
    advice = "remove the folder, or evaluate again with robodiff eval"

    fps: Annotated[float, Between(1e-6, 1e9)]
    dimensions: dict[str, list[Dimension]]
    """Of the action, and of each vector that was observed."""
    extent: tuple[Number, Number, Number, Number] | None = None
    """Where actions lie in the pictures, see ``Scene``; None where they are no places in them."""
    bodies: list[Shape] = field(default_factory=list)
    """Of the scene, where they are drawn; none where pictures were taken."""
    seconds: Number
    """That it took to draw, sample and write them."""
    of_seconds: Number
    """That its episodes took, with that."""


@dataclass(frozen=True)
class Trace:
    """One episode of L steps, to look at."""

    action: np.ndarray
    """(L, Da)."""
    reward: np.ndarray
    """(L,)."""
    observations: Mapping[str, np.ndarray]
    """Per vector that was observed, (L + 1, D)."""
    first_images: Mapping[str, np.ndarray]
    """Per image that was observed, how the episode began: (3, 12, 12) uint8."""
    drawn_at: np.ndarray
    """(P,) which steps the pictures show; 0 is before the first action."""
    picture: tuple[int, int] = (0, 0)
    """Height and width of each."""
    sheet: bytes = b""
    """A WebP of the pictures, six in a row; empty where there are none."""
    poses: np.ndarray = field(default_factory=lambda: np.zeros((1, 0, 3), np.float32))
    """(L + 1, B, 3), x, y and angle of each body as ``Body`` has them; of none where pictures were taken."""
    chunk_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(K,) steps at which the policy drew a chunk."""
    chunks: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    """(K, n, Da), that chunk, of which the first actions were executed."""
    fan_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(M,) steps at which more chunks were sampled."""
    fans: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float32))
    """(M, S, n, Da), what the policy might have done from there on."""


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

    def __init__(self, spec: "EnvSpec", seeds: Collection[int], chunk: int) -> None:
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
        environments: "Pool",
        episodes: "Mapping[int, EpisodeRecord]",
        observations: Mapping[str, np.ndarray],
        ended: Collection[int] = (),
        chunks: Mapping[int, np.ndarray] = MappingProxyType({}),
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
        environments: "Pool",
        episodes: "Mapping[int, EpisodeRecord]",
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

    def _observe(self, record: "EpisodeRecord", observation: Mapping[str, np.ndarray]) -> None:
        episode = self.episodes.setdefault(record.seed, _Episode())
        for key, value in observation.items():
            if value.ndim == 1:
                episode.observations.setdefault(key, []).append(value.copy())
            elif key not in episode.first_images:
                episode.first_images[key] = look_of(value)

    def _note(self, environments: "Pool", episodes: "Mapping[int, EpisodeRecord]") -> None:
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

    def _pictures(self, environments: "Pool", rows: Collection[int]) -> dict[int, np.ndarray]:
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
    spec: "EnvSpec",
    records: "Sequence[EpisodeRecord]",
    recorder: TraceRecorder,
    samplers: "Mapping[int, FanSampler]",
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
    folder: Path, spec: "EnvSpec", record: "EpisodeRecord", episode: _Episode, sampler: "FanSampler | None"
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


def look_of(image: np.ndarray) -> np.ndarray:
    """Return an image (3, H, W) uint8 in 12 x 12 pixels, as which beginnings of episodes are compared."""
    from PIL import Image

    channels = [Image.fromarray(channel).resize((LOOK, LOOK), Image.Resampling.BOX) for channel in image]
    return np.stack([np.asarray(channel) for channel in channels])


def remove_traces(evaluation: Path) -> None:
    """Remove the traces in an evaluation's folder, if there are any."""
    with suppress(FileNotFoundError):
        shutil.rmtree(evaluation / TRACE_FOLDER)


def has_traces(evaluation: Path) -> bool:
    """Tell whether an evaluation's folder holds traces."""
    return (evaluation / TRACE_FOLDER / TracesInfo.file).is_file()


def read_traces(evaluation: Path, seeds: Collection[int]) -> tuple[TracesInfo, dict[int, Trace]]:
    """Read the traces of some episodes of an evaluation, by seed; those that were not recorded are left out.

    Raises:
        RobodiffError: one of the files is broken.
    """
    folder = evaluation / TRACE_FOLDER
    info = read_result(folder, TracesInfo)
    paths = {seed: folder / f"seed-{seed}.npz" for seed in seeds}
    traces = {seed: _read_trace(path, info) for seed, path in paths.items() if path.is_file()}
    if len({_observed(trace) for trace in traces.values()}) > 1:
        raise RobodiffError(f"{folder}: not the same was observed in all of its episodes; {info.advice}")
    return info, traces


def _observed(trace: Trace) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Return the keys of what was observed, each with its shape at one moment."""
    vectors = {key: values.shape[1:] for key, values in trace.observations.items()}
    return frozenset({**vectors, **{key: image.shape for key, image in trace.first_images.items()}}.items())


def _read_trace(path: Path, info: TracesInfo) -> Trace:
    with reading(path, "the trace of an episode"), np.load(path, allow_pickle=False) as arrays:
        sheet = path.with_suffix(".webp")
        length = len(arrays["reward"])
        trace = Trace(
            action=arrays["action"],
            reward=arrays["reward"],
            observations=_below(arrays, "seen/"),
            first_images=_below(arrays, "first/"),
            poses=arrays["poses"] if "poses" in arrays else np.zeros((length + 1, 0, 3), np.float32),
            drawn_at=arrays["drawn_at"],
            picture=_pair(arrays["picture"]) if "picture" in arrays else (0, 0),
            sheet=sheet.read_bytes() if sheet.is_file() else b"",
            **{name: arrays[name] for name in ("chunk_at", "chunks", "fan_at", "fans") if name in arrays},
        )
        _check(trace, info)
    return trace


def _pair(array: np.ndarray) -> tuple[int, int]:
    height, width = map(int, array)
    return height, width


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


def _check(trace: Trace, info: TracesInfo) -> None:
    """Check that the arrays of a trace fit each other."""
    length, dim = len(trace.reward), len(info.dimensions.get(ACTION, ()))
    for name, array, shape in (
        ("action", trace.action, (length, dim)),
        ("reward", trace.reward, (length,)),
        ("poses", trace.poses, (length + 1, len(info.bodies), 3)),
        ("drawn_at", trace.drawn_at, (len(trace.drawn_at),)),
        ("chunk_at", trace.chunk_at, (len(trace.chunk_at),)),
        ("chunks", trace.chunks, (len(trace.chunk_at), *trace.chunks.shape[1:2], dim if len(trace.chunk_at) else 0)),
        ("fan_at", trace.fan_at, (len(trace.fan_at),)),
        ("fans", trace.fans, (len(trace.fan_at), *trace.fans.shape[1:3], dim if len(trace.fan_at) else 0)),
        *((key, image, (len(image), LOOK, LOOK)) for key, image in trace.first_images.items()),
        *((key, values, (length + 1, len(info.dimensions.get(key, ())))) for key, values in trace.observations.items()),
    ):
        if array.dtype.kind not in "fiu" or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not numbers {shape}")
    for name, array in (
        ("action", trace.action),
        ("chunks", trace.chunks),
        ("fans", trace.fans),
    ):  # what a sensor or a reward says may be NaN
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    for name, steps in (("drawn_at", trace.drawn_at), ("chunk_at", trace.chunk_at), ("fan_at", trace.fan_at)):
        if (np.diff(steps, prepend=-1) <= 0).any() or (steps > length).any():
            raise ValueError(f"{name} is not an ascending list of steps of the episode")
    drawn = [each.shape[1:-1] for each in (trace.chunks, trace.fans) if len(each)]
    if min([side for sides in (*drawn, trace.picture if trace.sheet else ()) for side in sides], default=1) < 1:
        raise ValueError("a picture, a chunk or a fan is empty")
