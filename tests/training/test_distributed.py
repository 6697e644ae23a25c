"""Two processes that train together do what one does with batches twice as large, whoever starts them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file
from tests.faults.catalogue import SMALL

from robodiff import registry
from robodiff.evaluation.runs import read_curves
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.training.optim import learning_rate

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]
Process = Callable[..., subprocess.CompletedProcess[str]]
TWO = ("--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices", 2)


def torchrun(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """``robodiff`` in two processes; torchrun would take --run for one of its own options but for the --."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "--",
               "robodiff", *arguments]  # fmt: skip
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


STAGES = ("--plugin", Path(__file__).parents[2] / "examples" / "extending" / "two_stages.py",
          "--model", "BottleneckConfig", "--model.first_share", 0.5)  # fmt: skip


@pytest.mark.parametrize("model", [(), STAGES], ids=["one-stage", "two-stages"])
def test_two_processes_are_one_with_the_double_batch(
    robodiff: Run, robodiff_process: Process, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    model: tuple,
) -> None:  # fmt: skip
    monkeypatch.setattr(registry, "_TABLE", registry._Table())  # without the plugin afterwards
    common = ("--config", "pusht_keypoints", "--data.path", recording, "--model.down_dims", "[8,16]",
              "--model.n_groups", 4, "--model.diffusion_step_embed_dim", 8, "--rollout.env", "null",
              "--trainer.accelerator", "cpu", "--trainer.max_steps", 2, "--trainer.log_every_n_steps", 1,
              "--trainer.accumulate_grad_batches", 2, "--trainer.gradient_clip_val", "null",
              "--model.optimizer_type", "adam", "--model.optimizer_eps", 1e-3, *model)  # fmt: skip
    one = ("--trainer.devices", 1, "--data.train_batch_size", 16, "--run", tmp_path / "one")
    code, out, err = robodiff("fit", *common, *one)
    assert code == 0, err
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.train_batch_size", 8, "--run", tmp_path / "two")
    done = robodiff_process("fit", *common, *two)
    assert done.returncode == 0, done.stderr
    for printed in (out, done.stdout):
        assert printed.count("run: ") == printed.count("report: ") == 1
    runs = {name: load_file(tmp_path / name / "policy-last" / "model.safetensors") for name in ("one", "two")}
    for key, value in runs["one"].items():
        torch.testing.assert_close(runs["two"][key], value, rtol=1e-4, atol=1e-6)
    columns = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in runs]
    assert len(columns[0]) == len(columns[1])


def test_torchrun(recording: Path, tmp_path: Path) -> None:
    fit = ("fit", *SMALL, *TWO, "--data.path", recording, "--data.episodes", "[0, 1, 3]", "--data.val_split", 0,
           "--trainer.max_epochs", 2, "--trainer.accumulate_grad_batches", 2)  # fmt: skip
    done = torchrun(*fit, "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for line in ("run: ", "43 windows to train on", "policy: observes", "policy: /", "report: "):
        assert done.stdout.count(line) == 1, done.stdout
    assert [path.name for path in tmp_path.iterdir() if path != recording] == ["run"]
    # An epoch is batches of 8 and 8, 8 and 8, 6 and 5 windows: a step of two batches, and one of what is left.
    steps, rates = read_curves(tmp_path / "run" / "metrics.csv")["train/learning_rate"]
    assert steps == [1, 2, 3, 4]
    config = DiffusionConfig(learning_rate=2e-3, scheduler_warmup_steps=100)
    assert rates == pytest.approx([learning_rate(step, 4, config, config.stages()[0]) for step in range(4)])

    done = torchrun(*fit, "--run", tmp_path / "other", "--data.path", "nowhere.zarr")
    assert done.returncode == 1
    assert done.stderr.count("robodiff fit: error: nowhere.zarr: no such file or folder") == 1  # and not by each
    assert "robodiff/cli/main.py" not in done.stderr  # torchrun has a traceback of its own


def test_all_processes_train_one_agent_after_another(robodiff_process: Process, tmp_path: Path) -> None:
    random, group = np.random.default_rng(0), zarr.open_group(tmp_path / "pair.zarr", mode="w")
    for key in ("agents.0.observation.state", "agents.0.action", "agents.1.observation.state", "agents.1.action"):
        group.create_array(f"data/{key}", data=random.normal(size=(60, 2)).cumsum(0).astype(np.float32))
    group.create_array("meta/episode_ends", data=np.array([20, 40, 60]))
    fit = ("fit", *SMALL, *TWO, "--data", tmp_path / "pair.zarr", "--model.observation_keys", "[observation.state]",
           "--all_agents", "--trainer.max_steps", 2, "--run")  # fmt: skip
    for done in (torchrun(*fit, tmp_path / "torchrun"), robodiff_process(*fit, tmp_path / "own")):
        assert done.returncode == 0, done.stderr
        for line in ("run: ", "report: ", "policy: observes"):
            assert done.stdout.count(line) == 2, done.stdout
    for agent in ("agent-0", "agent-1"):
        torchruns, own = (
            load_file(tmp_path / team / agent / "policy-last" / "model.safetensors") for team in ("torchrun", "own")
        )
        assert all(value.equal(own[name]) for name, value in torchruns.items())
