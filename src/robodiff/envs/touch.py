"""How a person touches an environment with a pointer and some keys, and how it is sketched while it goes on.

Places are in the environment's picture: x and y from 0 to 1, from its left and its upper edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Place = tuple[float, float]
Key = Literal["lift", "turn", "grip"]


@dataclass(frozen=True)
class Hand:
    """What a person tells an environment: where the pointer is, and what happened since the action before."""

    x: float
    y: float
    lift: float = 0.0
    """Notches of the wheel or strokes of a key, upwards."""
    turn: float = 0.0
    """Strokes of a key, counter-clockwise as the picture shows it."""
    grip: bool = False
    """Whether the gripper is to close if it is open, or to open."""
    agent: int = 0
    """Whose hand it is, in the order of ``EnvSpec.agents``."""


@dataclass(frozen=True)
class Shape:
    """What a body looks like, in lengths of the side of a square picture; see ``Body``."""

    color: str
    outline: Sequence[Place] = ()
    radius: float = 0.0


@dataclass(frozen=True)
class Body:
    """Something rigid in a sketch, in lengths of the side of a square picture."""

    name: str
    x: float
    y: float
    color: str
    """As CSS has it."""
    angle: float = 0.0
    """rad, clockwise as the picture shows it."""
    outline: Sequence[Place] = ()
    """Corners in the frame of the body; none of a disc."""
    radius: float = 0.0
    """Of a disc."""

    @property
    def shape(self) -> Shape:
        """What stays the same while it moves."""
        return Shape(self.color, [(float(x), float(y)) for x, y in self.outline], float(self.radius))

    @property
    def pose(self) -> tuple[float, float, float]:
        """Where it is: x, y, angle."""
        return self.x, self.y, self.angle


Mover = Callable[[float, float, float], dict[str, NDArray[Any]]]
"""Move what was grabbed so that it is held at (x, y), turned by so much since, rad, clockwise as the picture shows it;
return what is then observed."""


@dataclass(frozen=True, kw_only=True)
class Touch:
    """What a pointer does in one environment; each function gets it as ``make`` made it, after ``reset``."""

    act: Callable[[Any, Hand], NDArray[Any]]
    """From the environment and a hand to the next action, of all agents; those that are not moved stay as they are."""
    where: Callable[[Any, int], Place]
    """Where the hand of an agent is now: there a pointer begins that is moved by keys."""
    keys: tuple[Key, ...] = ()
    """What there is beside the pointer: height, turn, gripper."""
    grab: Callable[[Any, float, float], Mover | None] | None = None
    """Take hold of what is at a place, to disturb whoever acts; None where nothing is. None where nothing can be
    moved."""
    trace: Callable[[Any, int, NDArray[np.floating]], NDArray[np.floating]] | None = None
    """From an agent and its next actions (n, D) to where they lead, (n, 2); None where they are no places."""
    plumb: Callable[[Any, int], NDArray[np.floating]] | None = None
    """A line (n, 2) that tells how high an agent's hand is: from it down to what lies below; None on a flat table."""
    sketch: Callable[[Any], list[Body]] | None = None
    """The scene in a few bodies, the same at every step, which a browser draws and moves evenly from one step to the
    next; without it, ``render`` draws."""
