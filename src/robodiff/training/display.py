"""What a run shows while it goes on: how fast it is, how far, and what its rollouts gave."""

import time
from collections import deque
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from robodiff.data.episodes import ACTION
from robodiff.progress import SECONDS_BETWEEN_LINES, per_second, say
from robodiff.text import counted
from robodiff.training.callbacks import ROLLED, Rollouts
from robodiff.training.module import PolicyTraining


class Throughput(Callback):
    """Samples (windows) a second of training alone, on all devices: without validation and rollouts."""

    warmup_batches = 10

    def __init__(self) -> None:
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)  # (seconds, samples) of the last batches
        self._batches, self._seconds, self._samples = 0, 0.0, 0
        self._last = 0.0  # when the batch before ended, or the epoch began

    @property
    def overall(self) -> float | None:
        """Over all batches of this process but the first; None while there are no others."""
        return self._samples / self._seconds if self._samples else None

    @property
    def pace(self) -> tuple[float, str]:
        """Seconds that one of the last batches took, and their samples a second in words."""
        seconds, samples = map(sum, zip(*self.recent, strict=True))
        return seconds / len(self.recent), per_second(samples / max(seconds, 1e-9), "samples")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyTraining, *args: Any) -> None:  # pyright: ignore
        """Count the batch, ``args[1]``."""
        now, samples = time.monotonic(), len(args[1][ACTION]) * trainer.world_size
        self._batches += 1
        self.recent.append((now - self._last, samples))
        if self._batches > self.warmup_batches:
            self._seconds += now - self._last
            self._samples += samples
        self._last = now


class ProgressLine(Callback):
    """A bar with samples/s, loss and time left; without a terminal, a line now and then."""

    def __init__(self, console: Console, throughput: Throughput) -> None:
        self.console, self.throughput = console, throughput
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = TaskID(0)
        self._clock = 0.0  # when the last line was printed
        self._pace_shown = False
        self._loss = ""  # the latest, in words

    def on_train_start(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Start the bar."""
        self._clock = time.monotonic()
        if self.bar is not None:
            self._task = self.bar.add_task("training", total=pl_module.total_steps)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyTraining, *_: Any) -> None:  # pyright: ignore
        """Tell how far it is."""
        while pl_module.news:
            say(self.console, pl_module.news.pop(0))
        if len(self.throughput.recent) > self.throughput.warmup_batches:
            self._show_pace(trainer)
        if trainer.global_step == pl_module.total_steps:
            say(self.console, f"step {pl_module.total_steps}, the last; now the policy is measured and saved")
        now = time.monotonic()
        if now - self._clock < (0.5 if self.bar else SECONDS_BETWEEN_LINES):
            return
        self._clock = now
        (seconds, rate), step, total = self.throughput.pace, trainer.global_step, pl_module.total_steps
        name = f"train/{pl_module.trained_span.stage.loss}"
        loss = trainer.callback_metrics.get(name)  # None, or NaN in a new epoch, until it is logged
        self._loss = self._loss if loss is None or loss.isnan() else f"loss {float(loss):.4f}  "
        text = f"epoch {trainer.current_epoch}  {self._loss}{rate}"
        if self.bar is not None:
            self.bar.update(self._task, completed=step, total=total, description=text)
        elif total is None:
            say(self.console, f"step {step}  {text}")
        else:
            left = (total - step) * trainer.accumulate_grad_batches * seconds / 60
            say(self.console, f"step {step}/{total}  {text}  {left:.1f} min left")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Print what rollouts gave."""
        rollouts = next((c for c in trainer.callbacks if isinstance(c, Rollouts)), None)  # pyright: ignore
        if rollouts is None or rollouts.latest is None:
            return
        success, reward, stopped = (rollouts.latest[f"rollout/{name}"] for name in ROLLED)
        text = f"step {trainer.global_step}  rollouts of {counted(rollouts.config.episodes, 'episode')}: "
        text += f"success {success:.2f}, mean maximum reward {reward:.3f}"
        if stopped:
            text += f", {stopped:.0f} stopped by an action that is not finite"
        if "val/action_mse" in trainer.callback_metrics and pl_module.samples_chunks:
            text += f"  val/action_mse {float(trainer.callback_metrics['val/action_mse']):.4g}"
        say(self.console, text)

    def on_train_end(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Tell of a short run, too, how long its steps took."""
        if self.throughput.recent:
            self._show_pace(trainer)

    def _show_pace(self, trainer: Trainer) -> None:
        """Print once how long a step takes."""
        if not self._pace_shown:
            self._pace_shown = True
            seconds, rate = self.throughput.pace
            say(self.console, f"a step takes {seconds * trainer.accumulate_grad_batches:.3g} s: {rate}")

    def teardown(self, trainer: Trainer, pl_module: PolicyTraining, stage: str) -> None:  # pyright: ignore
        """Stop the bar."""
        if self.bar is not None:
            self.bar.stop()
