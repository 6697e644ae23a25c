"""What every policy is configured by, and how one on disk is read. Imports no torch, so that help is instant."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from robodiff import registry
from robodiff.data.episodes import Feature
from robodiff.documents import typed
from robodiff.errors import UsageError
from robodiff.policies.options import DiscreteConfig, OptimizerConfig, ProcessConfig, VisionConfig, WindowConfig
from robodiff.policies.runtime import Timing

if TYPE_CHECKING:
    from torch import nn

    from robodiff.policies.diffusion import DiffusionPolicy


@dataclass(frozen=True)
class Stage:
    """A part of training. Which one runs is a function of the optimizer step and of the number of all steps alone."""

    name: str
    """What messages call it."""
    trains: tuple[str, ...] = ("",)
    """How the names of the parameters begin that it trains; all others rest: no gradient, no step, no average."""
    steps: int | float | None = None
    """Optimizer steps, as a number or, where it is a float, as a share of the run's; the rest when None."""
    learning_rate: float | None = None
    """After warm-up; the configuration's when None. Warm-up and decay are those of the stage."""
    warmup_steps: int | None = None
    """Of the stage; the configuration's when None."""
    loss: str = "loss"
    """The policy's method that is the objective, called as ``loss`` is; it is logged by this name."""
    prepare: str | None = None
    """The policy's method that is called with the training episodes and their windows before the first step, for
    instance to fit what depends on earlier stages; it returns what there is to tell."""


@dataclass(frozen=True, kw_only=True)  # fields come in the order of the bases from the last to the first
class PolicyConfig(OptimizerConfig, DiscreteConfig, ProcessConfig, VisionConfig, WindowConfig, ABC):
    """Options of every diffusion policy. Field names are LeRobot's where it has the field.

    A subclass says how its denoiser is made. One for a policy of another kind returns that from ``make_policy``: a
    module with what ``DiffusionPolicy`` offers to training (``loss``, ``draw``, ``fit_normalizer``) and acting.
    """

    registry_kind: ClassVar[str] = "models"
    registry_name: ClassVar[str] = "PolicyConfig"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.registry_name = cls.__name__

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        yield from super().conflicts()
        yield from self.network_conflicts()
        if self.discrete_codec == "vae" and not self.action_discrete:
            yield "discrete_codec vae needs action_discrete, the ranges that hold class values"
        if self.vae_weights is not None and self.discrete_codec != "vae":
            yield f"vae_weights needs discrete_codec vae; found {self.discrete_codec}"
        mode = self.normalization.get("action", "limits")
        if self.best_of > 1 and self.n_action_steps >= self.most_action_steps:
            chunk = (
                f"all {self.most_action_steps} actions of a chunk are executed, n_action_steps {self.n_action_steps}"
            )
            yield f"best_of {self.best_of} compares with what is left of the last chunk, and {chunk}"
        if self.clip_sample and "mean_std" in ([mode] if isinstance(mode, str) else mode.values()):
            yield "clip_sample would cut actions normalised by mean_std; set clip_sample: false, or use limits"

    def timing(self, fps: float) -> Timing:
        """Return when the policy observes and acts, of a recording's frames per second."""
        return Timing(self.n_obs_steps, self.n_action_steps, self.frame_stride / fps, self.best_of)

    def acting(
        self,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        n_action_steps: int | None = None,
        best_of: int | None = None,
    ) -> Self:
        """Return the configuration of a policy with these weights that acts otherwise, in what is not None.

        Args:
            sampler: ddpm, ddim, dpmsolver++, flow, flowheun or a registered one.
            steps: of denoising.
            spacing: of the timesteps: even, leading or trailing.
            n_action_steps: actions of each chunk that are executed.
            best_of: chunks that are drawn at once.

        Raises:
            UsageError: what does not fit the policy.
        """
        if n_action_steps is not None and n_action_steps != self.n_action_steps:
            if self.pred_action_steps_only:
                chunk = f"the policy plans the n_action_steps {self.n_action_steps} that it executes and no more"
                raise UsageError(f"{chunk} (pred_action_steps_only); leave n_action_steps as it is")
            if n_action_steps > self.most_action_steps:
                most = f"at most {self.most_action_steps}, which is how many actions from now on its chunks have"
                raise UsageError(f"n_action_steps: the policy executes {most}; found {n_action_steps}")
        asked: dict[str, Any] = {
            "noise_scheduler_type": sampler,
            "num_inference_steps": steps,
            "timestep_spacing": spacing,
            "n_action_steps": n_action_steps,
            "best_of": best_of,
        }
        return replace(self, **{name: value for name, value in asked.items() if value is not None})

    def make_policy(self, features: Mapping[str, Feature], fps: float) -> "DiffusionPolicy":
        """Return the policy, with random weights.

        Args:
            features: what was recorded; the policy keeps what it observes and ``action``.
            fps: frames per second of the recording.

        Raises:
            UsageError: the features lack a key, or hold one that this policy cannot observe.
        """
        from robodiff.policies.diffusion import DiffusionPolicy

        return DiffusionPolicy(self, features, fps)

    @abstractmethod
    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "nn.Module":
        """Return the network, with random weights: (trajectory (B, n, trajectory_dim), timestep (B,), condition) to
        (B, n, trajectory_dim), where the condition is (B, To, condition_dim), or None where condition_dim is 0.

        Args:
            trajectory_dim: numbers in each time step of what is denoised.
            condition_dim: numbers that describe the observation of one time step; 0 with inpainting.
        """

    def weight_decay(self, name: str, ndim: int) -> float:
        """Return the weight decay of one of the policy's parameters, by its name and its number of dimensions."""
        return 0.0

    def network_conflicts(self) -> Iterator[str]:
        """Yield in words which options of the denoiser do not go together."""
        yield from ()

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of training, in their order."""
        if not self.trains_vae:
            return (Stage("training"),)
        first = Stage("vae", ("codec.",), self.n_vae_training_steps, self.vae_lr, warmup_steps=0, loss="vae_loss")
        return first, Stage("diffusion", ("denoiser.", "cameras."), prepare="fit_latents")

    def short(self) -> "PolicyConfig":
        """Return the configuration of a trial: each stage has a step, and sampling two."""
        return replace(self, num_inference_steps=2, n_vae_training_steps=1)


def read_policy_config(described: Mapping[str, Any], origin: registry.Origin | None) -> PolicyConfig:
    """Return the configuration that a policy on disk describes: its fields, and its ``class``.

    Args:
        described: what its file says.
        origin: where the class came from, or the sampler; None for those of robodiff.

    Raises:
        UsageError: it does not describe one; or the class is not here, and how to bring it.
    """
    fields = dict(described)
    try:
        return typed(registry.find("models", str(fields.pop("class", None))), fields, "config")
    except UsageError as error:
        if origin is None or origin.plugin in registry.plugin_words():
            raise
        raise UsageError(f"{str(error).rstrip('.')}; {origin.remedy}") from None
