"""One page about a recording: lengths, what its cameras see, curves and histograms of its numbers, and its flaws."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.episodes import Episodes, Feature, Finding
from robodiff.report import figures
from robodiff.report.pages import write_page

_THUMBNAILS = 8
_EPISODES_DRAWN = 4
_MOST_DIMENSIONS = 32
_MOST_FINDINGS = 50
_SAMPLE = 200_000
"""Frames that are enough for a histogram."""


def write_view(episodes: Episodes, findings: list[Finding], out: Path) -> Path:
    """Write a self-contained page about a recording; its size does not grow with the number of episodes.

    Args:
        episodes: the recording, or what of it is chosen.
        findings: what ``robodiff data check`` finds in it, worst first.
        out: the file.
    """
    chosen = _spread(len(episodes), _EPISODES_DRAWN)
    return write_page(
        out,
        "view.html",
        title=f"{episodes.source}: {len(episodes)} episodes",
        data=describe(episodes),
        findings=findings[:_MOST_FINDINGS],
        more=max(0, len(findings) - _MOST_FINDINGS),
        cameras=[(key, _thumbnails(episodes, key)) for key, _ in _of_kind(episodes, "image")],
        drawn=", ".join(map(str, chosen)),
        vectors=[(key, _vector_panels(episodes, key, each, chosen)) for key, each in _of_kind(episodes, "vector")],
        lengths=[
            figures.histogram(episodes.lengths, "Length of episodes", "frames"),
            figures.lines([episodes.lengths], "Length by episode", "episode"),
        ],
    )


def describe(episodes: Episodes) -> dict[str, Any]:
    """Tell in words how much there is, and per dimension of every vector its range, mean and deviation."""
    lengths, fps, table = episodes.lengths, episodes.fps, []
    for key, feature in _of_kind(episodes, "vector"):
        array = episodes.arrays[key]
        columns = [array.min(0), array.mean(0, dtype=np.float64), array.max(0), array.std(0, dtype=np.float64)]
        rows = zip(dimension_names(feature), np.stack(columns, axis=1), strict=True)
        table += [{"key": key, "dimension": name, "unit": feature.unit or "", "numbers": row} for name, row in rows]
    return {
        "summary": f"{episodes.source}: {len(episodes):,} episodes, {lengths.sum():,} frames at {fps:g} Hz, which is "
        f"{lengths.sum() / fps / 60:.1f} minutes. An episode has {lengths.min()} to {lengths.max()} frames, half of "
        f"them at most {int(np.median(lengths))}.",
        "table": table,
    }


def histograms(episodes: Episodes, key: str, most: int) -> list[str]:
    """Draw one panel for each of the first ``most`` dimensions of a vector."""
    feature, array = episodes.features[key], episodes.arrays[key]
    some = np.asarray(array[:: 1 + len(array) // _SAMPLE], np.float64)
    names = dimension_names(feature)[:most]
    return [figures.histogram(some[:, d], f"{key} {name}", feature.unit or "value") for d, name in enumerate(names)]


def dimension_names(feature: Feature) -> tuple[str, ...]:
    """Return what each dimension of a vector is called: its number where it has no name."""
    return feature.names or tuple(map(str, range(feature.shape[0])))


def _of_kind(episodes: Episodes, kind: str) -> list[tuple[str, Feature]]:
    return [(key, feature) for key, feature in episodes.features.items() if feature.kind == kind]


def _vector_panels(episodes: Episodes, key: str, feature: Feature, chosen: list[int]) -> list[str]:
    panels = []
    for dimension, histogram in enumerate(histograms(episodes, key, _MOST_DIMENSIONS)):
        parts = [episodes.arrays[key][episodes.slice(episode), dimension] for episode in chosen]
        title = f"{key} {dimension_names(feature)[dimension]}"
        panels += [figures.lines(parts, title, "frame of the episode"), histogram]
    return panels


def _thumbnails(episodes: Episodes, key: str) -> list[dict[str, Any]]:
    from PIL import Image

    thumbnails = []
    for frame in _spread(len(episodes.arrays[key]), _THUMBNAILS):
        image = Image.fromarray(np.asarray(episodes.arrays[key][frame]).transpose(1, 2, 0).squeeze())  # CHW -> HWC
        image.thumbnail((320, 320))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=85)
        source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        thumbnails.append({"source": source, "where": episodes.where(frame)})
    return thumbnails


def _spread(count: int, most: int) -> list[int]:
    """Return up to ``most`` of ``count`` numbers, evenly spread, neither the first nor the last where they are many."""
    return np.unique(((np.arange(min(most, count)) + 0.5) * count / min(most, count)).astype(int)).tolist()
