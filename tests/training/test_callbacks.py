"""When a run saves and how long it is, by a clock that the tests set."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robodiff.policies.config import Stage
from robodiff.training import callbacks
from robodiff.training.callbacks import AGREE_EVERY, Checkpoints, Interrupted, Measuring, RunLength
from robodiff.training.config import TrainerConfig


class Run:
    """A run of batches that take a second each, and of checkpoints that take ``saving`` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, minutes: float, saving: float, processes: int = 1) -> None:
        self.clock, self.saving, self.saved, self.asked = 0.0, saving, [], 0
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(callbacks, "save_policy", lambda *_: None)
        self.checkpoints = Checkpoints(Path("run"), TrainerConfig(max_steps=1, checkpoint_every_minutes=minutes), None)
        self.trainer: Any = SimpleNamespace(
            world_size=processes, accumulate_grad_batches=2, is_global_zero=True, global_step=0,
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()), save_checkpoint=self.save_checkpoint,
            strategy=SimpleNamespace(broadcast=self.broadcast),
        )  # fmt: skip
        self.module: Any = SimpleNamespace(micro_batches=0, average=None, check_finite=lambda: None)

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(self.module.micro_batches)
        self.clock += self.saving

    def broadcast(self, what: object) -> object:
        self.asked += 1
        return what

    def train(self, batches: int) -> None:
        for batch in range(batches):
            self.checkpoints.on_train_batch_start(self.trainer, self.module, None, batch)
            self.module.micro_batches += 1
            self.clock += 1


def test_checkpoints_of_a_large_network_are_further_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Run(monkeypatch, 1.0, saving=0.5)
    quick.train(400)
    assert quick.saved == [60, 120, 180, 240, 300, 360]
    slow = Run(monkeypatch, 1.0, saving=4.0)
    slow.train(400)
    assert slow.saved == [60, 180, 300]  # 30 times 4 seconds


def test_zero_minutes_save_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, 0.0, saving=9.0)
    run.train(8)
    assert run.saved == [2, 4, 6]


def test_processes_agree_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, 1.0, saving=0.0, processes=2)
    run.train(401)
    assert (run.asked, 2 * AGREE_EVERY) == (10, 40)  # not before the first batch
    assert run.saved == [80, 160, 240, 320, 400]
    run.checkpoints._signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        run.train(41)
    assert run.saved[-1] == 401


class Budgeted:
    """What a time budget is divided over: the stages of a module."""

    def __init__(self, *earlier: Stage) -> None:
        self.stages, self.lengths, self.device = (*earlier, Stage("last")), list[int](), torch.device("cpu")

    @property
    def total_steps(self) -> int | None:
        return sum(self.lengths) if len(self.lengths) == len(self.stages) else None

    def stop_measuring(self) -> None:
        STOPPED.append(True)


STOPPED: list[bool] = []
"""Whether the latest run of ``steps_in`` gave up measuring."""


def steps_in(
    monkeypatch: pytest.MonkeyPatch,
    minutes: int,
    seconds: Callable[[int], float],
    batches: int = 1,
    measuring: Measuring | None = None,
    before: float = 0.0,
    module: Any = None,
) -> tuple[int, float]:
    """Return how many steps, of so many batches, a budget of minutes allows, and how long they take, where a batch of
    step n takes ``seconds(n)``, and frames are encoded ``before``."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    STOPPED.clear()
    length = RunLength(TrainerConfig(max_time=f"00:00:{minutes:02d}:00"), measuring=measuring)
    module = module or Budgeted()
    trainer: Any = SimpleNamespace(global_step=0, should_stop=False, strategy=SimpleNamespace(broadcast=lambda x: x))
    length.on_fit_start(trainer, module)
    clock[0] += before
    length.on_train_start(trainer, module)
    batch = 0
    while not trainer.should_stop:
        batch += 1
        clock[0] += seconds(trainer.global_step)
        trainer.global_step = batch // batches
        length.on_train_batch_end(trainer, module)
    return trainer.global_step, clock[0] - 1000


@pytest.mark.parametrize("each", [0.01, 0.5, 20.0, 60.0, 400.0])
def test_a_time_budget_is_kept(monkeypatch: pytest.MonkeyPatch, each: float) -> None:
    steps, took = steps_in(monkeypatch, 5, lambda _: each)
    assert steps == max(1, int(300 / each + 1e-6))
    assert took <= max(300.0, each) + 1e-6


def test_a_step_of_several_batches_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_in(monkeypatch, 1, lambda _: 40.0, batches=4) == (1, 160.0)


@pytest.mark.kind("a time budget that does not hold")
@pytest.mark.parametrize("at_end", [0.0, 3.0, 100.0, 3000.0, 5000.0])
@pytest.mark.parametrize("each", [0.02, 20.0])
def test_measuring_counts_in_a_time_budget(monkeypatch: pytest.MonkeyPatch, each: float, at_end: float) -> None:
    measures = each * at_end <= 75
    steps, took = steps_in(monkeypatch, 5, lambda _: each, measuring=Measuring(at_end, at_end / 1000))
    assert ([] if measures else [True]) == STOPPED
    if measures:
        whole = took * (1 + at_end / 1000) + each * at_end
        assert 298 - 2 * each <= whole <= 304 + each  # the steps that were timed had no share taken off
    else:
        assert steps == 300 / each


def test_a_slow_start_does_not_count_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, took = steps_in(monkeypatch, 5, lambda step: 40.0 if step == 0 else 0.1)  # it compiles
    assert steps == pytest.approx(2600, abs=2)
    assert took == pytest.approx(300, abs=1)


@pytest.mark.parametrize(("before", "steps"), [(60.0, 480), (299.0, 3), (900.0, 1)])
def test_what_comes_before_counts_in_a_time_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], before: float, steps: int
) -> None:
    assert steps_in(monkeypatch, 5, lambda _: 0.5, before=before) == (steps, before + steps * 0.5)
    told = f"encoding frames took {before / 60:.1f} of 5 minutes" in capsys.readouterr().err
    assert told == (before > 150)


@pytest.mark.kind("a time budget that does not hold")
@pytest.mark.parametrize(
    ("earlier", "each", "expected"),
    [
        (Stage("vae", steps=1000), (0.01, 0.5), [1000, 580]),  # which takes 10 of the 300 seconds
        (Stage("vae", steps=30), (0.01, 0.5), [30, 599]),  # fewer than would be timed
        (Stage("vae", steps=100_000), (0.1, 0.5), [750, 450]),  # a quarter of the time, however many it asks for
        (Stage("vae", steps=0.5), (0.1, 0.5), [1500, 300]),  # a share is one of the time
        (Stage("vae", steps=5000), (60.0, 60.0), [3, 2]),  # three are timed in any case
    ],
)
def test_stages_divide_a_time_budget(
    monkeypatch: pytest.MonkeyPatch, earlier: Stage, each: tuple[float, float], expected: list[int]
) -> None:
    module = Budgeted(earlier)
    steps, took = steps_in(
        monkeypatch, 5, lambda step: each[len(module.lengths) == 1 and step >= module.lengths[0]], module=module
    )
    assert module.lengths == pytest.approx(expected, abs=2)
    assert steps == sum(module.lengths)
    assert took <= 300 + 1e-6


@pytest.mark.kind("a second Ctrl-C")
def test_a_second_signal_waits_until_all_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, 1.0, saving=0.0)
    saved: list[Path] = []

    def save(path: Path) -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)  # while it is written
        saved.append(path)

    run.trainer.save_checkpoint = save
    run.checkpoints.on_train_start(run.trainer, run.module)
    try:
        run.train(1)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as stop:
            run.train(4)
        assert (stop.value.number, stop.value.saved, len(saved)) == (signal.SIGINT, True, 1)
        signal.raise_signal(signal.SIGINT)  # too late: it is on its way out
    finally:
        run.checkpoints.teardown(run.trainer, run.module, "fit")


@pytest.mark.kind("a second Ctrl-C")
def test_a_second_signal_within_a_step_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run, before = Run(monkeypatch, 1.0, saving=0.0), signal.getsignal(signal.SIGINT)  # ignored in the background
    run.checkpoints.on_train_start(run.trainer, run.module)
    try:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert (stop.value.number, stop.value.saved, run.saved) == (signal.SIGTERM, False, [])
    finally:
        run.checkpoints.teardown(run.trainer, run.module, "fit")
    assert signal.getsignal(signal.SIGINT) is before
