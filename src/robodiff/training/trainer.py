"""Lightning's trainer, made as a run asks for it."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy

from robodiff.errors import RobodiffError, UsageError, first_line
from robodiff.training.config import FitConfig, TrainerConfig
from robodiff.training.resume import AtomicCheckpointIO, MetricsCsv

LIGHTNING_OPTIONS = (
    *("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "precision", "accumulate_grad_batches"),
    *("check_val_every_n_epoch", "log_every_n_steps"),
)
"""Options of ``TrainerConfig`` that Lightning has by the same name."""


def make_trainer(config: FitConfig, callbacks: list[Callback]) -> Trainer:
    """Return Lightning's trainer, if it can train on this machine as it was asked to."""
    options = config.trainer
    if options.fast_dev_run and options.accelerator != "cpu" and not torch.cuda.is_available():
        options = replace(options, accelerator="auto")  # configurations for GPUs can be tried on a laptop
    try:
        trainer = Trainer(
            **{name: getattr(options, name) for name in LIGHTNING_OPTIONS},
            max_epochs=-1,  # RunLength ends the run: with its own limits Lightning resumes differently
            callbacks=callbacks,
            logger=False,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise UsageError(f"trainer: this machine cannot train like that: {first_line(error)}") from None
    if isinstance(trainer.strategy, DDPStrategy) and len(config.model.stages()) > 1:
        trainer.strategy._ddp_kwargs["find_unused_parameters"] = True  # those that rest in a stage
    _check_machine(trainer, options)
    return trainer


def _check_machine(trainer: Trainer, options: TrainerConfig) -> None:
    """Refuse what Lightning would do in another way than it was asked to."""
    if trainer.precision != options.precision:
        raise UsageError(f"trainer.precision {options.precision} needs a GPU; on this machine take bf16-mixed, 32-true")
    if options.sync_batchnorm and trainer.strategy.root_device.type != "cuda":
        raise UsageError("trainer.sync_batchnorm needs GPUs; on this machine set --trainer.sync_batchnorm false")
    processes, started = trainer.num_devices * trainer.num_nodes, int(os.environ.get("WORLD_SIZE", 1))
    if torch.distributed.is_torchelastic_launched() and processes != started:
        raise UsageError(f"torchrun: set trainer.strategy ddp, and devices x num_nodes {started}; found {processes}")


def make_loggers(config: TrainerConfig, run: Path, resumed_step: int) -> list[Logger]:
    """Return what writes metrics: a table in the run's folder, and what the configuration asks for beside it."""
    loggers: list[Logger] = [MetricsCsv(run / "metrics.csv", resumed_step)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(run, name="tensorboard", version=""))
    if config.wandb_project is not None:
        try:
            loggers.append(WandbLogger(project=config.wandb_project, name=run.name, save_dir=run))
        except ModuleNotFoundError:
            raise UsageError("trainer.wandb_project needs the extra wandb: pip install 'robodiff[wandb]'") from None
    return loggers


@contextmanager
def telling_compiler() -> Iterator[None]:
    """Tell in a line what torch.compile needs, where it fails."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        reason = next((line for line in str(error).splitlines() if line and not line.endswith("raised:")), "")
        remedy = "it needs a C++ compiler, on a GPU Triton; or train with --trainer.compile false"
        raise RobodiffError(f"torch.compile failed: {reason}\n{remedy}") from None


def quiet() -> None:
    """Leave to the user what she can act upon."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # TensorBoard writes in a thread, and hands its errors on to the next who writes.
    threading.excepthook = lambda e: None if issubclass(e.exc_type, OSError) else threading.__excepthook__(e)
    warnings.filterwarnings("ignore", message=".*(LeafSpec|pkg_resources|isinstance\\(treespec).*")
