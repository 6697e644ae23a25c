"""How long and on what to train, and what to measure meanwhile. Imports no torch, so that help is instant."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from robodiff.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The length of a run, the machine it uses, and what is kept of it. Names are Lightning's where it has them."""

    max_epochs: int | None = None
    """Stop after this many passes over the training windows."""
    max_steps: int | None = None
    """Stop after this many optimizer steps."""
    max_time: str | None = None
    """Stop after about this time of training, DD:HH:MM:SS; it becomes a number of steps after the first ones."""
    accelerator: str = "auto"
    """cpu, cuda, mps or auto."""
    devices: int | str = "auto"
    """How many devices, or auto."""
    num_nodes: int = 1
    """How many machines."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How devices share the work: ddp, one process for each, which auto chooses where there are several."""
    sync_batchnorm: bool = False
    """Batch normalisation over all devices together."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of training; 16-mixed needs a GPU. Weights are kept, and policies measured and saved, in 32 bits."""
    compile: bool = False
    """Train through torch.compile, which first takes a minute; it needs a C++ compiler, on a GPU Triton. Resumed runs
    repeat to the bit only where both were compiled."""
    gradient_clip_val: float | None = 1.0
    """Largest norm of the gradient; not clipped when null."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients make one optimizer step."""
    check_val_every_n_epoch: int = 1
    """Epochs from one validation to the next."""
    sample_every_n_epochs: int = 1
    """Validations also sample chunks of actions, for val/action_mse, in epochs that are a multiple of this."""
    limit_train_batches: int | float | None = None
    """Batches, or share, of the training windows that make an epoch; all when null."""
    limit_val_batches: int | float | None = None
    """Batches, or share, of the held-out windows that a validation uses; all when null."""
    log_every_n_steps: int = 20
    """Optimizer steps from one line of metrics to the next."""
    checkpoint_every_minutes: float = 1.0
    """Work that a crash can cost, more where saving takes long: at most a thirtieth of the time goes into it. 0 saves
    after every optimizer step."""
    keep_every_n_epochs: int | None = None
    """Keep the policy of every n-th epoch in policies/; only the best and the last when null."""
    early_stopping_patience: int | None = None
    """Stop after this many measurements in a row that bring no better policy; never when null."""
    tensorboard: bool = True
    """Write TensorBoard logs."""
    wandb_project: str | None = None
    """Log to this Weights & Biases project, too; needs the extra wandb."""
    fast_dev_run: bool = False
    """One training batch, one validation batch and one rollout with two denoising steps, on one device, to see that
    everything works."""

    def __post_init__(self) -> None:
        given = [n for n in ("max_epochs", "max_steps", "max_time") if getattr(self, n) is not None]
        if len(given) > 1:
            raise UsageError(f"set one of trainer.max_epochs, max_steps, max_time; found {', '.join(given)}")
        for name in ("max_epochs", "max_steps", "accumulate_grad_batches", "check_val_every_n_epoch",
                     "sample_every_n_epochs", "num_nodes", "log_every_n_steps", "keep_every_n_epochs",
                     "early_stopping_patience"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"trainer.{name} must be at least 1; found {getattr(self, name)}")
        for name in ("limit_train_batches", "limit_val_batches"):
            limit = getattr(self, name)
            if limit is not None and (limit < 0 or (isinstance(limit, float) and limit > 1)):
                raise UsageError(f"trainer.{name} must be a number of batches, a share from 0.0 to 1.0, or null; "
                                 f"found {limit}")  # fmt: skip
        if self.limit_train_batches == 0:
            raise UsageError("trainer.limit_train_batches 0 leaves nothing to train on; null takes all")
        if self.gradient_clip_val is not None and not self.gradient_clip_val > 0:
            raise UsageError(f"trainer.gradient_clip_val must be above 0, or null; found {self.gradient_clip_val}")
        if self.max_time is not None:
            _ = self.seconds

    @property
    def endless(self) -> bool:
        """Whether nothing says how long to train."""
        return not (self.max_epochs or self.max_steps or self.max_time or self.fast_dev_run)

    @property
    def seconds(self) -> float:
        """``max_time`` in seconds."""
        try:
            days, hours, minutes, seconds = (int(part) for part in str(self.max_time).split(":"))
            length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
        except ValueError:
            raise UsageError(
                f"trainer.max_time is written DD:HH:MM:SS, as 00:00:05:00; found {self.max_time!r}"
            ) from None
        if length <= 0:
            raise UsageError(f"trainer.max_time must be above 0; found {self.max_time!r}")
        return length


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Rollouts of the averaged policy in an environment during training."""

    env: str | None = None
    """The environment, such as pusht; no rollouts when null."""
    episodes: int = 50
    """Episodes each time."""
    seed: int = 50_000
    """Seed of the first; the others follow. Evaluation starts at 100000, so it meets none of these."""
    num_envs: int = 50
    """Episodes that are stepped together with one call of the policy."""
    every_n_epochs: int = 10
    """Epochs from one time to the next."""

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs", "every_n_epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"rollout.{name} must be at least 1; found {getattr(self, name)}")
        if self.seed < 0:
            raise UsageError(f"rollout.seed must not be negative; found {self.seed}")


def max_time(minutes: float) -> str:
    """Minutes as ``TrainerConfig.max_time`` writes them."""
    if not 0 < minutes < 60 * 24 * 365:
        raise UsageError(f"--minutes must be above 0 and below a year; found {minutes}")
    total = max(1, round(minutes * 60))
    return f"{total // 86400:02d}:{total // 3600 % 24:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
