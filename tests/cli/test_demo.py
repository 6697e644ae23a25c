"""``robodiff demo`` with a tiny budget, and signals during training."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_demo(robodiff_process: Process, tmp_path: Path) -> None:
    run = tmp_path / "demo"
    done = robodiff_process("demo", "--minutes", 0.05, "--run", run, "--episodes", 2)
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout
    assert f"robodiff eval {run} --env pusht --steps 3" in done.stdout
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
def test_a_signal_saves_and_says_how_to_go_on(
    robodiff_process: Process, recording: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "robodiff", "fit", "--config", "pusht_keypoints", "--data.path", recording,
               "--model.down_dims", "[8,16]", "--data.train_batch_size", "8", "--rollout.env", "null",
               "--trainer.max_steps", "100000", "--trainer.log_every_n_steps", "1", "--run", run]  # fmt: skip
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    metrics = run / "metrics.csv"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped and saved; go on with: robodiff fit --resume {run}" in out
    steps = int(metrics.read_text().splitlines()[-1].split(",")[1])
    done = robodiff_process("fit", "--resume", run, "--trainer.max_steps", steps + 3)
    assert done.returncode == 0, done.stderr
    assert [int(line.split(",")[1]) for line in metrics.read_text().splitlines()[1:] if ",," not in line[:12]][
        -1
    ] >= steps
