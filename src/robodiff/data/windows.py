"""Which frames make one training sample, and in which order samples come."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from robodiff.documents import AtLeast, Document
from robodiff.errors import UsageError


@dataclass(frozen=True)
class WindowShape(Document):
    """The time steps of one training sample.

    A window at time t covers ``horizon`` frames, ``frame_stride`` apart, from ``n_obs_steps - 1`` steps before t. Its
    first ``n_obs_steps`` frames are observed; its actions start at the same frame, so the action for t is the one at
    index ``n_obs_steps - 1``. ``observes_all``: a batch has the observations of all its frames, for a policy that
    learns to predict those, too.
    """

    n_obs_steps: Annotated[int, AtLeast(1)]
    horizon: Annotated[int, AtLeast(1)]
    n_action_steps: Annotated[int, AtLeast(1)]
    frame_stride: Annotated[int, AtLeast(1)] = 1
    observes_all: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_obs_steps + self.n_action_steps - 1 > self.horizon:
            steps = f"n_obs_steps {self.n_obs_steps} + n_action_steps {self.n_action_steps} - 1"
            raise UsageError(f"{steps} exceeds horizon {self.horizon}; raise horizon or lower n_action_steps")

    @property
    def obs_steps_in_batch(self) -> int:
        """How many of a window's frames have their observations in a batch."""
        return self.horizon if self.observes_all else self.n_obs_steps

    @property
    def drop_n_last_frames(self) -> int:
        """Final frames of an episode at which no window is taken, as in LeRobot and the original diffusion_policy."""
        return (self.horizon - self.n_action_steps - self.n_obs_steps + 1) * self.frame_stride


class Windows:
    """The training samples of some episodes, addressed by number.

    Args:
        episode_ends: (E,) exclusive ends of all recorded episodes.
        shape: the time steps of one sample.
        episodes: which episodes to take samples from; all when None.
        expert: (N,) at which frames an expert acted; everywhere when None. Samples are taken at these alone, and their
            actions at others are no targets; observed is whatever came before.
    """

    def __init__(
        self,
        episode_ends: np.ndarray,
        shape: WindowShape,
        episodes: np.ndarray | None = None,
        expert: np.ndarray | None = None,
    ) -> None:
        ends = np.asarray(episode_ends, np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        chosen = np.arange(len(ends)) if episodes is None else np.sort(np.asarray(episodes, np.int64))
        starts, ends = starts[chosen], ends[chosen]
        counts = np.maximum(1, ends - starts - shape.drop_n_last_frames)  # at least one window an episode
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        now = np.arange(counts.sum()) - np.repeat(first - starts, counts)
        taken = slice(None) if expert is None else expert[now]
        self.shape, self.expert = shape, expert
        self.now = now[taken]  # (W,) the frame that is t
        self._start = np.repeat(starts, counts)[taken]  # (W,) first frame of its episode
        self._last = np.repeat(ends - 1, counts)[taken]  # (W,) last frame of its episode
        self._episodes = [*zip(starts, ends, strict=True)]

    def __len__(self) -> int:
        return len(self.now)

    @property
    def episode_frames(self) -> np.ndarray:
        """Every frame of the episodes, (F,) int64, in windows or not; of a policy's those alone that are observed."""
        frames = np.concatenate([np.empty(0, np.int64), *(np.arange(start, end) for start, end in self._episodes)])
        if self.expert is None:
            return frames
        observed = self.frames(np.arange(len(self)))[0][:, : self.shape.obs_steps_in_batch]
        return np.union1d(frames[self.expert[frames]], observed)

    def frames(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the frame of every time step, (B, T) int64, and where it lies outside of its episode, (B, T) bool.

        A step outside is given the episode's edge frame.
        """
        steps = (np.arange(self.shape.horizon) - (self.shape.n_obs_steps - 1)) * self.shape.frame_stride
        wanted = self.now[windows, None] + steps  # (B, T)
        frames = np.clip(wanted, self._start[windows, None], self._last[windows, None])
        return frames, frames != wanted


def epoch_order(n_windows: int, seed: int, epoch: int, repeats: np.ndarray | None = None) -> np.ndarray:
    """Return which windows come in one epoch, in which order, (n,) int64: a function of the arguments alone.

    Args:
        n_windows: W, how many there are.
        seed: of the run.
        epoch: its number.
        repeats: (W,) how often each comes in an epoch; once when None. Of windows with 2.5 each comes twice, and half
            of them, drawn anew for each epoch, a third time.
    """
    random = np.random.default_rng([seed, epoch])
    if repeats is None:
        return random.permutation(n_windows)
    drawn = []
    for often in np.unique(repeats):
        alike = np.flatnonzero(repeats == often)
        drawn.append(np.repeat(alike, int(often)))
        if more := round(often % 1 * len(alike)):
            drawn.append(random.permutation(alike)[:more])
    return random.permutation(np.sort(np.concatenate(drawn)))


def split_episodes(n_episodes: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide episodes into those to train on and those held out.

    Args:
        n_episodes: how many were recorded.
        fraction: the share to hold out, from 0 (none) to below 1; above 0 at least one is held out.
        seed: chooses which.

    Returns:
        The sorted numbers of the training episodes and of the held-out ones.
    """
    held_out = min(max(1, round(fraction * n_episodes)), n_episodes - 1) if fraction > 0 else 0
    order = np.random.default_rng(seed).permutation(n_episodes)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
