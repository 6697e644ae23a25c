"""A page that asks its own server for more: on the loopback address, for whoever has the link, and for nobody else."""

import queue
import re
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from robodiff.errors import UsageError, in_one_line
from robodiff.report.pages import to_json
from robodiff.report.playable import BLOCK, SERVED, Playable
from robodiff.report.recording import page_of

HOST = "127.0.0.1"
_KEPT = 8
"""Answers that are kept for who goes back."""
_SECONDS = 30
"""In which a request must have come whole."""
Answer = tuple[str, str]
"""The type of what is sent, and what."""


class LocalServer(ThreadingHTTPServer):
    """Answers GET requests to ``link`` and below it.

    Each has a thread that reads it and sends; the answers are made one after another, all in the thread that serves: a
    scene can be drawn in the thread alone in which it was drawn first.

    Other pages in the same browser, and other users of the machine, know neither the token in the link nor may they
    ask by another name of this host.
    """

    daemon_threads = True

    def __init__(self, port: int, answer: Callable[[str], Answer | None]) -> None:
        """Listen.

        Args:
            port: to listen on; 0 picks a free one.
            answer: from what follows the link to what is sent; None where there is nothing.

        Raises:
            UsageError: the port is taken, or not allowed.
        """
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {HOST}:{port}: {error.strerror or error}; choose another --port"
            ) from None
        self.answer = answer
        self.asked: queue.SimpleQueue[tuple[str, Future[Answer | None]]] = queue.SimpleQueue()
        """What is to be answered, and where the answer is to be put."""
        self.token = secrets.token_urlsafe(24)
        self.hosts = (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """See ``BaseServer``."""
        listener = threading.Thread(target=super().serve_forever, args=(poll_interval,), daemon=True)
        try:
            listener.start()
            while listener.is_alive():
                with suppress(queue.Empty):
                    path, answered = self.asked.get(timeout=poll_interval)
                    try:
                        answered.set_result(self.answer(path))
                    except Exception as error:  # what files raise that are gone, or an environment that draws
                        answered.set_exception(error)
        finally:
            if listener.is_alive():  # else there is nothing that would end, and be waited for
                self.shutdown()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a browser may go away before its answer is whole."""

    @property
    def link(self) -> str:
        """Where the page is."""
        return f"http://{self.hosts[0]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    timeout = _SECONDS
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, or say why not."""
        _, token, path = [*self.path.split("/", 2), "", ""][:3]
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts or origin not in (None, *(f"http://{host}" for host in self.server.hosts)):
            self._send(HTTPStatus.FORBIDDEN, ("text/plain", "only the page of this server may ask it"))
        elif not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._send(
                HTTPStatus.FORBIDDEN, ("text/plain", "the token in the link is another one: copy the link again")
            )
        else:
            self._send(*self._answer(path))

    def _answer(self, path: str) -> tuple[HTTPStatus, Answer]:
        answered: Future[Answer | None] = Future()
        self.server.asked.put((path, answered))
        try:
            answer = answered.result()
        except Exception as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, ("text/plain", in_one_line(error))
        return (HTTPStatus.OK, answer) if answer else (HTTPStatus.NOT_FOUND, ("text/plain", "not found"))

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        kind, body = answer[0], answer[1].encode()
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the link, which holds the token, is in every request."""


def serve_recording(recording: Playable, port: int) -> LocalServer:
    """Return a server of the page of a recording, and of each of its episodes as the page asks for them.

    Raises:
        UsageError: it cannot listen on the port.
    """
    page = page_of(recording)
    count = len(recording.episodes)

    @lru_cache(maxsize=_KEPT)
    def answer(path: str) -> Answer | None:
        if path == "":
            return "text/html", page
        what, _, number = path.partition("/")
        place = int(number) if re.fullmatch(r"[0-9]{1,9}", number) else count
        if what == "episode" and place < count:
            return "application/json", to_json(recording.episode(place, SERVED))
        if what == "first" and place * BLOCK < count and recording.cameras:
            places = range(place * BLOCK, min((place + 1) * BLOCK, count))
            return "application/json", to_json(recording.firsts(places, "JPEG"))
        return None

    return LocalServer(port, answer)
