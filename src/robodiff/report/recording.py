"""One page about a recording: its episodes to watch, lengths, how its dimensions move, and its flaws."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.check import in_kinds
from robodiff.data.episodes import Episodes, Finding
from robodiff.report import recording_figures
from robodiff.report.joints import Group, dimension_names, groups, of_kind, spread, title
from robodiff.report.pages import fill, write_page
from robodiff.report.playable import Playable
from robodiff.text import counted, duration, shortened

_EPISODES_DRAWN = 4
_MOST_DIMENSIONS = 32
"""Of a key, or of a state and an action, that are drawn."""
_MOST_FINDINGS = 50
_MOST_TASKS = 8
_SAMPLE = 50_000
"""Frames that are enough for a histogram."""
_LONGEST_NAME = 300


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


def write_view(episodes: Episodes, findings: Sequence[Finding], out: Path) -> Path:
    """Write a self-contained page about a recording; of many episodes it carries a sample to watch.

    Args:
        episodes: the recording, or what of it is chosen.
        findings: what ``robodiff data check`` finds in it, worst first.
        out: the file.
    """
    return write_page(out, "view.html", **_context(playable(episodes, findings), served=False))


def playable(episodes: Episodes, findings: Sequence[Finding]) -> Playable:
    """Return a recording as its page shows it, with what ``robodiff data check`` finds in it, worst first."""
    return Playable(episodes, findings, groups(episodes, _MOST_DIMENSIONS))


def page_of(recording: Playable) -> str:
    """Return the page for a server that has every episode at hand: see ``robodiff.report.live``."""
    return fill("view.html", **_context(recording, served=True))


def _context(recording: Playable, served: bool) -> dict[str, Any]:
    episodes = recording.episodes
    lengths = [
        recording_figures.histogram(episodes.lengths, "Length of episodes", "frames"),
        recording_figures.curve(episodes.lengths, "Length by episode", "episode"),
    ]
    name = shortened(Path(episodes.source).name or episodes.source, _LONGEST_NAME)
    sample, firsts = ({}, []) if served else recording.sample()
    return {
        "title": f"{name}: {counted(len(episodes), 'episode')}",
        "data": describe(episodes),
        "findings": in_kinds([*recording.findings]),
        "counts": Counter(finding.severity for finding in recording.findings),
        "most": _MOST_FINDINGS,
        "overview": {**recording.overview(), "served": served, "carried": [*sample], "firsts": firsts},
        "sample": sample,
        **movements(episodes, _MOST_DIMENSIONS),
        "lengths": lengths if len(set(episodes.lengths.tolist())) > 1 else [],
    }


def describe(episodes: Episodes) -> dict[str, Any]:
    """Tell in words how much there is and of which tasks, and per dimension its range, mean and deviation."""
    lengths, fps, table = episodes.lengths, episodes.fps, []
    for key, feature in of_kind(episodes, "vector"):
        array = episodes.arrays[key]
        columns = [array.min(0), array.mean(0, dtype=np.float64), array.max(0), array.std(0, dtype=np.float64)]
        rows = zip(dimension_names(feature), feature.units, np.stack(columns, axis=1), strict=True)
        table += [{"key": key, "dimension": name, "unit": unit, "numbers": row} for name, unit, row in rows]
    frames = int(lengths.sum())
    size = f"{counted(len(episodes), 'episode')}, {counted(frames, 'frame')} at {fps:g} Hz"
    summary = [f"{shortened(episodes.source, _LONGEST_NAME)}: {size}, which is {duration(frames / fps)}."]
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


def movements(episodes: Episodes, most: int) -> dict[str, Any]:
    """Draw the dimensions of every vector that move most, those of a state and an action that are one in one panel.

    Returns:
        ``parts``, and which episodes are ``drawn``.
    """
    return {
        "parts": [_part(episodes, group) for group in groups(episodes, most)],
        "drawn": [episodes.number(place) for place in spread(len(episodes), _EPISODES_DRAWN)],
    }


def _part(episodes: Episodes, group: Group) -> Part:
    some, chosen = 1 + len(episodes.arrays[group.keys[0]]) // _SAMPLE, spread(len(episodes), _EPISODES_DRAWN)
    panels = []
    for joint in group.joints:
        columns = [episodes.arrays[key][:, d].astype(np.float64) for key, d in joint.items()]
        drawn = [([column[episodes.slice(e)] for e in chosen], column[::some]) for column in columns]
        panels.append(recording_figures.movement(drawn, title(episodes, joint)))
    return Part(group.keys, panels, group.moving, group.resting)
