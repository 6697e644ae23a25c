"""Options of the real-time loop and of the server."""

from dataclasses import dataclass
from typing import Annotated

from robodiff.deploy.planner import Mode
from robodiff.documents import Above, AtLeast, Between, Document


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Document):
    """How the loop runs."""

    mode: Mode = "real_time"
    """While a chunk is computed, real_time executes the last one and has the new one go on from there; naive executes
    the last one and jumps to the new one; synchronous waits."""
    replan: Annotated[int, AtLeast(1)] | None = None
    """Steps from one chunk to the next; the policy's n_action_steps when not given."""
    soft: bool = False
    """With real_time, draw the rest of a chunk, too, towards the chunk before."""
    margin: Annotated[float, AtLeast(0)] = 0.05
    """Actions may exceed the range of training by this share of it; beyond that they are clipped."""
    max_speed: Annotated[float, Above(0)] = 10.0
    """Ranges of training per second by which a number of the action may change; beyond that it is clipped. A gripper
    may go from end to end in a tenth of a second by this, and people move arms at 1 or less: choose less for an arm."""
    far: Annotated[float, AtLeast(0)] = 0.25
    """Share of its range of training by which an observation may lie outside of that."""
    patience: Annotated[float, Between(0.1, 3600)] = 2.0
    """Seconds. The robot is stopped where at more than half of the steps of this time an action came late, was clipped
    or was not there, or an observation lay too far outside."""
    timeout: Annotated[float, Between(0.1, 3600)] = 1.0
    """Seconds, and at least five periods, within which the robot has to answer; else it is stopped. A chunk may take
    so long beyond twice its usual time."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig(Document):
    """How much clients may ask for."""

    most_clients: Annotated[int, Between(1, 10_000)] = 16
    """Connections at a time; further ones are refused."""
    most_per_second: Annotated[float, Between(1, 100_000)] = 500.0
    """Messages of one client; those of a faster one wait."""
    idle_seconds: Annotated[float, Between(0.1, 1e6)] = 600.0
    """A client that sends nothing for so long is disconnected."""
