"""A policy that acts on another machine: what ``robodiff serve`` serves, as a ``Runtime``. Needs no torch."""

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
"""How long the server may take to agree that the connection is closed."""


class RemotePolicy:
    """A served policy, which a ``PolicyRunner`` on the robot asks like one of its own.

    The server keeps nothing of it: the history and the noise are the runner's. So a connection that was lost is made
    anew, once a chunk, and the chunk is asked for again.

    Args:
        url: ``ws://host:port``, or ``wss://`` where something encrypts in front of the server.
        token: of the server.
        timeout: seconds that connecting, or a chunk, may take in all.

    Raises:
        RobodiffError: the server is away, refuses, takes too long, or is another program.
        UsageError: that is no address.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        self.url, self.timeout = url, timeout
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        self._lock, self._opened = Lock(), ExitStack()
        self._connection: ClientConnection | None = None
        self.metadata = self._in_time(self._connect)
        """What the server says of its policy."""

    @property
    def features(self) -> Mapping[str, Feature]:
        """What each key holds: the observations, and ``action``."""
        return self.metadata.features

    @property
    def timing(self) -> Timing:
        """When the policy observes and acts."""
        return self.metadata.timing

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape of the noise that chunks are made of, (draws, B, ...)."""
        draws, _, *rest = self.metadata.noise_shape
        return draws, batch_size, *rest

    def predict_chunk(self, observation: Arrays, *, noise: np.ndarray, known: Known | None = None) -> Chunk:
        """Return the actions that follow from an observation; see ``Runtime``.

        Raises:
            RobodiffError: the server is away or refuses, no answer came in time, or another policy is served now.
        """
        given = {} if known is None else {"known": known[0], "known_weights": known[1]}
        message = pack({**observation, "noise": noise, **given})
        if len(message) > (largest := self.metadata.largest_message):
            asked = f"{noise.shape[1]} windows of observations are {len(message)} bytes"
            raise RobodiffError(
                f"{self.url}: {asked}, the server reads {largest}; start it with --largest_message {len(message)}"
            )
        with self._lock:
            reply = self._in_time(partial(self._exchange, message))
        if isinstance(reply, str):
            raise RobodiffError(f"{self.url}: {reply}")
        values = unpack(reply)
        actions, first_step = values.get("actions"), values.get("first_step")
        if not isinstance(actions, np.ndarray) or actions.ndim != 3 or not isinstance(first_step, int):
            raise RobodiffError(f"{self.url}: the answer holds no chunk; is the server of this version of robodiff?")
        ranges = {key: np.array(range_, np.float32) for key, range_ in self.metadata.ranges.items()}
        return Chunk(np.array(actions), first_step, ranges)

    def close(self) -> None:
        """End the connection; the next chunk makes another."""
        self._connection = None
        self._opened.close()

    def _in_time(self, work: Callable[[float], T]) -> T:
        """Return what work returns that is given a deadline; it is done again if the connection is lost."""
        deadline = time.monotonic() + self.timeout
        for is_last in (False, True):
            try:
                return work(deadline)
            except TimeoutError:
                self.close()  # an answer that comes late is no answer to the next question
                raise RobodiffError(f"{self.url}: no answer within {self.timeout:g} seconds") from None
            except InvalidURI:
                raise UsageError(f"{self.url}: expected the address of a server, such as ws://127.0.0.1:8000") from None
            except (OSError, WebSocketException) as error:
                self.close()
                if is_last or isinstance(error, InvalidStatus):
                    raise RobodiffError(f"{self.url}: {_in_words(error)}") from None
            except BaseException:  # Ctrl-C, too, leaves a question without its answer
                self.close()
                raise
        raise AssertionError  # the last try returns or raises

    def _connect(self, deadline: float) -> Metadata:
        """Connect, and return what the server says of its policy."""
        left = max(deadline - time.monotonic(), 0.0)
        options = {"open_timeout": left, "close_timeout": CLOSE_SECONDS, "max_size": LARGEST_REPLY}
        connecting = connect(self.url, additional_headers=self._headers, compression=None, **options)
        connection = self._opened.enter_context(connecting)
        with suppress(OSError):  # closed again already: receiving tells why
            connection.socket.settimeout(self.timeout)  # sending waits no longer, either
        message = connection.recv(timeout=max(deadline - time.monotonic(), 0.0))
        try:
            metadata = msgspec.msgpack.decode(message, type=Metadata)
        except (ValueError, TypeError, UsageError) as error:
            raise RobodiffError(f"{self.url}: is no server of robodiff: {first_line(error)}") from None
        self._connection = connection
        return metadata

    def _exchange(self, message: bytes, deadline: float) -> bytes | str:
        if self._connection is None and self._connect(deadline) != self.metadata:
            raise RobodiffError(f"{self.url}: another policy is served there now; connect anew")
        assert self._connection is not None
        self._connection.send(message)
        return self._connection.recv(timeout=max(deadline - time.monotonic(), 0.0))


def _in_words(error: Exception) -> str:
    """Tell why there is no connection."""
    if isinstance(error, InvalidStatus):
        body = error.response.body.decode(errors="replace").strip()
        advice = "; set ROBODIFF_TOKEN to the server's token" if error.response.status_code == 401 else ""
        return f"the server refuses with {error.response.status_code}: {body[:200]}{advice}"
    if isinstance(error, ConnectionClosed):
        reason = error.rcvd.reason if error.rcvd is not None else ""
        return f"the connection was lost twice{f': {reason}' if reason else ''}"
    return f"no server answers there: {first_line(error)}"
