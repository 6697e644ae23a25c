"""``PolicyRunner``: the observation history and the action queue of one robot, or of many at once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from robodiff.data.episodes import ACTION
from robodiff.errors import RobodiffError
from robodiff.policies.diffusion import DiffusionPolicy


class PolicyRunner:
    """Turn a stateless policy into one that is asked for one action after another.

    It keeps the last observations, asks the policy for a chunk when the executed part of the last one is used up, and
    hands out its actions one at a time. The noise of a chunk is a function of (the row's seed, the chunk's number), so
    that what a row does depends on no other row.

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
        self.reset(seeds=seeds)

    def reset(self, rows: Sequence[int] | np.ndarray | None = None, seeds: Sequence[int] | None = None) -> None:
        """Forget what was observed and planned, for all rows or for those named; ``seeds`` are theirs from now on."""
        chosen = np.arange(len(self.seeds)) if rows is None else np.asarray(rows)
        self._fresh[chosen] = True
        self._next[chosen] = self.policy.config.n_action_steps
        self._chunks[chosen] = 0
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
        """
        self._remember(self._checked(observation), timestamp)
        asking = self._next >= self.policy.config.n_action_steps
        if asking.any():
            self._queue[asking] = self._plan()[asking]  # the whole batch is sampled: its size stays constant
            self._chunks[asking] += 1
            self._next[asking] = 0
        action = self._queue[np.arange(len(self._next)), self._next]
        self._next += 1
        return action[0] if self.single else action

    def _checked(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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

    def _plan(self) -> np.ndarray:
        """Sample a chunk for every row and cut out what is executed, (rows, Ta, Da)."""
        config = self.policy.config
        times = np.stack(self._times)  # (history, rows)
        spacing = config.frame_stride / self.policy.fps
        picks = []  # for each observation step the place in the history, (rows,)
        for step in range(config.n_obs_steps):
            wanted = times[-1] - (config.n_obs_steps - 1 - step) * spacing
            picks.append(np.abs(times - wanted).argmin(axis=0))
        rows = np.arange(len(self.seeds))
        batch = {}
        for key in self.policy.observation_keys:
            history = np.stack([observation[key] for observation in self._history])  # (history, rows, ...)
            steps = np.stack([history[pick, rows] for pick in picks], axis=1)  # (rows, To, ...)
            batch[key] = torch.from_numpy(steps).to(self.policy.device)
        chunk = self.policy.predict_chunk(batch, noise=self._noise())
        first = config.n_obs_steps - 1 - chunk.first_step
        return chunk.actions[:, first : first + config.n_action_steps].float().cpu().numpy()

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
