"""``robodiff play`` as a user runs it: what it refuses, and what Ctrl-C leaves."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.play.playing import client

from robodiff.data.recordings import open_path

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robodiff", "play", "pusht", "--out", str(tmp_path / "mine.zarr"), "--seed", "7"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:  # type: ignore[call-overload]
        link, hint = (process.stdout.readline().strip().removeprefix("open ") for _ in range(2))
        with client(link) as page:
            page.do("step", x=0.5, y=0.5)
            page.do("end")
            page.do("keep")
            page.do("start")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert (hint, out) == ("Ctrl-C ends it", f"{tmp_path / 'mine.zarr'}: 1 episode\n")
    assert [*open_path(str(tmp_path / "mine.zarr")).read().table["seed"]] == [7]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "unknown"),
        (["biped"], "watched with --policy, not demonstrated on"),
        (["pusht", "--out", "demos.zarr", "--format", "nowhere"], "no format 'nowhere' is written"),
        (["pusht", "--steps", "3"], "give --policy"),
        (["pusht", "--images"], "give --out"),
        (["pusht", "--port", "70000"], "--port"),
        (["pusht", "--policy", "nowhere"], "nowhere: "),
        (["pusht", "--cameras", "top", "--out", "x.zarr"], "no camera 'top'"),
    ],
)
def test_mistakes_are_told_in_a_line_or_two(
    robodiff: Run, arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = robodiff("play", *arguments)
    assert code in (1, 2)
    assert out == ""
    assert told in err
    assert len(err.splitlines()) <= 2


def test_a_port_that_is_taken_is_told(robodiff: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = robodiff("play", "pusht", "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err
