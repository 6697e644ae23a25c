"""The optimizer, and the learning rate as a function of the step."""

import math
from collections import defaultdict

import torch
from torch import nn

from robodiff.policies.config import PolicyConfig, Stage
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.training.muon import Muon, is_hidden


def make_optimizer(policy: DiffusionPolicy, fused: bool) -> torch.optim.Optimizer:
    """Return Adam (weight decay coupled with the gradient), AdamW (decoupled) or Muon, as the configuration says.

    The parameters that are trained form one group for each weight decay, and for Muon the matrices of hidden layers
    one of their own. Those that rest in a stage have no gradient then, and are left alone.
    """
    config = policy.config
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            layer = policy.get_submodule(name.rpartition(".")[0])
            orthogonal = config.optimizer_type == "muon" and is_hidden(layer, parameter)
            groups[config.weight_decay(name, parameter.ndim), orthogonal].append(parameter)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}[config.optimizer_type]
    return kind(
        [
            {"params": parameters, "weight_decay": decay, "orthogonal": orthogonal}
            for (decay, orthogonal), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.optimizer_betas,
        eps=config.optimizer_eps,
        fused=fused,
    )


def learning_rate(step: int, total_steps: int | None, config: PolicyConfig, stage: Stage) -> float:
    """Return the learning rate of optimizer step 0, 1, ... of a stage.

    Args:
        step: which one.
        total_steps: of the stage; None while it is not known (then as in a very long one).
        config: names the schedule, and rate and warm-up where the stage has none of its own.
        stage: which stage.
    """
    peak = config.learning_rate if stage.learning_rate is None else stage.learning_rate
    warmup = config.scheduler_warmup_steps if stage.warmup_steps is None else stage.warmup_steps
    if total_steps is not None:
        warmup = min(warmup, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    if total_steps is None or config.scheduler_name == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return peak * {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress}[config.scheduler_name]
