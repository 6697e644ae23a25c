"""The state of one client of a server: its observations and noise. Knows nothing of the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from robodiff.data.episodes import ACTION, Feature
from robodiff.documents import Between, Document, hints, typed
from robodiff.errors import RobodiffError, nearest
from robodiff.policies.history import LONGEST_PAUSE, History
from robodiff.policies.runtime import Arrays, Known, Runtime, Timing, as_recorded, check_keys, draw_noise, real_numbers
from robodiff.text import shortened

MOST_ROWS = 256
"""Limit of the chunks that are computed together."""


@dataclass(frozen=True, kw_only=True)
class Request(Document):
    """What a message may hold besides the observation."""

    timestamp: Annotated[float, Between(0, 1e12)] | None = None
    """When it was observed, in seconds; the time of arrival when not given."""
    reset: bool = False
    """Start a new episode with this observation."""
    seed: Annotated[int, Between(0, 2**63 - 1)] | None = None
    """Restart the noise from this seed."""
    only_observe: bool = False
    """Store the observation, and compute nothing."""


OTHER_NAMES = (*hints(Request), "noise", "known", "known_weights")
"""Names that a message may hold besides the policy's observations."""


@dataclass(frozen=True)
class Question:
    """A request to the policy: the arguments of ``predict_chunk``."""

    observation: Arrays
    """Per key (W, To, ...), windows, of each of which as many chunks are asked for."""
    noise: np.ndarray
    """(draws, B, ...), of a multiple of W."""
    known: Known | None = None
    seen: int | None = None
    """Number of different observations in a session's window, of one row; None for a stateless request."""

    @property
    def rows(self) -> int:
        """B."""
        return self.noise.shape[1]


class Session:
    """The episode of one client: its history, and the noise of its chunks.

    A client sends the observation of one time step, or a whole window. Its chunks have the same noise as those of a
    ``PolicyRunner`` with the same seed.

    Args:
        policy: that the client uses.
        timing: of its observations.
        key_map: the client's names -> the policy's names; None for names that the policy does not use.
    """

    def __init__(self, policy: Runtime, timing: Timing, key_map: Mapping[str, str | None]) -> None:
        self._policy, self._timing, self._key_map = policy, timing, key_map
        self._observed = {key: feature for key, feature in policy.features.items() if key != ACTION}
        self._history, self._sends_times = History.empty(timing, 1), False
        self._seed = self._chunks = 0

    def ask(self, message: Mapping[str, Any], arrived: float) -> Question | int:
        """Return what a message asks for; if it asks for nothing, how many observations the policy would see.

        Args:
            message: an observation, or a window, under the client's names, and the fields of ``Request``; or a
                stateless request: ``noise``, windows (B, To, ...), and optionally ``known`` and ``known_weights``.
            arrived: time of arrival, seconds of the server's clock.

        Raises:
            RobodiffError: something is missing, unknown, not finite, or of another shape or type. The session is then
                unchanged.
            Gap: the time is far from the last one; the next message can continue from it.
        """
        values = self._named(message)
        if "noise" in values:
            return self._as_asked(values)
        request = typed(Request, {name: values.pop(name) for name in hints(Request) if name in values})
        arrays = self._arrays(values)
        is_window = any(array.ndim > len(self._observed[key].shape) for key, array in arrays.items())
        if is_window and request.only_observe:
            raise RobodiffError("only_observe: expected the observation of one time step; found a window")
        observation = self._checked(arrays, (self._timing.n_obs_steps,) if is_window else ())
        observation = {key: array[None] for key, array in observation.items()}  # one row
        history = self._history.restarted(np.array([0])) if request.reset else self._history
        if not is_window:
            history = self._after(history, observation, request.timestamp, arrived)
            self._sends_times = request.timestamp is not None
        self._history = history
        if request.reset or request.seed is not None:
            self._seed, self._chunks = self._seed if request.seed is None else request.seed, 0
        if not is_window:
            history.check_pause()
        seen = self._timing.n_obs_steps if is_window else history.seen()[0]
        if request.only_observe:
            return seen
        noise = draw_noise(self._policy.noise_shape(1), self._seed, self._chunks, 0)
        self._chunks += 1
        return Question(observation if is_window else history.window(newest_stands_in=True), noise, seen=seen)

    def _named(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return a message under the policy's names."""
        values = {}
        for name, value in message.items():
            own = self._key_map.get(name, name)
            if own in values:
                raise RobodiffError(f"{own}: found twice; the server's key map gives it another name")
            if own is not None:
                values[own] = value
        return values

    def _as_asked(self, values: dict[str, Any]) -> Question:
        """Return the stateless request of a client that keeps the history and draws the noise itself."""
        noise = _floats("noise", values.pop("noise"))
        rows = noise.shape[1] if noise.ndim > 1 else 0
        if not 1 <= rows <= MOST_ROWS:
            raise RobodiffError(f"noise: expected 1 to {MOST_ROWS} chunks; found {rows}")
        _check_shape("noise", noise, self._policy.noise_shape(rows))
        known, weights = values.pop("known", None), values.pop("known_weights", None)
        arrays = self._arrays(values)
        windows = min((array.shape[0] for array in arrays.values() if array.ndim), default=rows)
        chunks = rows // windows if windows and rows % windows == 0 else 1  # several of each window
        observation = self._checked(arrays, (rows // chunks, self._timing.n_obs_steps))
        if known is None and weights is None:
            return Question(observation, noise)
        is_mask = isinstance(weights, np.ndarray) and weights.dtype == bool
        arrays = _floats("known", known), _floats("known_weights", weights.astype(int) if is_mask else weights)
        for array in arrays:
            _check_shape("known", array, (rows, noise.shape[2], *self._policy.features[ACTION].shape))
        if ((arrays[1] < 0) | (arrays[1] > 1)).any():
            raise RobodiffError("known_weights: expected numbers from 0 to 1; found others")
        return Question(observation, noise, (arrays[0], arrays[1].astype(bool) if is_mask else arrays[1]))

    def _after(
        self, history: History, observation: dict[str, np.ndarray], timestamp: float | None, arrived: float
    ) -> History:
        """Return the history after one more observation, at the client's time or its time of arrival."""
        sends_times = timestamp is not None
        if not history.fresh.all() and sends_times != self._sends_times:
            raise RobodiffError(
                "timestamp: expected with every observation of an episode or with none; send reset, too"
            )
        if not sends_times and history.times:
            if arrived - history.times[-1][0] > LONGEST_PAUSE * self._timing.spacing:  # the past is too old to matter
                history = history.restarted(np.array([0]))
            arrived = max(arrived, float(np.nextafter(history.times[-1][0], np.inf)))
        return history.after(observation, timestamp if sends_times else arrived)

    def _arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the policy's observations as arrays, images with their channels first; refuse other names."""
        check_keys(self._observed, values, "the message has")
        for name in values.keys() - self._observed.keys():
            advice = f"leave it out, or start the server with --key_map '{{\"{shortened(name, 60)}\": null}}'"
            hint = nearest(name, self._observed)
            raise RobodiffError(f"{shortened(name, 60)!r} is not observed by the policy; {advice}.{hint}")
        return {key: _channels_first(real_numbers(key, values[key]), each) for key, each in self._observed.items()}

    def _checked(self, arrays: Arrays, rows: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return an observation in the dtypes of the recording, per key (*rows, ...)."""
        checked = {key: as_recorded(key, array, self._observed[key], rows) for key, array in arrays.items()}
        for key, array in checked.items():
            _check_finite(key, array)
        return checked


def _channels_first(array: np.ndarray, feature: Feature) -> np.ndarray:
    """Return an image (..., H, W, C) as (..., C, H, W), which is how images are recorded."""
    if feature.kind != "image" or array.shape[-3:] == feature.shape:
        return array
    channels, height, width = feature.shape
    return np.moveaxis(array, -1, -3) if array.shape[-3:] == (height, width, channels) else array


def _floats(name: str, value: Any) -> np.ndarray:
    """Return an array as float32; refuse numbers that are not finite."""
    with np.errstate(over="ignore"):  # values too large for float32 become infinite
        array = real_numbers(name, value).astype(np.float32)
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise RobodiffError(f"{name}: expected finite numbers; found one that is not")


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise RobodiffError(f"{name}: expected shape {shape}, found {array.shape}")
