"""What one client of a server observed and asks for. Knows nothing of the network."""

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
"""Chunks that are computed together."""


@dataclass(frozen=True, kw_only=True)
class Request(Document):
    """What a message says beside the observation."""

    timestamp: Annotated[float, Between(0, 1e12)] | None = None
    """Seconds, when it was observed; when it arrives if the client does not say it."""
    reset: bool = False
    """A new episode begins with this observation."""
    seed: Annotated[int, Between(0, 2**63 - 1)] | None = None
    """Of the noise from now on, which starts over."""
    only_observe: bool = False
    """Remember the observation, and compute nothing."""


OTHER_NAMES = (*hints(Request), "noise", "known", "known_weights")
"""What a message may hold beside what the policy observes."""


@dataclass(frozen=True)
class Question:
    """What is asked of the policy: its arguments."""

    observation: Arrays
    """Per key (B, To, ...)."""
    noise: np.ndarray
    """(draws, B, ...)."""
    known: Known | None = None
    seen: int | None = None
    """Different observations of the window, of one row that a session asks for; None for chunks as they are."""

    @property
    def rows(self) -> int:
        """B."""
        return self.noise.shape[1]


class Session:
    """The episode of one client: what it observed, and the noise of its chunks.

    A client sends what it observes at one time step, or whole windows. Chunk after chunk is made of the noise that a
    ``PolicyRunner`` with the same seed draws.

    Args:
        policy: what is observed for.
        timing: of its observations.
        key_map: names that the client uses -> names of the policy; None for what is not read.
    """

    def __init__(self, policy: Runtime, timing: Timing, key_map: Mapping[str, str | None]) -> None:
        self._policy, self._timing, self._key_map = policy, timing, key_map
        self._observed = {key: feature for key, feature in policy.features.items() if key != ACTION}
        self._history, self._sends_times = History.empty(timing, 1), False
        self._seed = self._chunks = 0

    def ask(self, message: Mapping[str, Any], arrived: float) -> Question | int:
        """Return what a message asks for; how many observations the policy would see if it asks for nothing.

        Args:
            message: an observation, or a window, by the client's names, and the fields of ``Request``. With ``noise``
                windows (B, To, ...) and nothing else of the session, but maybe ``known`` and ``known_weights``.
            arrived: seconds of a clock of the server.

        Raises:
            RobodiffError: something is missing, unknown, of another shape or type, or not finite. The session is then
                as it was before.
            Gap: a time far from the last one; the next message can go on from there.
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
        """Return a message by the names of the policy."""
        values = {}
        for name, value in message.items():
            own = self._key_map.get(name, name)
            if own in values:
                raise RobodiffError(f"{own}: found twice, for the server's key map names {name!r} so, too")
            if own is not None:
                values[own] = value
        return values

    def _as_asked(self, values: dict[str, Any]) -> Question:
        """Return the question of a client that keeps the history and draws the noise itself."""
        noise = _floats("noise", values.pop("noise"))
        rows = noise.shape[1] if noise.ndim > 1 else 0
        if not 1 <= rows <= MOST_ROWS:
            raise RobodiffError(f"noise: expected it for 1 to {MOST_ROWS} chunks; found {rows}")
        _check_shape("noise", noise, self._policy.noise_shape(rows))
        known, weights = values.pop("known", None), values.pop("known_weights", None)
        observation = self._checked(self._arrays(values), (rows, self._timing.n_obs_steps))
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
        """Return the history after one more observation, at the client's time or at that of its arrival."""
        sends_times = timestamp is not None
        if not history.fresh.all() and sends_times != self._sends_times:
            raise RobodiffError(
                "timestamp: expected with every observation of an episode or with none; send reset, too"
            )
        if not sends_times and history.times:
            if arrived - history.times[-1][0] > LONGEST_PAUSE * self._timing.spacing:  # what was before is long past
                history = history.restarted(np.array([0]))
            arrived = max(arrived, float(np.nextafter(history.times[-1][0], np.inf)))
        return history.after(observation, timestamp if sends_times else arrived)

    def _arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return what the policy observes, and nothing else, as arrays; images with their channels first."""
        check_keys(self._observed, values, "the message has")
        for name in values.keys() - self._observed.keys():
            advice = f"leave it out, or start the server with --key_map '{{\"{shortened(name, 60)}\": null}}'"
            hint = nearest(name, self._observed)
            raise RobodiffError(f"{shortened(name, 60)!r} is not observed by the policy; {advice}.{hint}")
        return {key: _channels_first(real_numbers(key, values[key]), each) for key, each in self._observed.items()}

    def _checked(self, arrays: Arrays, rows: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return an observation in the type of the recording, per key (*rows, ...)."""
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
    """Return finite numbers, float32."""
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite
        array = real_numbers(name, value).astype(np.float32)
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise RobodiffError(f"{name}: expected finite numbers; found one that is not")


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise RobodiffError(f"{name}: expected shape {shape}, found {array.shape}")
