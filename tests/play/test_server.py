"""The server of ``robodiff play``: who is let in, what junk does, and that nothing that was kept is lost."""

import json
import time
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.conftest import use_env
from tests.play.playing import SECONDS, Client, client, opened, playing
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from robodiff.data.recordings import open_path
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.touch import Body
from robodiff.errors import RobodiffError
from robodiff.play.messages import LARGEST


def get(link: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Return status, body and headers of a page."""
    parts = urlsplit(link)
    connection = HTTPConnection(parts.netloc, timeout=SECONDS)
    connection.request("GET", parts.path or "/", headers={"Host": parts.netloc, **headers})
    response = connection.getresponse()
    return response.status, response.read().decode(), dict(response.getheaders())


def refused(link: str, **options: object) -> int:
    """Return the status with which a socket is refused."""
    with pytest.raises(InvalidStatus) as error, connect(link.replace("http", "ws") + "socket", **options):
        pass
    return error.value.response.status_code


def test_only_who_has_the_token_and_comes_from_the_page_is_let_in() -> None:
    with playing(opened(env="pusht")) as link:
        parts = urlsplit(link)
        own, wrong = f"http://{parts.netloc}", f"http://{parts.netloc}/{'x' * 32}/"
        status, page, headers = get(link)
        assert status == 200
        assert "Content-Security-Policy" in page
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
        assert get(link, Origin=own)[0] == 200
        assert get(link, Host=f"localhost:{parts.port}")[0] == 200
        assert get(link + "other")[0] == 404
        for asked in (own, own + "/", wrong, link[:-2] + "/", own + "/%ff/"):
            assert get(asked)[0] == 403
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": f"evil.example:{parts.port}"}):
            assert get(link, **headers)[0] == 403
        for origin in ("http://evil.example", "null", f"https://{parts.netloc}", "http://127.0.0.1:1"):
            assert refused(link, origin=origin) == 403
        assert refused(wrong) == 403
        assert refused(link, additional_headers={"Host": "evil.example"}) == 403
        with client(link) as page, connect(link.replace("http", "ws") + "socket", origin=own) as other:  # type: ignore[arg-type]
            assert page.state["phase"] == json.loads(other.recv(timeout=SECONDS))["phase"] == "ready"


@pytest.mark.parametrize(
    "junk",
    ["", "no json", "[1]", "3", "null", '"x"', '{"do": 3}', '{"x": 1}', '{"do": "run"}', '{"do": "hand", "x": "a"}',
     '{"do": "hand", "x": 1e999, "y": 0}', '{"do": "hand", "x": NaN, "y": 0}', '{"do": "hand", "z": 1}', "[" * 2000,
     '{"do": "reset", "seed": -1}', '{"do": "speed", "speed": 0}', '{"do": "_unkeepable"}', b"\x00\xff"],
)  # fmt: skip
def test_junk_is_refused_and_nothing_happens(server: str, junk: str | bytes) -> None:
    with connect(server.replace("http", "ws") + "socket") as connection:
        before = Client(connection).state
        connection.send(junk)
        while (answer := json.loads(connection.recv(timeout=SECONDS)))["kind"] != "refused":
            assert answer == before  # the state may be told once more
        assert 0 < len(answer["note"]) <= 500
        connection.send('{"do": "speed", "speed": 1}')
        assert json.loads(connection.recv(timeout=SECONDS)) == before


@pytest.fixture(scope="module")
def server():
    with playing(opened(env="pusht")) as link:
        yield link


def test_what_cannot_be_done_now_is_told_and_nothing_happens(server: str) -> None:
    with client(server) as page:
        for what, values, told in (
            ("keep", {}, "nothing is recorded"),
            ("end", {}, "no episode is under way"),
            ("give", {}, "nobody else acts"),
            ("sampling", {"steps": 3}, "there is no policy"),
            ("agent", {"agent": 1}, "has 1 agent"),
            ("grab", {}, "expected x and y"),
        ):
            state = page.do(what, **values)
            while told not in state["note"]:  # that the page before has gone may be told first
                state = page.next()
            assert (state["phase"], state["step"]) == ("ready", 0)


def test_a_message_that_is_too_large_ends_its_connection_alone(server: str) -> None:
    with client(server) as page:
        with client(server) as other:
            other._connection.send('{"do": "pause", "x": ' + "1" * LARGEST + "}")
            with pytest.raises(ConnectionClosed):
                list(other._connection)
        assert page.do("speed", speed=2.0)["kind"] == "state"


def test_leaving_pauses_the_episode_and_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    with playing(opened(env="pusht", out=out)) as link:
        with client(link) as page:
            for _ in range(5):
                page.do("step", x=0.5, y=0.5)
            page.do("end")
            assert page.do("keep")["kept"] == 1
            page.do("speed", speed=20)
            page.do("start")
            while page.next()["step"] < 3:
                pass
        time.sleep(0.3)
        assert len(open_path(str(out)).read()) == 1  # on disk at once
        with client(link) as page:
            assert (page.state["phase"], page.state["paused"], page.state["seed"]) == ("running", True, 1)
            step = page.state["step"]
            time.sleep(0.3)
            assert page.do("pause")["step"] == step
            page.do("start")
            while page.next()["step"] < step + 3:
                pass
    recorded = open_path(str(out)).read()
    assert (len(recorded), [*recorded.table["seed"]]) == (1, [0])


def test_time_goes_on_at_the_rate_of_the_environment() -> None:
    with playing(opened(env="pusht")) as link, client(link) as page:
        for speed in (1.0, 4.0):
            page.do("speed", speed=speed)
            start, first = time.monotonic(), page.do("start")["step"]
            while page.next()["step"] < first + 10:
                pass
            assert time.monotonic() - start > 0.8 / speed  # not faster; how much slower depends on the machine
            page.do("pause")
            page.do("discard")


def test_time_that_stood_still_is_not_made_up_for() -> None:
    with playing(opened(env="pusht")) as link, client(link) as page:
        time.sleep(0.6)
        start, first = time.monotonic(), page.do("start")["step"]
        while page.next()["step"] < first + 5:
            pass
        assert time.monotonic() - start > 0.35


def test_what_is_not_finite_is_sent_as_null(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SPEC.touch is not None
    touch = replace(SPEC.touch, sketch=lambda env: [Body("block", float("nan"), 0.5, "#000")])
    use_env(monkeypatch, replace(SPEC, touch=touch))
    with playing(opened(env="pusht")) as link, client(link) as page:
        assert page.state["bodies"] == [[None, 0.5, 0.0]]


def test_an_environment_that_fails_stops_time_and_not_the_server(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.conftest import BrokenSensor

    def step(self, action):
        raise ValueError("the table broke")

    monkeypatch.setattr(BrokenSensor, "step", step)
    with playing(opened(env="broken")) as link, client(link) as page:
        state = page.do("start")
        while not state["note"]:
            state = page.next()
        assert "the table broke" in state["note"]
        assert state["paused"]
        state = page.do("discard")
        while state["phase"] != "ready":
            state = page.next()


def test_what_cannot_be_opened_is_told_to_who_started_it(tmp_path: Path) -> None:
    (tmp_path / "d.zarr").mkdir()
    (tmp_path / "d.zarr" / "thesis.txt").write_text("x")
    with pytest.raises(RobodiffError, match=r"d\.zarr"), playing(opened(env="pusht", out=tmp_path / "d.zarr")):
        pass
