"""What an evaluation keeps of its episodes for those who look at them: the scene, actions, rewards, chunks.

In the folder ``traces/`` beside an evaluation: ``seed-N.npz`` of each episode, and what they have in common in
``traces.json``. The scene is where its bodies were at every step, where the environment has a ``Touch.sketch``; else
some small pictures in ``seed-N.webp``. Nothing that is measured depends on them.
"""

import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.documents import Between
from robodiff.envs.touch import Shape
from robodiff.errors import RobodiffError
from robodiff.evaluation.conditions import Number
from robodiff.evaluation.results import Result, read_result
from robodiff.files import reading

TRACE_FOLDER = "traces"
COLUMNS = 6
"""Pictures in a row of a sheet."""
LOOK = 12
"""Pixels across to which the first images of an episode are reduced, to compare them with those of others."""

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
