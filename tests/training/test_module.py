"""Optimizer steps of several batches, shortened epochs and validations, and training that diverges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.faults.catalogue import SMALL
from torch import Tensor

from robodiff.data.formats.lerobot_writer import LeRobotWriter
from robodiff.evaluation.runs import read_curves
from robodiff.policies.config import DiffusionConfig
from robodiff.training import module
from robodiff.training.module import PolicyTraining
from robodiff.training.optim import learning_rate

Run = Callable[..., tuple[int, str, str]]


def test_rate_and_average_step_with_the_optimizer(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    decay = module.ema_decay
    monkeypatch.setattr(module, "ema_decay", lambda update, config: updates.append(update) or decay(update, config))
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 2,
                            "--trainer.accumulate_grad_batches", 4)  # fmt: skip
    assert code == 0, err
    assert updates == [1, 2, 3, 4, 5, 6]  # an epoch has 10 batches: two steps of four, one of two
    steps, rates = read_curves(run / "metrics.csv")["train/learning_rate"]
    assert steps == updates
    config = DiffusionConfig(learning_rate=1e-3, scheduler_warmup_steps=100)
    assert rates == pytest.approx([learning_rate(step, 6, config) for step in range(6)])


def test_epochs_and_validations_are_as_long_as_asked_and_some_sample_chunks(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[int] = []
    step = PolicyTraining.validation_step

    def counted(self: PolicyTraining, batch: dict[str, Tensor], batch_idx: int) -> Any:
        validated.append(len(batch["action"]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PolicyTraining, "validation_step", counted)
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 3,
                            "--trainer.limit_train_batches", 2, "--data.val_batch_size", 4,
                            "--trainer.limit_val_batches", 3, "--trainer.sample_every_n_epochs", 2)  # fmt: skip
    assert code == 0, err
    assert validated == [4] * 9  # the held-out episode would make more
    curves = read_curves(run / "metrics.csv")
    assert curves["val/loss"][0] == [2, 4, 6]
    assert curves["val/action_mse"][0] == [4, 6]  # in the second epoch, and in the last of all


def test_what_is_not_finite_is_not_saved_before_anybody_looks(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, which is not waited for at every step, the first look may be the one before saving."""
    monkeypatch.setattr(PolicyTraining, "on_train_batch_end", lambda *_: None)
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_steps", 8,
                            "--model.learning_rate", 1e9)  # fmt: skip
    assert code == 1
    assert "training diverged: loss or gradient is not finite at step 2 (epoch 0, batch 2 of 10)" in err
    assert not list(run.rglob("*.ckpt"))
    assert not list(run.rglob("*.safetensors"))


def test_diverging_names_what_checks_the_data(robodiff: Run, tmp_path: Path) -> None:
    random, root = np.random.default_rng(0), tmp_path / "a set"
    writer = LeRobotWriter(root, fps=10)
    for _ in range(3):
        walk = random.normal(size=(30, 2)).cumsum(axis=0)
        writer.append({"observation.state": walk, "action": walk}, task="walk")
    writer.close()
    code, _, err = robodiff("fit", *SMALL, "--data", "LeRobotDataModule", "--data.root", root, "--data.val_split", 0,
                            "--data.train_batch_size", 8, "--model.observation_keys", "[observation.state]",
                            "--trainer.max_steps", 8, "--model.learning_rate", 1e9,
                            "--run", tmp_path / "run")  # fmt: skip
    assert (code, "training diverged" in err) == (1, True), err
    assert err.endswith(f"look for outliers with: robodiff data check '{root}'\n")
