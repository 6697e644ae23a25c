"""The options of the policy type ``hybrid_diffusion``: robodiff's, by LeRobot's names where it has the option."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import draccus
from huggingface_hub import hf_hub_download
from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamConfig, AdamWConfig
from safetensors import safe_open

from lerobot_policy_robodiff.schedule import HybridDiffusionSchedulerConfig
from robodiff.errors import UsageError
from robodiff.policies.hybrid import HybridDiffusionConfig as Options
from robodiff.policies.lerobot import TYPE, Recorded, config_from_lerobot, recorded_from_lerobot

DEFAULTS = Options()
OPTIMIZERS = {"adam": AdamConfig, "adamw": AdamWConfig}


@PreTrainedConfig.register_subclass(TYPE)
@dataclass
class HybridDiffusionConfig(PreTrainedConfig):
    """Continuous and discrete actions together, in the order [continuous, discrete], such as joints and foot contacts.

    First a VAE learns to turn the discrete actions into a latent and back, then a diffusion model learns to denoise
    continuous actions and latent together.
    """

    continuous_action_dim: int = DEFAULTS.continuous_action_dim
    """How many numbers of the action are continuous; they come first."""
    discrete_action_dim: int = DEFAULTS.discrete_action_dim
    """How many are discrete; 0 or 1, unless the option action_discrete gives them other classes."""
    n_vae_training_steps: int = DEFAULTS.n_vae_training_steps
    """Optimizer steps of the first stage, which trains the VAE alone; all others train the diffusion model alone."""
    discrete_codec: str = DEFAULTS.discrete_codec
    """What of a discrete action is denoised: vae (its latent), analog_bits (-1 or 1) or none (the number)."""
    vae_latent_dim: int = DEFAULTS.vae_latent_dim
    """Numbers of the latent."""
    vae_hidden_dim: int = DEFAULTS.vae_hidden_dim
    """Width of the two hidden layers of the VAE's encoder, and of its decoder."""
    vae_beta: float = DEFAULTS.vae_beta
    """Weight of the divergence of the posterior from the standard normal, beside the cross-entropy."""
    vae_lr: float = DEFAULTS.vae_lr
    """Learning rate of the first stage."""
    vae_per: str = DEFAULTS.vae_per
    """A latent for each time step (step), or one for the whole chunk (chunk)."""
    vae_target: str = DEFAULTS.vae_target
    """What is denoised: the mean of the posterior, or a sample of it."""

    n_obs_steps: int = DEFAULTS.n_obs_steps
    """Observations that the policy sees, the newest included."""
    horizon: int = DEFAULTS.horizon
    """Time steps that are denoised together, from the oldest observation's on."""
    n_action_steps: int = DEFAULTS.n_action_steps
    """Actions that are executed before the policy is asked again."""

    denoiser: str = DEFAULTS.denoiser
    """The network: unet, transformer or mlp; options of the last two are further options."""
    down_dims: tuple[int, ...] = DEFAULTS.down_dims
    """Channels of each level of the U-Net."""
    kernel_size: int = DEFAULTS.kernel_size
    """Kernel of its convolutions over time."""
    n_groups: int = DEFAULTS.n_groups
    """Groups of its group normalisations."""
    diffusion_step_embed_dim: int = DEFAULTS.diffusion_step_embed_dim
    """Size of the embedding of the diffusion timestep."""
    use_film_scale_modulation: bool = DEFAULTS.use_film_scale_modulation
    """The observation scales and shifts the channels; else it shifts them only."""

    vision_backbone: str = DEFAULTS.vision_backbone
    """Network that encodes images: resnet18, resnet34 or resnet50."""
    pretrained_backbone_weights: str | None = DEFAULTS.pretrained_backbone_weights
    """Weights that it starts from, such as IMAGENET1K_V1; random when null."""
    use_group_norm: bool = DEFAULTS.use_group_norm
    """Group instead of batch normalisation in the backbone; with pretrained weights false."""
    resize_shape: tuple[int, int] | None = DEFAULTS.resize_shape
    """Height and width that images are resized to."""
    crop_shape: tuple[int, int] | None = DEFAULTS.crop_shape
    """Height and width that are then cut out."""
    crop_is_random: bool = DEFAULTS.crop_is_random
    """In training cut at a random place."""
    spatial_softmax_num_keypoints: int | None = DEFAULTS.spatial_softmax_num_keypoints
    """Points in the image at which each encoder learns to look."""
    use_separate_rgb_encoder_per_camera: bool = DEFAULTS.use_separate_rgb_encoder_per_camera
    """An encoder for each camera."""

    noise_scheduler_type: str = DEFAULTS.noise_scheduler_type
    """The sampler: DDPM, DDIM, DPMSolver++, Flow or FlowHeun."""
    num_train_timesteps: int = DEFAULTS.num_train_timesteps
    """Noise levels of the diffusion."""
    num_inference_steps: int | None = DEFAULTS.num_inference_steps
    """Denoising steps of the sampler; num_train_timesteps when null."""
    beta_schedule: str = DEFAULTS.beta_schedule
    """How noise grows: squaredcos_cap_v2, linear, scaled_linear or flow."""
    beta_start: float = DEFAULTS.beta_start
    """First beta of the linear schedules."""
    beta_end: float = DEFAULTS.beta_end
    """Last beta of the linear schedules."""
    prediction_type: str = DEFAULTS.prediction_type
    """What the network predicts: epsilon, sample, v_prediction or velocity."""
    clip_sample: bool = DEFAULTS.clip_sample
    """Clip the predicted clean actions at every step."""
    clip_sample_range: float = DEFAULTS.clip_sample_range
    """To plus and minus this."""
    do_mask_loss_for_padding: bool = DEFAULTS.do_mask_loss_for_padding
    """Leave actions beyond the end of an episode out of the loss."""

    optimizer_type: str = DEFAULTS.optimizer_type
    """adam or adamw."""
    optimizer_lr: float = DEFAULTS.learning_rate
    """Learning rate of the second stage after its warm-up."""
    optimizer_betas: tuple[float, float] = DEFAULTS.optimizer_betas
    """Decay of the averages of the gradient and of its square."""
    optimizer_eps: float = DEFAULTS.optimizer_eps
    """Keeps the optimizer's division finite."""
    optimizer_weight_decay: float = DEFAULTS.optimizer_weight_decay
    """Weight decay."""
    scheduler_name: str = DEFAULTS.scheduler_name
    """How the learning rates decay: cosine, linear or constant."""
    scheduler_warmup_steps: int = DEFAULTS.scheduler_warmup_steps
    """Steps of the second stage in which its learning rate rises from 0."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further options of robodiff's HybridDiffusionConfig, by their names there, such as {hidden_dim: 512}."""

    fps: float | None = None
    """Frames per second of the recording; taken from the data set."""
    feature_names: dict[str, list[str]] = field(default_factory=dict)
    """Of the dimensions of each key; taken from the data set."""
    feature_units: dict[str, list[str]] = field(default_factory=dict)
    """Likewise."""

    @property
    def robodiff_config(self) -> Options:
        """The same as robodiff's own configuration.

        Raises:
            ValueError: options that are unknown, out of bounds or do not go together. Not sooner: of what is wrong when
                this is made, LeRobot's command line says nothing.
        """
        try:
            config = config_from_lerobot(draccus.encode(self))
        except UsageError as error:
            raise ValueError(str(error)) from None
        if config.frame_stride != 1:
            stride = f"frame_stride: 1, found {config.frame_stride}"
            raise ValueError(f"LeRobot asks for an action in every frame; set {stride}")
        return config

    @property
    def recorded(self) -> Recorded:
        """What the policy was trained on."""
        return recorded_from_lerobot(draccus.encode(self))

    @property
    def normalization_mapping(self) -> dict[str, NormalizationMode]:
        """What LeRobot's processors do: nothing, for the policy normalises."""
        return dict.fromkeys((kind.value for kind in FeatureType), NormalizationMode.IDENTITY)

    @property
    def observation_delta_indices(self) -> list[int]:
        """Frames whose observations a sample has, counted from now."""
        return self._indices(self.robodiff_config.window.obs_steps_in_batch)

    @property
    def action_delta_indices(self) -> list[int]:
        """Frames whose actions a sample has, counted from now."""
        return self._indices(self.horizon)

    @property
    def reward_delta_indices(self) -> None:
        """No rewards are learnt from."""
        return

    @property
    def drop_n_last_frames(self) -> int:
        """Final frames of an episode at which no sample is taken."""
        return self.robodiff_config.window.drop_n_last_frames

    def _indices(self, steps: int) -> list[int]:
        return [*range(1 - self.n_obs_steps, 1 - self.n_obs_steps + steps)]

    def set_dataset_feature_metadata(self, features: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep names and units of the data set; LeRobot calls this before it makes the policy."""
        from robodiff.data.formats.lerobot.info import FeatureInfo
        from robodiff.documents import convert

        for key in {**(self.input_features or {}), **(self.output_features or {})}:
            feature = convert(dict(features[key]), FeatureInfo).feature if key in features else None
            if feature is not None and feature.names:
                self.feature_names[key] = [*feature.names]
            if feature is not None and feature.kind == "vector" and any(feature.units):
                self.feature_units[key] = [*feature.units]

    def get_optimizer_preset(self) -> AdamConfig | AdamWConfig:
        """Return Adam or AdamW; groups of parameters have their own learning rate and weight decay.

        Raises:
            ValueError: LeRobot does not know the optimizer.
        """
        kind = OPTIMIZERS.get(self.robodiff_config.optimizer_type)
        if kind is None:
            found = f"found {self.optimizer_type}, which only robodiff itself trains with"
            raise ValueError(f"optimizer_type: expected {' or '.join(OPTIMIZERS)}, {found}")
        step = {"betas": self.optimizer_betas, "eps": self.optimizer_eps}
        return kind(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay, **step)

    def get_scheduler_preset(self) -> HybridDiffusionSchedulerConfig:
        """Return the schedule of a run, the first stage of which has what is left of it where a policy goes on."""
        first, *later = self.robodiff_config.stages()
        steps = max(0, first.steps - self._steps_done()) if later else 0
        schedule = {"lr": self.optimizer_lr, "name": self.scheduler_name}
        return HybridDiffusionSchedulerConfig(self.scheduler_warmup_steps, steps, **schedule)

    def _steps_done(self) -> int:
        """Return how many steps the pretrained policy has had, if there is one."""
        if self.pretrained_path is None:
            return 0
        name, file = str(self.pretrained_path), "model.safetensors"
        local = Path(name) / file
        path = local if local.is_file() else hf_hub_download(name, file, revision=self.pretrained_revision)
        with safe_open(path, "pt") as weights:
            return int(weights.get_tensor("step"))

    def validate_features(self) -> None:
        """Refuse features that the policy cannot observe, or actions of other dimensions.

        Raises:
            ValueError: in words.
        """
        if not self.input_features or not self.output_features or self.action_feature is None:
            raise ValueError("hybrid_diffusion needs observations, and the key action")
        dims, (found,) = (self.continuous_action_dim, self.discrete_action_dim), self.action_feature.shape
        if sum(dims) != found:
            parts = f"continuous_action_dim {dims[0]} + discrete_action_dim {dims[1]}"
            raise ValueError(f"{parts} = {sum(dims)} numbers of an action; the data set's has {found}")
