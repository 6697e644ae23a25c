"""A policy on another machine, behind ``robodiff serve``, as a ``Runtime``. Needs no torch."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from threading import Lock
from typing import TypeVar

import msgspec
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from robodiff.data.episodes import Feature
from robodiff.deploy.messages import Metadata, pack, unpack
from robodiff.errors import RobodiffError, UsageError, first_line
from robodiff.policies.runtime import Arrays, Chunk, Known, Timing

T = TypeVar("T")
LARGEST_REPLY = 2**28
"""Bytes."""
CLOSE_SECONDS = 0.5
"""How long to wait for the server's side of the closing handshake."""


class RemotePolicy:
    """A served policy, which a ``PolicyRunner`` on the robot uses like a local one.

    The server keeps no state: the runner has the history and the noise. If the connection is lost, it therefore
    reconnects once per chunk, and asks for the chunk again.

    Args:
        url: ``ws://host:port``, or ``wss://`` with a TLS proxy in front of the server.
        token: the server's token.
        timeout: seconds that connecting, or a chunk, may take in total.

    Raises:
        RobodiffError: the server is unreachable, refuses, takes too long, or is another program.
        UsageError: the URL is not a server's address.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        self.url, self.timeout = url, timeout
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        self._lock, self._opened = Lock(), ExitStack()
        self._connection: ClientConnection | None = None
        self.metadata = self._in_time(self._connect)
        """The server's description of its policy."""

    @property
    def features(self) -> Mapping[str, Feature]:
        """What each key holds: the observations, and ``action``."""
        return self.metadata.features

    @property
    def timing(self) -> Timing:
        """When the policy observes and acts."""
        return self.metadata.timing

    @property
    def policy_hash(self) -> str | None:
        """The server's policy; None where it does not say it."""
        return self.metadata.policy_hash

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape of the noise of chunks, (draws, B, ...)."""
        draws, _, *rest = self.metadata.noise_shape
        return draws, batch_size, *rest

    def predict_chunk(self, observation: Arrays, *, noise: np.ndarray, known: Known | None = None) -> Chunk:
        """Return the actions that follow from an observation; see ``Runtime``.

        Raises:
            RobodiffError: the server is unreachable or refuses, no answer came in time, or it serves another policy.
        """
        given = {} if known is None else {"known": known[0], "known_weights": known[1]}
        message = pack({**observation, "noise": noise, **given})
        if len(message) > (largest := self.metadata.largest_message):
            asked = f"{noise.shape[1]} windows of observations are {len(message)} bytes"
            raise RobodiffError(
                f"{self.url}: {asked}; the server accepts {largest}; start it with --largest_message {len(message)}"
            )
        with self._lock:
            reply = self._in_time(partial(self._exchange, message))
        if isinstance(reply, str):
            raise RobodiffError(f"{self.url}: {reply}")
        values = unpack(reply)
        actions, first_step = values.get("actions"), values.get("first_step")
        if not isinstance(actions, np.ndarray) or actions.ndim != 3 or not isinstance(first_step, int):
            raise RobodiffError(f"{self.url}: the answer holds no chunk; does the server run this version of robodiff?")
        ranges = {key: np.array(range_, np.float32) for key, range_ in self.metadata.ranges.items()}
        return Chunk(np.array(actions), first_step, ranges)

    def close(self) -> None:
        """Close the connection; the next chunk opens another."""
        self._connection = None
        self._opened.close()

    def _in_time(self, work: Callable[[float], T]) -> T:
        """Return the result of ``work(deadline)``; try once more if the connection is lost."""
        deadline = time.monotonic() + self.timeout
        for is_last in (False, True):
            try:
                return work(deadline)
            except TimeoutError:
                self.close()  # a late answer must not be taken for the next one
                raise RobodiffError(f"{self.url}: no answer within {self.timeout:g} seconds") from None
            except InvalidURI:
                raise UsageError(f"{self.url}: expected the address of a server, such as ws://127.0.0.1:8000") from None
            except (OSError, WebSocketException) as error:
                self.close()
                if is_last or isinstance(error, InvalidStatus):
                    raise RobodiffError(f"{self.url}: {_in_words(error)}") from None
            except BaseException:  # such as Ctrl-C, which leaves a question unanswered
                self.close()
                raise
        raise AssertionError  # the last try returns or raises

    def _connect(self, deadline: float) -> Metadata:
        """Connect, and return the server's description of its policy."""
        left = max(deadline - time.monotonic(), 0.0)
        options = {"open_timeout": left, "close_timeout": CLOSE_SECONDS, "max_size": LARGEST_REPLY}
        connecting = connect(self.url, additional_headers=self._headers, compression=None, **options)
        connection = self._opened.enter_context(connecting)
        with suppress(OSError):  # already closed again: recv says why
            connection.socket.settimeout(self.timeout)  # for sending, too
        message = connection.recv(timeout=max(deadline - time.monotonic(), 0.0))
        try:
            metadata = msgspec.msgpack.decode(message, type=Metadata)
        except (ValueError, TypeError, UsageError) as error:
            raise RobodiffError(f"{self.url}: is not a robodiff server: {first_line(error)}") from None
        self._connection = connection
        return metadata

    def _exchange(self, message: bytes, deadline: float) -> bytes | str:
        if self._connection is None and self._connect(deadline) != self.metadata:
            raise RobodiffError(f"{self.url}: another policy is served there now; start again")
        assert self._connection is not None
        self._connection.send(message)
        return self._connection.recv(timeout=max(deadline - time.monotonic(), 0.0))


def _in_words(error: Exception) -> str:
    """Return why there is no connection."""
    if isinstance(error, InvalidStatus):
        body = error.response.body.decode(errors="replace").strip()
        advice = "; set ROBODIFF_TOKEN to the server's token" if error.response.status_code == 401 else ""
        return f"the server refuses with {error.response.status_code}: {body[:200]}{advice}"
    if isinstance(error, ConnectionClosed):
        reason = error.rcvd.reason if error.rcvd is not None else ""
        return f"the connection was lost twice{f': {reason}' if reason else ''}"
    return f"no server answers there: {first_line(error)}"
