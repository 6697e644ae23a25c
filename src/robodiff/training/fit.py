"""Train a policy: put data, policy, trainer and callbacks together, and run."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from robodiff.data.config import DataModule
from robodiff.data.datamodule import WindowDataModule
from robodiff.data.episodes import ACTION
from robodiff.envs.spec import get_env_spec
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.evaluation.actor import check_fit
from robodiff.evaluation.results import RunFacts, write_result
from robodiff.files import locked, naming, replacing
from robodiff.machine import describe_machine
from robodiff.policies.base import PolicyConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.progress import say
from robodiff.training.callbacks import CHECKPOINT, Interrupted, Keeper, Rollouts, RunLength
from robodiff.training.config import RolloutConfig, TrainerConfig
from robodiff.training.display import ProgressLine, Throughput
from robodiff.training.module import PolicyTraining
from robodiff.training.resume import AtomicCheckpointIO, MetricsCsv

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class FitConfig:
    """Everything that a run is made of."""

    model: PolicyConfig
    data: DataModule
    trainer: TrainerConfig
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    seed_everything: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.seed_everything < 2**32:
            raise UsageError(f"seed_everything must be from 0 to {2**32 - 1}; found {self.seed_everything}")


def fit(
    config: FitConfig,
    run: Path,
    config_yaml: str,
    resume: bool = False,
    new_length: bool = False,
    console: Console | None = None,
) -> bool:
    """Train, and fill the folder of the run.

    Args:
        config: what to train, on what, and for how long.
        run: the folder; it must not exist, or, to resume, hold a run that was begun.
        config_yaml: ``config`` as text, kept in the run so that it repeats the run alone.
        resume: go on from the last checkpoint.
        new_length: a resumed run takes its length from ``config``, not from its checkpoint.
        console: where progress is shown.

    Returns:
        Whether this is the process that writes, of those that train together; the others are silent.

    Raises:
        RobodiffError: data that cannot be read or does not fit, or a run that cannot be resumed.
        Interrupted: by Ctrl-C or SIGTERM; the run was saved.
    """
    _quiet()
    if config.trainer.endless:
        raise UsageError("nothing says how long to train; set trainer.max_epochs, max_steps or max_time")
    primary = rank_zero_only.rank == 0
    console = (console or Console()) if primary else Console(quiet=True)
    if primary:
        _check_folder(run, resume)
    say(console, f"run: {run}")
    spec = rollouts = None
    if config.rollout.env is not None:
        spec = get_env_spec(config.rollout.env)
        rollouts = Rollouts(config.rollout, 1 if config.trainer.fast_dev_run else config.rollout.episodes)
    throughput = Throughput()
    callbacks = [RunLength(config.trainer, new_length), rollouts, throughput, ProgressLine(console, throughput),
                 Keeper(run, config.trainer, rollouts)]  # fmt: skip
    trainer = _trainer(config.trainer, [c for c in callbacks if c is not None])
    seed_everything(config.seed_everything, verbose=False)
    limit = 1 if config.trainer.fast_dev_run else config.trainer.limit_train_batches
    data = WindowDataModule(
        config.data, config.model.window, config.model.observation_keys, config.seed_everything, limit
    )
    model = replace(config.model, frame_stride=data.shape.frame_stride)
    if config.trainer.fast_dev_run:
        model = replace(model, num_inference_steps=2)
    policy = DiffusionPolicy(model, data.episodes.features, data.episodes.fps)
    policy.normalizer.fit(data.statistics(policy.representation, model.denoised))
    _check_normalization(policy)
    checkpoint = run / CHECKPOINT if resume and (run / CHECKPOINT).is_file() else None  # none: killed before it
    if checkpoint is None:
        policy.load_pretrained_backbones()
    if spec is not None:
        check_fit(policy, spec)
    module = PolicyTraining(
        policy,
        config.seed_everything,
        config.trainer.gradient_clip_val,
        config.data.train_batch_size,
        data.action_variance(policy.representation),
        config.trainer.sample_every_n_epochs,
    )
    if config.trainer.compile:
        module.compile_networks()
    with locked(run) if primary else nullcontext():
        step, total = _progress(checkpoint)
        if total is not None and step >= total and not new_length:
            raise UsageError(
                f"{run}: has finished its {total} steps; give it more, as with --trainer.max_steps {2 * total}"
            )
        if primary:
            with replacing(run / CONFIG_FILE) as temporary:
                temporary.write_text(config_yaml)
        say(console, _describe(policy, data))
        trainer.loggers = _loggers(config.trainer, run, step)
        with naming(run), _compiling():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if primary:
            device = trainer.strategy.root_device
            memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
            facts = RunFacts(
                minutes=module.seconds / 60,
                steps=trainer.global_step,
                machine=describe_machine(str(device)),
                samples_per_second=throughput.overall,
                gpu_memory_gb=memory,
            )
            write_result(run, facts)
    return primary


@contextmanager
def _compiling() -> Iterator[None]:
    """Say in a line what torch.compile needs, where it fails."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        said = [line for line in str(error).splitlines() if line and not line.endswith("raised:")]
        reason = (said or [type(error).__name__])[0]
        raise RobodiffError(
            f"torch.compile failed: {reason}\nit needs a C++ compiler, on a GPU Triton; or train with "
            "--trainer.compile false"
        ) from None


def _check_normalization(policy: DiffusionPolicy) -> None:
    """Refuse actions that clip_sample would cut off; say which normalisations nothing uses."""
    config = policy.config
    for key in config.normalization.keys() - policy.features.keys():
        notice(f"model.normalization of {key} has no effect: the policy observes {', '.join(policy.observation_keys)}")
    farthest = policy.normalizer.extent(ACTION)
    if config.clip_sample and farthest.max() > config.clip_sample_range + 1e-3:
        dimension = int(farthest.argmax())
        raise UsageError(
            f"clip_sample would cut the actions: dimension {dimension} of the normalised action reaches "
            f"{farthest[dimension]:.4g}, clip_sample_range is {config.clip_sample_range:g}; normalise action by "
            "limits, or set clip_sample: false"
        )


def _check_folder(run: Path, resume: bool) -> None:
    if run.is_file():
        raise UsageError(f"{run}: is a file; a run is a folder, choose another --run")
    if not resume and run.exists() and not all(path.name.startswith(".") for path in run.iterdir()):
        raise UsageError(f"{run}: exists already; choose another --run, or go on with it: fit --resume {run}")
    if resume and not (run / CONFIG_FILE).is_file():
        raise UsageError(f"{run}: is not a run (it has no {CONFIG_FILE})")


def _progress(checkpoint: Path | None) -> tuple[int, int | None]:
    """How many optimizer steps a checkpoint has done, and of how many."""
    if checkpoint is None:
        return 0, None
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return content["global_step"], content["robodiff"]["total_steps"]
    except Exception as error:  # a broken archive raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RobodiffError(
            f"{checkpoint}: cannot be read: {reason}; the run cannot go on, train anew (its policies stay)"
        ) from None


def _loggers(config: TrainerConfig, run: Path, resumed_step: int) -> list[Logger]:
    loggers: list[Logger] = [MetricsCsv(run / "metrics.csv", resumed_step)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(run, name="tensorboard", version=""))
    if config.wandb_project is not None:
        try:
            loggers.append(WandbLogger(project=config.wandb_project, name=run.name, save_dir=run))
        except ModuleNotFoundError:
            raise UsageError("trainer.wandb_project needs the extra wandb: pip install 'robodiff[wandb]'") from None
    return loggers


def _trainer(config: TrainerConfig, callbacks: list) -> Trainer:
    """Lightning's trainer, if it can train on this machine as it was asked to."""
    fast = config.fast_dev_run
    if fast:  # on what is there: configurations for several GPUs can be tried on a laptop
        there = config.accelerator if config.accelerator == "cpu" or torch.cuda.is_available() else "auto"
        config = replace(config, accelerator=there, devices=1, num_nodes=1, strategy="auto", sync_batchnorm=False)
    try:
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            sync_batchnorm=config.sync_batchnorm,
            precision=config.precision,
            accumulate_grad_batches=config.accumulate_grad_batches,
            check_val_every_n_epoch=config.check_val_every_n_epoch,
            limit_val_batches=1 if fast else config.limit_val_batches,
            log_every_n_steps=1 if fast else config.log_every_n_steps,
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"trainer: this machine cannot train so: {reason}") from None
    if trainer.precision != config.precision:  # Lightning took another in its place
        raise UsageError(
            f"trainer.precision {config.precision} needs a GPU; on this machine take bf16-mixed or 32-true"
        )
    if config.sync_batchnorm and trainer.strategy.root_device.type != "cuda":
        raise UsageError("trainer.sync_batchnorm needs GPUs; on this machine set --trainer.sync_batchnorm false")
    processes = trainer.num_devices * trainer.num_nodes
    if torch.distributed.is_torchelastic_launched() and processes != int(os.environ["WORLD_SIZE"]):
        raise UsageError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, trainer.devices and num_nodes say "
            f"{processes}; give --trainer.strategy ddp and as many --trainer.devices as --nproc_per_node"
        )
    return trainer


def _describe(policy: DiffusionPolicy, data: WindowDataModule) -> str:
    n = sum(p.numel() for p in policy.parameters())
    train, held_out = len(data.train_windows), len(data.val_windows)
    return (
        f"{data.episodes.source}: {len(data.train_episodes)} episodes, {train:,} windows to train on, "
        f"{held_out:,} held out\n"
        f"policy: observes {', '.join(policy.observation_keys)}; {n:,} parameters"
    )


def _quiet() -> None:
    """Leave to the user what she can act upon."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # TensorBoard writes in a thread, and hands its errors on to the next who writes.
    threading.excepthook = lambda e: None if issubclass(e.exc_type, OSError) else threading.__excepthook__(e)
    warnings.filterwarnings("ignore", message=".*(LeafSpec|pkg_resources|isinstance\\(treespec).*")


__all__ = ["CONFIG_FILE", "FitConfig", "Interrupted", "fit"]
