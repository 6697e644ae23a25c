"""What a run shows while it goes on."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from robodiff.policies.config import Stage
from robodiff.training import display
from robodiff.training.display import ProgressLine, Throughput
from robodiff.training.stages import Span


def test_what_is_not_known_yet_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", -1.0)
    out, throughput = io.StringIO(), Throughput()
    throughput.recent.append((0.5, 4))
    line = ProgressLine(Console(file=out), throughput)
    trainer: Any = SimpleNamespace(global_step=3, current_epoch=0, accumulate_grad_batches=1, callback_metrics={})
    module: Any = SimpleNamespace(total_steps=None, news=[], trained_span=Span(Stage("training"), 0, None, True))
    line.on_train_batch_end(trainer, module)
    assert out.getvalue() == "step 3  epoch 0  8 samples/s\n"
    trainer.callback_metrics["train/loss"] = torch.tensor(torch.nan)  # an epoch has begun
    line.on_train_batch_end(trainer, module)
    assert "loss" not in out.getvalue()
    trainer.callback_metrics["train/loss"], module.total_steps = torch.tensor(0.5), 123
    line.on_train_batch_end(trainer, module)
    assert out.getvalue().endswith("step 3/123  epoch 0  loss 0.5000  8 samples/s  1.0 min left\n")
    trainer.callback_metrics["train/loss"] = torch.tensor(torch.nan)
    line.on_train_batch_end(trainer, module)
    assert out.getvalue().count("loss 0.5000") == 2  # the latest that is known
    trainer.global_step = 123
    line.on_train_batch_end(trainer, module)
    assert "step 123, the last; now the policy is measured and saved\n" in out.getvalue()
