"""Networks that turn an image into a feature map, and their weights: torchvision's ResNets, and what timm has."""

import copy
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robodiff.errors import RobodiffError, UsageError, first_line, nearest
from robodiff.networks.layers import shape_misfits

RESNET_LAYERS = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}
"""Of a ResNet, by the pixels from one cell of its map to the next."""
TIMM = "timm:"
"""Before the name of one of timm's networks."""
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of red, green and blue."""
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images of torchvision's weights, from 0 to 1."""
FILES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class BackboneConfig:
    """Which network, up to which of its maps, and with which weights."""

    name: str = "resnet18"
    """resnet18, resnet34, resnet50, or timm:NAME, which may have the name of its weights: timm:NAME.WEIGHTS."""
    stride: int | None = None
    """Pixels from one cell of the feature map to the next: of the last map that has it, the layers up to it; of the
    network's last map when None."""
    group_norm: bool = True
    """Group normalisation in place of batch normalisation; of ResNets alone."""
    pretrained: str | None = None
    """Name or file of the weights that ``read_weights`` reads."""

    @property
    def is_timms(self) -> bool:
        """Whether timm has the network."""
        return self.name.startswith(TIMM)


@dataclass(frozen=True)
class MapForm:
    """What a backbone makes of an image of one size."""

    shape: tuple[int, int, int]
    """(C, rows, columns) of its feature map."""
    stride: int
    """Pixels from one cell to the next."""
    pixels: Statistics
    """Of the images that its weights were trained on, from 0 to 1."""


def make_backbone(config: BackboneConfig, size: tuple[int, int]) -> tuple[nn.Module, MapForm]:
    """Return a network, with random weights, that ``feature_map`` runs on images (N, 3, h, w), and what it gives.

    Raises:
        UsageError: a name or a stride that is not known, or images that the network cannot take.
        RobodiffError: timm is not installed.
    """
    make = _timm_body if config.is_timms else _resnet_body
    body, stride, pixels = make(config, size)
    outline = copy.deepcopy(body).to("meta").eval()
    try:
        with torch.no_grad():
            channels, rows, columns = feature_map(outline, torch.empty(1, 3, *size, device="meta")).shape[1:]
    except (AssertionError, RuntimeError, ValueError) as error:
        what = f"{config.name} cannot take images of {size[0]}x{size[1]}: {first_line(error)}"
        raise UsageError(f"{what}; set resize_shape") from None
    # Channels last are somewhat faster on CPUs, in training and in encoding batches.
    return body.to(memory_format=torch.channels_last), MapForm((channels, rows, columns), stride, pixels)


def feature_map(backbone: nn.Module, images: Tensor) -> Tensor:
    """Map normalised images (N, 3, h, w) to (N, C, rows, columns)."""
    maps = backbone(images.contiguous(memory_format=torch.channels_last))
    return maps[0] if isinstance(maps, list) else maps  # timm's are lists


def load_backbone(backbone: nn.Module, config: BackboneConfig, weights: Mapping[str, Tensor]) -> None:
    """Take over the weights of a whole network, but for what comes after the map.

    Raises:
        UsageError: they do not fit; the message names where they are from and the first of them.
    """
    prefix, counts = "model." if config.is_timms else "", "num_batches_tracked"  # old files lack these
    expected = {key: value for key, value in backbone.state_dict().items() if not key.endswith(counts)}
    given = {f"{prefix}{key}": value for key, value in weights.items() if f"{prefix}{key}" in expected}
    if (places := given.get("model.pos_embed")) is not None:
        given["model.pos_embed"] = _places_at(backbone, places)
    if wrong := shape_misfits(given, expected):
        raise UsageError(f"{config.pretrained}: {len(wrong)} weights do not fit the backbone: {'; '.join(wrong[:3])}")
    backbone.load_state_dict(given, strict=False)


def fold_norms(module: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode whose batch normalisations are part of the convolutions before.

    By the order in which modules are listed, which is that of the computation in most networks: compare the outputs.
    """
    module = copy.deepcopy(module)
    named = [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()]
    for (parent, name, convolution), (inner, other, norm) in pairwise(named):
        if parent is inner and isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, name, fuse_conv_bn_eval(convolution, norm).to(memory_format=torch.channels_last))
            activation = getattr(norm, "act", None)  # timm has one in the normalisation
            setattr(parent, other, nn.Identity() if activation is None else activation)
    return module


def read_weights(config: BackboneConfig) -> dict[str, Tensor]:
    """Return the weights of a whole network: from a file, or by the name that torchvision or timm has for them, which
    may download them.

    Raises:
        UsageError: a name that is not known, or a file that holds something else.
        RobodiffError: a file that cannot be opened, or a download that failed.
    """
    name = str(config.pretrained)
    if name.endswith(FILES):
        return _read_file(Path(os.path.expanduser(name)))
    if config.is_timms:
        timm, (network, _, known) = _timm(), _timms(config.name)
        fetch, where = (lambda: timm.create_model(f"{network}.{name}", pretrained=True).state_dict()), "the hub"
        file = "its model.safetensors"
    else:
        from torchvision.models import get_model_weights

        every = get_model_weights(config.name)
        name, known = name.removeprefix(f"{every.__name__}."), list(every.__members__)
        options = {"check_hash": True, "map_location": "cpu", "weights_only": True}
        fetch = lambda: every[name].get_state_dict(progress=sys.stderr.isatty(), **options)  # noqa: E731
        where = every[name].url if name in known else ""
        file = Path(where).name
    if name not in known:
        listed = ", ".join(known) or "none"
        raise UsageError(f"no weights {name!r} for {config.name}; there is {listed}, or give a file")
    try:
        return fetch()
    except Exception as error:  # no network, a broken download, a cache that cannot be written: of many kinds
        remedy = f"download it elsewhere and give the file: pretrained_backbone_weights: {file}"
        reason = first_line(error)
        raise RobodiffError(f"{name} could not be downloaded from {where}: {reason}; {remedy}") from None


def _resnet_body(config: BackboneConfig, size: tuple[int, int]) -> tuple[nn.Module, int, Statistics]:
    """Return a torchvision ResNet up to a feature map, under torchvision's names.

    Group normalisation has groups of 16 channels, as in real-stanford/diffusion_policy.
    """
    from torchvision import models  # takes seconds, which policies without cameras do not have to wait

    norm = (lambda channels: nn.GroupNorm(channels // 16, channels)) if config.group_norm else nn.BatchNorm2d
    stride = config.stride or max(RESNET_LAYERS)
    if stride not in RESNET_LAYERS:
        raise UsageError(f"{config.name} has maps of stride {_listed(RESNET_LAYERS)}; found backbone_stride {stride}")
    layers = list(getattr(models, config.name)(norm_layer=norm).named_children())
    names = [name for name, _ in layers]
    return nn.Sequential(OrderedDict(layers[: names.index(RESNET_LAYERS[stride]) + 1])), stride, IMAGENET


def _timm_body(config: BackboneConfig, size: tuple[int, int]) -> tuple[nn.Module, int, Statistics]:
    """Return one of timm's networks up to a feature map, its names after ``model.``."""
    timm, (network, tag, known) = _timm(), _timms(config.name)
    tag = config.pretrained if config.pretrained in known else tag
    weights = timm.get_pretrained_cfg(f"{network}.{tag}" if tag else network)
    options: dict[str, Any] = {"features_only": True, "feature_cls": "getter"}  # which drops what follows the map
    if weights.fixed_input_size:
        options["img_size"] = size
    try:
        with torch.device("meta"):
            outline = timm.create_model(network, **options)
    except Exception as error:  # each of its networks refuses in a way of its own
        raise UsageError(f"{config.name} cannot give a feature map: {first_line(error)}") from None
    strides = outline.feature_info.reduction()
    stride = config.stride or strides[-1]
    if stride not in strides:
        raise UsageError(f"{config.name} has maps of stride {_listed(strides)}; found backbone_stride {stride}")
    index = max(i for i, each in zip(outline.feature_info.out_indices, strides, strict=True) if each == stride)
    constants = dict(outline.named_buffers()).keys() - outline.state_dict().keys()  # in no file: made here and now
    with torch.device("cpu") if constants else nullcontext():
        body = timm.create_model(network, out_indices=(index,), **options)
    return body, stride, (weights.mean, weights.std)


def _timms(name: str) -> tuple[str, str, list[str]]:
    """Return of ``timm:NETWORK`` or ``timm:NETWORK.WEIGHTS`` both, and what weights timm has for the network."""
    timm, (network, _, tag) = _timm(), name.removeprefix(TIMM).partition(".")
    if not timm.is_model(network):
        every = timm.list_models()
        where = f"timm.list_models() lists {len(every)}.{nearest(network, every)}"
        raise UsageError(f"timm has no network {network!r}; {where}")
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{network}.*")]
    if tag and tag not in known:
        raise UsageError(f"timm has no weights {tag!r} for {TIMM}{network}; there is {', '.join(known) or 'none'}")
    return network, tag, known


def _places_at(backbone: nn.Module, places: Tensor) -> Tensor:
    """Return what a transformer of timm has learnt of the places in square images, for images of another size."""
    network: Any = backbone.model
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    others = 0 if getattr(network, "no_embed_class", False) else getattr(network, "num_prefix_tokens", 0)
    cells = places.shape[1] - others if places.ndim == 3 else 0
    if grid is None or cells < 1 or math.isqrt(cells) ** 2 != cells:
        return places
    return _timm().layers.resample_abs_pos_embed(places, grid, num_prefix_tokens=others)


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise RobodiffError("vision_backbone timm:NAME needs the extra timm: pip install 'robodiff[timm]'") from None
    return timm


def _listed(strides: Any) -> str:
    return ", ".join(map(str, dict.fromkeys(strides)))


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise RobodiffError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception:  # a broken or foreign file raises many kinds; nothing in it is run
        weights = None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UsageError(f"{path}: is not a state dict, tensors alone, that torch.save or safetensors wrote")
    return weights
