"""``robodiff serve`` as a user starts it: it says where it listens, who may ask, and stops when told to."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.serving import ANSWER_SECONDS, ask, connected, seen

from robodiff.deploy.client import RemotePolicy
from robodiff.errors import RobodiffError
from robodiff.policies.checkpoint import policy_hash, save_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def saved(small_policy: Callable[..., DiffusionPolicy], tmp_path: Path) -> tuple[DiffusionPolicy, Path]:
    policy = small_policy()
    save_policy(policy, tmp_path / "policy")
    return policy, tmp_path / "policy"


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the command; yield the address that it prints, and its process."""
    command = [sys.executable, "-m", "robodiff", "serve", *map(str, arguments), "--port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"serving at (ws://[\d.]+:\d+), \d+ ms per chunk", line)
        try:
            assert address is not None, line
            yield address[1], process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_told_to_stop(saved: tuple[DiffusionPolicy, Path], number: int) -> None:
    policy, folder = saved
    everywhere = ("--host", "0.0.0.0", "--key_map", '{"prompt": null}')
    with served(folder, *everywhere, ROBODIFF_TOKEN="secret") as (address, process):
        url = address.replace("0.0.0.0", "127.0.0.1")
        remote = RemotePolicy(url, "secret")
        assert remote.metadata.policy_hash == policy_hash(folder)
        assert remote.metadata.policy == str(folder)
        np.testing.assert_allclose(PolicyRunner(remote).act(seen(90)), PolicyRunner(policy).act(seen(90)), atol=1e-3)
        with connected(url, additional_headers={"Authorization": "Api-Key secret"}) as connection:
            assert "actions" in ask(connection, seen(1) | {"prompt": "push"})
            process.send_signal(number)
            out, err = process.communicate(timeout=ANSWER_SECONDS)
    with pytest.raises(RobodiffError, match="no server answers there"):
        PolicyRunner(remote).act(seen(90))
    assert process.returncode == 0
    assert err == ""
    assert out.splitlines()[-1] == "stopped"
    assert out.count("connected") == out.count("left") == 2


@pytest.mark.slow
def test_it_goes_on_when_nobody_reads_what_it_prints(saved: tuple[DiffusionPolicy, Path]) -> None:
    with served(saved[1]) as (url, process):
        assert process.stdout is not None
        process.stdout.close()
        for _ in range(3):
            with connected(url) as connection:
                assert "actions" in ask(connection, seen(1))
        process.terminate()
        assert process.wait(timeout=ANSWER_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_others_need_a_token(robodiff: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROBODIFF_TOKEN", raising=False)
    code, _, err = robodiff("serve", tmp_path / "policy", "--host", "0.0.0.0")
    assert code == 2
    assert "--host 0.0.0.0: others can reach it, so a token is needed; set ROBODIFF_TOKEN to a long random text" in err


def test_mistakes_are_told_in_a_line(robodiff: Run, saved: tuple[DiffusionPolicy, Path]) -> None:
    _, folder = saved
    for arguments, problem in (
        ((folder.parent / "nothing",), "no such folder"),
        ((folder, "--port", 99999), "--port: expected int >= 0 and <= 65535"),
        ((folder, "--most_clients", 0), "--most_clients: expected"),
        ((folder, "--host", "192.0.2.1", "--token", "secret"), "cannot listen on 192.0.2.1:8000"),
        (
            (folder, "--key_map", '{"state": "observation.stat"}'),
            "the policy has no 'observation.stat'; expected one of",
        ),
    ):
        code, _, err = robodiff("serve", *arguments)
        assert code in (1, 2)
        assert problem in err
        assert "Traceback" not in err


def test_a_missing_extra_is_named(robodiff: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.asyncio.server", None)
    monkeypatch.delitem(sys.modules, "robodiff.deploy.server", raising=False)
    code, _, err = robodiff("serve", "runs/first")
    assert code == 1
    assert "pip install 'robodiff[serve]'" in err


def test_the_client_needs_no_torch() -> None:
    code = "import sys, robodiff.deploy.client, robodiff.policies.runner; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
