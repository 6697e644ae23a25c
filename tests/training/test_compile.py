"""Training through torch.compile: the same steps, the same names of weights, and a line where it cannot be had."""

from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.faults.catalogue import SMALL

from robodiff.training.module import PolicyTraining

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--trainer.accelerator", "cpu", "--trainer.max_steps", 4)


def test_it_trains_the_same_policy(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced as always; code is not generated for it, which takes a minute and rounds differently.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    compiled: list[tuple[bool, bool]] = []
    step = PolicyTraining.training_step

    def watched(self: PolicyTraining, *arguments: object) -> torch.Tensor:
        networks = (self.policy.denoiser, self.average.denoiser)
        compiled.append(tuple(network._compiled_call_impl is not None for network in networks))  # type: ignore[arg-type]
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PolicyTraining, "training_step", watched)
    for run in ("false", "true"):
        code, _, err = robodiff("fit", *SMALL, *SHORT, "--data.path", recording, "--run", tmp_path / run,
                                "--trainer.compile", run)  # fmt: skip
        assert code == 0, err
    assert compiled == [(False, False)] * 4 + [(True, False)] * 4
    plain, traced = (load_file(tmp_path / run / "policy-last" / "model.safetensors") for run in ("false", "true"))
    assert plain.keys() == traced.keys()
    for name, value in plain.items():
        torch.testing.assert_close(traced[name], value)


def test_without_a_compiler(robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=fails))
    code, _, err = robodiff("fit", *SMALL, *SHORT, "--data.path", recording, "--run", tmp_path / "run",
                            "--trainer.compile", "true")  # fmt: skip
    assert code == 1
    assert "robodiff fit: error: torch.compile failed: " in err
    assert "no compiler found" in err
    assert err.splitlines()[-1] == "it needs a C++ compiler, on a GPU Triton; or train with --trainer.compile false"
