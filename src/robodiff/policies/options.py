"""The options that every policy has, in groups: typed, bounded, documented. Imports no torch: help is instant."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import gt
from typing import Annotated, Literal

import numpy as np

from robodiff.data.windows import WindowShape
from robodiff.diffusion.samplers import check_sampling
from robodiff.documents import Above, AtLeast, Between, Document, FilePath, FromTo, NotEmpty
from robodiff.text import brief

RESNETS = ("resnet18", "resnet34", "resnet50")
Pixels = Annotated[int, Between(1, 16_384)]
Channels = Annotated[int, Between(1, 16_384)]
Layers = Annotated[int, Between(1, 1024)]
MOST_CLASSES = 1024
MOST_CHUNKS = 256
"""That are drawn for one robot at once."""
ClassCount = Annotated[int, Between(2, MOST_CLASSES)]
ClassValues = Annotated[tuple[float, ...], NotEmpty(most=MOST_CLASSES)]
Share = Annotated[float, FromTo(0, 1)]
NotNegative = Annotated[float, AtLeast(0)]
Positive = Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class WindowConfig(Document):
    """What a policy observes, which time steps it sees, and how actions are represented."""

    observation_keys: list[str] | None = None
    """What the policy observes, such as observation.state or observation.images.top; all that was recorded when
    null."""

    n_obs_steps: Annotated[int, AtLeast(1)] = 2
    """Observations that the policy sees, the newest included."""
    horizon: Annotated[int, Between(1, 4096)] = 16
    """Time steps of a window, from the oldest observation's on."""
    n_action_steps: Annotated[int, AtLeast(1)] = 8
    """Actions that are executed before the policy is asked again."""
    frame_stride: Annotated[int, Between(1, 1_000_000)] = 1
    """Recorded frames from one step of the policy to its next."""
    conditioning: Literal["global", "inpaint"] = "global"
    """How the network is told of the observation: global as a condition beside the actions; inpaint as a known part of
    what it denoises, actions and observations together, best with prediction_type sample."""
    pred_action_steps_only: bool = False
    """Denoise the n_action_steps that are executed, and not the whole window; with conditioning global."""
    action_rotations: list[str] = field(default_factory=list)
    """Ranges of the recorded action that are rotations as axis-angle, in radians, such as ["3:6"]; the network sees six
    numbers of each, the first two rows of its matrix."""
    action_discrete: list[str] | dict[str, ClassCount | ClassValues] = field(default_factory=list)
    """Ranges of the recorded action that hold class values: ["21:23"] for 0 or 1; {"21:23": 2, "23:24": 5} to say how
    many classes there are, from 0 on, or {"6:7": [-1, 1]} which. What leaves the policy there is one of them;
    discrete_codec says how they are learnt."""
    action_relative_to: dict[str, str] = field(default_factory=dict)
    """Ranges of the action that the network sees relative to the newest observation of a vector, such as {"0:3":
    observation.robot0_eef_pos} or {"0:2": "observation.state[0:2]"}; all are absolute when empty."""
    canonicalize: str | None = None
    """An environment, such as pusht, from one side of whose mirror the policy sees every scene; its actions are
    mirrored back. Where it observes images, or what the mirror does not map, it is trained without; else
    data.symmetries adds nothing, for an episode and its mirror image are seen alike."""
    normalization: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """Per key limits (to [-1, 1]), mean_std or identity; or ranges of dimensions: {"0:3": limits, "3:9": identity}, of
    the action as the network sees it.
    Vectors that are not named use limits. Images use imagenet (its mean and standard deviation), half (to [-1, 1]) or
    dataset (those of the training episodes); not named, what the pretrained weights were trained with, else half."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        yield from super().conflicts()
        _ = self.window  # checks that the executed actions fit the horizon
        named, discrete = {*self.action_rotations, *self.action_relative_to}, self.discrete_classes
        for text, values in discrete.items():
            if np.unique(np.array(values, np.float32)).size < max(2, len(values)):
                problem = f"expected at least two values, all of them different as float32; found {brief(list(values))}"
                yield f"action_discrete {text}: {problem}"
        if both := sorted(named & discrete.keys()):
            yield f"action_discrete {both[0]} holds class values, which are neither rotated nor relative"
        if self.conditioning == "inpaint" and self.pred_action_steps_only:
            yield "conditioning inpaint denoises the whole window; set pred_action_steps_only: false"

    @property
    def window(self) -> WindowShape:
        """The time steps of one training sample."""
        observes_all = self.conditioning == "inpaint"
        return WindowShape(self.n_obs_steps, self.horizon, self.n_action_steps, self.frame_stride, observes_all)

    @property
    def discrete_classes(self) -> dict[str, tuple[float, ...]]:
        """The class values of each discrete range of the action."""
        ranges = (
            self.action_discrete if isinstance(self.action_discrete, dict) else dict.fromkeys(self.action_discrete, 2)
        )
        return {text: (*range(each),) if isinstance(each, int) else each for text, each in ranges.items()}

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
    def most_action_steps(self) -> int:
        """How many actions from now on a chunk has."""
        return self.first_step + self.denoised_steps - self.n_obs_steps + 1


@dataclass(frozen=True, kw_only=True)
class VisionConfig(Document):
    """How images are prepared and encoded."""

    vision_backbone: str = "resnet18"
    """Network that encodes images: resnet18, resnet34, resnet50, or timm:NAME for one of timm's."""
    backbone_stride: Annotated[int, Between(1, 256)] | None = None
    """Pixels from one cell of the feature map that is pooled to the next, such as 8, 16 or 32: the network is used up
    to its last map of this stride; up to its very last when null."""
    pretrained_backbone_weights: str | None = None
    """Weights that the backbone starts from: torchvision's or timm's name for some, such as IMAGENET1K_V1 or in1k, or a
    .pth or .safetensors file of them; random when null."""
    freeze_backbone: bool = False
    """Leave the pretrained weights as they are, and train only what follows. Without random crops and color_jitter each
    frame is then encoded once, before training."""
    use_group_norm: bool = True
    """Normalise groups of channels in the backbone, each image for itself; with pretrained weights false, for they were
    trained with batch normalisation."""
    resize_shape: tuple[Pixels, Pixels] | None = None
    """Height and width that images are resized to; as recorded when null."""
    crop_shape: tuple[Pixels, Pixels] | None = None
    """Height and width that are then cut out and shown to the network; all when null."""
    crop_is_random: bool = True
    """In training cut at a random place, one for all frames of a sample; else, and always when acting, the centre."""
    color_jitter: Annotated[float, Between(0, 1)] = 0.0
    """In training change brightness, contrast and saturation by up to this share of them; 0 not at all, at most 1."""
    spatial_softmax_num_keypoints: Annotated[int, Between(1, 4096)] | None = 32
    """Points in the image at which each encoder learns to look; the average over the image instead when null."""
    use_separate_rgb_encoder_per_camera: bool = False
    """An encoder for each camera; else one for all, whose images must have one size once resized and cropped."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        yield from super().conflicts()
        is_timm = self.vision_backbone.startswith("timm:")
        if not is_timm and self.vision_backbone not in RESNETS:
            yield f"vision_backbone is {', '.join(RESNETS)} or timm:NAME; found {self.vision_backbone!r}"
        if is_timm and self.use_group_norm:
            yield "timm's backbones keep their own normalisation; set use_group_norm: false"
        elif self.pretrained_backbone_weights is not None and self.use_group_norm:
            yield "pretrained_backbone_weights were trained with batch normalisation; set use_group_norm: false"
        if self.freeze_backbone and self.pretrained_backbone_weights is None:
            yield "freeze_backbone would keep random weights; name pretrained_backbone_weights"
        if self.resize_shape and self.crop_shape and any(map(gt, self.crop_shape, self.resize_shape)):
            yield f"crop_shape {list(self.crop_shape)} is larger than resize_shape {list(self.resize_shape)}"


@dataclass(frozen=True, kw_only=True)
class ProcessConfig(Document):
    """The noise process and its sampler."""

    noise_scheduler_type: str = "DDPM"
    """The sampler: DDPM, DDIM, DPMSolver++, Flow (Euler's method), FlowHeun (Heun's), or one that a plugin registers;
    it can be changed when a policy is loaded."""
    num_train_timesteps: Annotated[int, Between(1, 10_000)] = 100
    """Noise levels of the diffusion; for flow matching the scale of the time that the network sees."""
    num_inference_steps: Annotated[int, Between(1, 10_000)] | None = None
    """Denoising steps of the sampler; num_train_timesteps when null."""
    best_of: Annotated[int, Between(1, MOST_CHUNKS)] = 1
    """Chunks that are drawn when one is due; the one that best continues the last is executed. They are compared in the
    steps that both plan, so n_action_steps must leave some of each chunk."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "flow"] = "squaredcos_cap_v2"
    """How noise grows with the timestep; flow is the straight line of flow matching."""
    beta_start: Positive = 1e-4
    """First beta of the linear schedules; squaredcos_cap_v2 and flow have none."""
    beta_end: Share = 0.02
    """Last beta of the linear schedules; squaredcos_cap_v2 and flow have none."""
    prediction_type: Literal["epsilon", "sample", "v_prediction", "velocity"] = "epsilon"
    """What the network predicts."""
    timestep_spacing: Literal["even", "leading", "trailing", "uniform"] | None = None
    """Where fewer steps than trained lie; when null even for DDPM and DDIM, trailing for DPMSolver++, and uniform,
    which is the one that goes with it, for flow matching. leading is diffusers' own: even where the steps divide
    num_train_timesteps, and without the noisiest levels where they do not."""
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small"
    """Variance of the noise that DDPM adds back."""
    ddim_eta: Annotated[float, Between(0, 1)] = 0.0
    """Noise that DDIM adds back: 0 none (deterministic), 1 as much as DDPM."""
    clip_sample: bool = True
    """Clip the predicted clean actions at every step; needs actions normalised by limits. With conditioning inpaint the
    vectors that are normalised by limits are clipped, too."""
    clip_sample_range: Positive = 1.0
    """To plus and minus this."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        yield from super().conflicts()
        process = self.beta_schedule, self.prediction_type, self.inference_steps, self.num_train_timesteps
        sampler = check_sampling(self.noise_scheduler_type, *process, self.timestep_spacing)
        object.__setattr__(self, "noise_scheduler_type", sampler.name)  # however it was spelled
        if self.beta_start > self.beta_end:
            yield f"betas must rise; found beta_start {self.beta_start}, beta_end {self.beta_end}"

    @property
    def inference_steps(self) -> int:
        """Denoising steps of the sampler."""
        return self.num_train_timesteps if self.num_inference_steps is None else self.num_inference_steps


@dataclass(frozen=True, kw_only=True)
class DiscreteConfig(Document):
    """How discrete actions are learnt beside continuous ones."""

    discrete_codec: Literal["vae", "analog_bits", "none"] = "analog_bits"
    """What of a class value is denoised: the latent of a VAE, which a first stage of training learns; its binary digits
    as -1 and 1 (analog_bits); or its value, scaled to [-1, 1] (none). The nearest class leaves the policy. For two
    classes the last two are the same."""
    self_conditioning: bool = False
    """Tell the network its estimate of the clean actions at the denoising step before, in training for half of the
    windows; each training step then evaluates the network a second time, without its gradient."""
    n_vae_training_steps: Annotated[int, AtLeast(1)] = 5000
    """Optimizer steps of the first stage, in which the VAE is trained; with a time budget at most a quarter of it."""
    vae_latent_dim: Annotated[int, Between(1, 1024)] = 16
    """Numbers of the latent."""
    vae_hidden_dim: Channels = 64
    """Width of the two hidden layers of the VAE's encoder, and of its decoder."""
    vae_beta: NotNegative = 1e-4
    """Weight of the divergence of the posterior from the standard normal, beside the cross-entropy."""
    vae_lr: Positive = 3e-4
    """Learning rate of the first stage, without warm-up."""
    vae_per: Literal["step", "chunk"] = "step"
    """A latent for each time step, or one for all class values of a chunk."""
    vae_target: Literal["mean", "sample"] = "mean"
    """What is denoised: the mean of the posterior, or a sample of it."""
    vae_weights: FilePath | None = None
    """A run, or a policy's folder, whose VAE is taken, its latent scaled to this recording; then there is no first
    stage."""

    @property
    def trains_vae(self) -> bool:
        """Whether the codec is a VAE that is trained here."""
        return self.discrete_codec == "vae" and self.vae_weights is None


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Document):
    """The objective, the optimizer and the average of the weights."""

    do_mask_loss_for_padding: bool = False
    """Leave actions beyond the end of an episode (copies of its last) out of the loss."""
    learning_rate: Positive = 1e-4
    """Of the optimizer, after warm-up."""
    optimizer_type: Literal["adam", "adamw", "muon"] = "adamw"
    """adam couples weight decay with the gradient, adamw does not; muon makes the steps of matrices orthogonal."""
    optimizer_betas: tuple[Share, Share] = (0.95, 0.999)
    """Decay of the averages of the gradient and of its square."""
    optimizer_eps: Positive = 1e-8
    """Keeps the optimizer's division finite."""
    scheduler_name: Literal["cosine", "constant", "linear"] = "cosine"
    """Learning rate after warm-up: to zero along a half cosine, unchanged, or to zero along a line."""
    scheduler_warmup_steps: Annotated[int, AtLeast(0)] = 500
    """Optimizer steps in which the learning rate rises from zero; never more than a tenth of all steps."""
    ema_inv_gamma: Positive = 1.0
    """The average of the weights, which is what acts, has decay 1 - (1 + n / ema_inv_gamma)^-ema_power at step n."""
    ema_power: NotNegative = 0.75
    """See ema_inv_gamma."""
    ema_min_value: Annotated[float, Between(0, 1)] = 0.0
    """Smallest decay of the average."""
    ema_max_value: Annotated[float, Between(0, 1)] = 0.9999
    """Largest decay of the average."""

    def conflicts(self) -> Iterator[str]:  # noqa: D102
        yield from super().conflicts()
        if self.ema_min_value > self.ema_max_value:
            yield f"ema_min_value {self.ema_min_value} is above ema_max_value {self.ema_max_value}"
