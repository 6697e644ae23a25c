"""What acts, seen from outside: a policy in torch, an exported one, a remote one. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from robodiff.data.episodes import Feature


@dataclass(frozen=True)
class Timing:
    """When a policy observes and acts."""

    n_obs_steps: int
    """Observations that it sees, the newest included."""
    n_action_steps: int
    """Actions that are executed before it is asked again."""
    spacing: float
    """Seconds from one step to the next."""


@dataclass(frozen=True)
class Chunk:
    """Actions that follow one another, in the units of the recording."""

    actions: Any
    """(B, n, Da), an array of the kind that was observed: NumPy's or torch's."""
    first_step: int
    """Which step of the window ``actions[:, 0]`` is; step n_obs_steps - 1 is now."""

    def executed(self, timing: Timing) -> Any:
        """Return the actions from now on that are executed, (B, Ta, Da)."""
        first = timing.n_obs_steps - 1 - self.first_step
        return self.actions[:, first : first + timing.n_action_steps]


class Runtime(Protocol):
    """All that ``PolicyRunner`` needs of a policy, with NumPy arrays; there is no base class.

    Where it has a ``timing``, too, the runner need not be told.
    """

    @property
    def features(self) -> Mapping[str, Feature]:
        """What each key holds: the observations, and ``action``."""
        ...

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape of the noise that chunks are made of, (draws, B, ...)."""
        ...

    def predict_chunk(self, observation: Mapping[str, np.ndarray], *, noise: np.ndarray) -> Chunk:
        """Return the actions that follow from an observation, per key (B, To, ...), oldest first."""
        ...


def draw_noise(shape: tuple[int, ...], *seed_numbers: int) -> np.ndarray:
    """Return standard normal noise, float32, that some numbers decide: a seed, and what it is drawn for.

    Args:
        shape: of ``Runtime.noise_shape`` for one chunk, (draws, 1, ...).
        seed_numbers: none of them negative.
    """
    draws, _, *rest = shape
    noise = np.random.default_rng([int(number) for number in seed_numbers])
    return noise.standard_normal((draws, 1, *rest), dtype=np.float32)
