"""Serve a policy over websockets, in openpi's protocol.

A client that connects is sent ``Metadata``; then each message gets one answer, see ``Session.ask``. One thread
computes; requests that arrive in the meantime are batched. An invalid message is answered with a text that says what is
wrong, which openpi's clients raise.
"""

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from robodiff import __version__
from robodiff.data.episodes import ACTION
from robodiff.deploy.batching import Batcher, predict
from robodiff.deploy.config import ServerConfig
from robodiff.deploy.messages import Metadata, pack, unpack
from robodiff.deploy.session import OTHER_NAMES, Question, Session
from robodiff.errors import RobodiffError, UsageError, in_one_line, nearest
from robodiff.policies.runtime import Runtime, Timing, blank_window
from robodiff.text import listed

WINDOWS_A_MESSAGE, LEAST_MESSAGE = 4, 2**20
"""The default limit of a message, in windows, and its minimum in bytes."""
PING_SECONDS = 20.0
"""Interval between pings, and how long an answer may take."""
CLOSE_SECONDS = 2.0
"""How long to wait for the client's side of the closing handshake."""
HEALTH = "/healthz"


class PolicyServer:
    """Serve a policy until told to stop.

    Args:
        policy: to serve.
        metadata: its description, from ``describe``.
        config: limits on clients.
        token: that clients must send; None for no token.
        say: called with a line of text when a client connects or leaves.
    """

    def __init__(
        self,
        policy: Runtime,
        metadata: Metadata,
        config: ServerConfig,
        token: str | None,
        say: Callable[[str], None],
    ) -> None:
        self._policy, self._metadata, self._say = policy, metadata, say
        self._config, self._token = config, token
        self._server: Server | None = None

    async def run(self, host: str, port: int, stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        """Listen until ``stop`` is set.

        Args:
            host: the address to listen on.
            port: 0 picks a free one.
            stop: set by the caller.
            listening: called with the port as soon as clients can connect.

        Raises:
            OSError: the server cannot listen on the address.
        """
        self._batcher = Batcher(self._policy)
        computing = asyncio.create_task(self._batcher.run())
        computing.add_done_callback(lambda _: stop.set())
        quiet = logging.Logger("robodiff.serve", logging.CRITICAL + 1)  # websockets logs a traceback for each port scan
        options = {
            "process_request": self._refusal,
            "compression": None,  # images and noise do not compress
            "max_size": self._metadata.largest_message,
            "max_queue": 1,  # a client waits for its answer before it asks again
            "ping_interval": PING_SECONDS,
            "ping_timeout": PING_SECONDS,
            "close_timeout": CLOSE_SECONDS,
            "logger": quiet,
        }
        try:
            async with serve(self._attend, host, port, **options) as self._server:
                listening(next(iter(self._server.sockets)).getsockname()[1])
                await stop.wait()
        finally:
            computing.cancel()
            with suppress(asyncio.CancelledError):
                await computing

    def _refusal(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the HTTP response to a request; None to accept the connection."""
        if request.path == HEALTH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not all(is_loopback(urlsplit(origin).hostname or "") for origin in request.headers.get_all("Origin")):
            return connection.respond(HTTPStatus.FORBIDDEN, "pages of other hosts are not served\n")
        if self._token is not None:
            expected, found = f"Api-Key {self._token}", "".join(request.headers.get_all("Authorization"))
            if not hmac.compare_digest(expected.encode(), found.encode(errors="surrogateescape")):
                return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Api-Key TOKEN\n")
        if self._server is not None and len(self._server.connections) >= self._config.most_clients:
            text = f"the server has its maximum of {self._config.most_clients} clients\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None

    async def _attend(self, connection: ServerConnection) -> None:
        """Answer one client until it leaves."""
        client = ":".join(map(str, (connection.remote_address or ["a client"])[:2]))
        session = Session(self._policy, self._metadata.timing, self._metadata.key_map)
        self._say(f"{client} connected")
        try:
            await connection.send(pack(self._metadata))
            while True:
                try:
                    async with asyncio.timeout(self._config.idle_seconds):
                        message = await connection.recv()
                except TimeoutError:
                    await connection.close(reason=f"nothing was sent for {self._config.idle_seconds:g} seconds")
                    break
                arrived = time.perf_counter()
                await connection.send(await self._answer(session, message, arrived))
                await asyncio.sleep(arrived + 1 / self._config.most_per_second - time.perf_counter())
        except ConnectionClosed:
            pass
        finally:
            self._say(f"{client} left")

    async def _answer(self, session: Session, message: bytes | str, arrived: float) -> bytes | str:
        """Return the answer to a message; text that says why if there is none."""
        try:
            if isinstance(message, str):
                raise RobodiffError("expected msgpack in a binary message; found text")
            question = session.ask(unpack(message), arrived)
            if isinstance(question, int):
                return pack(self._reply({"infer_ms": 1e3 * (time.perf_counter() - arrived)}, question))
            chunk, rows, waited, computed = await self._batcher.ask(question)
            timing = {"infer_ms": 1e3 * (time.perf_counter() - arrived), "wait_ms": 1e3 * waited, "batch": rows}
            reply = self._reply(timing, question.seen) | {"policy_timing": {"infer_ms": 1e3 * computed}}
            if question.seen is None:
                return pack(reply | {"actions": chunk.actions, "first_step": chunk.first_step})
            actions = chunk.actions[0, self._metadata.timing.n_obs_steps - 1 - chunk.first_step :]  # (n, Da)
            if not np.isfinite(actions).all():
                raise RobodiffError("the policy's actions are not finite, though its observations were")
            return pack(reply | {"actions": actions})
        except RobodiffError as error:
            return str(error)
        except Exception as error:  # a bug of ours must not stop the server for others
            self._say(f"error: {in_one_line(error)}")
            return f"the server failed: {in_one_line(error)}"

    def _reply(self, timing: Mapping[str, float], seen: int | None) -> dict[str, object]:
        wanted = self._metadata.timing.n_obs_steps
        history = {} if seen is None else {"history": {"seen": seen, "wanted": wanted}}
        return {"server_timing": timing, **history}


def describe(
    policy: Runtime,
    name: str,
    largest_message: int | None = None,
    key_map: Mapping[str, str | None] | None = None,
) -> tuple[Metadata, float]:
    """Return a policy's metadata, and the seconds that a chunk takes after a first one to warm up.

    Args:
        policy: with its ``timing``; it is asked for two chunks.
        name: of the policy.
        largest_message: in bytes; enough for ``WINDOWS_A_MESSAGE`` windows with their noise when None.
        key_map: clients' names -> the policy's names; None for names that the policy does not use.

    Raises:
        RobodiffError: the policy fails.
        UsageError: the key map names a key that the policy does not have.
    """
    known = [*policy.features.keys() - {ACTION}, *OTHER_NAMES]
    for own in (key_map or {}).values():
        if own is not None and own not in known:
            raise UsageError(
                f"--key_map: the policy has no {own!r}; expected one of {listed(known)}.{nearest(own, known)}"
            )
    timing: Timing = policy.timing  # pyright: ignore[reportAttributeAccessIssue]
    shape, window = policy.noise_shape(1), blank_window(policy.features, timing)
    questions = [Question(window, np.zeros(shape, np.float32))]
    predict(policy, questions)
    start = time.perf_counter()
    (chunk,) = predict(policy, questions)
    seconds = time.perf_counter() - start
    if isinstance(chunk, RobodiffError):
        raise chunk
    if largest_message is None:
        size = sum(array.nbytes for array in window.values()) + 4 * (math.prod(shape) + 2 * chunk.actions.size)
        largest_message = max(LEAST_MESSAGE, WINDOWS_A_MESSAGE * size)
    ranges = {key: np.asarray(value, np.float64).tolist() for key, value in chunk.ranges.items()}
    metadata = Metadata(
        robodiff=__version__,
        policy=name,
        policy_hash=getattr(policy, "policy_hash", None),
        features=dict(policy.features),
        timing=timing,
        noise_shape=shape,
        ranges=ranges,
        largest_message=largest_message,
        key_map=dict(key_map or {}),
    )
    return metadata, seconds


def is_loopback(host: str) -> bool:
    """Tell whether a host is the loopback interface."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
