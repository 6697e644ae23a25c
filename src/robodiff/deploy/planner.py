"""Which action is executed at which step, while the policy takes its time. Counts steps, knows no clock."""

from typing import Literal

import numpy as np

from robodiff.policies.runtime import Chunk, Known, Timing

Mode = Literal["real_time", "naive", "synchronous"]


class ChunkPlanner:
    """Lay chunks of actions, which arrive late, along the steps of one robot or of many in lockstep.

    A chunk is asked for at a step, with what is observed then, and arrives ``delay`` steps later:

    ``synchronous``: the robot waits for it, and then executes it from its beginning.
    ``naive``: the chunk before is executed meanwhile; the new one takes over in its middle, at the action that is due.
    ``real_time``: as naive, but what is executed meanwhile is given, and the new chunk goes on from there: real-time
    chunking (Black et al. 2025, https://arxiv.org/abs/2506.07339).

    Args:
        timing: of the policy.
        mode: one of the three.
        replan: steps from one request to the next; ``n_action_steps`` when None. Fewer where the chunk would end before
            the next arrives.
        soft: with ``real_time``, draw the actions after those that are given towards those of the chunk before, less
            and less (section 4.3 and equation 5 of the paper).
    """

    def __init__(self, timing: Timing, mode: Mode = "real_time", replan: int | None = None, soft: bool = False) -> None:
        self.timing, self.mode, self.soft = timing, mode, soft
        self.replan = timing.n_action_steps if replan is None else replan
        self.asked: int | None = None
        """The step of the request that is not yet answered."""
        self._since = 0  # the step that the replanning period counts from
        self._chunk: np.ndarray | None = None  # (B, n, Da)
        self._now = 0  # place in it of the action that is due when it is asked for
        self._executed: dict[int, np.ndarray] = {}  # by step (B, Da): the last ones

    def is_due(self, step: int, delay: int) -> bool:
        """Tell whether the next chunk is to be asked for, if it takes so many steps."""
        if self.asked is not None:
            return False
        if self._chunk is None:
            return True
        lasts = self._chunk.shape[1] - self._now - (0 if self.mode == "synchronous" else delay)
        return step >= self._since + min(self.replan, lasts)

    def ask(self, step: int, delay: int) -> Known | None:
        """Note that a chunk is asked for; return which of its actions are known: values and weights, (B, n, Da) each.

        Args:
            step: now.
            delay: steps until it arrives, about.
        """
        self.asked = step
        if self._chunk is None or self.mode != "real_time":
            return None
        values, weights = np.zeros_like(self._chunk), np.zeros_like(self._chunk)
        remaining = self._since + self._chunk.shape[1] - self._now - step
        for place in range(self._chunk.shape[1]):
            ahead = place - self._now  # steps from now
            action = self._executed.get(step + ahead) if ahead < 0 else self.action(step + ahead)
            if action is not None:
                values[:, place], weights[:, place] = action, self._weight(ahead, delay, remaining)
        return values, weights

    def take(self, chunk: Chunk, step: int) -> None:
        """Execute a chunk, the one that was asked for, from this step on."""
        assert self.asked is not None
        self._since = step if self.mode == "synchronous" else self.asked
        self._chunk, self._now = np.asarray(chunk.actions), self.timing.n_obs_steps - 1 - chunk.first_step
        self.asked = None

    def action(self, step: int) -> np.ndarray | None:
        """Return the action that is planned for a step, (B, Da); None where the robot is to hold its last one."""
        if self._chunk is None or (self.mode == "synchronous" and self.asked is not None):
            return None
        place = step - self._since + self._now
        return self._chunk[:, place] if 0 <= place < self._chunk.shape[1] else None

    def executed(self, step: int, action: np.ndarray) -> None:
        """Note which action, (B, Da), a step came to."""
        recent = {past: each for past, each in self._executed.items() if past > step - self.timing.n_obs_steps}
        self._executed = {**recent, step: action}

    def _weight(self, ahead: int, delay: int, remaining: int) -> float:
        """Return how far the action so many steps from now is given, where the chunk has so many from now on."""
        if ahead < delay:
            return 1.0
        share = (remaining - ahead) / (remaining - delay + 1)
        return share * np.expm1(share) / np.expm1(1) if self.soft else 0.0
