"""The server: what it answers, to many at once, and to those who mean it no good."""

import gc
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from tests.deploy.serving import ANSWER_SECONDS, LIMITS, Plain, ask, connected, seen, serving, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from robodiff.deploy import server
from robodiff.deploy.messages import pack, unpack
from robodiff.deploy.server import is_loopback
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner

Make = Callable[..., DiffusionPolicy]


def answers(url: str) -> bool:
    with connected(url) as connection:
        return "actions" in ask(connection, seen(1))


def test_what_is_told_on_connecting() -> None:
    with serving(Plain(), key_map={"state": "observation.state", "prompt": None}) as url, connect(url) as connection:
        said = unpack(connection.recv(timeout=ANSWER_SECONDS))  # type: ignore[arg-type]
    state = {"kind": "vector", "shape": [2], "dtype": "float32", "names": None, "unit": "px"}
    assert said["features"]["observation.state"] == state
    assert said["features"].keys() == Plain.features.keys()
    assert said["timing"] == {"n_obs_steps": 2, "n_action_steps": 4, "spacing": 0.1, "best_of": 1}
    assert (said["noise_shape"], said["policy"], said["policy_hash"]) == ([1, 1, 8, 2], "runs/plain", None)
    assert (said["largest_message"], said["ranges"]) == (2**20, {"observation.state": [[0, 0], [512, 512]]})
    assert said["key_map"] == {"state": "observation.state", "prompt": None}


def test_the_actions_from_now_on_are_those_that_a_runner_executes(small_policy: Make) -> None:
    policy = small_policy()
    runner = PolicyRunner(policy, seeds=[5])
    with serving(policy) as url, connected(url) as connection:
        answer = ask(connection, seen(100) | {"seed": 5})
    assert isinstance(answer, dict)
    executed = [runner.act(seen(100)) for _ in range(policy.timing.n_action_steps)]
    np.testing.assert_array_equal(answer["actions"][: len(executed)], executed)
    assert answer["actions"].shape == (15, 2)  # a window of 16 steps, of which the second is now
    assert answer["actions"].dtype == np.float32
    assert answer["history"] == {"seen": 1, "wanted": 2}
    assert answer["server_timing"].keys() == {"infer_ms", "wait_ms", "batch"}
    assert answer["policy_timing"]["infer_ms"] <= answer["server_timing"]["infer_ms"]


def test_sessions_know_nothing_of_each_other() -> None:
    with serving(Plain()) as url, connected(url) as first, connected(url) as second:
        ask(first, seen(1) | {"timestamp": 0.0})
        ask(second, seen(5) | {"timestamp": 0.0})
        means = [ask(each, seen(n) | {"timestamp": 0.1, "only_observe": True}) for each, n in ((first, 2), (second, 6))]
        assert [mean["history"] for mean in means] == [{"seen": 2, "wanted": 2}] * 2  # type: ignore[index]
        noise = ask(first, seen(0) | {"reset": True})["actions"]  # type: ignore[index]
        both = [ask(each, seen(3) | {"timestamp": 0.2, "seed": 0})["actions"] for each in (second,)]  # type: ignore[index]
        np.testing.assert_allclose(both[0] - noise, np.broadcast_to([6, 3], (7, 2)), atol=1e-6)


def test_fifty_at_once() -> None:
    with serving(Plain()) as url, ThreadPoolExecutor(50) as threads:
        assert all(threads.map(answers, [url] * 50))


BROKEN: dict[str, tuple[Any, str]] = {
    "text": ("hello", "found text"),
    "no msgpack": (b"\xff\xff", "expected msgpack"),
    "lacks": ({}, "the message has nothing"),
    "shape": (seen(1) | {"observation.state": np.zeros(5)}, "expected shape (2,)"),
    "nan": (seen(np.inf), "expected finite"),
    "the policy fails": (seen(404), "the policy failed: RuntimeError: out of memory"),
}


def test_what_is_wrong_is_told_and_the_connection_stays() -> None:
    with serving(Plain()) as url, connected(url) as connection:
        for message, problem in BROKEN.values():
            answer = ask(connection, message)
            assert isinstance(answer, str)
            assert problem in answer
            assert "Traceback" not in answer
            assert "actions" in ask(connection, seen(1) | {"reset": True})


def test_actions_that_are_not_finite_are_not_sent() -> None:
    policy = Plain()
    with serving(policy) as url, connected(url) as connection:
        policy.predict_chunk = lambda *_, noise, **__: Plain.predict_chunk(policy, *_, noise=noise * np.nan)  # type: ignore
        assert "not finite" in ask(connection, seen(1))


def test_too_large_a_message_ends_its_connection_alone() -> None:
    with serving(Plain(), largest_message=2000) as url, connected(url) as other, connected(url) as connection:
        connection.send(b"\x00" * 3000)
        with pytest.raises(ConnectionClosed) as error:
            connection.recv(timeout=ANSWER_SECONDS)
        assert error.value.rcvd is not None
        assert error.value.rcvd.code == 1009
        assert "actions" in ask(other, seen(1))


def test_health_and_who_may_come_in() -> None:
    with serving(Plain(), token="secret") as url:
        web = HTTPConnection(url.removeprefix("ws://"), timeout=ANSWER_SECONDS)
        web.request("GET", "/healthz")
        response = web.getresponse()
        assert (response.status, response.read()) == (200, b"OK\n")
        for headers in ({}, {"Authorization": "Api-Key secre"}, {"Authorization": "secret"}, {"Authorization": "ä"}):
            with pytest.raises(InvalidStatus) as error:
                connect(url, additional_headers=headers)
            assert error.value.response.status_code == 401
        with connected(url, additional_headers={"Authorization": "Api-Key secret"}) as connection:
            assert "actions" in ask(connection, seen(1))


def test_pages_of_other_hosts_are_refused() -> None:
    with serving(Plain()) as url:
        for origin in ("http://evil.example", "null", "http://localhost.evil.example"):
            with pytest.raises(InvalidStatus) as error:
                connect(url, origin=origin)  # type: ignore[arg-type]
            assert error.value.response.status_code == 403
        with connected(url, origin="http://localhost:3000"):
            pass


@pytest.mark.parametrize(
    ("host", "is_own"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("192.168.1.2", False), ("localhost.example", False)],
)  # fmt: skip
def test_loopback(host: str, is_own: bool) -> None:
    assert is_loopback(host) == is_own


def test_more_clients_than_are_allowed_are_refused_until_one_leaves() -> None:
    with serving(Plain(), replace(LIMITS, most_clients=2)) as url:
        with connected(url), connected(url):
            with pytest.raises(InvalidStatus) as error:
                connect(url)
            assert error.value.response.status_code == 503
        wait_for(lambda: not _refused(url))
        assert answers(url)


def _refused(url: str) -> bool:
    try:
        connect(url).close()
    except InvalidStatus:
        return True
    return False


def test_a_client_that_asks_too_often_waits() -> None:
    with serving(Plain(), replace(LIMITS, most_per_second=20)) as url, connected(url) as connection:
        start = time.monotonic()
        for _ in range(5):
            ask(connection, seen(1))
        assert time.monotonic() - start >= 4 / 20


def test_a_client_that_is_silent_is_disconnected() -> None:
    with serving(Plain(), replace(LIMITS, idle_seconds=0.1)) as url, connected(url) as connection:
        with pytest.raises(ConnectionClosed) as error:
            connection.recv(timeout=ANSWER_SECONDS)
        assert "nothing was sent for 0.1 seconds" in str(error.value)


def test_a_client_that_does_not_answer_pings_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PING_SECONDS", 0.1)
    with serving(Plain()) as url, _handshaken(url) as silent, connected(url) as connection:
        assert "actions" in ask(connection, seen(1))
        silent.settimeout(ANSWER_SECONDS)
        while silent.recv(65536):  # its metadata, pings, the end
            pass
        assert "actions" in ask(connection, seen(1))


def test_a_client_that_is_slow_or_sends_garbage_holds_up_nobody() -> None:
    with serving(Plain()) as url:
        slow, garbage = _handshaken(url), socket.create_connection(_address(url))
        slow.sendall(b"\x82\xfe")  # the beginning of a message, and no more
        garbage.sendall(b"\x00\x01\x02" * 1000)
        unread = _handshaken(url)
        assert answers(url)
        for each in (slow, garbage, unread):
            each.close()


def test_a_client_that_is_killed_in_mid_request() -> None:
    policy = Plain()
    with serving(policy) as url:
        policy.free.clear()
        before = len(policy.batches)
        with connected(url) as connection:
            connection.send(pack(seen(1)))
            wait_for(lambda: len(policy.batches) > before)
            connection.socket.shutdown(socket.SHUT_RDWR)
        policy.free.set()
        assert answers(url)


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("ws://").split(":")
    return host, int(port)


def _handshaken(url: str) -> socket.socket:
    """A connection that is accepted, and on which nothing is done any more."""
    raw = socket.create_connection(_address(url))
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    raw.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode())
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


def test_it_stops_while_clients_are_there() -> None:
    threads = threading.active_count()
    with serving(Plain()) as url:
        connection = connect(url)
        connection.recv(timeout=ANSWER_SECONDS)
    with pytest.raises(ConnectionClosed) as error:
        connection.recv(timeout=ANSWER_SECONDS)
    assert error.value.rcvd is not None
    assert error.value.rcvd.code == 1001
    wait_for(lambda: threading.active_count() <= threads)


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_requests() -> None:
    """Of clients that stay, come and go, and send what is broken."""
    policy, sizes = Plain(), []
    with serving(policy) as url, connected(url) as connection:
        tracemalloc.start()
        for number in range(10_000):
            ask(connection, seen(number % 7))
            if number % 10 == 0:
                ask(connection, seen(1) | {"observation.state": np.zeros(3)})
                assert answers(url)
            if number % 1000 == 999:
                policy.batches.clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert max(sizes[5:]) - max(sizes[:3]) < 100_000  # 20 bytes a request
