"""A served policy, asked over the network, acts as one of its own process; a server that is away is told in time."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.deploy.serving import Plain, seen, serving
from websockets.sync.server import ServerConnection, serve

from robodiff.deploy.client import RemotePolicy
from robodiff.deploy.messages import pack
from robodiff.deploy.opening import open_runtime
from robodiff.deploy.server import describe
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner

Make = Callable[..., DiffusionPolicy]
WINDOW = {key: np.stack([value, value])[None].astype(np.float32) for key, value in seen(3).items()}
NOISE = np.zeros((1, 1, 8, 2), np.float32)


@contextmanager
def answering(answer: Callable[[ServerConnection, bytes], None], policy: Any = None) -> Iterator[str]:
    """A server of robodiff, as far as its first message goes, that then does something else; yields its address."""
    metadata = pack(describe(policy or Plain(), "runs/plain")[0])

    def attend(connection: ServerConnection) -> None:
        connection.send(metadata)
        for message in connection:
            answer(connection, message)  # type: ignore[arg-type]

    with serve(attend, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
    thread.join()


@pytest.mark.parametrize("steps", [None, 5])
def test_a_runner_acts_as_with_the_policy_itself(small_policy: Make, steps: int | None) -> None:
    policy = small_policy() if steps is None else small_policy(num_inference_steps=steps, noise_scheduler_type="ddim")
    local = PolicyRunner(policy, rows=2, seeds=[3, 4])
    with serving(policy) as url:
        remote = RemotePolicy(url)
        assert (remote.features, remote.timing) == (policy.features, policy.timing)
        assert remote.noise_shape(3) == policy.noise_shape(3)
        runner = PolicyRunner(remote, rows=2, seeds=[3, 4])
        for step in range(10):
            observation = {key: np.stack([value, 2 * value]) for key, value in seen(100.0 + step).items()}
            np.testing.assert_array_equal(runner.act(observation), local.act(observation))
        np.testing.assert_equal(dict(runner.last.out_of_range), dict(local.last.out_of_range))
        remote.close()


def test_images_arrive_as_they_are(seeing_policy: Make) -> None:
    policy, random = seeing_policy(noise_scheduler_type="ddim", num_inference_steps=2), np.random.default_rng(0)
    types = {"image": lambda shape: random.integers(0, 256, shape, np.uint8), "vector": random.random}
    window = {key: types[feature.kind]((1, 2, *feature.shape)) for key, feature in policy.features.items()}
    window = {key: value if value.dtype == np.uint8 else value.astype(np.float32) for key, value in window.items()}
    del window["action"]
    noise = random.standard_normal(policy.noise_shape(1), dtype=np.float32)
    with serving(policy) as url:
        remote = RemotePolicy(url)
        chunk, own = remote.predict_chunk(window, noise=noise), policy.predict_chunk(window, noise=noise)
        np.testing.assert_array_equal(chunk.actions, own.actions)
        assert chunk.first_step == own.first_step
        chunk.actions[:] = 0  # it can be written to
        remote.close()


def test_known_actions_are_given(small_policy: Make) -> None:
    policy = small_policy()
    n, dim = policy.noise_shape(1)[2:]
    known = np.full((1, n, dim), 200, np.float32), np.arange(n)[None, :, None].repeat(dim, 2) < 4
    noise = np.random.default_rng(0).standard_normal(policy.noise_shape(1), dtype=np.float32)
    with serving(policy) as url:
        remote = RemotePolicy(url)
        chunk = remote.predict_chunk(WINDOW, noise=noise, known=known)
        remote.close()
    np.testing.assert_array_equal(chunk.actions, policy.predict_chunk(WINDOW, noise=noise, known=known).actions)


def test_what_the_server_says_is_told_and_asked_again() -> None:
    with serving(Plain()) as url:
        remote = RemotePolicy(url)
        with pytest.raises(RobodiffError, match=r"ws://.*: the policy observes 'observation.environment_state'"):
            remote.predict_chunk({"observation.state": WINDOW["observation.state"]}, noise=NOISE)
        assert remote.predict_chunk(WINDOW, noise=NOISE).actions.mean() == 3
        remote.close()
        assert remote.predict_chunk(WINDOW, noise=NOISE).actions.mean() == 3  # on a new connection
        remote.close()


def test_too_many_rows_are_told_before_they_are_sent() -> None:
    with serving(Plain(), largest_message=2000) as url:
        remote, rows = RemotePolicy(url), {key: value.repeat(30, 0) for key, value in WINDOW.items()}
        with pytest.raises(RobodiffError, match=r"30 windows .* the server accepts 2000; start it with --largest_mess"):
            remote.predict_chunk(rows, noise=NOISE.repeat(30, 1))
        remote.close()


def test_a_lost_connection_is_made_anew_once() -> None:
    lost = []

    def answer(connection: ServerConnection, message: bytes) -> None:
        if len(lost) < 2:
            lost.append(message)
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.send(pack({"actions": NOISE[0], "first_step": 0}))

    with answering(answer) as url:
        remote = RemotePolicy(url)
        with pytest.raises(RobodiffError, match="the connection was lost twice"):
            remote.predict_chunk(WINDOW, noise=NOISE)
        assert not remote.predict_chunk(WINDOW, noise=NOISE).actions.any()
        remote.close()


def test_another_policy_after_a_restart_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    other = Plain()
    other.features = {**Plain.features, "observation.more": Plain.features["action"]}
    with serving(Plain(), port=port) as url:
        remote = RemotePolicy(url)
    with serving(other, port=port), pytest.raises(RobodiffError, match="another policy is served there now"):
        remote.predict_chunk(WINDOW, noise=NOISE)
    with serving(Plain(), port=port):
        assert remote.predict_chunk(WINDOW, noise=NOISE).actions.mean() == 3
        remote.close()


def test_a_server_that_does_not_answer_is_told_in_time() -> None:
    with answering(lambda connection, message: None) as url:
        remote, start = RemotePolicy(url, timeout=0.3), time.monotonic()
        with pytest.raises(RobodiffError, match=r"no answer within 0\.3 seconds"):
            remote.predict_chunk(WINDOW, noise=NOISE)
        assert time.monotonic() - start < 20
        assert remote._connection is None  # a late answer is not taken for the next


def test_one_that_accepts_nothing_and_one_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RobodiffError, match="no answer within"):
            RemotePolicy(url, timeout=0.2)
    with pytest.raises(RobodiffError, match=f"{url}: no server answers there: .*refused"):
        RemotePolicy(url, timeout=5)


@pytest.mark.parametrize("first", ["hello", b"\x93\x01\x02\x03", pack({"features": {}}), b"\xff"])
def test_another_program_is_refused(first: bytes | str) -> None:
    with serve(lambda connection: connection.send(first), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(RobodiffError, match="is not a robodiff server"):
            RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        server.shutdown()


def test_an_answer_without_a_chunk_is_refused() -> None:
    with answering(lambda connection, message: connection.send(pack({"actions": np.zeros(3)}))) as url:
        remote = RemotePolicy(url)
        with pytest.raises(RobodiffError, match="holds no chunk"):
            remote.predict_chunk(WINDOW, noise=NOISE)
        remote.close()


def test_addresses_are_opened_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Plain(), token="secret") as url:
        with pytest.raises(RobodiffError, match=r"refuses with 401: .*; set ROBODIFF_TOKEN to the server's token"):
            open_runtime(url)
        monkeypatch.setenv("ROBODIFF_TOKEN", "secret")
        remote = open_runtime(url)
        assert isinstance(remote, RemotePolicy)
        assert remote.predict_chunk(WINDOW, noise=NOISE).actions.mean() == 3
        remote.close()
        with pytest.raises(UsageError, match="give --sampler, --steps, --revision and --device to robodiff serve"):
            open_runtime(url, steps=3)
    with pytest.raises(UsageError, match="expected the address of a server"):
        open_runtime("ws://:a")
