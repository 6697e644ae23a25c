"""``robodiff serve``: serve a policy to robots and simulators over the network."""

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
    """Serve a policy to robots and simulators over the network: websockets and msgpack, in openpi's protocol; its
    clients work unchanged.

    Ctrl-C stops it. http://HOST:PORT/healthz answers OK while it runs.

    Examples:
      robodiff serve runs/first
      robodiff serve runs/first --host 0.0.0.0 --port 8000
      robodiff serve runs/first --key_map '{"observation/image": "observation.image", "prompt": null}'
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every address of this machine. Any but the loopback address needs a token."""
    port: Annotated[int, Between(0, 65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    token: Annotated[str, NotEmpty()] | None = None
    """Token that clients must send in the header Authorization: Api-Key TOKEN. Other users of this machine can read
    command lines, so prefer the environment variable ROBODIFF_TOKEN."""
    key_map: dict[str, str | None] | None = None
    """Client's name -> policy's name; null for a name that the policy does not use."""
    largest_message: Annotated[int, Between(1024, 2**30)] | None = None
    """Bytes of a client's message; a client that sends a larger one is disconnected. When not given: four windows of
    observations, but at least 1 MiB."""


def run(arguments: list[str]) -> None:
    """Parse, load, serve until stopped."""
    options = read_options(ServeOptions, "serve", arguments)
    token = options.token or os.environ.get("ROBODIFF_TOKEN") or None
    from robodiff.deploy.server import PolicyServer, describe, is_loopback

    if token is None and not is_loopback(options.host):
        advice = "set ROBODIFF_TOKEN to a long random text, here and for the clients, or listen on 127.0.0.1"
        raise UsageError(f"--host {options.host}: others can reach it, so a token is needed; {advice}")
    policy = options.open_runtime()
    metadata, seconds = describe(policy, options.policy, options.largest_message, options.key_map)

    def listening(port: int) -> None:
        host = f"[{options.host}]" if ":" in options.host else options.host
        tell(f"{options.policy}: serving at ws://{host}:{port}, {1e3 * seconds:.0f} ms per chunk; Ctrl-C stops it")

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
        raise UsageError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None
    tell("stopped")


def tell(text: str) -> None:
    """Print a line at once; when nobody reads it any more, keep serving."""
    try:
        print(for_terminal(text), flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
