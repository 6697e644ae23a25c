"""``robodiff import``: a policy out of a checkpoint of another code base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robodiff.cli.options import Options, read_options
from robodiff.documents import FilePath
from robodiff.errors import UsageError
from robodiff.policies.config import Pixels


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Make a policy of a checkpoint: a file of the myCobot diffusion policy (FedVLA), such as model_best.pth, or a
    folder of LeRobot's policy type hybrid_diffusion, such as checkpoints/last.

    It acts as it does there. No code in the file is run: tensors and plain values are read, all else is refused.

    Examples:
      robodiff import checkpoints/model_best.pth --out policies/cube
      robodiff import checkpoints/model_best.pth --out policies/cube --camera_size '[480,640]' --activation mish
      robodiff import outputs/train/walk/checkpoints/last --out policies/walk
    """

    positional = ("checkpoint",)

    checkpoint: FilePath
    """The file, as torch.save wrote it; or LeRobot's folder of the checkpoint."""
    out: FilePath
    """Folder of the policy, which is new."""
    camera_size: tuple[Pixels, Pixels] = (240, 424)
    """Height and width of the camera's images in the file of a myCobot policy; they are resized to its image_size."""
    activation: Literal["relu", "mish"] | None = None
    """Between the layers, where the checkpoint does not say it: see the model.py that it was trained with; relu when
    not given."""


def run(arguments: list[str]) -> None:
    """Parse, read, write, say how to go on."""
    options = read_options(ImportOptions, "import", arguments)
    path, out = Path(options.checkpoint), Path(options.out)
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another --out")
    from robodiff.policies.checkpoint import save_policy  # needs torch
    from robodiff.policies.foreign import mycobot_policy, read_checkpoint
    from robodiff.policies.lerobot import lerobot_policy

    if path.is_dir():
        content, policy, evaluation = {}, lerobot_policy(path), "--env ENV"
    else:
        content = read_checkpoint(path)
        policy = mycobot_policy(path, content, options.camera_size, options.activation)
        evaluation = "--env stack_cube_mycobot --sampler ddim --steps 20"
    save_policy(policy, out)
    config, parameters = policy.config, sum(each.numel() for each in policy.parameters())
    training = {name: content.get(name) for name in ("epoch", "train_loss", "eval_metric")}
    told = [f"{name} {value:g}" for name, value in training.items() if isinstance(value, int | float)]
    print(f"read: {', '.join([str(path), *told])}; {parameters:,} parameters")
    steps = "all" if config.num_inference_steps is None else f"{config.inference_steps} of the"
    print(
        f"acts by {config.noise_scheduler_type} in {steps} {config.num_train_timesteps} steps that it was trained with"
    )
    print(f"written: {out}\n")
    print(f"robodiff eval {out} {evaluation}")
