"""Options of the real-time loop and of the server."""

from dataclasses import dataclass
from typing import Annotated

from robodiff.deploy.planner import Mode
from robodiff.documents import Above, AtLeast, Between, Document
from robodiff.policies.options import MOST_CHUNKS


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Document):
    """How the loop runs."""

    mode: Mode = "real_time"
    """While a chunk is computed, real_time executes the previous one, and the new one continues it; naive executes the
    previous one, then jumps to the new one; synchronous waits."""
    replan: Annotated[int, AtLeast(1)] | None = None
    """Steps from one request for a chunk to the next; the policy's n_action_steps when not given."""
    best_of: Annotated[int, Between(1, MOST_CHUNKS)] | None = None
    """Chunks that are drawn at once; the one that best continues the previous one is executed. The policy's own number
    when not given."""
    soft: bool = False
    """With real_time, also pull the rest of a chunk towards the previous one."""
    margin: Annotated[float, AtLeast(0)] = 0.05
    """Share of the training range by which an action may exceed it; beyond that it is clipped."""
    max_speed: Annotated[float, Above(0)] = 10.0
    """How fast each dimension of the action may change, in training ranges per second; beyond that it is clipped. The
    default lets a gripper close in a tenth of a second. Teleoperated arms move at 1 or less: choose less for an arm."""
    far: Annotated[float, AtLeast(0)] = 0.25
    """Share of the training range by which an observation may lie outside it before it counts as far outside."""
    patience: Annotated[float, Between(0.1, 3600)] = 2.0
    """Seconds. The robot is stopped if in more than half of the steps of this time an action was late, clipped or
    missing, or an observation far outside the training range."""
    timeout: Annotated[float, Between(0.1, 3600)] = 1.0
    """Seconds, but at least five periods, within which the robot must respond; otherwise it is stopped. A chunk may
    take this long beyond twice its usual time."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig(Document):
    """Limits on clients."""

    most_clients: Annotated[int, Between(1, 10_000)] = 16
    """Concurrent connections; further ones are refused."""
    most_per_second: Annotated[float, Between(1, 100_000)] = 500.0
    """Messages per second from one client; one that sends faster has to wait."""
    idle_seconds: Annotated[float, Between(0.1, 1e6)] = 600.0
    """Seconds of silence after which a client is disconnected."""
