"""``PolicyRunner``: the observation history and the action queue of one robot, or of many at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.errors import RobodiffError
from robodiff.policies.diffusion import DiffusionPolicy


@dataclass(frozen=True)
class NonFiniteChunk:
    """A chunk that holds an action which is not finite, and what it was made from."""

    observation: dict[str, np.ndarray]
    """Per key (To, ...), oldest first, what the policy observed."""
    actions: np.ndarray
    """(Ta, Da), the part of the chunk that would have been executed."""

    def __str__(self) -> str:
        step, dimension = np.argwhere(~np.isfinite(self.actions))[0]
        bad = [key for key, value in self.observation.items() if not np.isfinite(value).all()]
        reason = f"what was observed is not finite in {', '.join(bad)}" if bad else "all that was observed is finite"
        return f"action[{dimension}] is not finite at step {step} of the chunk; {reason}"


class NonFiniteActions(RobodiffError):
    """Some rows' chunks are not finite: no action of them is handed out. The other rows can go on.

    Args:
        actions: (rows, Da), what each row executes now, NaN for those that ``chunks`` names.
        chunks: by row, what came about.
    """

    def __init__(self, actions: np.ndarray, chunks: Mapping[int, NonFiniteChunk]) -> None:
        row, chunk = next(iter(chunks.items()))
        super().__init__(f"row {row}: {chunk}" if len(actions) > 1 else str(chunk))
        self.actions, self.chunks = actions, chunks


class PolicyRunner:
    """Turn a stateless policy into one that is asked for one action after another.

    It keeps the last observations, asks the policy for a chunk when the executed part of the last one is used up, and
    hands out its actions one at a time. The noise of a chunk is a function of (the row's seed, the chunk's number), so
    that what a row does depends on no other row.

    A policy that observes ``observation.past_action`` is told what the runner handed out last, zeros after a reset,
    unless the observation says itself what was executed.

    Args:
        policy: what to ask.
        rows: how many robots act together; None for one robot, whose arrays then have no row dimension.
        seeds: (rows,) seeds of the noise; 0, 1, ... when None. ``reset`` can give others.
    """

    def __init__(self, policy: DiffusionPolicy, rows: int | None = None, seeds: Sequence[int] | None = None) -> None:
        self.policy = policy
        self.single = rows is None
        n = rows or 1
        self.seeds = np.arange(n)
        config = policy.config
        self._history: list[dict[str, np.ndarray]] = []  # oldest first, each key (rows, ...)
        self._times: list[np.ndarray] = []  # (rows,) seconds, beside the history
        self._fresh = np.ones(n, bool)  # rows whose next observation fills the whole history
        self._queue = np.zeros((n, config.n_action_steps, policy.features[ACTION].shape[0]), np.float32)
        self._next = np.full(n, config.n_action_steps)  # (rows,) place in the queue; past its end: ask the policy
        self._chunks = np.zeros(n, np.int64)  # (rows,) chunks made since reset
        self._past = np.zeros_like(self._queue[:, 0])  # (rows, Da) what was handed out last
        self._broken: dict[int, NonFiniteChunk] = {}  # by row, the chunk in the queue where it is not finite
        self.reset(seeds=seeds)

    def reset(self, rows: Sequence[int] | np.ndarray | None = None, seeds: Sequence[int] | None = None) -> None:
        """Forget what was observed and planned, for all rows or for those named; ``seeds`` are theirs from now on."""
        every = np.arange(len(self.seeds))
        chosen = every if rows is None else every[np.asarray(rows)]
        self._fresh[chosen] = True
        self._next[chosen] = self.policy.config.n_action_steps
        self._chunks[chosen] = 0
        self._past[chosen] = 0
        for row in chosen.tolist():
            self._broken.pop(row, None)
        if seeds is not None:
            self.seeds[chosen] = seeds

    def act(self, observation: Mapping[str, np.ndarray], timestamp: float | np.ndarray | None = None) -> np.ndarray:
        """The action to execute now.

        Args:
            observation: per key what the policy observes, (rows, ...) or, for one robot, one time step's shape.
            timestamp: when it was observed, in seconds; the history is then picked 1/fps * frame_stride apart. Without
                it, calls are taken to be that far apart.

        Returns:
            (rows, Da), or (Da,) for one robot, in the units of the recording.

        Raises:
            RobodiffError: the observation lacks a key or has another shape than the policy was trained on.
            NonFiniteActions: the policy's chunk is not finite; so it is at every call until a row's next chunk is due,
                or it is reset.
        """
        self._remember(self._checked(observation), timestamp)
        asking = self._next >= self.policy.config.n_action_steps
        if asking.any():
            self._plan(asking)
        action = self._queue[np.arange(len(self._next)), self._next]
        self._next += 1
        finite = np.isfinite(action).all(axis=1)
        self._past[finite] = action[finite]
        if self._broken:
            raise NonFiniteActions(action, dict(self._broken))
        return action[0] if self.single else action

    def _checked(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if PAST_ACTION in self.policy.features:
            observation = {PAST_ACTION: self._past[0] if self.single else self._past, **observation}
        checked = {}
        for key in self.policy.observation_keys:
            if key not in observation:
                raise RobodiffError(f"the policy observes {key!r}; it was given {', '.join(observation) or 'nothing'}")
            value = np.array(observation[key])  # a copy: callers may write their next observation into the same array
            value = value[None] if self.single else value
            expected = (len(self.seeds), *self.policy.features[key].shape)
            if value.shape != expected:
                raise RobodiffError(f"{key}: expected shape {expected[self.single :]}, "
                                    f"found {value.shape[self.single :]}")  # fmt: skip
            checked[key] = value
        return checked

    def _remember(self, observation: dict[str, np.ndarray], timestamp: float | np.ndarray | None) -> None:
        config = self.policy.config
        spacing = config.frame_stride / self.policy.fps
        last = self._times[-1] if self._times else np.full(len(self.seeds), -spacing)
        now = last + spacing if timestamp is None else np.broadcast_to(np.asarray(timestamp, np.float64), last.shape)
        if (now[~self._fresh] < last[~self._fresh]).any():
            raise RobodiffError(f"timestamps must not go back; found {now} after {last}")
        self._history.append(observation)
        self._times.append(now.copy())
        for past in range(len(self._history) - 1):  # a fresh row has seen this and nothing before it
            self._times[past][self._fresh] = now[self._fresh]
            for key, value in observation.items():
                self._history[past][key] = np.where(_rows(self._fresh, value), value, self._history[past][key])
        self._fresh[:] = False
        oldest = now - (config.n_obs_steps - 1) * spacing
        while len(self._history) > config.n_obs_steps and (self._times[1] <= oldest + 1e-6).all():
            del self._history[0], self._times[0]

    def _plan(self, asking: np.ndarray) -> None:
        """Queue what is executed of a new chunk in the rows ``asking``, (rows,) bool."""
        config = self.policy.config
        observed = self._observed()
        batch = {key: torch.from_numpy(steps).to(self.policy.device) for key, steps in observed.items()}
        chunk = self.policy.predict_chunk(batch, noise=self._noise())  # of all rows: the batch's size stays constant
        first = config.n_obs_steps - 1 - chunk.first_step
        actions = chunk.actions[:, first : first + config.n_action_steps].float().cpu().numpy()  # (rows, Ta, Da)
        self._queue[asking] = actions[asking]
        self._chunks[asking] += 1
        self._next[asking] = 0
        for row in np.flatnonzero(asking).tolist():
            self._broken.pop(row, None)
            if not np.isfinite(actions[row]).all():
                self._queue[row] = np.nan
                self._broken[row] = NonFiniteChunk({key: s[row] for key, s in observed.items()}, actions[row])

    def _observed(self) -> dict[str, np.ndarray]:
        """What each row observes now: per key (rows, To, ...), oldest first."""
        config = self.policy.config
        times = np.stack(self._times)  # (history, rows)
        spacing = config.frame_stride / self.policy.fps
        picks = []  # for each observation step the place in the history, (rows,)
        for step in range(config.n_obs_steps):
            wanted = times[-1] - (config.n_obs_steps - 1 - step) * spacing
            picks.append(np.abs(times - wanted).argmin(axis=0))
        rows = np.arange(len(self.seeds))
        observed = {}
        for key in self.policy.observation_keys:
            history = np.stack([observation[key] for observation in self._history])  # (history, rows, ...)
            observed[key] = np.stack([history[pick, rows] for pick in picks], axis=1)  # (rows, To, ...)
        return observed

    def _noise(self) -> torch.Tensor:
        draws, _, horizon, dim = self.policy.noise_shape(1)
        noise = []
        for seed, chunk in zip(self.seeds, self._chunks, strict=True):
            generator = np.random.default_rng([int(seed), int(chunk)])
            noise.append(generator.standard_normal((draws, horizon, dim), dtype=np.float32))
        # Copied into torch's own memory: matrix products may round differently by how memory is aligned.
        return torch.tensor(np.stack(noise, axis=1), device=self.policy.device)  # (draws, rows, T, Da)


def _rows(mask: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(rows,) as (rows, 1, ...), to choose among values (rows, ...)."""
    return mask.reshape(-1, *[1] * (value.ndim - 1))
