"""Checkpoints of other code bases as policies. They are pickles, of which nothing but tensors and plain values is read.

A function a source; so far the myCobot diffusion policy (FedVLA).
"""

import pickletools
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo, is_zipfile

import torch
from torch import Tensor

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.formats.mycobot import CAMERA, FPS, NAMES, UNITS
from robodiff.documents import brief, typed
from robodiff.errors import UsageError, notice
from robodiff.files import reading
from robodiff.networks.layers import shape_misfits
from robodiff.policies.config import DiffusionMlpConfig
from robodiff.policies.diffusion import DiffusionPolicy

WEIGHTS = "model_state_dict"
AS_SAVED = "take the file as train.py saved it"
RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Where an ``nn.Sequential`` of a ResNet's parts has each of them."""
MYCOBOT = {"image_size": 224, "diffusion_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
"""What the weights of the myCobot code base do not say, and what its code takes where ``args`` do not say it either."""
MYCOBOT_FIXED = {
    "horizon": 1,
    "n_obs_steps": 1,
    "n_action_steps": 1,
    "normalization": {CAMERA: "imagenet", ACTION: "identity"},
    "vision_backbone": "resnet34",
    "use_group_norm": False,
    "spatial_softmax_num_keypoints": None,
    "residual": False,
    "beta_schedule": "linear",
    "clip_sample": False,
}
"""What is the same for all of its policies: they denoise one action, which is not normalised, as DDPM does."""


class Inert:
    """Stands for an object of another class in a pickle: keeps what that would have been made of, and does nothing."""

    state: Any = None

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


INERT = ("argparse.Namespace", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
"""What checkpoints hold beside tensors and plain values, and no policy needs to be whole."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what ``torch.save`` wrote: a dictionary of tensors, plain values and ``Inert`` objects. No code is run.

    Raises:
        UsageError: it is compressed, names something that would have to be called, or is no dictionary.
        RobodiffError: it cannot be read.
    """
    stand_ins = torch.serialization.safe_globals([(Inert, name) for name in INERT])
    with reading(path, "a checkpoint that torch.save wrote"), warnings.catch_warnings(action="ignore"), stand_ins:
        entries = _entries(path)
        if any(entry.compress_type != ZIP_STORED for entry in entries):  # torch would map the compressed bytes
            raise UsageError(f"{path}: was compressed after torch.save wrote it; {AS_SAVED}")
        try:
            content = torch.load(path, "cpu", weights_only=True, mmap=bool(entries))  # of any size
        except (UnpicklingError, RuntimeError) as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            if name := named[1] if named else _called(path, entries):
                problem = f"names {name}, which reading it would call; refused, and nothing of it was run"
                remedy = f"save it anew with tensors and plain values alone: {WEIGHTS}, and args as vars(args)"
                raise UsageError(f"{path}: {problem}\n{remedy}") from None
            raise ValueError("torch cannot read it") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a dictionary with {WEIGHTS}; found {brief(content)}")
    return content


def _entries(path: Path) -> list[ZipInfo]:
    """Return what is in a file that torch writes today; nothing for its old format, or where it is neither."""
    if not is_zipfile(path):
        return []
    with ZipFile(path) as archive:
        return archive.infolist()


def _called(path: Path, entries: list[ZipInfo]) -> str | None:
    """Return what a pickle in opcodes that torch does not know names first, beside torch's own; none of it is run."""
    strings, known = ["", ""], ("torch.", "collections.", *INERT)
    with path.open("rb") as file, ZipFile(path) if entries else nullcontext() as archive, suppress(Exception):  # broken
        pickled = archive.read(next(e for e in entries if e.filename.endswith("data.pkl"))) if archive else file
        for opcode, value, _ in pickletools.genops(pickled):
            name = ".".join(strings[-2:]) if opcode.name == "STACK_GLOBAL" else str(value).replace(" ", ".")
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not name.startswith(known):
                return name
            strings += [value] if isinstance(value, str) else []
    return None


def mycobot_policy(
    path: Path, content: Mapping[str, Any], camera_size: tuple[int, int], activation: str | None = None
) -> DiffusionPolicy:
    """Return the policy of a checkpoint of the myCobot code base, which acts as its ``p_sample_loop`` does.

    Args:
        path: of the file, for messages.
        content: of the file; its weights alone will do.
        camera_size: height and width of the images that the policy will be given.
        activation: between the layers, where the weights do not say it: relu or mish; relu when None.

    Raises:
        UsageError: it is none, or its parts contradict each other.
    """
    weights, args = content.get(WEIGHTS, content), content.get("args")
    args = (args.state if isinstance(args, Inert) else args) or {}
    if not isinstance(args, dict) or not isinstance(weights, dict) or not all(map(_is_stored, weights.values())):
        raise UsageError(f"{path}: expected tensors in {WEIGHTS}, and args by their names")
    if sum(value.nbytes for value in weights.values()) > path.stat().st_size:
        raise UsageError(f"{path}: its tensors are larger than the file; copy it again")
    action = Feature("vector", (len(NAMES),), "float32", NAMES, UNITS)
    features = {CAMERA: Feature("image", (3, *camera_size), "uint8"), ACTION: action}
    fields = MYCOBOT_FIXED | _mycobot_fields(path, weights, args, activation)
    try:
        config = typed(DiffusionMlpConfig, fields)
        with torch.device("meta"):  # weights take no memory, whatever sizes are said
            outline = config.make_policy(features, FPS).state_dict()
    except UsageError as error:
        raise UsageError(f"{path}: does not describe a policy: {error}") from None
    named = {_mycobot_name(str(key)): value for key, value in weights.items()}
    normalizer = {key: value for key, value in outline.items() if key.startswith("normalizer.")}  # it has none
    if misfits := shape_misfits(named | normalizer, outline):
        raise UsageError(f"{path}: its weights do not fit: {misfits[0]}; {AS_SAVED}")
    policy = config.make_policy(features, FPS)
    policy.load_state_dict(named, strict=False)
    return policy.eval()


def _mycobot_fields(
    path: Path, weights: Mapping[Any, Tensor], args: Mapping[str, Any], activation: str | None
) -> dict[str, Any]:
    """Return the fields of the configuration that differ from policy to policy."""
    is_timed = "output_projection.weight" in weights
    sizes = _mycobot_sizes(path, weights, is_timed)
    said = {**sizes, **MYCOBOT, **args}
    wrong = {name: size for name, size in sizes.items() if repr(said[name]) != str(size)}
    if wrong:
        texts = [f"{name} is {brief(said[name])}, {size} in the weights" for name, size in wrong.items()]
        raise UsageError(f"{path}: args contradict the weights: {'; '.join(texts)}; {AS_SAVED}")
    if missing := [f"{name} {value}" for name, value in MYCOBOT.items() if name not in args]:
        notice(f"{path}: not in args, and taken as its code base has them: {', '.join(missing)}")
    if activation is None and not is_timed:
        notice(
            f"{path}: does not say its activation; taken as relu. If its model.py has nn.Mish, give --activation mish"
        )
    return {
        "hidden_dim": sizes["hidden_dim"],
        "num_mlp_layers": sizes["num_mlp_layers"],
        "diffusion_step_embed_dim": sizes["time_emb_dim"],
        "time_in_each_layer": is_timed,
        "activation": activation or "relu",
        "resize_shape": (said["image_size"], said["image_size"]),
        "num_train_timesteps": said["diffusion_timesteps"],
        "beta_start": said["beta_start"],
        "beta_end": said["beta_end"],
    }


def _is_stored(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _mycobot_sizes(path: Path, weights: Mapping[Any, Tensor], is_timed: bool) -> dict[str, int]:
    """Return what the weights say of the sizes in ``args``, by their names there."""
    first = "input_projection.layers.0.bias" if is_timed else "mlp.0.bias"
    layer = r"layers\.\d+\.layers\.0\.bias" if is_timed else r"mlp\.[1-9]\d*\.bias"
    try:
        hidden, time = (len(weights[name]) for name in (first, "time_mlp.3.bias"))
    except (KeyError, TypeError):
        found = ", ".join(map(str, [*weights][:3])) or "nothing"
        raise UsageError(
            f"{path}: expected weights of the myCobot code base, such as {first} and time_mlp.3.bias; found {found}"
        ) from None
    layers = sum(bool(re.fullmatch(layer, str(name))) for name in weights)
    sizes = {"hidden_dim": hidden, "time_emb_dim": time, "state_dim": len(NAMES), "image_feature_dim": 512}
    return sizes | {"num_mlp_layers": layers, "num_layers": layers}


def _mycobot_name(key: str) -> str:
    """Return what a weight of the myCobot code base is called here."""
    network, _, rest = key.partition(".")
    if network in ("image_encoder", "image_backbone"):
        part, dot, rest = rest.partition(".")
        return f"cameras.encoders.shared.backbone.{RESNET.get(part, part)}{dot}{rest}"
    for name, here in (("input_projection.layers", "first"), ("output_projection", "last")):
        key = key.replace(name, here)
    return "denoiser." + re.sub(r"^layers\.(\d+)\.layers", r"layers.\1", key)
