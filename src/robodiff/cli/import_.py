"""``robodiff import``: a policy from another code base's checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from robodiff.cli.options import Options, read_options
from robodiff.data.episodes import ACTION
from robodiff.documents import Above, FilePath
from robodiff.errors import UsageError
from robodiff.files import is_repository
from robodiff.policies.options import Pixels
from robodiff.text import counted


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Convert another code base's checkpoint to a policy that acts as it does there:

      LeRobot's policies of type diffusion and hybrid_diffusion: a folder, such as checkpoints/last, or a hub repository
      diffusion_policy's .ckpt files: U-Net or transformer, low-dimensional or image
      the myCobot diffusion policy (FedVLA): a file such as model_best.pth

    No code in a file is run: tensors and plain values are read, everything else is refused. Options that would act
    differently here are refused by name.

    Examples:
      robodiff import outputs/train/pusht/checkpoints/last --out policies/pusht --data my_dataset
      robodiff import lerobot/diffusion_pusht --out policies/pusht --fps 10
      robodiff import checkpoints/latest.ckpt --out policies/can
      robodiff import checkpoints/model_best.pth --out policies/cube --camera_size '[480,640]' --activation mish
    """

    positional = ("checkpoint",)

    checkpoint: FilePath
    """A file that torch.save wrote, the folder of a LeRobot checkpoint, or a hub repository."""
    out: FilePath
    """Folder to write the policy to; it must not exist."""
    fps: Annotated[float, Above(0)] | None = None
    """Frames per second of its training recording, if the checkpoint does not hold them."""
    data: FilePath | None = None
    """Folder of the LeRobot data set that it was trained on, from which to read --fps."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    camera_size: tuple[Pixels, Pixels] = (240, 424)
    """Height and width of a myCobot policy's camera images; they are resized to its image_size."""
    activation: Literal["relu", "mish"] | None = None
    """Activation of a myCobot policy, if the checkpoint does not say it: see the model.py that it was trained with;
    relu when not given."""

    def conflicts(self) -> Iterator[str]:
        """Yield what contradicts: the rate given twice."""
        if self.fps is not None and self.data is not None:
            yield "--fps and --data both give the rate; give one of them"


def run(arguments: list[str]) -> None:
    """Parse, read, write, print what to do next."""
    options = read_options(ImportOptions, "import", arguments)
    path, out = Path(options.checkpoint), Path(options.out)
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another --out")
    from robodiff.data.formats.lerobot.info import read_info
    from robodiff.policies.checkpoint import save_policy  # needs torch
    from robodiff.policies.foreign.diffusion_policy import policy_of_diffusion_policy
    from robodiff.policies.foreign.lerobot import lerobot_policy
    from robodiff.policies.foreign.mycobot import mycobot_policy
    from robodiff.policies.foreign.reader import read_checkpoint

    fps = options.fps if options.data is None else read_info(Path(options.data)).fps
    content, evaluation = {}, "--data RECORDING  # or --env ENV"
    if path.is_dir() or is_repository(options.checkpoint):
        policy = lerobot_policy(options.checkpoint, fps, options.revision)
    elif "state_dicts" in (content := read_checkpoint(path)):
        policy = policy_of_diffusion_policy(path, content, fps)
    else:
        policy = mycobot_policy(path, content, options.camera_size, options.activation)
        evaluation = "--env stack_cube_mycobot --sampler ddim --steps 20"
    save_policy(policy, out)
    config, parameters = policy.config, sum(each.numel() for each in policy.parameters())
    training = {name: content.get(name) for name in ("epoch", "train_loss", "eval_metric")}
    told = [f"{name} {value:g}" for name, value in training.items() if isinstance(value, int | float)]
    print(f"read: {', '.join([str(path), *told])}; {parameters:,} parameters")
    shapes = {key: "x".join(map(str, each.shape)) for key, each in policy.features.items()}
    observed = ", ".join(f"{key} ({shape})" for key, shape in shapes.items() if key != ACTION)
    print(f"observes {counted(config.n_obs_steps, 'step')} of {observed}")
    print(f"executes {counted(config.n_action_steps, 'action')} ({shapes[ACTION]}) at {policy.fps:g} Hz")
    steps = "all" if config.inference_steps == config.num_train_timesteps else f"{config.inference_steps} of the"
    schedule = f"{steps} {config.num_train_timesteps} steps that it was trained with"
    print(f"samples with {config.noise_scheduler_type} in {schedule}")
    print(f"written: {out}\n")
    print(f"robodiff eval {out} {evaluation}")
