"""What happens around training steps: the run's length, rollouts, and what is kept."""

import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from robodiff.envs.spec import get_env_spec
from robodiff.errors import notice
from robodiff.evaluation.evaluate import summary
from robodiff.evaluation.rollout import rollout
from robodiff.policies.checkpoint import save_policy
from robodiff.training.config import RolloutConfig, TrainerConfig
from robodiff.training.module import PolicyTraining
from robodiff.training.stages import Span, spans

CHECKPOINT = Path("checkpoints") / "last.ckpt"
UNSAVED = ".unsaved"
"""In a run until its first checkpoint is whole: policies are written before that, and so tell nothing of it."""
ROLLED = ("success_rate", "mean_max_reward", "non_finite_actions")
"""What is logged of rollouts, beside what the environment measures itself; the last is the number of episodes that an
action which is not finite stopped."""

SHARE = 30
"""Training takes at least so many times as long as the checkpoints of it: those of large networks take seconds."""
MEASURING = 0.25
"""Share of a time budget that measuring the policy at the end may take."""
EARLIER = 0.25
"""Share of a time budget that an earlier stage, which has a number of steps, may take."""
AGREE_EVERY = 20
"""Optimizer steps after which processes that train together agree on saving and stopping: to ask takes time, too."""


class Interrupted(BaseException):
    """Ctrl-C was pressed or the process told to end.

    Args:
        number: of the signal.
        saved: whether the run was saved for it; at the second signal it is not.
    """

    def __init__(self, number: int, saved: bool) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.saved = number, saved


@dataclass(frozen=True)
class Measuring:
    """What it costs to measure a policy, as a number of optimizer steps that take as long."""

    at_end: float = 0.0
    """When the run ends: a validation, and rollouts."""
    each_step: float = 0.0
    """Before that, as a share of each step."""


class RunLength(Callback):
    """Know the run's number of optimizer steps, and end it there.

    A time budget becomes a number of steps by timing the first ones of each stage after a warm-up; the number is kept
    with the run, for the learning rate depends on it, and a run that is resumed must follow the same schedule.
    """

    warmup_steps, timed_steps = 10, 40

    def __init__(self, config: TrainerConfig, new_length: bool = False, measuring: Measuring | None = None) -> None:
        self.config, self.new_length = config, new_length  # although the checkpoint brings one
        self.measuring = measuring or Measuring()
        self._affords = True  # whether there is time to measure
        self._step_ends: list[float] = []  # when each timed optimizer step ended
        self._first, self._begun = 0, 0.0  # the step from which steps are timed, and when it began
        self._prepared = time.monotonic()  # when what comes before the first step was begun
        self._earlier = 0.0  # seconds that earlier processes have taken of the budget

    def on_fit_start(self, *_: Any) -> None:
        """Count what comes before the first step, such as encoding frames, to the time of the run."""
        self._prepared = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Find the number of steps, unless the checkpoint brought it or a time budget has still to be measured."""
        self._first, self._begun = trainer.global_step, time.monotonic()
        before = self._begun - self._prepared
        if self.config.max_time is not None and pl_module.total_steps is None and before > self.config.seconds / 2:
            budget = f"{self.config.seconds / 60:.3g} minutes"
            notice(f"encoding frames took {before / 60:.1f} of {budget}; the next run on them finds them in the cache")
        if self.new_length:
            pl_module.forget_length()
            pl_module.measures = True
        elif pl_module.lengths:
            self._earlier = pl_module.seconds - before
        if pl_module.total_steps is not None:
            return
        if self.config.max_steps is not None:
            pl_module.set_length(self.config.max_steps)
        elif self.config.max_epochs is not None:
            batches = int(trainer.num_training_batches)
            pl_module.set_length(self.config.max_epochs * -(-batches // self.config.accumulate_grad_batches))

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyTraining, *_: Any) -> None:  # pyright: ignore
        """Measure a time budget, and stop at the last step."""
        if pl_module.total_steps is None:
            self._time(trainer, pl_module)
        if pl_module.total_steps is not None and trainer.global_step >= pl_module.total_steps:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # what the run ends with is validated, in whichever epoch that is

    def _time(self, trainer: Trainer, module: PolicyTraining) -> None:
        """Time the first steps of a stage, and tell its length when it is known."""
        step, start = trainer.global_step, sum(module.lengths)
        if self._first >= start:  # else an earlier stage runs, whose length is known
            if step - self._first > len(self._step_ends):  # not between the batches of an accumulated step
                if module.device.type == "cuda":
                    torch.cuda.synchronize()  # the step has been queued, not done
                self._step_ends.append(time.monotonic())
            *_, span = spans(module.stages, module.lengths)
            steps, affords = trainer.strategy.broadcast((self._measured(span), self._affords))
            if steps is not None:
                if not affords:
                    module.stop_measuring()
                module.lengths.append(max(step, self._first + steps) - start)
        if self._first < step == sum(module.lengths):  # the next stage begins
            self._first, self._begun, self._step_ends = step, time.monotonic(), []

    def _measured(self, span: Span) -> int | None:
        """Return the steps that the time budget allows a stage; None while too few of them have been timed.

        Timing takes a tenth of the budget at most, but for the first three steps: a step may take a minute. Measuring
        at the end may take ``MEASURING`` of it; where it would take longer there is none. Stages before the last get
        the share of the time that they name, or the steps, which take ``EARLIER`` of it at most.
        """
        ends, spent, wanted = self._step_ends, time.monotonic() - self._begun, span.stage.steps
        budget = self.config.seconds - self._earlier - (self._begun - self._prepared)
        most = None
        if not span.is_last:
            most = wanted - (self._first - span.start) if isinstance(wanted, int) else None
            budget = min(budget, (wanted if isinstance(wanted, float) else EARLIER) * self.config.seconds)
        if most is not None and len(ends) >= most:
            return most
        long = (ends and spent > budget) or (len(ends) >= 3 and spent > budget / 10)  # one step is taken in any case
        if len(ends) <= self.warmup_steps + self.timed_steps and not long:
            return None
        durations = np.diff(ends[min(self.warmup_steps, len(ends) // 2) :])
        seconds = float(np.median(durations)) if len(durations) else spent
        if span.is_last:
            at_end = seconds * self.measuring.at_end
            self._affords = at_end <= MEASURING * budget
            if self._affords:
                spent, seconds = spent + at_end, seconds * (1 + self.measuring.each_step)
        steps = len(ends) + max(0, int((budget - spent) / seconds))
        return steps if most is None else min(steps, most)


class Rollouts(Callback):
    """Every n epochs, and when the run ends, let the averaged policy act in an environment."""

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.spec = get_env_spec(str(config.env))
        self.latest: dict[str, float] | None = None  # what this epoch's rollouts gave

    def on_train_epoch_end(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Roll out and log."""
        self.latest = None
        due = (trainer.current_epoch + 1) % self.config.every_n_epochs == 0 or trainer.should_stop
        if not (due and pl_module.measures and pl_module.trained_span.is_last):  # before that nothing can act
            return
        pl_module.average.eval()
        seeds = range(self.config.seed, self.config.seed + self.config.episodes)
        figures: dict[str, float] = {}
        if trainer.is_global_zero:
            result = summary(rollout(pl_module.average, self.spec, seeds, min(self.config.num_envs, len(seeds))))
            figures = result.extra | {name: float(getattr(result, name)) for name in ROLLED}
        self.latest = {f"rollout/{name}": value for name, value in trainer.strategy.broadcast(figures).items()}
        pl_module.log_dict(self.latest, rank_zero_only=True)


class Checkpoints(Callback):
    """Keep the best policy, the last, every n-th, and checkpoints to go on from; end a run that no longer improves.

    The best is the one with the highest reward in rollouts or, where there are none, with the smallest
    ``val/action_mse``, the error of its actions on held-out windows in units that let metres and radians be added up;
    without either, the last.
    """

    def __init__(self, run: Path, config: TrainerConfig, rollouts: Rollouts | None) -> None:
        self.run, self.config, self.rollouts = run, config, rollouts
        self.best: float | None = None  # higher is better
        self.worse_in_a_row = 0
        self._saved_at = time.monotonic()
        self._pause = 60 * config.checkpoint_every_minutes  # seconds until the next checkpoint
        self._begun_at = 0  # batches of earlier processes
        self._signal: int | None = None  # SIGINT or SIGTERM, once it has come
        self._saving = False
        self._previous_handlers: dict[int, Any] = {}

    @property
    def state_key(self) -> str:
        """By which its state is found in checkpoints; those of earlier versions have it, too."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        """Return what checkpoints keep."""
        return {"best": self.best, "worse_in_a_row": self.worse_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.worse_in_a_row = state_dict["best"], state_dict["worse_in_a_row"]

    def on_train_start(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Honour Ctrl-C and SIGTERM between training steps from here on; the second time at once, or when saved."""

        def interrupt(number: int, _: Any) -> None:
            if self._signal is not None and not self._saving:
                self._interrupt(number, saved=False)
            self._signal = number

        for number in (signal.SIGINT, signal.SIGTERM):  # SLURM, docker and systemd send the second
            self._previous_handlers[number] = signal.signal(number, interrupt)
        self._saved_at = time.monotonic()
        self._begun_at = pl_module.micro_batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: PolicyTraining, *args: Any) -> None:  # pyright: ignore
        """Save now and then, before a batch: all that came before is logged, measured and kept.

        Not between the batches of one optimizer step: half-accumulated gradients are in no checkpoint.
        """
        # Lightning counts this anew when it resumes and is one off where a checkpoint was not its own idea.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        if args[1] % trainer.accumulate_grad_batches != 0 or pl_module.micro_batches == self._begun_at:
            return
        if trainer.world_size > 1 and args[1] // trainer.accumulate_grad_batches % AGREE_EVERY != 0:
            return
        due = time.monotonic() - self._saved_at >= self._pause
        due, number = trainer.strategy.broadcast((due, self._signal))
        if due or number is not None:
            self._checkpoint(trainer, pl_module)
        if number is not None:
            self._interrupt(number, saved=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Judge what this epoch measured, and keep what is worth it."""
        score = self._score(trainer, pl_module)
        if score is not None and math.isfinite(score) and (self.best is None or score > self.best):
            self.best, self.worse_in_a_row = score, 0
            self._save_policy(trainer, pl_module, "policy")
        elif score is not None:
            self.worse_in_a_row += 1
            patience = self.config.early_stopping_patience
            if patience is not None and self.worse_in_a_row >= patience:
                trainer.should_stop = True
                pl_module.set_length(trainer.global_step)  # resumed, it has finished
        every = self.config.keep_every_n_epochs
        due = every is not None and (trainer.current_epoch + 1) % every == 0
        if due and pl_module.trained_span.is_last:  # before that nothing can act
            self._save_policy(trainer, pl_module, f"policies/epoch-{trainer.current_epoch + 1:04d}")

    def on_train_end(self, trainer: Trainer, pl_module: PolicyTraining) -> None:  # pyright: ignore
        """Save the final checkpoint, from which the run can be made longer, and the last policy."""
        self._checkpoint(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: PolicyTraining, stage: str) -> None:  # pyright: ignore
        """Give the signals back."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _interrupt(self, number: int, saved: bool) -> NoReturn:
        """End the run; further signals come too late, until ``teardown`` gives them back."""
        for each in self._previous_handlers:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number, saved)

    def _score(self, trainer: Trainer, module: PolicyTraining) -> float | None:
        if self.rollouts is not None:
            latest = self.rollouts.latest
            return None if latest is None else latest["rollout/mean_max_reward"]
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        error = trainer.callback_metrics.get("val/action_mse")
        return -float(error) if error is not None and validated and module.samples_chunks else None

    def _checkpoint(self, trainer: Trainer, module: PolicyTraining) -> None:
        """Save; the policies come first, for they refuse what is not finite, of which no checkpoint is made, either."""
        begun, self._saving = time.monotonic(), True
        try:
            module.check_finite()
            self._save_policy(trainer, module, "policy-last")
            if self.best is None:
                self._save_policy(trainer, module, "policy")
            trainer.save_checkpoint(self.run / CHECKPOINT)
            if trainer.is_global_zero:
                (self.run / UNSAVED).unlink(missing_ok=True)
        finally:
            self._saving = False
        self._saved_at = time.monotonic()
        if self._pause:  # 0 is to save after every step, whatever it costs
            self._pause = max(60 * self.config.checkpoint_every_minutes, SHARE * (self._saved_at - begun))

    def _save_policy(self, trainer: Trainer, module: PolicyTraining, name: str) -> None:
        if trainer.is_global_zero:
            save_policy(module.average, self.run / name)
