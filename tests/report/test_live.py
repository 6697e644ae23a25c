"""The server of a recording's page: every episode for who has the link, nothing for others."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from tests.report.test_playable import filmed

from robodiff.errors import UsageError
from robodiff.report.live import LocalServer, serve_recording
from robodiff.report.recording import playable

Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serve_recording(playable(filmed(70, 140, 1), []), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(server: LocalServer) -> Ask:
    """Ask for a path below the link, or for a whole one that begins with a slash, with other headers."""

    def ask(path: str = "", method: str = "GET", **headers: str) -> tuple[int, bytes]:
        link = urlsplit(server.link)
        connection = http.client.HTTPConnection(link.hostname or "", link.port)
        connection.request(method, path if path.startswith("/") else link.path + path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    return ask


def test_every_episode_and_first_frame(ask: Ask) -> None:
    status, page = ask()
    assert status == 200
    assert b"robodiff data view --serve" not in page
    assert b'"served":true' in page
    for place in (0, 69):
        status, body = ask(f"episode/{place}")
        assert status == 200
        assert json.loads(body)["length"] == 2
    assert [json.loads(ask(f"first/{block}")[1])["places"] for block in (0, 1)] == [[*range(60)], [*range(60, 70)]]


@pytest.mark.parametrize(
    "path", ["episode/70", "episode/-1", "episode/x", "episode/1/2", "first/2", "nothing", "../../etc/passwd"]
)
def test_what_is_not_there(ask: Ask, path: str) -> None:
    assert ask(path) == (404, b"not found")


def test_what_goes_wrong_is_said_in_a_line() -> None:
    def broken(path: str) -> None:
        raise OSError("the disk is gone")

    with LocalServer(0, broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(HTTPError, match="500") as error:
            urlopen(server.link)
        assert b"the disk is gone" in error.value.read()
        server.shutdown()


def test_answers_are_made_in_the_thread_that_serves() -> None:
    def answer(path: str) -> tuple[str, str]:
        return "text/plain", threading.current_thread().name

    with LocalServer(0, answer) as server:
        threading.Thread(target=server.serve_forever, name="painter", daemon=True).start()
        assert [urlopen(server.link).read() for _ in range(3)] == [b"painter"] * 3
        server.shutdown()


@pytest.mark.parametrize("path", ["/", "/x/", "/x/episode/0", "//", "/%00/"])
def test_wrong_tokens(ask: Ask, path: str) -> None:
    status, body = ask(path)
    assert (status, b"token" in body) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "127.0.0.1"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
def test_other_pages_and_names_of_this_host(ask: Ask, headers: dict[str, str]) -> None:
    assert ask(**headers) == (403, b"only the page of this server may ask it")


def test_its_own_page_may_ask(ask: Ask, server: LocalServer) -> None:
    for host in server.hosts:
        assert ask("episode/0", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_is_read_only(ask: Ask, method: str) -> None:
    assert ask(method=method)[0] == 501


def test_a_port_that_is_taken(server: LocalServer) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 127.0.0.1:\d+: .*; choose another --port"):
        LocalServer(server.server_port, lambda path: None)


@pytest.mark.slow
def test_the_command(recording: Path) -> None:
    command = [sys.executable, "-m", "robodiff", "data", "view", str(recording), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("stopped\n")  # what is being printed meanwhile may come twice
    assert process.returncode == 0
    assert lines[0].startswith(f"{recording}: http://127.0.0.1:")
    assert lines[1] == "Ctrl-C ends it\n"
