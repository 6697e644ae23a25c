"""Which demonstrations began most like a measured episode."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robodiff.data.episodes import Episodes
from robodiff.data.naming import AGENTS
from robodiff.evaluation.traces import Trace, look_of
from robodiff.report.tiles import encode_tiles, fitted, tile_of

MOST = 3
"""Demonstrations that are shown beside an episode."""
_SIDE = 96
"""Pixels of a picture of one."""


@dataclass(frozen=True)
class Demonstrations:
    """What a policy was trained on."""

    episodes: Episodes
    trained_on: Sequence[int]
    """The places of the episodes that were not held out."""
    agent: str = ""
    """Whose recording it is, in a team."""

    def starts(self) -> dict[int, tuple[int, int]]:
        """Return by the number of an episode its first frame, and how many it has."""
        slices = {int(self.episodes.number(place)): self.episodes.slice(place) for place in self.trained_on}
        return {number: (each.start, each.stop - each.start) for number, each in slices.items()}


def nearest(
    recordings: Sequence[Demonstrations], traces: Mapping[int, Trace], draw: Callable[[int], np.ndarray | None]
) -> dict[str, Any] | None:
    """Return of each measured episode the demonstrations whose first observation is nearest to its own.

    Each number counts as many of its deviations over all first observations, and each key as much as any other.

    Args:
        recordings: the one of the policy or, of a team, those of its agents; what one of them saw counts where its
            episodes are those of the first.
        traces: of the measured episodes, by seed.
        draw: from a frame of the first recording to a picture (H, W, 3) uint8 of it, or None.

    Returns:
        By seed the demonstrations that are nearest, each as number, distance and tile, and the sheet of their pictures;
        None where measured and recorded episodes have nothing in common.
    """
    every = {each.agent: (each.episodes, each.starts()) for each in recordings}
    of_first = next(iter(every.values()))[1] if every else {}
    alike = {agent: each for agent, each in every.items() if each[1] == of_first}
    numbers, starts = [*of_first], [start for start, _ in of_first.values()]
    if not numbers:
        return None
    first = next(iter(traces.values()))
    keys = {
        seen: episodes.arrays[key]  # what several agents see counts once
        for agent, (episodes, _) in alike.items()
        for key in episodes.arrays
        if (seen := _seen_as(key, f"{AGENTS}{agent}." if agent else "", first)) is not None
    }
    recorded, measured = [], []
    for seen, values in keys.items():
        begun = np.stack([_start(values[start]) for start in starts])
        own = np.stack([_start({**trace.first_images, **trace.observations}[seen], True) for trace in traces.values()])
        if begun.shape[1:] != own.shape[1:]:
            continue
        scale = np.maximum(begun.std(axis=0), 0.05 * max(1e-6, float(begun.std()))) * np.sqrt(begun.shape[1])
        recorded.append(begun / scale)
        measured.append(np.nan_to_num(own / scale, posinf=0.0, neginf=0.0))  # a sensor that fails tells nothing
    if not recorded:
        return None
    apart = _distances(np.hstack(measured), np.hstack(recorded)) / np.sqrt(len(recorded))
    chosen = np.argsort(apart, axis=1, kind="stable")[:, :MOST]
    pictures, tiles = _sheet({int(place): starts[place] for place in np.unique(chosen)}, draw)
    return {
        "of": {
            str(seed): [[numbers[place], round(float(far[place]), 3), tiles.get(int(place))] for place in places]
            for seed, places, far in zip(traces, chosen, apart, strict=True)
        },
        "pictures": pictures,
    }


def _seen_as(key: str, prefix: str, trace: Trace) -> str | None:
    """Return what a trace calls a key of the recording."""
    held = {**trace.first_images, **trace.observations}
    return next((name for name in (prefix + key, key) if name in held), None)


def _start(value: np.ndarray, is_trace: bool = False) -> np.ndarray:
    """Return what an episode begins with as a vector, (D,)."""
    if value.ndim == 3:
        return (value if is_trace else look_of(np.asarray(value))).reshape(-1).astype(np.float64) / 255
    return np.asarray(value[0] if value.ndim == 2 else value, np.float64)


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distances of all pairs of rows (N, D) and (M, D), (N, M)."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(squares.clip(min=0))


def _sheet(
    starts: Mapping[int, int], draw: Callable[[int], np.ndarray | None]
) -> tuple[dict[str, Any] | None, dict[int, int]]:
    """Return a sheet with a picture of each frame, and by the names of the frames their tiles."""
    tiles, places = [], {}
    for place, start in starts.items():
        if (picture := draw(start)) is not None:
            places[place] = len(tiles)
            height, width, _ = picture.shape
            tiles.append(tile_of(picture.transpose(2, 0, 1), fitted(height, width, _SIDE)))
    same = [tile for tile in tiles if tile.shape == tiles[0].shape]
    return (asdict(encode_tiles(tiles, 12)), places) if tiles and len(same) == len(tiles) else (None, {})
