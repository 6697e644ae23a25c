"""One page about a recording: lengths, what its cameras see, how its dimensions move, and its flaws."""

import base64
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.check import in_kinds
from robodiff.data.episodes import ACTION, SMALLEST_RANGE, Episodes, Feature, Finding, same_unit
from robodiff.report import figures
from robodiff.report.pages import write_page
from robodiff.text import counted, duration, shortened

_THUMBNAILS = 8
_EPISODES_DRAWN = 4
_EPISODES_MEASURED = 64
_MOST_DIMENSIONS = 32
_MOST_FINDINGS = 50
_MOST_TASKS = 8
_SAMPLE = 50_000
"""Frames that are enough for a histogram."""
STATE = "observation.state"
_NOT_ALIKE = 10
"""A state and an action whose range is so many times smaller than that of both are not drawn over each other."""
Joint = dict[str, int]
"""Per key the dimension of one joint, coordinate or other quantity."""


@dataclass(frozen=True)
class Part:
    """The dimensions of one key, or of a state and an action, that move."""

    keys: tuple[str, ...]
    """The state before the action."""
    panels: list[str]
    """Those of the dimensions that move most, in the order of the recording."""
    moving: int
    """How many move."""
    resting: list[str]
    """Those that never move."""


def write_view(episodes: Episodes, findings: list[Finding], out: Path) -> Path:
    """Write a self-contained page about a recording; its size does not grow with the number of episodes.

    Args:
        episodes: the recording, or what of it is chosen.
        findings: what ``robodiff data check`` finds in it, worst first.
        out: the file.
    """
    lengths = [
        figures.histogram(episodes.lengths, "Length of episodes", "frames"),
        figures.curve(episodes.lengths, "Length by episode", "episode"),
    ]
    return write_page(
        out,
        "view.html",
        title=f"{Path(episodes.source).name or episodes.source}: {counted(len(episodes), 'episode')}",
        data=describe(episodes),
        findings=in_kinds(findings),
        most=_MOST_FINDINGS,
        cameras=[(key, _thumbnails(episodes, key)) for key, _ in _of_kind(episodes, "image")],
        **movements(episodes, _MOST_DIMENSIONS),
        lengths=lengths if len(set(episodes.lengths.tolist())) > 1 else [],
    )


def describe(episodes: Episodes) -> dict[str, Any]:
    """Tell in words how much there is and of which tasks, and per dimension its range, mean and deviation."""
    lengths, fps, table = episodes.lengths, episodes.fps, []
    for key, feature in _of_kind(episodes, "vector"):
        array = episodes.arrays[key]
        columns = [array.min(0), array.mean(0, dtype=np.float64), array.max(0), array.std(0, dtype=np.float64)]
        rows = zip(dimension_names(feature), feature.units, np.stack(columns, axis=1), strict=True)
        table += [{"key": key, "dimension": name, "unit": unit, "numbers": row} for name, unit, row in rows]
    frames = int(lengths.sum())
    summary = [
        f"{episodes.source}: {counted(len(episodes), 'episode')}, {counted(frames, 'frame')} at {fps:g} Hz, which is "
        f"{duration(frames / fps)}."
    ]
    if lengths.min() < lengths.max():
        median = int(np.median(lengths))
        summary += [f"An episode has {lengths.min()} to {lengths.max()} frames, half of them at most {median}."]
    elif len(episodes) > 1:
        summary += [f"Each episode has {counted(int(lengths[0]), 'frame')}."]
    return {"summary": " ".join(summary), "tasks": _tasks(episodes), "table": table}


def _tasks(episodes: Episodes) -> str:
    """Return in words what is demonstrated, as the source says it."""
    tasks = Counter(str(task) for task in episodes.table.get("task", ()) if task)
    some = [f"{shortened(task, 300)} ({counted(count, 'episode')})" for task, count in tasks.most_common(_MOST_TASKS)]
    if len(tasks) == 1:
        return f"Task: {shortened(next(iter(tasks)), 300)}"
    return f"Tasks: {'; '.join(some)}{f'; and {len(tasks) - len(some)} more' * (len(tasks) > len(some))}" * bool(tasks)


def dimension_names(feature: Feature) -> tuple[str, ...]:
    """Return what each dimension of a vector is called: its number where it has no name."""
    return feature.names or tuple(map(str, range(feature.shape[0])))


def move_within_episodes(episodes: Episodes, key: str) -> np.ndarray:
    """Return how far each dimension of a vector moves within episodes, (D,): its mean deviation in some of them."""
    some = map(episodes.slice, _spread(len(episodes), _EPISODES_MEASURED))
    return np.mean([episodes.arrays[key][each].std(axis=0, dtype=np.float64) for each in some], axis=0)


def most_moving(moves: np.ndarray, most: int) -> list[int]:
    """Return up to ``most`` of the dimensions that move so far, (D,), from the one that moves most on."""
    return np.argsort(-moves, kind="stable")[:most].tolist()


def movements(episodes: Episodes, most: int) -> dict[str, Any]:
    """Draw the dimensions of every vector that move most, those of a state and an action that are one in one panel.

    Returns:
        ``parts``, and which episodes are ``drawn``.
    """
    parts: dict[tuple[str, ...], list[Joint]] = {}
    for joint in _joints(episodes):
        parts.setdefault(tuple(joint), []).append(joint)
    return {
        "parts": [_part(episodes, keys, joints, most) for keys, joints in parts.items()],
        "drawn": [episodes.number(place) for place in _spread(len(episodes), _EPISODES_DRAWN)],
    }


def _part(episodes: Episodes, keys: tuple[str, ...], joints: list[Joint], most: int) -> Part:
    some, chosen = 1 + len(episodes.arrays[keys[0]]) // _SAMPLE, _spread(len(episodes), _EPISODES_DRAWN)
    feature = episodes.features[keys[0]]
    names = [_title(feature, joint[keys[0]]) for joint in joints]
    ranges = {key: np.ptp(_limits(episodes, key), axis=0) for key in keys}
    rests = np.array([all(ranges[key][d] < SMALLEST_RANGE for key, d in joint.items()) for joint in joints])
    moves = {key: move_within_episodes(episodes, key) for key in keys}
    moved = np.array([max(moves[key][d] for key, d in joint.items()) for joint in joints])
    panels = []
    for place in sorted(most_moving(np.where(rests, -1, moved), min(most, int((~rests).sum())))):
        columns = [episodes.arrays[key][:, d].astype(np.float64) for key, d in joints[place].items()]
        drawn = [([column[episodes.slice(e)] for e in chosen], column[::some]) for column in columns]
        panels.append(figures.movement(drawn, names[place]))
    resting = [name for name, rest in zip(names, rests, strict=True) if rest]
    return Part(keys, panels, len(joints) - len(resting), resting)


def _joints(episodes: Episodes) -> Iterator[Joint]:
    """Yield the dimensions of all vectors, each alone or, of a state and its action, two that are one."""
    features = dict(_of_kind(episodes, "vector"))
    joined: set[tuple[str, int]] = set()
    for key in sorted(features, key=lambda key: not key.endswith(STATE)):
        action = key.removesuffix(STATE) + ACTION
        pairs = _pairs(episodes, key, action) if key.endswith(STATE) and action in features else {}
        for dimension in range(features[key].shape[0]):
            if dimension in pairs:
                joined.add((action, pairs[dimension]))
                yield {key: dimension, action: pairs[dimension]}
            elif (key, dimension) not in joined:
                yield {key: dimension}


def _pairs(episodes: Episodes, state: str, action: str) -> dict[int, int]:
    """Return which dimension of the action each of the state is: by name or, where not both have names, by place."""
    one, other = episodes.features[state], episodes.features[action]
    if not same_unit(one.unit, other.unit):
        return {}
    if one.names and other.names:
        places = {name: place for place, name in enumerate(other.names)}
        pairs = {place: places[name] for place, name in enumerate(one.names) if name in places}
    else:
        pairs = {place: place for place in range(one.shape[0]) if one.shape == other.shape}
    pairs = pairs if len(set(pairs.values())) == len(pairs) else {}  # a name that several have says nothing
    of_state, of_action = _limits(episodes, state), _limits(episodes, action)
    return {s: a for s, a in pairs.items() if _alike(of_state[:, s], of_action[:, a])}


def _limits(episodes: Episodes, key: str) -> np.ndarray:
    """Return the smallest and the largest value of each dimension, (2, D)."""
    return np.stack([episodes.arrays[key].min(0), episodes.arrays[key].max(0)]).astype(np.float64)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two ranges (low, high) can be read on one axis."""
    both = max(one[1], other[1]) - min(one[0], other[0])
    spans = (span for span in (np.ptp(one), np.ptp(other)) if span >= SMALLEST_RANGE)
    return all(span >= both / _NOT_ALIKE for span in spans)


def _title(feature: Feature, dimension: int) -> str:
    name = feature.names[dimension] if feature.names else f"dimension {dimension}"
    unit = feature.units[dimension]
    return f"{name} ({unit})" if unit else name


def _of_kind(episodes: Episodes, kind: str) -> list[tuple[str, Feature]]:
    return [(key, feature) for key, feature in episodes.features.items() if feature.kind == kind]


def _thumbnails(episodes: Episodes, key: str) -> list[dict[str, Any]]:
    from PIL import Image

    thumbnails = []
    for frame in _spread(len(episodes.arrays[key]), _THUMBNAILS):
        pixels = np.asarray(episodes.arrays[key][frame]).transpose(1, 2, 0)  # CHW -> HWC
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.thumbnail((320, 320))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=85)
        source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        thumbnails.append({"source": source, "where": episodes.where(frame)})
    return thumbnails


def _spread(count: int, most: int) -> list[int]:
    """Return up to ``most`` of ``count`` numbers, evenly spread, neither the first nor the last where they are many."""
    return np.unique(((np.arange(min(most, count)) + 0.5) * count / min(most, count)).astype(int)).tolist()
