"""What a run trains: a recording, divided, and a policy that fits it, in the module that Lightning trains."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from robodiff.data.cache import memory_free
from robodiff.data.datamodule import WindowDataModule, limited
from robodiff.data.episodes import ACTION, Feature, NotRecorded
from robodiff.data.provenance import ACCEPT, TrainedOn
from robodiff.data.symmetry import Symmetry
from robodiff.envs.spec import get_env_spec
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.evaluation.actor import seen_by
from robodiff.networks.unet import ConditionalUnet1d
from robodiff.policies.canonical import misfit
from robodiff.policies.checkpoint import load_vae, load_weights
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.observations import policy_features
from robodiff.text import counted
from robodiff.training.callbacks import Measuring
from robodiff.training.config import FitConfig
from robodiff.training.module import PolicyTraining

COPIES = 5
"""The weights, their average and gradient, and the two averages of Adam."""


def read_data(config: FitConfig, recorded: TrainedOn | None) -> WindowDataModule:
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


def check_recording(run: Path, data: WindowDataModule, recorded: TrainedOn | None, accepted: bool) -> None:
    """Refuse to go on with a recording that is not what the run was trained on, unless that was accepted."""
    source, division = data.episodes.source, data.division
    before, now = (recorded or division.found).features, division.found.features
    if {key: each.shape for key, each in before.items()} != {key: each.shape for key, each in now.items()}:
        division.check(source, "give it back as it was, or begin a new run: a network keeps its sizes")
    if not accepted:
        division.check(source, f"give it back as it was, or train on with what it is now: fit --resume {run} {ACCEPT}")
    elif division.changes:
        notice(f"{source}: has changed since the run was trained on it: {division.summary}; trained on as it is now")


def make_module(config: FitConfig, data: WindowDataModule, pretrained: bool) -> PolicyTraining:
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


def cost_of_measuring(config: FitConfig, data: WindowDataModule) -> Measuring:
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
