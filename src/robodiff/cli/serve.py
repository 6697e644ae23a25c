"""``robodiff serve``: let a policy act for robots and simulators that ask over the network."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from robodiff.cli.options import ActingOptions, read_options
from robodiff.deploy.config import ServerConfig
from robodiff.documents import Between, NotEmpty
from robodiff.errors import UsageError
from robodiff.text import for_terminal


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ActingOptions, ServerConfig):
    """Let a policy act for robots and simulators that ask over the network: websockets and msgpack, in the protocol of
    openpi, whose clients need no change.

    It ends with Ctrl-C. http://HOST:PORT/healthz tells whether it is there.

    Examples:
      robodiff serve runs/first
      robodiff serve runs/first --host 0.0.0.0 --port 8000
      robodiff serve runs/first --key_map '{"observation/image": "observation.image", "prompt": null}'
    """

    host: str = "127.0.0.1"
    """The address to listen at: 0.0.0.0 is every one of this machine, for which a token is needed."""
    port: Annotated[int, Between(0, 65535)] = 8000
    """0 takes one that is free."""
    token: Annotated[str, NotEmpty()] | None = None
    """What clients need to send, as the header Authorization: Api-Key TOKEN. Other users of this machine see the
    commands that run: the environment variable ROBODIFF_TOKEN says it, too."""
    key_map: dict[str, str | None] | None = None
    """Name that clients use -> name of the policy; null for one that is not read."""
    largest_message: Annotated[int, Between(1024, 2**30)] | None = None
    """Bytes of a client's message; one that sends more is disconnected. When not given: four windows of what the policy
    observes, and 1 MiB at least."""


def run(arguments: list[str]) -> None:
    """Parse, load, serve until stopped."""
    options = read_options(ServeOptions, "serve", arguments)
    token = options.token or os.environ.get("ROBODIFF_TOKEN") or None
    from robodiff.deploy.server import PolicyServer, describe, is_loopback

    if token is None and not is_loopback(options.host):
        advice = "set ROBODIFF_TOKEN to a long random text, here and for the clients, or listen at 127.0.0.1"
        raise UsageError(f"--host {options.host}: others can reach it, so a token is needed; {advice}")
    policy = options.open_runtime()
    metadata, seconds = describe(policy, options.policy, options.largest_message, options.key_map)

    def listening(port: int) -> None:
        host = f"[{options.host}]" if ":" in options.host else options.host
        tell(f"{options.policy}: serving at ws://{host}:{port}, {1e3 * seconds:.0f} ms a chunk; Ctrl-C ends it")

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # on Windows, where Ctrl-C raises KeyboardInterrupt
                loop.add_signal_handler(number, stop.set)
        server = PolicyServer(policy, metadata, options, token, tell)
        await server.run(options.host, options.port, stop, listening)

    try:
        asyncio.run(serve())
    except OSError as error:
        raise UsageError(f"cannot listen at {options.host}:{options.port}: {error.strerror or error}") from None
    tell("stopped")


def tell(text: str) -> None:
    """Print a line at once; where nobody reads it any more, the policy still acts."""
    try:
        print(for_terminal(text), flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
