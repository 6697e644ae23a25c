"""``robodiff demo`` with a tiny budget, and signals during training."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults import processes
from tests.faults.catalogue import SMALL

from robodiff.files import read_rows

Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_demo(robodiff_process: Process, tmp_path: Path) -> None:
    run = tmp_path / "demo"
    done = robodiff_process("demo", "--minutes", 0.05, "--run", run, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout
    assert f"robodiff eval {run} --env pusht --sweep steps=3,5,10" in done.stdout
    videos = list(run.glob("eval/*/videos/*.mp4"))
    assert len(videos) == 2
    assert str(videos[0].parent) in done.stdout
    assert "Traceback" not in done.stderr


def test_what_measuring_refuses_is_refused_before_training(
    robodiff: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = robodiff("demo", "--episodes", 0, "--run", tmp_path / "demo")
    assert code == 2
    assert "--episodes: expected int >= 1; found 0" in err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(recording: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    command = ("fit", *SMALL, "--data.path", recording, "--trainer.max_steps", 100_000, "--run", run)
    fitting = processes.Running(*command)
    fitting.wait_for(lambda: len(read_rows(run / "metrics.csv", "global_step")) > 4)
    os.kill(fitting.process.pid, number)
    seen = fitting.end()
    assert seen.code == 128 + number
    assert f"stopped and saved; go on with: robodiff fit --resume {run}" in seen.out
    steps = int(read_rows(run / "metrics.csv", "global_step")[-1]["global_step"])
    processes.run("fit", "--resume", run, "--trainer.max_steps", steps + 3).done()
    assert int(read_rows(run / "metrics.csv", "global_step")[-1]["global_step"]) == steps + 3
