"""Two processes that train together do what one does with batches twice as large."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from robodiff.policies.checkpoint import load_policy

Process = Callable[..., subprocess.CompletedProcess[str]]


def test_two_processes_are_one_with_the_double_batch(
    robodiff_process: Process, recording: Path, tmp_path: Path
) -> None:
    common = ("--config", "pusht_keypoints", "--data.path", recording, "--model.down_dims", "[8,16]",
              "--model.n_groups", 4, "--model.diffusion_step_embed_dim", 8, "--rollout.env", "null",
              "--trainer.accelerator", "cpu", "--trainer.max_steps", 2, "--trainer.log_every_n_steps", 1,
              "--trainer.accumulate_grad_batches", 2, "--trainer.gradient_clip_val", "null",
              "--model.optimizer_type", "adam", "--model.optimizer_eps", 1e-3)  # fmt: skip
    runs = {}
    for name, devices, batch in (("one", 1, 16), ("two", 2, 8)):
        strategy = "ddp" if devices == 2 else "auto"
        done = robodiff_process("fit", *common, "--trainer.devices", devices, "--trainer.strategy", strategy,
                                "--data.train_batch_size", batch, "--run", tmp_path / name)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run: ") == done.stdout.count("report: ") == 1
        runs[name] = load_policy(tmp_path / name / "policy-last").state_dict()
    for key, value in runs["one"].items():
        torch.testing.assert_close(runs["two"][key], value, rtol=1e-4, atol=1e-6)
    columns = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in runs]
    assert len(columns[0]) == len(columns[1])
