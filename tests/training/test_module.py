"""Training that diverges."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.catalogue import SMALL

from robodiff.training.module import PolicyTraining

Run = Callable[..., tuple[int, str, str]]


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
