"""``PolicyTraining``: one training step and one validation step of a policy, repeatable to the bit."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from robodiff.data.check import check_command
from robodiff.data.datamodule import send
from robodiff.data.episodes import ACTION, SMALLEST_RANGE
from robodiff.errors import RobodiffError, notice
from robodiff.policies.config import Stage
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import Chunk
from robodiff.text import counted
from robodiff.training.ema import Ema, ema_decay
from robodiff.training.optim import learning_rate, make_optimizer
from robodiff.training.stages import Span, check_stages, lengths_of, span_at, spans

_NEVER = 2**62
"""A batch that no run comes to."""


class PolicyTraining(LightningModule):
    """Train a policy and keep the average of its weights.

    Every random number of a step is a function of the run's seed and of how many batches came before, so that a run
    that is killed and resumed ends in the same weights.

    Args:
        policy: what to train; its normalizer is fitted already.
        seed: of the run.
        gradient_clip_val: largest norm of the gradient; None does not clip.
        batch_size: windows in a batch on one rank, for which noise is drawn.
        action_variance: (E,) of the training episodes, ``ActionRepresentation.variance``.
        sample_every: epochs from one validation that samples chunks to the next.
    """

    action_weights: Tensor

    def __init__(
        self,
        policy: DiffusionPolicy,
        seed: int,
        gradient_clip_val: float | None,
        batch_size: int,
        action_variance: Tensor,
        sample_every: int = 1,
    ) -> None:
        super().__init__()
        self.policy = policy
        frozen = {id(parameter): parameter for parameter in policy.parameters() if not parameter.requires_grad}
        self.average = copy.deepcopy(policy, frozen).requires_grad_(False).eval()  # which has these in common
        self.ema = Ema(self.average, self.policy)
        self.stages = policy.config.stages()
        check_stages(policy, self.stages)
        self._trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}  # ever
        self._stage: Stage | None = None  # which has been begun in this process
        self.seed, self.clip, self.batch_size, self.sample_every = seed, gradient_clip_val, batch_size, sample_every
        moves = action_variance > (SMALLEST_RANGE / 2) ** 2  # what is too small to be learnt varies by less
        self.action_moves = bool(moves.any())
        weights = torch.where(moves, 1 / action_variance, 0) / moves.sum()  # of squared errors, (E,)
        self.register_buffer("action_weights", weights.float(), persistent=False)
        self.micro_batches = 0  # batches seen in all epochs
        self.lengths: list[int] = []  # optimizer steps of the stages, of the first ones while not all are known
        self.news: list[str] = []  # what the progress line has still to tell
        self.measures = True  # whether there is time to validate and to roll out
        self.run = ""  # as ``TrainedOn.run``
        self._broken = torch.tensor(_NEVER)  # the first batch whose loss or gradient was not finite
        self._earlier_seconds, self._begun = 0.0, time.monotonic()

    @property
    def least_windows(self) -> int:
        """How many windows a rank needs in a batch: two for batch normalisation that is trained."""
        normalising = [each for each in self.policy.modules() if isinstance(each, _BatchNorm)]
        return 2 if any(parameter.requires_grad for each in normalising for parameter in each.parameters()) else 1

    def compile_networks(self) -> None:
        """Train through ``torch.compile``; the average, which acts on batches of other sizes, stays as it is."""
        for network in self.policy.networks:
            network.compile()

    def on_train_start(self) -> None:
        """Go on without measuring, where the run had no time for it."""
        if not self.measures:
            self.trainer.limit_val_batches = 0

    def stop_measuring(self) -> None:
        """Neither validate nor roll out: the time allows none of it, and the last policy is kept."""
        self.measures, self.trainer.limit_val_batches = False, 0
        notice("in this time the policy cannot be measured, too: no validation, no rollouts; the last one is kept")

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the run; None while they are not known."""
        return sum(self.lengths) if len(self.lengths) == len(self.stages) else None

    def set_length(self, steps: int) -> None:
        """Tell how many optimizer steps the run has; stages before the last keep what was told of them."""
        self.lengths = lengths_of(self.stages, steps, self.lengths[: len(self.stages) - 1])
        for span in spans(self.stages, self.lengths):
            if span.steps == 0:
                notice(f"in {counted(steps, 'step')} the run does not come to the stage {span.stage.name}")

    def forget_length(self) -> None:
        """Let stages after which no other has begun have another length: the run's end may have cut them short."""
        ends = (span.start + (span.steps or 0) for span in spans(self.stages, self.lengths[:-1]))
        self.lengths = [steps for steps, end in zip(self.lengths[:-1], ends, strict=False) if end < self.global_step]

    @property
    def span(self) -> Span:
        """The stage of the optimizer step that comes next."""
        return span_at(self.stages, self.global_step, self.lengths)

    @property
    def trained_span(self) -> Span:
        """The stage of the optimizer step before, which is what can be measured."""
        return span_at(self.stages, max(0, self.global_step - 1), self.lengths)

    @property
    def seconds(self) -> float:
        """How long the run has taken, in all processes that trained it and went on to a checkpoint."""
        return self._earlier_seconds + time.monotonic() - self._begun

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; fused kernels unscale half-precision gradients, which then cannot be clipped."""
        fused = self.trainer.precision != "16-mixed" and self.device.type in ("cpu", "cuda")
        return make_optimizer(self.policy, fused)

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin the stage of the step that comes, if it is another than before."""
        if (span := self.span).stage != self._stage:
            self._begin(span)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch, with noise drawn for that of all ranks, of which each keeps its rows."""
        step = self.micro_batches
        torch.manual_seed(_mix(self.seed, step, self.trainer.global_rank, 1))  # dropout, crops
        ranks = self.trainer.world_size, self.trainer.global_rank
        draws = self._draw(len(batch[ACTION]), *ranks, _mix(self.seed, step, 0))
        loss, metrics = getattr(self.policy, self.span.stage.loss)(batch, **draws)
        self.micro_batches += 1
        self._watch(loss.detach())
        if self._is_logged():
            self.log(f"train/{self.span.stage.loss}", loss, sync_dist=True)  # of which each stage may have its own
            self.log_dict({f"train/{name}": value for name, value in metrics.items()})
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip, and log the norm that the gradient had."""
        limit = float("inf") if self.clip is None else self.clip
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
        if self.trainer.precision != "16-mixed":  # whose scaler leaves out steps that overflow
            self._watch(norm)
        if self._is_logged():
            self.log("train/grad_norm", norm)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step with the learning rate of this step, then move the average."""
        span, config = self.span, self.policy.config
        step = self.global_step - span.start
        rate = learning_rate(step, span.steps, config, span.stage)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self._is_logged():
            self.log("train/learning_rate", rate)
            if len(self.stages) > 1:
                self.log("train/stage", float(self.stages.index(span.stage) + 1))
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.ema.update(ema_decay(step + 1, config), span.stage.trains)

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop at once where looking costs nothing; else where the GPU is waited for anyway, to log or to measure."""
        trainer = self.trainer
        logged = self.global_step % trainer.log_every_n_steps == 0  # pyright: ignore
        if self.device.type == "cpu" or logged or trainer.is_last_batch or trainer.should_stop:
            self.check_finite()

    def check_finite(self) -> None:
        """Raise RobodiffError if the loss or the gradient of a batch was not finite; waits for the GPU."""
        broken = int(self._broken)
        if broken == _NEVER:
            return
        batches, accumulated = int(self.trainer.num_training_batches), self.trainer.accumulate_grad_batches
        epoch, batch = divmod(broken, batches)
        step = epoch * -(-batches // accumulated) + batch // accumulated
        command = check_command(self.trainer.datamodule.config)  # pyright: ignore
        rate = self.trained_span.stage.learning_rate or self.policy.config.learning_rate
        place = f"step {step + 1} (epoch {epoch}, batch {batch + 1} of {batches}); what was saved before stays"
        remedy = f"train anew with a model.learning_rate below {rate:g}, or look for outliers with"
        message = f"training diverged: loss or gradient is not finite at {place}\n{remedy}"
        raise RobodiffError(f"{message}: {command}")

    def _watch(self, value: Tensor) -> None:
        """Remember the batch of the first value that is not finite, without waiting for the GPU."""
        broken = self._broken.to(value.device)
        self._broken = torch.where(value.isfinite(), broken, broken.clamp(max=self.micro_batches - 1))

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Measure the averaged policy on held-out windows, with the same noise every time, in 32 bits as it acts."""
        self.average.eval()
        size = len(batch[ACTION])
        draws, objective = self._draw(size, 1, 0, _mix(self.seed, batch_idx, 2)), self.trained_span.stage.loss
        with torch.autocast(self.device.type, enabled=False):
            loss, _ = getattr(self.average, objective)(batch, **draws)
        self.log(f"val/{objective}", loss, batch_size=size, sync_dist=True)
        if not self.samples_chunks:
            return
        generator = torch.Generator().manual_seed(_mix(self.seed, batch_idx, 3))
        noise = torch.randn(self.average.noise_shape(size), generator=generator)
        with torch.autocast(self.device.type, enabled=False):
            chunk = self.average.predict_chunk(batch, noise=send(noise, self.device))
        error = self._action_error(chunk, batch)
        self.log("val/action_mse", error, batch_size=size, sync_dist=True)

    def _action_error(self, chunk: Chunk, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared error of the actions that are executed, over the dimensions that move.

        Each counts in units of its variance, so that always giving the training episodes' mean action scores 1 there.
        """
        timing = self.policy.timing
        steps = slice(timing.n_obs_steps - 1, timing.n_obs_steps - 1 + timing.n_action_steps)
        distance = self.policy.representation.distance(chunk.executed(timing), batch[ACTION][:, steps])  # (B, Ta, E)
        valid = ~batch["action_is_pad"][:, steps]
        if (expert := batch.get("action_is_expert")) is not None:
            valid = valid & expert[:, steps]
        return ((distance.square() * self.action_weights).sum(-1) * valid).sum() / valid.sum()

    @property
    def samples_chunks(self) -> bool:
        """Whether the validation of this epoch samples chunks of actions: in the last stage, if any action moves."""
        due = (self.current_epoch + 1) % self.sample_every == 0 or self.trainer.should_stop
        return due and self.action_moves and self.trained_span.is_last

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where the run stands beside the weights."""
        names = ("micro_batches", "total_steps", "lengths", "seconds", "measures", "run")
        checkpoint["robodiff"] = {name: getattr(self, name) for name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from where the run stood."""
        kept = checkpoint["robodiff"]
        self.micro_batches = kept["micro_batches"]
        earlier = [kept["total_steps"]] if kept["total_steps"] is not None and len(self.stages) == 1 else []
        self.lengths = kept.get("lengths", earlier)
        self._earlier_seconds, self.measures = kept["seconds"], kept.get("measures", True)

    def _is_logged(self) -> bool:
        """Tell whether Lightning writes this step's metrics; to collect those of the others takes a tenth of a step."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # pyright: ignore

    def _begin(self, span: Span) -> None:
        """Let a stage train what it trains, and the rest be as it acts; to begin it twice changes nothing."""
        self._stage = stage = span.stage
        if stage.prepare and self.global_step == span.start:  # later it is in the checkpoint
            data = self.trainer.datamodule  # pyright: ignore
            learnt = getattr(self.average, stage.prepare)(data.episodes, data.train_windows)
            self.news.append(f"step {self.global_step}: stage {stage.name} begins; {learnt}")
        if len(self.stages) == 1:
            return
        if (logged := self.trainer._results) is not None:
            logged.reset()  # Lightning goes on to write what earlier stages measured
        self.ema.settle(stage.trains)
        for name, parameter in self.policy.named_parameters():
            parameter.requires_grad_(name in self._trained and name.startswith(stage.trains))
        self.policy.train()
        for name, module in self.policy.named_modules():
            inner = [each for each in self._trained if each.startswith(f"{name}.")]
            if inner and not any(each.startswith(stage.trains) for each in inner):
                module.eval()

    def _draw(self, size: int, world_size: int, rank: int, seed: int) -> dict[str, Tensor]:
        """Draw the random numbers of the loss of ``size`` windows: the rows of one rank out of those of all."""
        draws = self.policy.draw(world_size * max(self.batch_size, size), torch.Generator().manual_seed(seed))
        mine = slice(rank, rank + world_size * size, world_size)  # as the loader divides windows
        return {name: send(values[mine], self.device) for name, values in draws.items()}


def _mix(*numbers: int) -> int:
    """Return one well-mixed 63-bit seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
