"""Which of several chunks is executed: the one that continues what was decided before. On NumPy alone.

Bidirectional decoding (Liu et al. 2024, https://arxiv.org/abs/2408.17355). Backward coherence: a policy that could go
left or right, and is asked again halfway, may change its mind at every chunk; of several chunks the one is taken that
is nearest to the rest of the last, near steps counting most. Forward contrast, where there is a weaker policy: a good
chunk is like others of the policy, and unlike those of the weaker one.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, SMALLEST_RANGE
from robodiff.policies.runtime import Arrays, Chunk, Known, Runtime, Timing, draw_noise

DECAY = 0.5
"""What a step of the overlap weighs, of the step before it: that of the paper's own code."""


class Contrasted:
    """A policy beside a weaker one, such as an earlier one of its run: a ``Runtime`` for ``predict_best``.

    Args:
        policy: that acts.
        weak: with the same features, timing and sampler.
    """

    def __init__(self, policy: Any, weak: Any) -> None:
        self.policy, self.weak = policy, weak

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def predict_chunk(self, observation: Arrays, **options: Any) -> Chunk:
        """Return the policy's chunks, and beside them those of the weaker one, of the same noise."""
        chunk, weak = (each.predict_chunk(observation, **options) for each in (self.policy, self.weak))
        return replace(chunk, unlike=weak.actions)


def predict_best(
    policy: Runtime,
    timing: Timing,
    window: Arrays,
    drawn_for: np.ndarray,
    rest: np.ndarray | None = None,
    known: Known | None = None,
) -> Chunk:
    """Draw ``timing.best_of`` chunks for each row, and return of each row the best.

    One is drawn where there is nothing to choose by: neither what is left of a chunk, nor a weaker policy.

    Args:
        policy: what to ask.
        timing: of it.
        window: per key (rows, To, ...), what each row observes.
        drawn_for: (rows, numbers), what decides the noise of a row; that of its first chunk these alone.
        rest: (rows, m, Da), what the last chunk planned from now on; None where there was none, and a row of NaN where
            there was none of this row.
        known: actions that are given to all chunks of a row, (rows, n, Da) each.
    """
    is_choice = isinstance(policy, Contrasted) or (rest is not None and rest.shape[1] > 0)
    count, shape = timing.best_of if is_choice else 1, policy.noise_shape(1)
    noise = np.concatenate([_noise(shape, row, draw) for row in drawn_for.tolist() for draw in range(count)], axis=1)
    if known is not None:
        known = np.repeat(known[0], count, 0), np.repeat(known[1], count, 0)
    chunk = policy.predict_chunk(window, noise=noise, **({} if known is None else {"known": known}))
    if count == 1:
        return chunk
    range_, now = chunk.ranges.get(ACTION), timing.n_obs_steps - 1 - chunk.first_step
    scale = 1.0 if range_ is None else np.maximum(range_[1] - range_[0], SMALLEST_RANGE)

    def by_row(actions: Any) -> np.ndarray:  # (rows, N, n, Da), from now on, in units of the action's range
        planned = np.asarray(actions)[:, now:] / scale
        return planned.reshape(len(drawn_for), count, *planned.shape[1:])

    chunks = by_row(chunk.actions)
    scores = np.zeros(chunks.shape[:2]) if rest is None else distances(chunks, rest / scale)
    if chunk.unlike is not None:
        scores = scores + contrast(chunks, by_row(chunk.unlike))
    scores = np.where(np.isfinite(chunks).all((2, 3)), scores, np.inf)
    best = np.arange(len(scores)) * count + scores.argmin(1)  # of equal ones the first
    return replace(chunk, actions=np.asarray(chunk.actions)[best], unlike=None)


def distances(chunks: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return how far chunks are from the rest of the last one: (rows, N), 0 where there is none.

    Args:
        chunks: (rows, N, n, Da), from now on.
        rest: (rows, m, Da), from now on, too; NaN where there is none.

    Returns:
        The mean of the distances of the steps that both plan, weighted by ``DECAY`` to the power of the step.
    """
    steps = min(chunks.shape[2], rest.shape[1])
    apart = np.linalg.norm(chunks[:, :, :steps] - rest[:, None, :steps], axis=-1)  # (rows, N, steps)
    weights = DECAY ** np.arange(steps)
    begins = np.isnan(rest).any(axis=(1, 2))  # (rows,)
    return np.where(begins.reshape(-1, 1), 0, apart @ (weights / max(1, weights.sum())))


def contrast(chunks: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Return how far chunks are from the others like them, less how far they are from the weak ones like them.

    Args:
        chunks: (rows, N, n, Da).
        weak: (rows, N, n, Da), of the weaker policy.

    Returns:
        (rows, N): mean distances to the nearer half of each, as in the paper's own code.
    """
    half = chunks.shape[1] // 2
    own, others = _sorted_distances(chunks, chunks), _sorted_distances(chunks, weak)
    return own[..., 1 : 1 + half].mean(-1) - others[..., :half].mean(-1)  # the nearest one is the chunk itself


def _sorted_distances(chunks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the mean distances of each chunk to others, (rows, N, N), the smallest first."""
    each = [np.linalg.norm(chunks[:, [place]] - others, axis=-1).mean(-1) for place in range(chunks.shape[1])]
    return np.sort(np.stack(each, 1))


def _noise(shape: tuple[int, ...], numbers: list[int], draw: int) -> np.ndarray:
    return draw_noise(shape, *numbers, *([draw] if draw else []))  # the first is that of a policy that draws one
