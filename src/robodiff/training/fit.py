"""Train a policy: put data, policy, trainer and callbacks together, and run."""

import gc
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from robodiff.data.cache import memory_free
from robodiff.data.datamodule import WindowDataModule, limited
from robodiff.data.episodes import ACTION, Feature, NotRecorded
from robodiff.data.provenance import ACCEPT, TrainedOn, read_trained_on, write_trained_on
from robodiff.data.symmetry import Symmetry
from robodiff.envs.spec import get_env_spec
from robodiff.errors import RobodiffError, UsageError, first_line, notice
from robodiff.evaluation.actor import seen_by
from robodiff.evaluation.results import RunFacts, write_result
from robodiff.evaluation.runs import CONFIG_FILE
from robodiff.files import locked, naming, replacing, standing
from robodiff.machine import describe_machine
from robodiff.networks.unet import ConditionalUnet1d
from robodiff.policies.canonical import misfit
from robodiff.policies.checkpoint import load_vae, load_weights
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.observations import policy_features
from robodiff.progress import say
from robodiff.text import counted
from robodiff.training.callbacks import CHECKPOINT, UNSAVED, Checkpoints, Measuring, Rollouts, RunLength
from robodiff.training.config import FitConfig, TrainerConfig
from robodiff.training.display import ProgressLine, Throughput
from robodiff.training.frozen import EncodeOnce
from robodiff.training.module import PolicyTraining
from robodiff.training.resume import AtomicCheckpointIO, MetricsCsv, check_checkpoint

LIGHTNING_OPTIONS = (
    *("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "precision", "accumulate_grad_batches"),
    *("check_val_every_n_epoch", "log_every_n_steps"),
)
"""Options of ``TrainerConfig`` that Lightning has by the same name."""
COPIES = 5
"""The weights, their average and gradient, and the two averages of Adam."""


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
    _quiet()
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
    trainer = _trainer(config, [*([rollouts] if rollouts else []), *shown, last])  # the last keeps what all have done
    seed_everything(config.seed_everything, verbose=False)
    checkpoint = _checkpoint(run) if resume else None
    recorded = read_trained_on(run) if resume else None
    data = _data(config, recorded)
    _check_recording(run, data, recorded, accept_changed_data)
    module = _module(config, data, pretrained=checkpoint is None)
    length.measuring = _measuring(config, data)
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
        trainer.loggers = _loggers(config.trainer, run, step)
        with naming(run), _compiling():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if primary:
            _write_facts(run, trainer, module, throughput)
    return primary


def _data(config: FitConfig, recorded: TrainedOn | None) -> WindowDataModule:
    """Return the recording, divided as the run that goes on has recorded it."""
    model, trainer = config.model, config.trainer
    limits = trainer.limit_train_batches, trainer.limit_val_batches
    how = model.window, model.observation_keys, config.seed_everything, *limits
    symmetries = _symmetries(config.data.symmetries)
    try:
        return WindowDataModule(config.data, *how, recorded, symmetries)
    except NotRecorded as error:
        if error.key not in (model.observation_keys or ()):
            raise
        remedy = "name what to observe with --model.observation_keys, or observe all of it with --config generic"
        raise RobodiffError(f"{error}\n{remedy}") from None


def _symmetries(env: str | None) -> tuple[Symmetry, ...]:
    """Return the symmetries of an environment; none of None."""
    if env is None:
        return ()
    if not (symmetries := get_env_spec(env).symmetries):
        raise UsageError(f"data.symmetries: the environment {env} has no symmetries; leave it out")
    return symmetries


def _with_mirror(model: PolicyConfig, features: Mapping[str, Feature]) -> tuple[PolicyConfig, Symmetry | None]:
    """Return a policy's configuration, and the symmetry from one side of which it sees scenes: the first with a side.

    Where that does not map what is observed and done the policy is trained without it, for a preset of one scene
    serves others, too; a notice tells.
    """
    if (env := model.canonicalize) is None:
        return model, None
    symmetry = next((each for each in get_env_spec(env).symmetries if each.side is not None), None)
    if symmetry is None:
        raise UsageError(f"model.canonicalize: the environment {env} has no symmetry with a side; leave it out")
    if reason := misfit(symmetry, policy_features(model, features)):
        notice(f"model.canonicalize {env} has no effect: {reason}")
        return replace(model, canonicalize=None), None
    return model, symmetry


def _check_recording(run: Path, data: WindowDataModule, recorded: TrainedOn | None, accepted: bool) -> None:
    """Refuse to go on with a recording that is not what the run was trained on, unless that was accepted."""
    source, division = data.episodes.source, data.division
    before, now = (recorded or division.found).features, division.found.features
    if {key: each.shape for key, each in before.items()} != {key: each.shape for key, each in now.items()}:
        division.check(source, "give it back as it was, or begin a new run: a network keeps its sizes")
    if not accepted:
        division.check(source, f"give it back as it was, or train on with what it is now: fit --resume {run} {ACCEPT}")
    elif division.changes:
        notice(f"{source}: has changed since the run was trained on it: {division.summary}; trained on as it is now")


def _module(config: FitConfig, data: WindowDataModule, pretrained: bool) -> PolicyTraining:
    """Return what Lightning trains.

    Args:
        config: of the run.
        data: read already.
        pretrained: the run begins, with the weights that ``initial_weights`` or ``pretrained_backbone_weights`` names.
    """
    features, fps, trainer = data.episodes.features, data.episodes.fps, config.trainer
    model, symmetry = _with_mirror(replace(config.model, frame_stride=data.shape.frame_stride), features)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):  # the weights depend on the seed alone
        _check_size(model.make_policy(features, fps))
    policy = model.make_policy(features, fps)
    if symmetry is not None:
        if (canonical := getattr(policy, "canonical", None)) is None:  # of another kind, from a plugin
            notice(f"model.canonicalize has no effect on a {type(policy).__name__}")
        else:
            canonical.fit(symmetry, policy.representation.classes)
    policy.fit_normalizer(data.episodes, data.train_windows)
    if pretrained and config.initial_weights is not None:
        load_weights(policy, config.initial_weights)
    elif pretrained:
        policy.load_pretrained_backbones()
        if model.vae_weights is not None:
            load_vae(policy, model.vae_weights)
            notice(f"{model.vae_weights}: {policy.fit_latents(data.episodes, data.train_windows)}")
    if config.rollout.env is not None:
        spec = get_env_spec(config.rollout.env)
        if config.data.agent is not None and spec.agents:
            remedy = "leave out rollout.env or data.agent, or train every agent with --all_agents"
            raise UsageError(f"rollout.env {spec.name} is for {counted(len(spec.agents), 'agent')}; {remedy}")
        seen_by(policy, spec)
    if pretrained:
        _note_narrow(policy)
    actions = torch.from_numpy(data.episodes.arrays[ACTION][data.train_windows.episode_frames]).double()
    variance, batch_size = policy.representation.variance(actions), data.largest_batch
    options = trainer.gradient_clip_val, batch_size, variance, trainer.sample_every_n_epochs
    module = PolicyTraining(policy, config.seed_everything, *options)
    module.run = data.division.found.run
    if trainer.compile:
        module.compile_networks()
    return module


def _measuring(config: FitConfig, data: WindowDataModule) -> Measuring:
    """Estimate what measuring costs: with its gradient a window takes as long as three that are only looked at."""
    model, trainer, rollout = config.model, config.trainer, config.rollout
    step = 3 * data.largest_batch * trainer.accumulate_grad_batches
    batches = -(-len(data.val_windows) // config.data.val_batch_size)
    windows = min(len(data.val_windows), limited(batches, trainer.limit_val_batches) * config.data.val_batch_size)
    validation = windows * (1 + model.inference_steps) / step
    rollouts = 0.0
    if rollout.env is not None:
        chunks = rollout.episodes * -(-(get_env_spec(rollout.env).max_steps or 0) // model.n_action_steps)
        rollouts = chunks * model.inference_steps / step
    epoch = limited(-(-data.windows_in_epoch // data.largest_batch), trainer.limit_train_batches)
    each_epoch = validation / trainer.check_val_every_n_epoch + rollouts / rollout.every_n_epochs
    return Measuring(validation + rollouts, each_epoch * trainer.accumulate_grad_batches / epoch)


def _check_size(outline: DiffusionPolicy) -> None:
    """Refuse a network that memory has no room for, before it is made; ``outline`` takes none."""
    size = sum(tensor.nbytes for tensor in outline.state_dict().values())
    needed, free = COPIES * size, memory_free()
    if needed > free:
        gigabytes = f"{needed / 1e9:.1f} GB to be trained, and {free / 1e9:.1f} GB of memory are free"
        raise UsageError(f"the policy has {size // 4:,} parameters, which take {gigabytes}; choose a smaller one")


def _note_narrow(policy: DiffusionPolicy) -> None:
    """Tell where a U-Net is too narrow for its actions: with 2 channels a dimension the loss stayed at 0.43, with 4 it
    fell to 0.03."""
    config, channels = policy.config, 4 * policy.action_dim
    is_unet = isinstance(policy.denoiser, ConditionalUnet1d)  # of a hybrid it may be another
    if is_unet and isinstance(config, DiffusionConfig) and config.down_dims[0] < channels:
        channels = -(-channels // config.n_groups) * config.n_groups
        dims = f"model.down_dims {list(config.down_dims)} is narrow for actions of {policy.action_dim} dimensions"
        notice(f"{dims}, whose noise it has to carry; if the loss stays high, begin it with {channels} or more")


def describe(policy: DiffusionPolicy, data: WindowDataModule) -> str:
    """Return what is trained on what, in a few lines."""
    pixels = {key: " x ".join(map(str, each.shape[1:])) for key, each in policy.features.items()}  # none of vectors
    observed = [f"{key} ({pixels[key]} pixels)" if pixels[key] else key for key in policy.observation_keys]
    episodes, windows, held_out = map(len, (data.train_episodes, data.train_windows, data.val_windows))
    often = "" if data.windows_in_epoch == windows else f" ({data.windows_in_epoch:,} in an epoch, by data.weights)"
    to_train = f"{counted(windows, 'window')} to train on{often}"
    under = f" (also under symmetry: {', '.join(each.name for each in data.symmetries)})" if data.symmetries else ""
    return (
        f"{data.episodes.source}: {counted(episodes, 'episode')}{under}, {to_train}, {held_out:,} held out\n"
        f"policy: observes {', '.join(observed)}; {counted(sum(p.numel() for p in policy.parameters()), 'parameter')}"
    )


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


@contextmanager
def _compiling() -> Iterator[None]:
    """Tell in a line what torch.compile needs, where it fails."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        reason = next((line for line in str(error).splitlines() if line and not line.endswith("raised:")), "")
        remedy = "it needs a C++ compiler, on a GPU Triton; or train with --trainer.compile false"
        raise RobodiffError(f"torch.compile failed: {reason}\n{remedy}") from None


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


def _trainer(config: FitConfig, callbacks: list[Callback]) -> Trainer:
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


def _free_memory() -> None:
    """Give back what the run before holds in this process, and measure the peak anew."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _quiet() -> None:
    """Leave to the user what she can act upon."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # TensorBoard writes in a thread, and hands its errors on to the next who writes.
    threading.excepthook = lambda e: None if issubclass(e.exc_type, OSError) else threading.__excepthook__(e)
    warnings.filterwarnings("ignore", message=".*(LeafSpec|pkg_resources|isinstance\\(treespec).*")
