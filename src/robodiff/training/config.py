"""How long and on what to train, and what to measure meanwhile. Imports no torch, so that help is instant."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from robodiff.data.recordings import DataConfig
from robodiff.documents import Above, AtLeast, AtMost, Between, Document, FilePath
from robodiff.evaluation.config import ROLLOUT_SEED
from robodiff.policies.config import PolicyConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Document):
    """The length of a run, the machine it uses, and what is kept of it. Names are Lightning's where it has them."""

    max_epochs: Annotated[int, AtLeast(1)] | None = None
    """Stop after this many passes over the training windows."""
    max_steps: Annotated[int, AtLeast(1)] | None = None
    """Stop after this many optimizer steps."""
    max_time: str | None = None
    """Stop after about this time, DD:HH:MM:SS, with what measuring takes of it; it becomes a number of steps after the
    first ones."""
    accelerator: str = "auto"
    """cpu, cuda, mps or auto."""
    devices: int | str = "auto"
    """How many devices, or auto."""
    num_nodes: Annotated[int, AtLeast(1)] = 1
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
    gradient_clip_val: Annotated[float, Above(0)] | None = 1.0
    """Largest norm of the gradient; not clipped when null."""
    accumulate_grad_batches: Annotated[int, AtLeast(1)] = 1
    """Batches whose gradients make one optimizer step."""
    check_val_every_n_epoch: Annotated[int, AtLeast(1)] = 1
    """Epochs from one validation to the next."""
    sample_every_n_epochs: Annotated[int, AtLeast(1)] = 1
    """Validations also sample chunks of actions, for val/action_mse, in epochs that are a multiple of this."""
    limit_train_batches: Annotated[int, AtLeast(1)] | Annotated[float, Above(0), AtMost(1)] | None = None
    """Batches, or share, of the training windows that make an epoch; all when null."""
    limit_val_batches: Annotated[int, AtLeast(0)] | Annotated[float, Between(0, 1)] | None = None
    """Batches, or share, of the held-out windows that a validation uses; all when null."""
    log_every_n_steps: Annotated[int, AtLeast(1)] = 20
    """Optimizer steps from one line of metrics to the next."""
    checkpoint_every_minutes: Annotated[float, AtLeast(0)] = 1.0
    """Work that a crash can cost, more where saving takes long: at most a thirtieth of the time goes into it. 0 saves
    after every optimizer step."""
    keep_every_n_epochs: Annotated[int, AtLeast(1)] | None = None
    """Keep the policy of every n-th epoch in policies/; only the best and the last when null."""
    early_stopping_patience: Annotated[int, AtLeast(1)] | None = None
    """Stop after this many measurements in a row that bring no better policy; never when null."""
    tensorboard: bool = True
    """Write TensorBoard logs."""
    wandb_project: str | None = None
    """Log to this Weights & Biases project, too; needs the extra wandb."""
    fast_dev_run: bool = False
    """One training batch of each stage, one validation batch and one rollout with two denoising steps, on one device,
    to see that everything works."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        given = [name for name in ("max_epochs", "max_steps", "max_time") if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"set one of max_epochs, max_steps, max_time; found {', '.join(given)}"
        if self.max_time is not None and not (re.fullmatch(r"\d+(:\d+){3}", self.max_time) and self.seconds):
            yield f"max_time is written DD:HH:MM:SS, as 00:00:05:00, and above 0; found {self.max_time!r}"

    @property
    def endless(self) -> bool:
        """Whether nothing says how long to train."""
        return not (self.max_epochs or self.max_steps or self.max_time or self.fast_dev_run)

    @property
    def seconds(self) -> int:
        """``max_time`` in seconds."""
        days, hours, minutes, seconds = (int(part) for part in str(self.max_time).split(":"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(Document):
    """Rollouts of the averaged policy in an environment during training."""

    env: str | None = None
    """The environment, such as pusht; no rollouts when null."""
    episodes: Annotated[int, AtLeast(1)] = 50
    """Episodes each time."""
    seed: Annotated[int, AtLeast(0)] = ROLLOUT_SEED
    """Seed of the first; the others follow. Evaluation starts at 100000, so it meets none of these."""
    num_envs: Annotated[int, AtLeast(1)] = 50
    """Episodes that are stepped together with one call of the policy."""
    every_n_epochs: Annotated[int, AtLeast(1)] = 10
    """Epochs from one time to the next."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(Document):
    """Everything that a run is made of."""

    model: PolicyConfig
    """The policy."""
    data: DataConfig
    """The demonstrations."""
    trainer: TrainerConfig = TrainerConfig()
    """The length of the run, and the machine."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Rollouts during training."""
    seed_everything: Annotated[int, Between(0, 2**32 - 1)] = 42
    """Seed of everything random in training."""
    initial_weights: FilePath | None = None
    """A policy to train on from, of the same sizes: its weights and its normalizer are where the run begins; random
    weights, and the normalizer of the recording, when null."""
    plugins: list[str] = field(default_factory=list)
    """The plugins that the run was begun with, for messages; a plugin is imported where --plugin names it, never from
    here."""
    distributions: list[str] = field(default_factory=list)
    """The installed distributions that the run's classes came from, for messages."""

    def short(self) -> "FitConfig":
        """Return the configuration that ``fast_dev_run`` trains: a step a stage, on what there is of this machine."""
        model, rollout = self.model.short(), replace(self.rollout, episodes=1)
        length = {"max_epochs": None, "max_steps": len(model.stages()), "max_time": None, "limit_train_batches": 1}
        machine = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
        trainer = replace(self.trainer, **length, **machine, limit_val_batches=1, log_every_n_steps=1)
        return replace(self, model=model, trainer=trainer, rollout=rollout)


def max_time(minutes: float) -> str:
    """Return minutes as ``TrainerConfig.max_time`` writes them."""
    total = max(1, round(minutes * 60))
    return f"{total // 86400:02d}:{total // 3600 % 24:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
