"""What tests of ``robodiff play`` share: a stage on a server of this process, and a client that is no browser."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from robodiff.cli.play import PlayOptions, _stage
from robodiff.play.server import PlayServer
from robodiff.play.stage import Stage

SECONDS = 20.0


def opened(**options: Any) -> Callable[[], AbstractContextManager[Stage]]:
    """Return what opens the stage of ``robodiff play`` with these options."""
    asked = PlayOptions(**{name: str(value) if isinstance(value, Path) else value for name, value in options.items()})
    return lambda: _stage(asked)


@contextmanager
def playing(open_stage: Callable[[], AbstractContextManager[Stage]], title: str = "play") -> Iterator[str]:
    """Serve a stage; yield the link."""
    links, failures, ready = list[str](), list[BaseException](), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def listening(link: str) -> None:
        links.append(link)
        ready.set()

    def serve() -> None:
        try:
            loop.run_until_complete(PlayServer(open_stage, title).run(0, stop, listening))
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(SECONDS)
        if links:
            yield links[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SECONDS)
        loop.close()
    if failures:
        raise failures[0]


class Client:
    """A page without a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.state = self.next()

    def next(self) -> dict[str, Any]:
        """Return the next thing that the server says."""
        while isinstance(text := self._connection.recv(timeout=SECONDS), bytes):
            pass
        return json.loads(text)

    def do(self, what: str, **values: Any) -> dict[str, Any]:
        """Say something; return the answer."""
        self._connection.send(json.dumps({"do": what, **values}))
        self.state = self.next()
        return self.state


@contextmanager
def client(link: str) -> Iterator[Client]:
    """Open the socket of a link."""
    with connect(link.replace("http://", "ws://") + "socket") as connection:
        yield Client(connection)
