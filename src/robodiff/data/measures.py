"""What the data doctor measures: arrays in, arrays out."""

from collections.abc import Sequence

import numpy as np

from robodiff.data.arrays import blocks

LAGS = range(-3, 4)
"""Frames from a move to the action that may have caused it."""


def steps(column: np.ndarray, episode_ends: np.ndarray) -> np.ndarray:
    """Return how far (N,) values are from those of the frame before, 0 where an episode starts."""
    far = np.abs(np.diff(column, prepend=column[:1]))
    far[episode_ends[:-1]] = 0
    for turn in (2 * np.pi, 360):
        if 0.9 * turn < np.ptp(column) < 1.001 * turn:  # an angle: near its ends the short way is across them
            far = np.minimum(far, np.abs(turn - far))
    return far


def blank_and_same(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which frames (N,) show one colour, and which are equal to the frame before."""
    blank, same = np.zeros(len(images), bool), np.zeros(len(images), bool)
    for start, block in blocks(images):
        thin = block[:, :, ::8, ::8].reshape(len(block), block.shape[1], -1)  # (n, C, pixels); few need a closer look
        for frame in (start + np.flatnonzero(_one_colour(thin))).tolist():
            blank[frame] = _one_colour(images[frame].reshape(1, block.shape[1], -1))[0]
        alike = np.concatenate([[True], (thin[1:] == thin[:-1]).all(axis=(1, 2))])
        for frame in (start + np.flatnonzero(alike)).tolist():
            same[frame] = frame > 0 and np.array_equal(images[frame], images[frame - 1])
    return blank, same


def episode_digests(arrays: Sequence[np.ndarray], episode_ends: np.ndarray) -> np.ndarray:
    """Return a number (E,) uint64 of each episode, equal for episodes of equal values and for no others but by chance.

    It is the sum of the frames' numbers, each times a random one of its place in the episode; that of a frame is
    likewise the sum of its values as integers (multilinear hashing, Carter and Wegman 1979, modulo 2^64).
    """
    random = np.random.default_rng(0)
    lengths = np.diff(episode_ends, prepend=0)
    frames = np.zeros(int(episode_ends[-1]), np.uint64)
    for array in arrays:
        weights = None
        for start, block in blocks(array, 2**22):
            flat = np.ascontiguousarray(block).reshape(len(block), -1)
            values = flat.view(np.uint8 if flat.dtype.itemsize == 1 else np.uint32)
            weights = random.integers(2**63, size=values.shape[1], dtype=np.uint64) if weights is None else weights
            for column, weight in zip(values.T, weights, strict=True):
                frames[start : start + len(block)] += column * weight
    places = np.arange(len(frames)) - np.repeat(episode_ends - lengths, lengths)
    frames = (frames + np.uint64(1)) * random.integers(2**63, size=int(lengths.max()), dtype=np.uint64)[places]
    return np.add.reduceat(frames, episode_ends - lengths)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return where (N,) bool is true without a gap: first and after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def lag_of(state: np.ndarray, action: np.ndarray, frames: np.ndarray) -> int | None:
    """Return which action, frames from a move on, explains the moves that actions drive; None unless it is clearly one.

    For each dimension of the state and each lag: the share of the variance of s[t+1] - s[t] that the best dimension of
    a[t+lag] explains together with s[t], which covers actions that are targets and actions that are velocities. A lag
    is clear when it leaves half of what the second best leaves; it counts when most driven dimensions agree.
    """
    if len(frames) < 30:
        return None
    here = state[frames].astype(np.float64)
    moves, here = _standard(state[frames + 1] - here), _standard(here)
    actions = [_standard(action[frames + lag].astype(np.float64)) for lag in LAGS]
    explained = np.array([_explained(moves, here, a) for a in actions])  # (lags, Ds)
    best, second = explained.argmax(axis=0), np.sort(explained, axis=0)[-2]
    driven = explained.max(axis=0) > 0.5
    clear = driven & (1 - explained.max(axis=0) < 0.5 * (1 - second))
    counts = np.bincount(best[clear], minlength=len(LAGS))
    return LAGS[int(counts.argmax())] if counts.max() > driven.sum() / 2 else None


def _one_colour(pixels: np.ndarray) -> np.ndarray:
    """Tell which of (n, C, pixels) show one colour, up to what a codec makes of it, (n,) bool."""
    return (pixels.max(axis=2) - pixels.min(axis=2) <= 2).all(axis=1)


def _standard(values: np.ndarray) -> np.ndarray:
    """Return (N, D) with mean 0 and standard deviation 1; what does not move is 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return centred / np.where(spread < 1e-9, np.inf, spread)


def _explained(moves: np.ndarray, here: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Return R^2 of the regression of each move (N, Ds) on its own state and the best action (N, Da), (Ds,)."""
    n = len(moves)
    by_state = (moves * here).mean(axis=0)[:, None]  # (Ds, 1)
    by_action, between = moves.T @ actions / n, here.T @ actions / n  # (Ds, Da)
    free = 1 - between**2
    both = by_state**2 + by_action**2 - 2 * by_state * by_action * between
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(free > 1e-9, both / free, by_state**2).max(axis=1)
