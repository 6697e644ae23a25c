"""The page and its socket: on one port of this machine, for those who know the token alone."""

import asyncio
import hmac
import json
import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from robodiff.errors import RobodiffError
from robodiff.play.live import LONGEST_NOTE, Live
from robodiff.play.messages import LARGEST, read_message
from robodiff.play.stage import Stage
from robodiff.report.pages import fill, to_json
from robodiff.text import shortened

HOST = "127.0.0.1"
MOST_CLIENTS = 8
MOST_WAITING = 256
"""Messages of a client that may wait; more are not read until these are handled."""
CLOSE_SECONDS = 2.0
LONGEST_TITLE = 200
SOCKET = "socket"
"""Where the socket is, below the token."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Viewer:
    """What one client is to be sent: the latest state and picture; what came before they could be sent is left out."""

    def __init__(self) -> None:
        self._state: str | None = None
        self._picture: bytes | None = None
        self._changed = asyncio.Event()

    def put(self, state: str, picture: bytes | None) -> None:
        """Have a state sent, and a picture where there is a new one."""
        self._state, self._picture = state, picture or self._picture
        self._changed.set()

    async def get(self) -> list[str | bytes]:
        """Return what is to be sent next: the picture before its state."""
        await self._changed.wait()
        self._changed.clear()
        ready = [each for each in (self._picture, self._state) if each is not None]
        self._state = self._picture = None
        return ready


class PlayServer:
    """Serve one stage to the browser of the person who has the link.

    Args:
        open_stage: makes the stage, in its own thread, and closes it.
        title: of the page.
        token: part of the link; a new one when not given.
    """

    def __init__(
        self, open_stage: Callable[[], AbstractContextManager[Stage]], title: str, token: str | None = None
    ) -> None:
        self._open, self._title = open_stage, shortened(title, LONGEST_TITLE)
        self.token = token or secrets.token_urlsafe(24)
        self._viewers: dict[ServerConnection, Viewer] = {}

    async def run(self, port: int, stop: asyncio.Event, listening: Callable[[str], None]) -> None:
        """Serve until ``stop`` is set.

        Args:
            port: 0 picks a free one.
            stop: set by the caller.
            listening: called with the page's address as soon as it can be opened.

        Raises:
            OSError: the port is taken.
            RobodiffError: the environment or the policy cannot be opened, or failed.
        """
        loop, failures = asyncio.get_running_loop(), list[Exception]()

        def publish(state: dict[str, Any], picture: bytes | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._publish, to_json(state), picture)

        def failed(error: Exception) -> None:
            failures.append(error)
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

        self._live = Live(self._open, publish, failed)
        self._live.start()
        try:
            await loop.run_in_executor(None, self._live.opened.wait)
            if not failures:
                await self._serve(port, stop, listening)
        finally:
            await loop.run_in_executor(None, self._live.close)
        if failures:
            raise failures[0]

    async def _serve(self, port: int, stop: asyncio.Event, listening: Callable[[str], None]) -> None:
        quiet = logging.Logger("robodiff.play", logging.CRITICAL + 1)  # websockets logs a traceback for each port scan
        options: dict[str, Any] = {
            "process_request": self._answer,
            "compression": None,
            "max_size": LARGEST,
            "max_queue": MOST_WAITING,
            "close_timeout": CLOSE_SECONDS,
            "logger": quiet,
        }
        async with serve(self._attend, HOST, port, **options) as server:
            self._port = next(iter(server.sockets)).getsockname()[1]
            listening(f"http://{HOST}:{self._port}/{self.token}/")
            await stop.wait()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the HTTP response to a request; None to accept a socket.

        A page of another origin cannot read the token; the checks of Host and Origin hold even if it leaks.
        """
        hosts = {f"{name}:{self._port}" for name in (HOST, "localhost")}
        if not {*request.headers.get_all("Host")} <= hosts:
            return connection.respond(HTTPStatus.FORBIDDEN, "this server is reached at 127.0.0.1 alone\n")
        if not {*request.headers.get_all("Origin")} <= {f"http://{host}" for host in hosts}:
            return connection.respond(HTTPStatus.FORBIDDEN, "pages of other origins are not served\n")
        token, _, rest = request.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="surrogateescape"), self.token.encode()):
            return connection.respond(HTTPStatus.FORBIDDEN, "open the link that robodiff play prints\n")
        if rest == SOCKET:
            if len(self._viewers) >= MOST_CLIENTS:
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open\n")
            return None
        if rest:
            return connection.respond(HTTPStatus.NOT_FOUND, "there is nothing here\n")
        body = fill("play.html", title=self._title, about=self._live.about).encode()
        headers = Headers({**_HEADERS, "Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body))})
        return Response(HTTPStatus.OK.value, HTTPStatus.OK.phrase, headers, body)

    def _publish(self, state: str, picture: bytes | None) -> None:
        for viewer in self._viewers.values():
            viewer.put(state, picture)

    async def _attend(self, connection: ServerConnection) -> None:
        """Send one client what changes, and post what it sends, until it leaves."""
        viewer = self._viewers[connection] = Viewer()
        self._watch()
        sending = asyncio.create_task(self._send(connection, viewer))
        try:
            async for text in connection:
                try:
                    self._live.post(read_message(text))
                except RobodiffError as error:
                    await connection.send(json.dumps({"kind": "refused", "note": shortened(str(error), LONGEST_NOTE)}))
        except ConnectionClosed:
            pass
        finally:
            del self._viewers[connection]
            self._watch()
            sending.cancel()

    async def _send(self, connection: ServerConnection, viewer: Viewer) -> None:
        with suppress(ConnectionClosed):
            while True:
                for each in await viewer.get():
                    await connection.send(each)

    def _watch(self) -> None:
        """Tell the stage whether anybody watches."""
        self._live.watch(bool(self._viewers))
