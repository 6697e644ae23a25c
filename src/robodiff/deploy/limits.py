"""Limits on actions, and on how often something may go wrong."""

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

FAULTS = {
    "late": "actions were late",
    "held": "no action was planned because chunks took too long",
    "clipped": "actions were beyond their limits",
    "far": "observations were far outside the training range",
}
"""What may go wrong at a step, and how it is reported."""


@dataclass(frozen=True)
class Limits:
    """Bounds of an action, and of its change from one step to the next; each (Da,)."""

    low: np.ndarray
    high: np.ndarray
    change: np.ndarray

    @classmethod
    def around(cls, range_: np.ndarray, margin: float, change: float) -> "Limits":
        """Return limits from the training range, (2, Da).

        Args:
            range_: minimum and maximum.
            margin: share of the range by which an action may exceed it.
            change: share of the range by which an action may change in a step.
        """
        low, high = range_.astype(np.float64)
        size = high - low
        return cls(low - margin * size, high + margin * size, change * size)

    def apply(self, action: np.ndarray, last: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """Return the action within the limits, (Da,) float32, and whether it had to be changed.

        Args:
            action: (Da,).
            last: the action executed before; None for the first action, whose change is not known.
        """
        limited = action.clip(self.low, self.high)
        if last is not None:
            limited = limited.clip(last - self.change, last + self.change)
        slack = 1e-5 * (self.high - self.low) + 1e-6  # of float32
        return limited.astype(np.float32), bool((abs(limited - action) > slack).any())


class Faults:
    """Count the steps at which something goes wrong; more than half of the recent ones is a reason to stop.

    Args:
        window: number of recent steps.
    """

    def __init__(self, window: int) -> None:
        self.counts = Counter(dict.fromkeys(FAULTS, 0))
        self._recent = {name: deque([False] * window, maxlen=window) for name in FAULTS}

    def add(self, **faults: bool) -> str | None:
        """Add a step with its ``FAULTS``; return a reason to stop, or None."""
        for name, recent in self._recent.items():
            recent.append(bool(faults.get(name, False)))
            self.counts[name] += recent[-1]
            if sum(recent) > len(recent) // 2:
                return f"{FAULTS[name]} at {sum(recent)} of the last {len(recent)} steps"
        return None
