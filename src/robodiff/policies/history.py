"""What several robots observed, and when: the window that a policy sees is picked from it. On NumPy alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robodiff.errors import RobodiffError
from robodiff.policies.runtime import Timing, real_numbers

DENSEST = 8
"""Observations that are kept of each ``Timing.spacing``, about; those in between are forgotten."""
LONGEST_PAUSE = 100
"""Spacings from one observation to the next beyond which the clock may count something else than seconds."""


class Gap(RobodiffError):
    """Too little was observed of late. The next observations can make up for it."""


@dataclass(frozen=True)
class History:
    """The last observations of each row. An observation makes a new history, so that a refused one leaves no trace."""

    timing: Timing
    fresh: np.ndarray
    """(rows,) bool: whose next observation stands for all before it."""
    begun: np.ndarray
    """(rows,) seconds: when the first observation since the reset was made."""
    observations: tuple[Mapping[str, np.ndarray], ...] = ()
    """Oldest first, each key (rows, ...)."""
    times: tuple[np.ndarray, ...] = ()
    """(rows,) seconds, beside the observations."""
    doubted: np.ndarray | None = None
    """(rows,) the newest times, where some came after more than ``LONGEST_PAUSE``: none of that call is among the
    observations. The next call confirms them if it follows within that time."""

    @classmethod
    def empty(cls, timing: Timing, rows: int) -> "History":
        """Return the history of rows that have observed nothing."""
        return cls(timing, np.ones(rows, bool), np.zeros(rows))

    def __len__(self) -> int:
        return len(self.times)

    def restarted(self, rows: np.ndarray) -> "History":
        """Return a history in which some rows have observed nothing."""
        fresh = self.fresh.copy()
        fresh[rows] = True
        return replace(self, fresh=fresh)

    def after(self, observation: Mapping[str, np.ndarray], timestamp: Any = None) -> "History":
        """Return the history after one more observation.

        Args:
            observation: per key (rows, ...).
            timestamp: seconds, one number or (rows,); None is one spacing after the last.

        Raises:
            RobodiffError: the time is no finite number, or does not advance.
        """
        now, fresh = self._time(timestamp), self.fresh
        if self._is_doubtful(now):
            return replace(self, doubted=now)
        observations, times = [observation], [now]
        if not fresh.all():  # a fresh row has seen this and nothing before it
            observations = [
                {key: np.where(_rows(fresh, value), value, past[key]) for key, value in observation.items()}
                if fresh.any()
                else past
                for past in self.observations
            ] + observations
            times = [np.where(fresh, now, time) for time in self.times] + times
        self._forget(observations, times)
        begun = np.where(fresh, now, self.begun)
        return History(self.timing, np.zeros_like(fresh), begun, tuple(observations), tuple(times))

    def check_pause(self) -> None:
        """Check that the last observation came soon enough after the one before.

        Raises:
            Gap: it came so late that its time may be in other units.
        """
        if self.doubted is None:
            return
        row = int((self._late(self.doubted) & ~self.fresh).argmax())
        now, last = _seconds(self.doubted[row]), _seconds(self.times[-1][row])
        pace = f"timestamps are seconds, about {self.timing.spacing:g} apart"
        raise Gap(f"{self._name(row)}{pace}; found {now} after {last}; after a pause go on at that pace, or reset")

    def window(self, newest_stands_in: bool = False) -> dict[str, np.ndarray]:
        """Return what each row observes now: per key (rows, To, ...), oldest first.

        Args:
            newest_stands_in: for steps at which nothing was observed, as if the robot had stood still.

        Raises:
            Gap: nothing was observed within half a spacing of one of the steps, and the newest does not stand in.
        """
        wanted, picks, unseen = self._picked()
        if unseen.any() and not newest_stands_in:
            step, row = np.argwhere(unseen)[0]
            seconds = _seconds(float(wanted[step, row]))
            advice = f"observe every {self.timing.spacing:g} s, or reset"
            raise Gap(f"{self._name(row)}nothing was observed at {seconds} s; {advice}")
        picks, rows = np.where(unseen, len(self) - 1, picks), np.arange(len(self.fresh))  # (To, rows)
        window = {}
        for key in self.observations[-1]:
            history = np.stack([observation[key] for observation in self.observations])  # (history, rows, ...)
            window[key] = np.stack([history[pick, rows] for pick in picks], axis=1)  # (rows, To, ...)
        return window

    def seen(self) -> list[int]:
        """Return how many different observations the window of each row holds."""
        _, picks, unseen = self._picked()
        return [len({*row[~missing]}) for row, missing in zip(picks.T, unseen.T, strict=True)]

    def _picked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each step that a policy sees its time, the nearest observation, and whether that is too far off.

        All are (To, rows).
        """
        steps, spacing = self.timing.n_obs_steps, self.timing.spacing
        times = np.stack(self.times)  # (history, rows)
        wanted = times[-1] - np.arange(steps - 1, -1, -1)[:, None] * spacing  # (To, rows)
        wanted = np.maximum(wanted, self.begun)  # the first observation stands for all before it
        distances = np.abs(times - wanted[:, None])  # (To, history, rows)
        return wanted, distances.argmin(1), distances.min(1) > spacing / 2 + 1e-6

    def _time(self, timestamp: Any) -> np.ndarray:
        """Return when each row is, (rows,) seconds."""
        spacing = self.timing.spacing
        last = self.times[-1] if self.times else np.full(len(self.fresh), -spacing)
        if timestamp is None:
            return last + spacing
        given = real_numbers("timestamp", timestamp, "seconds, a real number")
        if given.shape not in ((), last.shape):
            raise RobodiffError(f"timestamp: expected one number, or shape {last.shape}; found shape {given.shape}")
        now = np.broadcast_to(given.astype(np.float64), last.shape)
        for wrong, message in (
            (~np.isfinite(now), "timestamps must be finite and count seconds; found {now}"),
            (
                (now < last) & ~self.fresh,
                "timestamps must not go back; found {now} s after {last} s; reset to begin anew",
            ),
            ((now == last) & ~self.fresh, "timestamps must advance; found {now} s again: does the clock stand still?"),
        ):
            if wrong.any():
                row = int(wrong.argmax())
                raise RobodiffError(self._name(row) + message.format(now=_seconds(now[row]), last=_seconds(last[row])))
        return now

    def _late(self, now: np.ndarray) -> np.ndarray:
        """Tell of each row, (rows,), whether the last observation was more than ``LONGEST_PAUSE`` ago."""
        return now > self.times[-1] + LONGEST_PAUSE * self.timing.spacing if self.times else np.zeros(len(now), bool)

    def _is_doubtful(self, now: np.ndarray) -> bool:
        """Tell whether a time comes so late that it may be in other units, unless the call before confirms it."""
        late = self._late(now) & ~self.fresh
        if self.doubted is not None:
            since = now - self.doubted
            late &= ~((since > 0) & (since <= LONGEST_PAUSE * self.timing.spacing))
        return bool(late.any())

    def _name(self, row: int) -> str:
        return f"row {row}: " if len(self.fresh) > 1 else ""

    def _forget(self, observations: list[Mapping[str, np.ndarray]], times: list[np.ndarray]) -> None:
        """Drop what no step will be picked from: too old, or so close to its neighbours that these will do."""
        now, steps, spacing = times[-1], self.timing.n_obs_steps, self.timing.spacing
        oldest = now - (steps - 1) * spacing
        while len(times) > steps and (times[1] <= oldest + 1e-6).all():
            del observations[0], times[0]
        if len(times) > steps and (now - times[-3] < spacing / DENSEST).all():
            del observations[-2], times[-2]
        if len(times) > 4 * DENSEST * steps:  # rows whose times drift apart
            del observations[0], times[0]


def _seconds(time: float) -> str:
    """Return a time as text: to a millisecond, and one that no clock of seconds gives in short."""
    return f"{time:.3f}" if abs(time) < 1e12 else f"{time:.6g}"


def _rows(mask: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return (rows,) as (rows, 1, ...), to choose among values (rows, ...)."""
    return mask.reshape(-1, *[1] * (value.ndim - 1))
