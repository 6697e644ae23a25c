"""A server in a thread, a policy that is plain to follow, and a client that knows nothing but the protocol."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from tests.conftest import PUSHT_FEATURES
from websockets.sync.client import ClientConnection, connect

from robodiff.deploy.config import ServerConfig
from robodiff.deploy.messages import pack, unpack
from robodiff.deploy.server import PolicyServer, describe
from robodiff.policies.runtime import Chunk, Runtime, Timing

ANSWER_SECONDS = 30
"""How long an answer may take where the machine is busy."""
LIMITS = ServerConfig(most_clients=100, most_per_second=10_000.0, idle_seconds=600.0)


class Plain:
    """Its actions are the oldest and the newest number that is observed, plus the noise; it can be held up."""

    features = PUSHT_FEATURES
    timing = Timing(n_obs_steps=2, n_action_steps=4, spacing=0.1)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        return 1, batch_size, 8, 2

    def predict_chunk(self, observation: Mapping[str, np.ndarray], *, noise: np.ndarray, known: Any = None) -> Chunk:
        self.batches.append(noise.shape[1])
        assert self.free.wait(ANSWER_SECONDS)
        state = observation["observation.state"].repeat(noise.shape[1] // len(observation["observation.state"]), 0)
        if (state == 404).any():
            raise RuntimeError("out of memory")
        actions = np.stack([state[:, :1, 0], state[:, -1:, 0]], axis=-1) + noise[0]  # (B, 8, 2)
        if known is not None:
            actions = actions + known[1] * (known[0] - actions)
        return Chunk(actions, 0, {"observation.state": np.array([[0, 0], [512, 512]], np.float32)})


def seen(number: float) -> dict[str, np.ndarray]:
    """What a client observes at one time step, in float64 as NumPy makes it."""
    return {"observation.state": np.full(2, number), "observation.environment_state": np.zeros(16)}


@contextmanager
def serving(
    policy: Runtime, limits: ServerConfig = LIMITS, token: str | None = None, port: int = 0, **options: Any
) -> Iterator[str]:
    """Serve a policy on a port of this machine, and yield the address."""
    metadata, _ = describe(policy, "runs/plain", **options)
    server = PolicyServer(policy, metadata, limits, token, lambda text: None)
    listens, ports, loops = threading.Event(), [], []

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await server.run("127.0.0.1", port, stop, lambda port: (ports.append(port), listens.set()))

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert listens.wait(ANSWER_SECONDS)
        yield f"ws://127.0.0.1:{ports[0]}"
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(ANSWER_SECONDS)
        assert not thread.is_alive()


@contextmanager
def connected(url: str, **options: Any) -> Iterator[ClientConnection]:
    """Yield a connection, its first message read."""
    with connect(url, compression=None, **options) as connection:
        connection.recv(timeout=ANSWER_SECONDS)
        yield connection


def ask(connection: ClientConnection, message: Mapping[str, Any] | bytes | str) -> dict[str, Any] | str:
    """Send a message; return the answer, or the text that says why there is none."""
    connection.send(message if isinstance(message, bytes | str) else pack(message))
    answer = connection.recv(timeout=ANSWER_SECONDS)
    return answer if isinstance(answer, str) else unpack(answer)


def wait_for(condition: Any) -> None:
    """Return as soon as a condition holds."""
    end = time.monotonic() + ANSWER_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
