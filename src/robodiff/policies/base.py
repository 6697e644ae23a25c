"""What every policy is made of, whichever network denoises. Imports no torch, so that help is instant."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from operator import gt
from typing import TYPE_CHECKING, Literal, get_args

from robodiff.data.windows import WindowShape
from robodiff.diffusion.samplers import check_sampling
from robodiff.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Backbone = Literal["resnet18", "resnet34", "resnet50"]

LARGEST = {"horizon": 4096, "down_dims": 16_384, "n_groups": 16_384, "diffusion_step_embed_dim": 16_384,
           "n_layer": 1024, "n_cond_layers": 1024, "n_emb": 16_384, "num_train_timesteps": 10_000,
           "num_inference_steps": 10_000, "spatial_softmax_num_keypoints": 4096, "resize_shape": 16_384,
           "crop_shape": 16_384}  # fmt: skip
"""What some fields can be at most, far above what is of use."""
LARGEST_NUMBER = 10**9
"""What all others can be at most."""

COMBINATIONS = (
    "there is conditioning global, with pred_action_steps_only or without, and inpaint, for both DiffusionConfig and "
    "DiffusionTransformerConfig, and time_as_cond false for DiffusionTransformerConfig with inpaint"
)
"""Which denoiser, conditioning and options go together."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(ABC):
    """Options of every diffusion policy; see --model.help DiffusionConfig, --model.help DiffusionTransformerConfig.

    Field names are LeRobot's where it has the field.
    """

    observation_keys: list[str] | None = None
    """What the policy observes, such as observation.state or observation.images.top; all that was recorded when
    null."""

    n_obs_steps: int = 2
    """Observations that the policy sees, the newest included."""
    horizon: int = 16
    """Time steps of a window, from the oldest observation's on."""
    n_action_steps: int = 8
    """Actions that are executed before the policy is asked again."""
    frame_stride: int = 1
    """Recorded frames from one step of the policy to its next."""
    conditioning: Literal["global", "inpaint"] = "global"
    """How the network is told of the observation: global as a condition beside the actions; inpaint as a known part of
    what it denoises, actions and observations together, best with prediction_type sample."""
    pred_action_steps_only: bool = False
    """Denoise the n_action_steps that are executed, and not the whole window; with conditioning global."""
    action_rotations: list[str] = field(default_factory=list)
    """Ranges of the recorded action that are rotations as axis-angle, in radians, such as ["3:6"]; the network sees six
    numbers of each, the first two rows of its matrix."""
    action_relative_to: dict[str, str] = field(default_factory=dict)
    """Ranges of the action that the network sees relative to the newest observation of a vector, such as {"0:3":
    observation.robot0_eef_pos} or {"0:2": "observation.state[0:2]"}; all are absolute when empty."""
    normalization: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """Per key limits (to [-1, 1]), mean_std or identity; or ranges of dimensions: {"0:3": limits, "3:9": identity}, of
    the action as the network sees it.
    Vectors that are not named use limits. Images are normalised by ImageNet's statistics with pretrained weights, else
    to [-1, 1]."""

    vision_backbone: Backbone = "resnet18"
    """Network that encodes images."""
    pretrained_backbone_weights: str | None = None
    """Weights that the backbone starts from: torchvision's name for some, such as ResNet18_Weights.IMAGENET1K_V1 or
    IMAGENET1K_V1, or a .pth or .safetensors file of them; random when null."""
    freeze_backbone: bool = False
    """Leave the pretrained weights as they are, and train only what follows."""
    use_group_norm: bool = True
    """Normalise groups of channels in the backbone, each image for itself; with pretrained weights false, for they were
    trained with batch normalisation."""
    resize_shape: tuple[int, int] | None = None
    """Height and width that images are resized to; as recorded when null."""
    crop_shape: tuple[int, int] | None = None
    """Height and width that are then cut out and shown to the network; all when null."""
    crop_is_random: bool = True
    """In training cut at a random place, one for all frames of a sample; else, and always when acting, the centre."""
    color_jitter: float = 0.0
    """In training change brightness, contrast and saturation by up to this share of them; 0 not at all, at most 1."""
    spatial_softmax_num_keypoints: int | None = 32
    """Points in the image at which each encoder learns to look; the average over the image instead when null."""
    use_separate_rgb_encoder_per_camera: bool = False
    """An encoder for each camera; else one for all, whose images must have one size once resized and cropped."""

    noise_scheduler_type: str = "DDPM"
    """The sampler: DDPM, DDIM, DPMSolver++, Flow (Euler's method), FlowHeun (Heun's), or one that a plugin registers;
    it can be changed when a policy is loaded."""
    num_train_timesteps: int = 100
    """Noise levels of the diffusion; for flow matching the scale of the time that the network sees."""
    num_inference_steps: int | None = None
    """Denoising steps of the sampler; num_train_timesteps when null."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "flow"] = "squaredcos_cap_v2"
    """How noise grows with the timestep; flow is the straight line of flow matching."""
    beta_start: float = 1e-4
    """First beta of the linear schedules; squaredcos_cap_v2 and flow have none."""
    beta_end: float = 0.02
    """Last beta of the linear schedules; squaredcos_cap_v2 and flow have none."""
    prediction_type: Literal["epsilon", "sample", "v_prediction", "velocity"] = "epsilon"
    """What the network predicts."""
    timestep_spacing: Literal["leading", "trailing", "uniform"] | None = None
    """Where fewer steps than trained lie; when null leading for DDPM and DDIM, trailing for DPMSolver++, and uniform,
    which is the one that goes with it, for flow matching."""
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small"
    """Variance of the noise that DDPM adds back."""
    ddim_eta: float = 0.0
    """Noise that DDIM adds back: 0 none (deterministic), 1 as much as DDPM."""
    clip_sample: bool = True
    """Clip the predicted clean actions at every step; needs actions normalised by limits."""
    clip_sample_range: float = 1.0
    """To plus and minus this."""

    do_mask_loss_for_padding: bool = False
    """Leave actions beyond the end of an episode (copies of its last) out of the loss."""
    learning_rate: float = 1e-4
    """Of the optimizer, after warm-up."""
    optimizer_type: Literal["adam", "adamw"] = "adamw"
    """adam couples weight decay with the gradient, adamw does not."""
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    """Decay of the averages of the gradient and of its square."""
    optimizer_eps: float = 1e-8
    """Keeps the optimizer's division finite."""
    scheduler_name: Literal["cosine", "constant", "linear"] = "cosine"
    """Learning rate after warm-up: to zero along a half cosine, unchanged, or to zero along a line."""
    scheduler_warmup_steps: int = 500
    """Optimizer steps in which the learning rate rises from zero; never more than a tenth of all steps."""
    ema_inv_gamma: float = 1.0
    """The average of the weights, which is what acts, has decay 1 - (1 + n / ema_inv_gamma)^-ema_power at step n."""
    ema_power: float = 0.75
    """See ema_inv_gamma."""
    ema_min_value: float = 0.0
    """Smallest decay of the average."""
    ema_max_value: float = 0.9999
    """Largest decay of the average."""

    def __post_init__(self) -> None:
        _ = self.window  # checks To + Ta - 1 <= T
        self._check_sizes()
        self._check_conditioning()
        self._check_vision()
        self._check_network()
        self._check_process()
        self._check_training()

    @abstractmethod
    def make_denoiser(self, trajectory_dim: int, condition_dim: int) -> "nn.Module":
        """The network, with random weights: (trajectory (B, n, trajectory_dim), timestep (B,), condition) ->
        (B, n, trajectory_dim), where the condition is (B, To, condition_dim), or None where condition_dim is 0.

        Args:
            trajectory_dim: numbers in each time step of what is denoised.
            condition_dim: numbers that describe the observation of one time step; 0 with inpainting.
        """

    @abstractmethod
    def weight_decay(self, name: str, ndim: int) -> float:
        """The weight decay of one of the policy's parameters, by its name and its number of dimensions."""

    @property
    def window(self) -> WindowShape:
        """The time steps of one training sample."""
        observes_all = self.conditioning == "inpaint"
        return WindowShape(self.n_obs_steps, self.horizon, self.n_action_steps, self.frame_stride, observes_all)

    @property
    def first_step(self) -> int:
        """Which step of the window is the first that is denoised."""
        return self.n_obs_steps - 1 if self.pred_action_steps_only else 0

    @property
    def denoised_steps(self) -> int:
        """How many time steps are denoised together."""
        return self.n_action_steps if self.pred_action_steps_only else self.horizon

    @property
    def denoised(self) -> slice:
        """Which steps of the window are denoised."""
        return slice(self.first_step, self.first_step + self.denoised_steps)

    @property
    def inference_steps(self) -> int:
        """Denoising steps of the sampler."""
        return self.num_train_timesteps if self.num_inference_steps is None else self.num_inference_steps

    def _check_vision(self) -> None:
        if self.vision_backbone not in get_args(Backbone):
            raise UsageError(f"vision_backbone must be one of {', '.join(get_args(Backbone))}; "
                             f"found {self.vision_backbone!r}")  # fmt: skip
        if self.pretrained_backbone_weights is not None and self.use_group_norm:
            raise UsageError(
                "pretrained_backbone_weights were trained with batch normalisation and are worth nothing without it; "
                "set use_group_norm: false, or pretrained_backbone_weights: null"
            )
        if self.freeze_backbone and self.pretrained_backbone_weights is None:
            raise UsageError("freeze_backbone would keep random weights; name pretrained_backbone_weights")
        for name in ("resize_shape", "crop_shape"):
            shape = getattr(self, name)
            if shape is not None and (len(shape) != 2 or min(shape) < 1):
                raise UsageError(f"{name} must be a height and a width of at least 1; found {list(shape)}")
        if self.resize_shape and self.crop_shape and any(map(gt, self.crop_shape, self.resize_shape)):
            raise UsageError(
                f"crop_shape {list(self.crop_shape)} is larger than the image, which is resized to resize_shape "
                f"{list(self.resize_shape)} before"
            )
        if not 0 <= self.color_jitter <= 1:
            raise UsageError(f"color_jitter must lie in [0, 1]; found {self.color_jitter}")
        if self.spatial_softmax_num_keypoints is not None and self.spatial_softmax_num_keypoints < 1:
            raise UsageError(
                f"spatial_softmax_num_keypoints must be at least 1, or null; found {self.spatial_softmax_num_keypoints}"
            )

    def _check_sizes(self) -> None:
        """Refuse numbers that nothing can be made of, before anything is."""
        for name, value in vars(self).items():
            numbers = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, int | float)]
            if not all(abs(n) <= LARGEST.get(name, LARGEST_NUMBER) for n in numbers):
                raise UsageError(f"{name} must be at most {LARGEST.get(name, LARGEST_NUMBER)}; found {str(value)[:80]}")

    @abstractmethod
    def _check_network(self) -> None: ...

    def _check_conditioning(self) -> None:
        if self.conditioning not in ("global", "inpaint"):
            raise UsageError(f"conditioning must be global or inpaint; found {self.conditioning!r}")
        if self.conditioning == "inpaint" and self.pred_action_steps_only:
            raise UsageError(
                "pred_action_steps_only leaves out the steps at which inpainting knows the observation; " + COMBINATIONS
            )

    def _check_process(self) -> None:
        if self.num_train_timesteps < 1:
            raise UsageError(f"num_train_timesteps must be at least 1; found {self.num_train_timesteps}")
        try:
            sampler = check_sampling(
                self.noise_scheduler_type,
                self.beta_schedule,
                self.prediction_type,
                self.inference_steps,
                self.num_train_timesteps,
                self.timestep_spacing,
                self.ddim_eta,
                self.variance_type,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
        object.__setattr__(self, "noise_scheduler_type", sampler.name)  # however it was spelled
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UsageError(f"betas must rise within (0, 1); found beta_start {self.beta_start}, "
                             f"beta_end {self.beta_end}")  # fmt: skip
        if self.clip_sample and not self.clip_sample_range > 0:
            raise UsageError(f"clip_sample_range must be above 0; found {self.clip_sample_range}")
        action_mode = self.normalization.get("action", "limits")
        modes = [action_mode] if isinstance(action_mode, str) else list(action_mode.values())
        if self.clip_sample and "mean_std" in modes:
            raise UsageError(
                "clip_sample would cut actions normalised by mean_std, which have no bound; "
                "set clip_sample: false or normalise action by limits"
            )

    def _check_training(self) -> None:
        for name in ("learning_rate", "optimizer_eps", "ema_inv_gamma"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be above 0; found {getattr(self, name)}")
        for name in ("scheduler_warmup_steps", "ema_power"):
            self._check_not_negative(name)
        if not all(0 <= beta < 1 for beta in self.optimizer_betas):
            raise UsageError(f"optimizer_betas must lie in [0, 1); found {list(self.optimizer_betas)}")
        if not 0 <= self.ema_min_value <= self.ema_max_value <= 1:
            raise UsageError(f"0 <= ema_min_value <= ema_max_value <= 1 must hold; found {self.ema_min_value} and "
                             f"{self.ema_max_value}")  # fmt: skip

    def _check_not_negative(self, name: str) -> None:
        if getattr(self, name) < 0:
            raise UsageError(f"{name} must not be negative; found {getattr(self, name)}")
