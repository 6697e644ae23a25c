"""Policies with stages: which one runs, what rests, and that a run which is resumed crosses from one to the next."""

import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.conftest import PUSHT_FEATURES, SMALL_MODEL
from torch import Tensor

from robodiff import registry
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.errors import UsageError
from robodiff.policies.config import Stage
from robodiff.training.callbacks import Checkpoints, Interrupted, RunLength
from robodiff.training.config import FitConfig, TrainerConfig
from robodiff.training.fit import fit
from robodiff.training.module import PolicyTraining
from robodiff.training.stages import Span, check_stages, lengths_of, span_at

A, B, C = (Stage(name, steps=steps) for name, steps in (("a", 10), ("b", 0.25), ("c", None)))
REST = Stage("rest")


def course(stages: tuple[Stage, ...], total: int, steps: int, known: tuple[int, ...] = ()) -> str:
    """The names of the stages of the first steps."""
    lengths = lengths_of(stages, total, known)
    return "".join(span_at(stages, step, lengths).stage.name[0] for step in range(steps))


def test_a_stage_is_a_function_of_the_step() -> None:
    assert course((A, B, C), 40, 41) == 10 * "a" + 10 * "b" + 21 * "c"
    assert course((A, B, C), 8, 8) == 8 * "a"  # a run that does not come to the others
    assert course((C, A, B), 40, 41) == 20 * "c" + 10 * "a" + 11 * "b"
    assert course((A, B, C), 40, 41, known=(3, 4)) == 3 * "a" + 4 * "b" + 34 * "c"
    span = span_at((A, B, C), 12, [10, 10, 20])
    assert (span.start, span.steps, span.is_last) == (10, 10, False)
    assert span_at((REST,), 5, [40]).steps == 40


def test_a_stage_runs_until_its_length_is_known() -> None:
    span = span_at((A, B, C), 300, [])
    assert (span.stage, span.start, span.steps, span.is_last) == (A, 0, None, False)
    span = span_at((A, B, C), 12, [10])
    assert (span.stage, span.start, span.steps, span.is_last) == (B, 10, None, False)
    assert span_at((REST,), 5, []).steps is None


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration of the example with two stages: a bottleneck is trained first, and rests then."""
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    registry.load_plugin(str(Path(__file__).parents[2] / "examples" / "extending" / "two_stages.py"))
    return registry.find("models", "BottleneckConfig")


@pytest.fixture
def configured(kind: Any, recording: Path) -> Callable[..., FitConfig]:
    def make(first_share: float = 0.5, **trainer: Any) -> FitConfig:
        keys = ["observation.state", "observation.environment_state"]
        model = kind(**SMALL_MODEL, observation_keys=keys, first_share=first_share, scheduler_warmup_steps=2,
                     num_inference_steps=2, learning_rate=2e-3)  # fmt: skip
        return FitConfig(
            model=model,
            data=ZarrConfig(path=str(recording), train_batch_size=8, val_split=0.2),
            trainer=TrainerConfig(**{"max_steps": 14, "log_every_n_steps": 1, "accelerator": "cpu",
                                     "tensorboard": False, **trainer}),
        )  # fmt: skip

    return make


class Watch:
    """What every optimizer step changed, and how fast it learnt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []  # of each step the first letters of what moved
        self.averaged: list[str] = []
        self.rates: list[float] = []
        step = PolicyTraining.optimizer_step

        def watched(module: PolicyTraining, epoch: int, batch: int, optimizer: Any, closure: Any = None) -> None:
            before = [_copy(module.policy), _copy(module.average)]
            step(module, epoch, batch, optimizer, closure)
            after = [_copy(module.policy), _copy(module.average)]
            for log, a, b in zip((self.trained, self.averaged), before, after, strict=True):
                log.append("".join(sorted({name[0] for name in a if not a[name].equal(b[name])})))
            self.rates.append(optimizer.param_groups[0]["lr"])

        monkeypatch.setattr(PolicyTraining, "optimizer_step", watched)


def _copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def silent() -> Console:
    return Console(quiet=True)


def last_policy(run: Path) -> dict[str, Tensor]:
    return load_file(run / "policy-last" / "model.safetensors")


def test_a_stage_trains_its_own(
    configured: Callable[..., FitConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, modules = Watch(monkeypatch), []
    begin = PolicyTraining._begin
    monkeypatch.setattr(PolicyTraining, "_begin", lambda module, span: modules.append(module) or begin(module, span))
    fit(configured(), tmp_path / "run", "", console=silent())
    assert watch.trained == 7 * ["b"] + 7 * ["d"]  # the bottleneck, then the denoiser
    assert watch.averaged == watch.trained
    # Each has a rate of its own, with a cosine down to the end of the stage.
    assert watch.rates[0] == pytest.approx(1e-3)
    assert watch.rates[7] == pytest.approx(2e-3)
    assert all(a > b for half in (watch.rates[:7], watch.rates[7:]) for a, b in pairwise(half))
    module = modules[-1]
    assert not module.policy.bottleneck.training
    assert module.policy.denoiser.training
    for name, value in module.average.bottleneck.state_dict().items():  # the denoiser learnt with what acts
        assert module.policy.bottleneck.state_dict()[name].equal(value)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",")[-3:] == ["train/stage", "train/keeping", "train/lost_share"]  # each loss has its name
    assert [bool(row.split(",")[-1]) for row in rows[1:] if row.split(",")[-3]] == 7 * [True] + 7 * [False]
    assert [bool(row.split(",")[2]) for row in rows[1:] if row.split(",")[-3]] == 7 * [False] + 7 * [True]


def stop_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Interrupt a run before its batch, once."""
    start = Checkpoints.on_train_batch_start

    def stopped(self: Checkpoints, trainer: Any, module: PolicyTraining, *rest: Any) -> None:
        if module.micro_batches == batch and self._begun_at == 0:
            self._signal = signal.SIGINT
        start(self, trainer, module, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_start", stopped)


def resumed(config: FitConfig, run: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    with monkeypatch.context() as patched:
        stop_at(patched, batch)
        with pytest.raises(Interrupted):
            fit(config, run, "", console=silent())
        fit(config, run, "", resume=True, console=silent())
    return last_policy(run)


@pytest.mark.parametrize("batch", [5, 7, 9])
def test_resuming_across_stages_changes_nothing(
    configured: Callable[..., FitConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    fit(configured(), tmp_path / "whole", "", console=silent())
    weights, again = last_policy(tmp_path / "whole"), resumed(configured(), tmp_path / "run", batch, monkeypatch)
    assert all(value.equal(again[name]) for name, value in weights.items())
    csv = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "run")]
    assert csv[0] == csv[1]


@pytest.mark.parametrize("batch", [5, 6, 10])  # not while steps are timed, which is done anew
def test_each_stage_has_its_part_of_a_time_budget(
    configured: Callable[..., FitConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:

    def measured(length: RunLength, span: Span) -> int | None:
        return None if len(length._step_ends) < 3 else 8 if span.is_last else 6

    monkeypatch.setattr(RunLength, "_measured", measured)
    config, watch = configured(first_share=0.2, max_steps=None, max_time="00:00:05:00"), Watch(monkeypatch)
    fit(config, tmp_path / "whole", "", console=silent())
    assert watch.trained == 6 * ["b"] + 8 * ["d"]  # and not 3 of the first
    weights, again = last_policy(tmp_path / "whole"), resumed(config, tmp_path / "run", batch, monkeypatch)
    assert all(value.equal(again[name]) for name, value in weights.items())


def test_stages_that_cannot_run_are_refused(kind: Any) -> None:
    policy = kind(**SMALL_MODEL).make_policy(PUSHT_FEATURES, 10.0)
    first, second = policy.config.stages()
    check_stages(policy, (first, second))
    with pytest.raises(UsageError, match=r"stage act: trains nothing; .*'codec\.'"):
        check_stages(policy, (first, replace(second, trains=("codec.",))))
    with pytest.raises(UsageError, match="stage observe: BottleneckPolicy has no method 'keep'"):
        check_stages(policy, (replace(first, loss="keep"), second))


def test_a_stage_that_a_short_run_does_not_come_to_is_told(
    configured: Callable[..., FitConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(configured(max_steps=1, first_share=0.6), tmp_path / "run", "", console=silent())
    assert "does not come to the stage act" in capsys.readouterr().err
