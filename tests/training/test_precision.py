"""Training in mixed precision; what acts, and what is measured and saved, stays in 32 bits."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.faults.catalogue import SMALL

from robodiff.evaluation.runs import read_curves
from robodiff.networks.unet import ConditionalUnet1d
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]
CPU = ("--trainer.accelerator", "cpu", "--trainer.max_steps", 12)


def test_training_is_mixed_and_everything_else_is_not(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[Any]] = defaultdict(set)
    forward = ConditionalUnet1d.forward

    def watched(self: ConditionalUnet1d, *arguments: Any) -> torch.Tensor:
        result = forward(self, *arguments)
        seen["training" if torch.is_grad_enabled() else "acting"].add(result.dtype)
        return result

    monkeypatch.setattr(ConditionalUnet1d, "forward", watched)
    chunk = DiffusionPolicy.predict_chunk
    monkeypatch.setattr(DiffusionPolicy, "predict_chunk", lambda *a, **k: seen["chunks"].add(
        (result := chunk(*a, **k)).actions.dtype) or result)  # fmt: skip
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        seen.clear()
        run = tmp_path / precision
        code, _, err = robodiff("fit", *SMALL, *CPU, "--data.path", recording, "--run", run,
                                "--trainer.precision", precision)  # fmt: skip
        assert code == 0, err
        curves[precision] = read_curves(run / "metrics.csv")
        assert seen == {
            "training": {torch.float32 if precision == "32-true" else torch.bfloat16},
            "acting": {torch.float32},
            "chunks": {torch.float32, np.dtype("float32")},  # the second in the report
        }
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    saved = [*load_file(run / "policy" / "model.safetensors").values(), *checkpoint["state_dict"].values()]
    assert {value.dtype for value in saved if value.is_floating_point()} == {torch.float32}
    ours, theirs = (curves[precision]["train/loss"][1] for precision in ("bf16-mixed", "32-true"))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)


def test_16_bits_need_a_gpu(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    code, _, err = robodiff("fit", *SMALL, *CPU, "--data.path", recording, "--run", tmp_path / "run",
                            "--trainer.precision", "16-mixed")  # fmt: skip
    assert (code, err) == (2, "robodiff fit: error: trainer.precision 16-mixed needs a GPU; on this machine take "
                              "bf16-mixed, 32-true\n")  # fmt: skip
    assert not (tmp_path / "run").exists()
