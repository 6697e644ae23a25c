"""Learning rates of two stages of training, in one optimizer that has all parameters from the start."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from lerobot.optim import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from robodiff.policies.config import Stage
from robodiff.policies.options import OptimizerConfig
from robodiff.training.optim import learning_rate


@LRSchedulerConfig.register_subclass("hybrid_diffusion")
@dataclass
class HybridDiffusionSchedulerConfig(LRSchedulerConfig):
    """First the group ``vae`` of the optimizer learns, then the groups ``diffusion``; the others have rate 0 meanwhile.

    Each stage decays to 0 by its end, the second after a warm-up that counts from its start. The rate of a step is a
    function of these options, of the number of all steps and of the step: nothing else is needed to resume. A group
    without a name, which ``use_policy_training_preset=false`` makes of all parameters, learns in both stages.
    """

    num_warmup_steps: int | None = 500
    """Steps of the second stage in which its rate rises from 0; never more than a tenth of the stage."""
    num_vae_training_steps: int = 5000
    """Steps of the first stage; the same as the policy's n_vae_training_steps."""
    warmup_steps: int | None = None
    """Another name of num_warmup_steps."""
    lr: float | None = None
    """Rate of the second stage after its warm-up; the optimizer's when null."""
    name: str = "cosine"
    """How it decays: cosine, linear or constant."""

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        """Return the schedule of a run of so many steps."""
        first, second = self.num_vae_training_steps, num_training_steps - self.num_vae_training_steps
        if second <= 0:
            text = "in %d steps the run does not come to its second stage, which begins after num_vae_training_steps %d"
            logging.warning(text, num_training_steps, first)
        warmup = self.num_warmup_steps if self.warmup_steps is None else self.warmup_steps
        options = OptimizerConfig(scheduler_name=self.name)  # pyright: ignore[reportArgumentType]
        vae = Stage("vae", learning_rate=1.0, warmup_steps=0)
        diffusion = Stage("diffusion", learning_rate=1.0, warmup_steps=warmup)

        def vae_rate(step: int) -> float:
            return learning_rate(step, first, options, vae) if step < first else 0.0

        def diffusion_rate(step: int) -> float:
            return learning_rate(step - first, max(second, 0), options, diffusion) if step >= first else 0.0

        rates: dict[str | None, Callable[[int], float]] = {"vae": vae_rate, "diffusion": diffusion_rate}
        for group in optimizer.param_groups:
            if self.lr is not None and group.get("name") != "vae":
                group["lr"] = self.lr
        names = [group.get("name") for group in optimizer.param_groups]
        return LambdaLR(
            optimizer, [rates.get(name, lambda step: vae_rate(step) + diffusion_rate(step)) for name in names]
        )
