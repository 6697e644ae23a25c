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
from robodiff.play.messages import Message
from robodiff.play.server import PlayServer

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


@pytest.mark.parametrize("name", ["mine.zarr", "mine.zarr.zip", "mine.hdf5", None])
@pytest.mark.parametrize("keeps", [True, False])
def test_what_was_kept_is_told_at_the_end(
    robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, keeps: bool
) -> None:
    async def run(self: PlayServer, *_: object) -> None:
        with self._open() as stage:
            stage.handle(Message(do="step", x=0.5, y=0.5))
            stage.handle(Message(do="end"))
            if keeps and name is not None:
                stage.handle(Message(do="keep"))

    monkeypatch.setattr(PlayServer, "run", run)
    out = tmp_path / (name or "")
    code, told, err = robodiff("play", "pusht", *(() if name is None else ("--out", out)))
    assert code == 0, err
    if name is None:
        assert told == "stopped\n"
    else:
        assert told == (f"{out}: 1 episode\n" if keeps else "stopped; no episode was kept\n")
        assert out.exists() == keeps


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
