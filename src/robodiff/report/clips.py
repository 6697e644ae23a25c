"""What the wall of measured episodes and its player are given: see ``wall.js``."""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.envs.touch import Shape
from robodiff.evaluation.results import EpisodeResult
from robodiff.evaluation.runs import Evaluation
from robodiff.evaluation.traces import COLUMNS, Trace, TracesInfo, has_traces, read_traces
from robodiff.report.joints import STATE, same_name
from robodiff.report.playable import rounded
from robodiff.text import shortened

MOST_VALUES = 250_000
"""Numbers of all lines of an evaluation in its page."""
LARGEST_PICTURES = 3_400_000
"""Bytes of all pictures of a page."""
LARGEST_CHUNKS = 600_000
"""Bytes of all chunks of a page that were drawn."""
SKETCHED = 192
"""Pixels along each side of a scene that the page draws from its bodies."""
_LONGEST_NAME = 60
_BYTES_OF_A_NUMBER = 7
Line = tuple[str, str, int]
"""What it is called, the key, and its dimension; the key ``reward`` has one."""
Panel = tuple[str, str, list[Line]]
"""Its title, its unit, and its lines."""


@dataclass(frozen=True)
class Clips:
    """The episodes of an evaluation that were kept to look at."""

    evaluation: Evaluation
    info: TracesInfo
    traces: Mapping[int, Trace]
    """By seed."""

    @property
    def episodes(self) -> list[EpisodeResult]:
        """Those that were kept, from the worst to the best: of two successes the slower one is worse."""
        kept = [each for each in self.evaluation.result.episodes if each.seed in self.traces]
        return sorted(kept, key=lambda each: (each.success, each.max_reward, -each.length))

    def wall(self, panels: Sequence[Panel], walls: int = 1) -> dict[str, Any]:
        """Return what ``wall.js`` shows, the worst episode first.

        Args:
            panels: of each episode, see ``panels``.
            walls: on the page, which share its room; episodes that there is none for lack pictures or chunks.
        """
        pictures = self._within(LARGEST_PICTURES // walls, _size)
        chunks = self._within(LARGEST_CHUNKS // walls, lambda trace: trace.chunks.size * _BYTES_OF_A_NUMBER)
        return {
            "fps": self.info.fps,
            "extent": self.info.extent,
            "panels": [_described(title, unit, lines) for title, unit, lines in panels],
            "left_out": len(self.info.dimensions.get(ACTION, [])) - (len(panels) - 1),
            "episodes": [
                self.episode(each, panels, each.seed in pictures, each.seed in chunks) for each in self.episodes
            ],
        }

    def episode(self, result: EpisodeResult, panels: Sequence[Panel], pictures: bool, chunks: bool) -> Any:
        """Return one episode, without what all of them share; its pictures and its chunks only where asked for."""
        trace = self.traces[result.seed]
        seen = {**trace.observations, ACTION: trace.action, "reward": trace.reward[:, None]}
        return {
            "seed": result.seed,
            "success": result.success,
            "stopped": result.non_finite,
            "reward": round(result.max_reward, 4),
            "length": result.length,
            "values": [[_over(result.length, key, seen.get(key), d) for _, key, d in lines] for _, _, lines in panels],
            "pictures": self._scene(trace) if pictures else None,
            "fans": {
                **_fans(trace, chunks),
                "dimensions": self._fan_dimensions(panels),
                "path": _path(trace) if self.info.extent else [],
            },
        }

    def _scene(self, trace: Trace) -> dict[str, Any]:
        return _sketch(trace, self.info.bodies) if self.info.bodies else _pictures(trace)

    def panels(self, most_values: int = MOST_VALUES) -> list[Panel]:
        """Return title, unit and lines of each panel: the reward, then as many joints as there is room for.

        An action and a state of one name and unit are in one panel; those that move most stay.
        """
        frames = sum(len(trace.reward) + 1 for trace in self.traces.values())
        named = self.info.dimensions.items()
        states = [(each, key, d) for key, of_key in named if key.endswith(STATE) for d, each in enumerate(of_key)]
        actions = self.info.dimensions.get(ACTION, [])
        pairs = same_name(actions, [name for name, _, _ in states])
        joints: list[Panel] = [
            (*name, [*([("state", *states[pairs[d]][1:])] if d in pairs else []), ("action", ACTION, d)])
            for d, name in enumerate(actions)
        ]
        room = max(1, (most_values // max(1, frames) - 1) // 2)
        moves = [self._moves(d) for d in range(len(joints))]
        kept = sorted(np.argsort([-each for each in moves], kind="stable")[:room].tolist())
        return [("reward", "", [("reward", "reward", 0)]), *(joints[d] for d in kept)]

    def _moves(self, dimension: int) -> float:
        """Return how far a dimension of the action moves within episodes."""
        some = [trace.action[:, dimension] for trace in [*self.traces.values()][:30] if len(trace.action)]
        return float(np.mean([values.std() for values in some])) if some else 0.0

    def _fan_dimensions(self, panels: Sequence[Panel]) -> list[int | None]:
        """Return for each panel the dimension of the action that it shows."""
        return [next((d for _, key, d in lines if key == ACTION), None) for _, _, lines in panels]

    def _within(self, largest: int, size_of: Callable[[Trace], int]) -> set[int]:
        """Return the seeds of the episodes that there is room for, the worst and the best by turns."""
        ordered = [each.seed for each in self.episodes]
        turns = [seed for pair in zip(ordered, reversed(ordered), strict=True) for seed in pair]
        kept, size = set[int](), 0
        for seed in dict.fromkeys(turns):
            own = size_of(self.traces[seed])
            size += own
            if size <= largest and own:
                kept.add(seed)
        return kept

    def of(self, seeds: Collection[int]) -> "Clips":
        """Return the clips of some episodes."""
        return replace(self, traces={seed: trace for seed, trace in self.traces.items() if seed in seeds})


def clips_of(evaluation: Evaluation | None) -> Clips | None:
    """Return the episodes of an evaluation that were kept; None where none were.

    Raises:
        RobodiffError: what was kept is broken.
    """
    if evaluation is None or not has_traces(evaluation.folder):
        return None
    lengths = {each.seed: each.length for each in evaluation.result.episodes}
    info, traces = read_traces(evaluation.folder, lengths)
    fitting = {seed: trace for seed, trace in traces.items() if len(trace.reward) == lengths[seed]}
    return Clips(evaluation, info, fitting) if fitting else None


def _described(title: str, unit: str, lines: Sequence[Line]) -> dict[str, Any]:
    return {
        "name": shortened(title, _LONGEST_NAME),
        "unit": shortened(unit, _LONGEST_NAME),
        "lines": [name for name, _, _ in lines],
    }


def _over(length: int, key: str, values: np.ndarray | None, dimension: int) -> list[float | None]:
    """Return values at the length + 1 frames of an episode: a reward follows a step, an action precedes one."""
    if values is None:  # it was not observed
        return [None] * (length + 1)
    numbers = rounded(values[:, dimension])
    if key == "reward":
        return [None, *numbers]
    return [*numbers, None] if len(numbers) == length else numbers


def _size(trace: Trace) -> int:
    """Return about how many bytes the scene of an episode has in a page; 0 where none was kept."""
    moving = np.ptp(trace.poses, axis=0).astype(bool).sum()
    return len(trace.sheet) * 4 // 3 + int(moving) * len(trace.poses) * _BYTES_OF_A_NUMBER


def _pictures(trace: Trace) -> dict[str, Any]:
    height, width = trace.picture
    return {
        "url": f"data:image/webp;base64,{base64.b64encode(trace.sheet).decode()}",
        "width": width,
        "height": height,
        "columns": COLUMNS,
        "at": trace.drawn_at.tolist(),
    }


def _sketch(trace: Trace, bodies: Sequence[Shape]) -> dict[str, Any]:
    """Return bodies and, of each, x, y and angle at every frame, or once where they stay the same."""
    series = trace.poses.transpose(1, 2, 0)
    return {
        "width": SKETCHED,
        "height": SKETCHED,
        "frames": len(trace.poses),
        "bodies": [{**asdict(body), "color": shortened(body.color, _LONGEST_NAME)} for body in bodies],
        "poses": [[rounded(each if np.ptp(each) else each[:1]) for each in pose] for pose in series],
    }


def _fans(trace: Trace, drawn: bool) -> dict[str, Any]:
    """Return the chunk that the policy drew at each moment, if asked for, and after it those that it might have."""
    chunks = {at: [chunk] for at, chunk in zip(trace.chunk_at.tolist(), trace.chunks, strict=True) if drawn}
    for at, fan in zip(trace.fan_at.tolist(), trace.fans, strict=True):
        chunks[at] = [*chunks.get(at, ()), *fan]
    return {
        "at": sorted(chunks),
        "chunks": [rounded(np.stack(chunks[at])) for at in sorted(chunks)],
        "sampled_at": trace.fan_at.tolist(),
        "samples": trace.fans.shape[1],
    }


def _path(trace: Trace) -> list[list[float]]:
    """Return the first two dimensions of the executed actions."""
    return rounded(trace.action[:, :2])
