"""Decide which action to execute at which step while chunks arrive late. Counts steps, knows no clock."""

from typing import Literal

import numpy as np

from robodiff.policies.runtime import Chunk, Known, Timing

Mode = Literal["real_time", "naive", "synchronous"]


class ChunkPlanner:
    """Schedule chunks of actions, which arrive late, for one robot or many in lockstep.

    A chunk is requested at a step, with the observation of that step, and arrives ``delay`` steps later:

    ``synchronous``: the robot waits for it, and then executes it from its beginning.
    ``naive``: the previous chunk is executed meanwhile; the new one takes over at the action that is due.
    ``real_time``: as naive, but the sampler is given the actions executed meanwhile, and the new chunk continues them:
    real-time chunking (Black et al. 2025, https://arxiv.org/abs/2506.07339).

    Args:
        timing: of the policy.
        mode: one of the three.
        replan: steps from one request to the next; ``n_action_steps`` when None. Fewer where the chunk would end before
            the next arrives.
        soft: with ``real_time``, also pull the actions after the given ones towards the previous chunk, with decreasing
            weight (section 4.3 and equation 5 of the paper).
    """

    def __init__(self, timing: Timing, mode: Mode = "real_time", replan: int | None = None, soft: bool = False) -> None:
        self.timing, self.mode, self.soft = timing, mode, soft
        self.replan = timing.n_action_steps if replan is None else replan
        self.asked: int | None = None
        """The step of the pending request."""
        self._since = 0  # the step that the replanning period counts from
        self._chunk: np.ndarray | None = None  # (B, n, Da)
        self._now = 0  # place in it of the action that is due when it is asked for
        self._executed: dict[int, np.ndarray] = {}  # by step (B, Da): the last ones

    def is_due(self, step: int, delay: int) -> bool:
        """Tell whether to request the next chunk, if it takes ``delay`` steps."""
        if self.asked is not None:
            return False
        if self._chunk is None:
            return True
        lasts = self._chunk.shape[1] - self._now - (0 if self.mode == "synchronous" else delay)
        return step >= self._since + min(self.replan, lasts)

    def ask(self, step: int, delay: int) -> Known | None:
        """Register a request for a chunk; return its known actions: values and weights, (B, n, Da) each.

        Args:
            step: the current one.
            delay: expected steps until the chunk arrives.
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
        """Execute the requested chunk from this step on."""
        assert self.asked is not None
        self._since = step if self.mode == "synchronous" else self.asked
        self._chunk, self._now = np.asarray(chunk.actions), self.timing.n_obs_steps - 1 - chunk.first_step
        self.asked = None

    def action(self, step: int) -> np.ndarray | None:
        """Return the action planned for a step, (B, Da); None if the robot is to hold its last one."""
        if self._chunk is None or (self.mode == "synchronous" and self.asked is not None):
            return None
        place = step - self._since + self._now
        return self._chunk[:, place] if 0 <= place < self._chunk.shape[1] else None

    def rest(self, step: int) -> np.ndarray | None:
        """Return the actions planned from a step on, (B, m, Da); None before the first chunk."""
        return None if self._chunk is None else self._chunk[:, max(0, step - self._since + self._now) :]

    def executed(self, step: int, action: np.ndarray) -> None:
        """Register the action, (B, Da), that was executed at a step."""
        recent = {past: each for past, each in self._executed.items() if past > step - self.timing.n_obs_steps}
        self._executed = {**recent, step: action}

    def _weight(self, ahead: int, delay: int, remaining: int) -> float:
        """Return the weight of the known action ``ahead`` steps from now; the old chunk has ``remaining`` left."""
        if ahead < delay:
            return 1.0
        share = (remaining - ahead) / (remaining - delay + 1)
        return share * np.expm1(share) / np.expm1(1) if self.soft else 0.0
