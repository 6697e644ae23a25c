"""The rate that a clock tells, and recordings brought to one rate whose clock is not even or has another.

A new frame is the recorded one that is nearest in time, whole: its images, state and action stay together, and no
value is made up between two that were recorded.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robodiff.data.arrays import blocks
from robodiff.data.cache import Part, assembled
from robodiff.data.episodes import Episodes, Finding, raise_faults
from robodiff.errors import UsageError, notice

CLOCK = re.compile(r"(time|t|stamp|timestamp)([_ ]?(s|ms|us|ns|sec|seconds))?", re.IGNORECASE)
"""What the clock of a recording is called."""
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9, "sec": 1.0, "seconds": 1.0}
"""How many make a second."""
MOST_TIMES = 10
"""How often a frame may be taken, at most, at a rate that is asked for."""
UNEVEN = 0.25
"""How far a frame may be off the usual spacing, as a share of it, before it is told."""
LONGEST = 1.0
"""Seconds without a frame, and ten times the usual spacing, that repeating the nearest does not bridge."""
DRIFT = 0.02
"""How far an episode may be longer or shorter than its frames at the rate say, as a share, before it is told."""


class Rate(NamedTuple):
    """What clocks of episodes tell."""

    fps: float
    off: float
    """How far the worst frame is off the usual spacing, as a share of it."""
    episode: int
    """The place of the episode in which it is."""
    unit: float
    """How many of the clocks' units make a second."""


def rate_of(times: Sequence[np.ndarray], name: str = "") -> Rate | None:
    """Return the rate that clocks of episodes tell; None where they stand still, run back, or only count frames.

    Args:
        times: of each episode.
        name: of the clock, which may end on its unit, such as ``time_ms``. Else the unit is the one of seconds,
            milliseconds, microseconds and nanoseconds that gives 1 to 1000 frames a second.
    """
    spacings = [np.diff(values.astype(np.float64)) for values in times]
    usual = float(np.median(np.concatenate([*spacings, [0.0]] if not any(map(len, spacings)) else spacings)))
    named = CLOCK.fullmatch(name)
    unit = UNITS.get(named[3].lower()) if named and named[3] else None
    if unit is None and all((spacing == 1).all() for spacing in spacings):  # it counts frames
        return None
    unit = unit or next((unit for unit in UNITS.values() if 1 <= unit / max(usual, 1e-12) <= 1000), None)
    if usual <= 0 or unit is None:
        return None
    off = [float(np.abs(spacing / usual - 1).max()) if len(spacing) else 0.0 for spacing in spacings]
    mean = np.mean([spacing.mean() for spacing in spacings if len(spacing)]) if max(off) < UNEVEN else usual
    fps = float(unit / mean)
    whole = round(fps)
    return Rate(whole if whole and abs(fps / whole - 1) < 0.005 else fps, max(off), int(np.argmax(off)), unit)


def at_one_rate(episodes: Episodes, times: np.ndarray, wanted: float | None, cache: Path | None = None) -> Episodes:
    """Return a recording at the rate that is wanted, by its clock; as it is, and told where the clock is not even, when
    none is.

    Args:
        episodes: with ``fps`` as its frames are taken unless another rate is wanted.
        times: (N,) seconds at which each frame was recorded.
        wanted: frames per second, or None.
        cache: folder of decoded images, as in ``DataConfig``.

    Raises:
        RecordingError: the clock is not finite, or runs back, in an episode.
        UsageError: so many frames a second that each would be taken many times.
    """
    clocks = [times[frames] - times[frames.start] for frames in map(episodes.slice, range(len(episodes)))]
    if wanted is None:
        _tell_uneven(episodes, clocks)
        return episodes
    raise_faults(episodes.source, _broken(episodes, clocks, max(LONGEST, 10 / episodes.fps)))
    if wanted > MOST_TIMES * episodes.lengths.sum() / max(sum(clock[-1] for clock in clocks), 1e-9):
        most = f"at most {MOST_TIMES} times the rate at which it was recorded"
        raise UsageError(f"{episodes.source}: {wanted:g} frames a second cannot be taken; ask for {most} (data.fps)")
    chosen = [_nearest(clock, wanted) for clock in clocks]
    starts = [episodes.slice(episode).start for episode in range(len(episodes))]
    frames = np.concatenate([start + each for start, each in zip(starts, chosen, strict=True)])
    if np.array_equal(frames, np.arange(len(times))):
        return episodes
    twice = int(np.count_nonzero(np.diff(frames) == 0))
    repeated = f", {twice} of them a second time" * bool(twice)
    notice(
        f"{episodes.source}: of {len(times)} frames {len(frames)} are taken{repeated}: {wanted:g} a second by its clock"
    )
    return replace(
        episodes,
        arrays={key: _taken(episodes.source, key, array, frames, cache) for key, array in episodes.arrays.items()},
        episode_ends=np.cumsum([len(each) for each in chosen]),
    )


def _nearest(clock: np.ndarray, fps: float) -> np.ndarray:
    """Return the frames that are nearest to even times from the first on; of two as near the earlier."""
    slack = min(1 / fps, clock[-1] / max(1, len(clock) - 1)) / 2
    grid = np.arange(int((clock[-1] + slack) * fps + 1e-6) + 1) / fps
    return np.searchsorted((clock[1:] + clock[:-1]) / 2, grid - 1e-6 / fps)


def _broken(episodes: Episodes, clocks: Sequence[np.ndarray], longest: float) -> Iterator[Finding]:
    for episode, clock in enumerate(clocks):
        steps = np.diff(clock)
        sound = (steps > 0) & (steps <= longest)  # false for NaN, too
        if not sound.all():
            frame = episodes.slice(episode).start + 1 + (first := int(np.argmin(sound)))
            message = f"the clock advances by {steps[first]:.4g} s up to {episodes.where(frame)}"
            advice = "mend it, leave the episode out with data.episodes, or leave out data.fps"
            yield episodes.finding(frame, "fatal", "clock", message, advice)


def _tell_uneven(episodes: Episodes, clocks: Sequence[np.ndarray]) -> None:
    """Tell where a clock, and so what happens between two frames, is unlike the rate at which frames are taken."""
    fps = episodes.fps
    off = [np.abs(np.diff(clock) * fps - 1).max(initial=0.0) for clock in clocks]
    drift = [abs(clock[-1] * fps / max(1, len(clock) - 1) - 1) if len(clock) > 2 else 0.0 for clock in clocks]
    worst = int(np.argmax(off if max(off) > UNEVEN else drift))
    if off[worst] > UNEVEN or drift[worst] > DRIFT:
        problem = f"in episode {episodes.number(worst)} a frame is {off[worst]:.0%} off the usual {1 / fps:.4g} s"
        if off[worst] <= UNEVEN:
            problem = f"episode {episodes.number(worst)} is {drift[worst]:.1%} off its {len(clocks[worst])} frames"
        advice = f"data.fps (--fps {fps:g}) brings them to one rate by the clock"
        notice(f"{episodes.source}: the clock is not even: {problem}; frames are taken as {fps:g} a second; {advice}")


def _taken(source: str, key: str, array: np.ndarray, frames: np.ndarray, cache: Path | None) -> np.ndarray:
    """Return some frames of an array (N, ...); of a memory-mapped one again a memory-mapped one."""
    if not isinstance(array, np.memmap):
        return array[frames]

    def decode() -> Iterator[np.ndarray]:
        return (array[some] for _, some in blocks(frames, 8 * max(1, 2**25 // max(1, array[:1].nbytes))))

    recipe = f"{key} {hashlib.sha256(frames.tobytes()).hexdigest()}"
    part = Part(Path(str(array.filename)), len(frames), recipe, decode)
    return assembled(f"{source}: {key}", [part], array.shape[1:], array.dtype, cache)
