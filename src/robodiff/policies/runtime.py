"""What acts, seen from outside: a policy in torch, an exported one, a remote one. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np

from robodiff.data.episodes import ACTION, SMALLEST_RANGE, Feature
from robodiff.documents import FromTo
from robodiff.errors import RobodiffError, UsageError
from robodiff.text import listed, shortened

Arrays = Mapping[str, np.ndarray]
Known = tuple[np.ndarray, np.ndarray]
"""Actions that are given, and how far: values, and weights from 0 to 1, (B, n, Da) each."""


@dataclass(frozen=True)
class Timing:
    """When a policy observes and acts, and what it chooses from."""

    n_obs_steps: int
    """Observations that it sees, the newest included."""
    n_action_steps: int
    """Actions that are executed before it is asked again."""
    spacing: float
    """Seconds from one step to the next."""
    best_of: int = 1
    """Chunks that are drawn where one is due; see ``policies.choice``."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from one observation to its chunk of actions."""

    p50: Annotated[float, FromTo(0, 1e15)]
    p95: Annotated[float, FromTo(0, 1e15)]

    def __str__(self) -> str:
        return f"{self.p50:.1f} ms (p95 {self.p95:.1f} ms)"


@dataclass(frozen=True)
class Chunk:
    """Actions that follow one another, in the units of the recording."""

    actions: Any
    """(B, n, Da), an array of the kind that was observed: NumPy's or torch's."""
    first_step: int
    """Which step of the window ``actions[:, 0]`` is; step n_obs_steps - 1 is now."""
    ranges: Arrays = field(default_factory=dict)
    """Of each vector that is observed, and of ``action``, the least and the largest numbers of training, (2, D); may be
    left out."""
    unlike: Any = None
    """(B, n, Da), what a weaker policy would do; see ``policies.choice``."""

    def executed(self, timing: Timing) -> Any:
        """Return the actions from now on that are executed, (B, Ta, Da)."""
        return self.from_now(timing)[:, : timing.n_action_steps]

    def from_now(self, timing: Timing) -> Any:
        """Return the actions from now on, (B, n, Da)."""
        return self.actions[:, timing.n_obs_steps - 1 - self.first_step :]


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

    def predict_chunk(self, observation: Arrays, *, noise: np.ndarray, known: Known | None = None) -> Chunk:
        """Return the actions that follow from an observation, per key (B, To, ...), oldest first.

        Args:
            observation: in the units of the recording.
            noise: of ``noise_shape(B)``, or of a multiple of B: of each observation so many chunks follow one another.
            known: actions that are given, and how far; see ``DiffusionPolicy.predict_chunk``. The runner gives none.
        """
        ...


def observed(
    features: Mapping[str, Feature],
    observation: Mapping[str, Any],
    rows: tuple[int, ...] = (),
    source: str = "the observation has",
) -> dict[str, np.ndarray]:
    """Return what a policy with these features observes of an observation, per key (*rows, ...), as recorded.

    Raises:
        RobodiffError: a key is missing (``source`` begins the list of those that are there), or as ``as_recorded``.
    """
    check_keys(features, observation, source)
    return {key: as_recorded(key, observation[key], each, rows) for key, each in features.items() if key != ACTION}


def check_keys(features: Mapping[str, Feature], observation: Mapping[str, Any], source: str) -> None:
    """Raise ``RobodiffError`` if an observation lacks a key."""
    if missing := [key for key in features if key != ACTION and key not in observation]:
        given = listed(shortened(str(key), 60) for key in observation) or "nothing"
        raise RobodiffError(f"the policy observes {missing[0]!r}; {source} {given}")


def blank_window(features: Mapping[str, Feature], timing: Timing) -> dict[str, np.ndarray]:
    """Return a window of zeros to warm a policy up with, per key (1, To, ...)."""
    shapes = {key: (1, timing.n_obs_steps, *each.shape) for key, each in features.items() if key != ACTION}
    return {key: np.zeros(shape, _dtype(features[key])) for key, shape in shapes.items()}


def as_recorded(key: str, value: Any, feature: Feature, rows: tuple[int, ...] = ()) -> np.ndarray:
    """Return a copy (*rows, ...) of what was observed in the type of the recording: images uint8, vectors float32.

    Raises:
        RobodiffError: an image that is not uint8, a vector that is not of real numbers, or another shape.
    """
    if feature.kind == "image":
        array = _array(key, value, "uint8 from 0 to 255, as recorded", lambda dtype: dtype == np.uint8)
    else:
        array = real_numbers(key, value)
    if array.shape != (shape := (*rows, *feature.shape)):
        raise RobodiffError(f"{key}: expected shape {shape}, found {array.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite
        return np.array(array, _dtype(feature), order="C")


def _dtype(feature: Feature) -> type:
    return np.uint8 if feature.kind == "image" else np.float32


def real_numbers(name: str, value: Any, expected: str = "real numbers") -> np.ndarray:
    """Return real numbers as an array.

    Raises:
        RobodiffError: they are complex, bool, text or anything else.
    """
    return _array(name, value, expected, lambda dtype: dtype.kind in "iuf")


def whole_numbers(name: str, values: Any, least: int, most: int, count: int | None = None) -> np.ndarray:
    """Return whole numbers from ``least`` to ``most`` as an array (N,), int64.

    Args:
        name: of the values in messages.
        values: a list or an array.
        least: none is below.
        most: none is above.
        count: how many there are to be; any number when None.

    Raises:
        UsageError: they are others, or not so many.
    """
    expected = f"{'' if count is None else f'{count} '}whole numbers from {least} to {most}"
    try:
        array = np.asarray(values)
        array = array.astype(np.int64) if array.size == 0 else array  # [] is of floats
    except (ValueError, TypeError, RuntimeError):
        array = np.array(None)
    if array.dtype.kind not in "iu" or array.ndim != 1 or ((array < least) | (array > most)).any():
        raise UsageError(f"{name}: expected {expected}; found {shortened(' '.join(repr(values).split()), 60)}")
    if count is not None and len(array) != count:
        raise UsageError(f"{name}: expected {expected}; found {len(array)} of them")
    return array.astype(np.int64)


def _array(name: str, value: Any, expected: str, is_right: Callable[[np.dtype], bool]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists, tensors of a GPU, and whatever else __array__ raises
        raise RobodiffError(f"{name}: expected {expected}; found a {type(value).__name__} that is no array") from None
    if isinstance(value, np.ma.MaskedArray):  # its array holds numbers where it says that there are none
        raise RobodiffError(f"{name}: expected {expected}; found a masked array; fill what is masked")
    if not is_right(array.dtype):
        found = "text" if array.dtype.kind in "SU" else array.dtype
        raise RobodiffError(f"{name}: expected {expected}; found {found}")
    return array


def out_of_range(values: np.ndarray, range_: np.ndarray) -> np.ndarray:
    """Return how far outside of a range values are, as a share of the range: 0 within, inf where one is not finite.

    A range of less than ``SMALLEST_RANGE`` counts as one of that size.

    Args:
        values: (rows, D).
        range_: (2, D), the least and the largest numbers.

    Returns:
        (rows,), of each row's farthest number.
    """
    low, high = range_.astype(np.float64)
    outside = np.maximum(low - values, values - high).clip(min=0) / np.maximum(high - low, SMALLEST_RANGE)  # (rows, D)
    return np.nan_to_num(outside, nan=np.inf, posinf=np.inf).max(axis=1)


def draw_noise(shape: tuple[int, ...], *seed_numbers: int) -> np.ndarray:
    """Return standard normal noise, float32, that some numbers decide: a seed, and what it is drawn for.

    Args:
        shape: of ``Runtime.noise_shape`` for one chunk, (draws, 1, ...).
        seed_numbers: none of them negative.
    """
    draws, _, *rest = shape
    noise = np.random.default_rng([int(number) for number in seed_numbers])
    return noise.standard_normal((draws, 1, *rest), dtype=np.float32)
