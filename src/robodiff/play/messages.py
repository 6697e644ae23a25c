"""What the page says to the stage. What the stage says is in ``Stage.state`` and ``Stage.about``."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

from robodiff.documents import Between, Document, NotEmpty, typed
from robodiff.errors import UsageError

LARGEST = 2048
"""Bytes of a message."""
Number = Annotated[float, Between(-4, 5)]
Strokes = Annotated[float, Between(-1000, 1000)]
MOST_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Message(Document):
    """One thing to do, and what it needs."""

    do: Literal[
        "hand", "start", "pause", "step", "end", "keep", "discard", "reset",
        "take", "give", "agent", "grab", "drag", "drop", "speed", "sampling", "samples",
    ]  # fmt: skip
    """hand: the pointer moved. start, pause: let time go on or stand still. step: one action, while it stands still.
    end: the episode. keep, discard: what was recorded. reset: another start. take, give: who acts. agent: whose hand
    it is. grab, drag, drop: something in the picture. speed, sampling, samples: how fast time goes, how the policy
    samples, and how many chunks are shown."""
    x: Number | None = None
    """Place in the picture, from 0 to 1 from its left edge; with hand, step, grab and drag."""
    y: Number | None = None
    """From its upper edge."""
    lift: Strokes = 0.0
    """See ``Hand``; with hand and step."""
    turn: Strokes = 0.0
    """With hand and step, see ``Hand``; with drag rad, clockwise, since it was grabbed."""
    grip: bool = False
    seed: Annotated[int, Between(0, 2**53)] | None = None
    """With reset; the same one again when not given."""
    agent: Annotated[int, Between(0, 1000)] = 0
    speed: Annotated[float, Between(0.05, 20)] = 1.0
    sampler: Annotated[str, NotEmpty(100)] | None = None
    """With sampling; the policy's present one when not given."""
    steps: Annotated[int, Between(1, 1000)] | None = None
    """Of denoising, likewise."""
    samples: Annotated[int, Between(0, MOST_SAMPLES)] = 0

    @property
    def place(self) -> tuple[float, float]:
        """Where it is.

        Raises:
            UsageError: it does not say so.
        """
        if self.x is None or self.y is None:
            raise UsageError(f"{self.do}: expected x and y")
        return self.x, self.y


def read_message(text: str | bytes) -> Message:
    """Return a message of the page.

    Raises:
        UsageError: it is none.
    """
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UsageError("expected a message as a JSON object")
    return typed(Message, values)
