"""Train a policy: put data, policy, trainer and callbacks together, and run."""

import gc
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from robodiff.data.provenance import read_trained_on, write_trained_on
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.evaluation.results import RunFacts, write_result
from robodiff.evaluation.runs import CONFIG_FILE
from robodiff.files import locked, naming, replacing, standing
from robodiff.machine import describe_machine
from robodiff.progress import say
from robodiff.training.assemble import check_recording, cost_of_measuring, describe, make_module, read_data
from robodiff.training.callbacks import CHECKPOINT, UNSAVED, Checkpoints, Rollouts, RunLength
from robodiff.training.config import FitConfig
from robodiff.training.display import ProgressLine, Throughput
from robodiff.training.frozen import EncodeOnce
from robodiff.training.module import PolicyTraining
from robodiff.training.resume import check_checkpoint
from robodiff.training.trainer import make_loggers, make_trainer, quiet, telling_compiler


def fit(
    config: FitConfig,
    run: Path,
    config_yaml: str,
    resume: bool = False,
    new_length: bool = False,
    accept_changed_data: bool = False,
    console: Console | None = None,
    team: Mapping[Path, str] | None = None,
) -> bool:
    """Train, and fill the folder of the run.

    Args:
        config: what to train, on what, and for how long.
        run: the folder; it must not exist, or, to resume, hold a run that was begun.
        config_yaml: ``config`` as text, kept in the run so that it repeats the run alone.
        resume: go on from the last checkpoint.
        new_length: a resumed run takes its length from ``config``, not from its checkpoint.
        accept_changed_data: a resumed run goes on although its recording has changed; what was held out stays so.
        console: where progress is shown.
        team: by their folders, which are in one, the configurations as text of all runs of several: of a team's agents
            or of training seeds. They are kept when the first begins, so that the others can be resumed although their
            turn has not come; another process may train those.

    Returns:
        True in the process that writes, of those that train together; the others are silent.

    Raises:
        RobodiffError: data that cannot be read or does not fit, or a run that cannot be resumed.
        Interrupted: by Ctrl-C or SIGTERM; the run was saved.
    """
    quiet()
    _free_memory()
    if config.trainer.endless:
        raise UsageError("nothing says how long to train; set trainer.max_epochs, max_steps or max_time")
    config = config.short() if config.trainer.fast_dev_run else config
    primary = rank_zero_only.rank == 0
    console = (console or Console()) if primary else Console(quiet=True)
    if primary:
        _check_folder(run, resume, team or {})
    say(console, f"run: {run}")
    throughput, rollouts = Throughput(), Rollouts(config.rollout) if config.rollout.env is not None else None
    length, last = RunLength(config.trainer, new_length), Checkpoints(run, config.trainer, rollouts)
    encoding = [] if config.trainer.fast_dev_run else [EncodeOnce()]  # one step would encode them all
    shown = length, *encoding, throughput, ProgressLine(console, throughput)
    callbacks = [*([rollouts] if rollouts else []), *shown, last]  # the last keeps what all have done
    trainer = make_trainer(config, callbacks)
    seed_everything(config.seed_everything, verbose=False)
    checkpoint = _checkpoint(run) if resume else None
    recorded = read_trained_on(run) if resume else None
    data = read_data(config, recorded)
    check_recording(run, data, recorded, accept_changed_data)
    module = make_module(config, data, pretrained=checkpoint is None)
    length.measuring = cost_of_measuring(config, data)
    with locked(run) if primary else nullcontext():
        step = 0 if checkpoint is None else check_checkpoint(run, checkpoint, module, recorded, new_length)
        if primary:
            for folder, text in {**(team or {}), run: config_yaml}.items():
                with replacing(folder / CONFIG_FILE) as temporary:
                    temporary.write_text(text)
            if checkpoint is None:
                (run / UNSAVED).touch()
            if checkpoint is None or recorded is not None:  # of a run that kept no record nobody knows it
                write_trained_on(run, data.division.found)
        say(console, describe(module.policy, data))
        trainer.loggers = make_loggers(config.trainer, run, step)
        with naming(run), telling_compiler():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if primary:
            _write_facts(run, trainer, module, throughput)
    return primary


def _check_folder(run: Path, resume: bool, team: Mapping[Path, str]) -> None:
    folder = run.parent if team and not resume else run
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; a run is a folder, choose another --run")
    if not resume and not (_visible(folder) <= team.keys() and all(_as_begun(each, team, run) for each in team)):
        raise UsageError(f"{folder}: exists already; choose another --run, or go on with it: fit --resume {folder}")
    if resume and not (run / CONFIG_FILE).is_file():
        raise UsageError(f"{run}: is not a run (it has no {CONFIG_FILE})")


def _visible(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()


def _as_begun(each: Path, team: Mapping[Path, str], run: Path) -> bool:
    """Tell whether a run of several is as ``fit`` leaves it when another begins; ``run`` itself must not have begun."""
    config = each / CONFIG_FILE
    is_alike = not config.exists() or config.read_text(encoding="utf-8") == team[each]
    return is_alike and (each != run or (_visible(run) <= {config} and not (run / UNSAVED).exists()))


def _checkpoint(run: Path) -> Path | None:
    """Return the checkpoint to go on from; None of a run that was killed before its first, or whose turn comes now.

    Raises:
        RobodiffError: it was removed.
    """
    checkpoint = run / CHECKPOINT
    if os.path.lexists(checkpoint.parent) and not checkpoint.parent.is_dir():
        raise RobodiffError(f"{checkpoint.parent}: is not a folder\nput back the run's own, or begin a new run")
    if os.path.lexists(checkpoint):
        return checkpoint
    saved = any(standing(run / name).exists() for name in ("policy-last", "policy", RunFacts.file))
    if saved and not (run / UNSAVED).exists():
        raise RobodiffError(f"{checkpoint}: is missing\nput it back, or begin a new run")
    if (run / UNSAVED).exists():
        notice(f"{run}: was stopped before its first checkpoint, and begins anew")
    return None


def _free_memory() -> None:
    """Give back what the run before holds in this process, and measure the peak anew."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _write_facts(run: Path, trainer: Trainer, module: PolicyTraining, throughput: Throughput) -> None:
    device = trainer.strategy.root_device
    facts = RunFacts(
        minutes=module.seconds / 60,
        steps=trainer.global_step,
        machine=describe_machine(str(device)),
        samples_per_second=throughput.overall,
        gpu_memory_gb=torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    )
    write_result(run, facts)
