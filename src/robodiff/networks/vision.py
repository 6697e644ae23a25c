"""Image encoders: from what cameras recorded to embeddings that condition a denoiser.

Images are resized, cropped, normalised, run through a torchvision ResNet without its head, and pooled: by a spatial
softmax (Finn et al., 2016, arXiv 1509.06113), as in Diffusion Policy (Chi et al., 2023), or by the global average.
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.images import Preparation, in_words
from robodiff.networks.layers import shape_misfits

STRIDE = 32
"""Pixels from one cell of a ResNet's last feature map to the next; the first cell is centred on pixel 0."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue from 0 to 1, in the images that torchvision's weights were trained on."""
PIXELS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "dataset": None}
"""Mean and standard deviation that pixels are normalised by; those of a data set are told by ``set_pixels``."""


@dataclass(frozen=True)
class CameraView:
    """What the network sees of one camera."""

    image: Tensor
    """(B, To, 3, h, w) uint8, resized and cropped."""
    keypoints: Tensor | None
    """(B, To, K, 2), x and y of the spatial softmax in pixels of ``image``; None with the global average."""


class CameraEncoders(nn.Module):
    """The images of all cameras of a policy as embeddings; with no camera, no parameter and no number.

    Args:
        shapes: per camera (C, H, W) of its images.
        preparation: what comes before the network.
        backbone: resnet18, resnet34 or resnet50.
        keypoints: of the spatial softmax; None takes the global average instead.
        group_norm: group normalisation in place of batch normalisation.
        pretrained: the ImageNet weights that ``load_pretrained`` reads.
        freeze: the backbone is not trained.
        separate: an encoder for each camera; else one for all, which must then see images of one size.
        pixels: per camera one of ``PIXELS``; of those that are not named imagenet with pretrained weights, else half,
            which is [-1, 1].

    Raises:
        UsageError: images that cannot be encoded so; the message names the camera.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        preparation: Preparation,
        backbone: str = "resnet18",
        keypoints: int | None = 32,
        group_norm: bool = True,
        pretrained: str | None = None,
        freeze: bool = False,
        separate: bool = False,
        pixels: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.pixels = dict.fromkeys(shapes, "half" if pretrained is None else "imagenet") | dict(pixels or {})
        self.preparation, self.backbone, self.pretrained = preparation, backbone, pretrained
        sizes = {camera: preparation.size(camera, shape) for camera, shape in shapes.items()}
        seen = ", ".join(f"{camera} {in_words(size)}" for camera, size in sizes.items())
        if not separate and len(set(sizes.values())) > 1:
            raise UsageError(f"images differ in size: {seen}; set resize_shape, or use_separate_rgb_encoder_per_camera")
        if keypoints is not None and any(min(size) <= STRIDE for size in sizes.values()):
            raise UsageError(f"{seen}: spatial_softmax_num_keypoints needs > {STRIDE} pixels; set null, or resize")
        groups = {camera: [camera] for camera in sizes} if separate else {"shared": list(sizes)}
        # A module's name may not hold a dot.
        self.cameras = {name.replace(".", "/"): cameras for name, cameras in groups.items() if cameras}
        self.encoders = nn.ModuleDict(
            {
                name: ImageEncoder(
                    sizes[cameras[0]], backbone, keypoints, group_norm, [self.pixels[each] for each in cameras], freeze
                )
                for name, cameras in self.cameras.items()
            }
        )

    @property
    def dims(self) -> dict[str, int]:
        """Per camera the numbers of its embedding."""
        return {camera: encoder.dim for encoder, cameras in self._encoders() for camera in cameras}

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed per camera (B, To, C, H, W) uint8 as (B, To, D); cameras that share an encoder in one call."""
        embeddings = {}
        for encoder, cameras in self._encoders():
            seen = torch.cat([self.preparation(images[camera], self.training) for camera in cameras])
            encoded = encoder(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])  # (cameras * B, To, D)
            embeddings.update(zip(cameras, encoded.chunk(len(cameras)), strict=True))
        return embeddings

    def views(self, images: Mapping[str, Tensor]) -> dict[str, CameraView]:
        """Per camera (B, To, C, H, W) uint8, what the network sees of it."""
        views = {}
        for encoder, cameras in self._encoders():
            for place, camera in enumerate(cameras):
                seen = self.preparation(images[camera], self.training)
                views[camera] = CameraView(seen.round().to(torch.uint8), encoder.keypoints(seen, place))
        return views

    def set_pixels(self, camera: str, mean: Tensor, std: Tensor) -> None:
        """Normalise the pixels of a camera by statistics (1,) or (3,) of its data set, from 0 to 255."""
        encoder, cameras = next(each for each in self._encoders() if camera in each[1])
        for buffer, value in ((encoder.mean, mean), (encoder.std, std)):
            buffer[cameras.index(camera)] = value.expand(3)[:, None, None]

    def load_pretrained(self) -> None:
        """Give every backbone the ImageNet weights named, if any are.

        Raises:
            UsageError: a name that torchvision does not know, or weights that do not fit the backbone.
            RobodiffError: a file that cannot be read, or no network.
        """
        if self.pretrained is None or not self.encoders:
            return
        weights = read_weights(self.backbone, self.pretrained)
        for encoder, _ in self._encoders():
            encoder.load_backbone(weights, self.pretrained)

    def _encoders(self) -> "list[tuple[ImageEncoder, list[str]]]":
        """Every encoder with its cameras."""
        return [(self.encoders[name], cameras) for name, cameras in self.cameras.items()]  # pyright: ignore


class ImageEncoder(nn.Module):
    """One image as an embedding: two numbers a keypoint or, with the global average, one a channel of the backbone.

    Args:
        size: (h, w) of the images.
        backbone, keypoints, group_norm, freeze: as in ``CameraEncoders``.
        pixels: of each camera that shares the encoder, as in ``CameraEncoders``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        backbone: str,
        keypoints: int | None,
        group_norm: bool,
        pixels: Sequence[str],
        freeze: bool,
    ) -> None:
        super().__init__()
        self.freeze = freeze
        statistics = [PIXELS[mode] or PIXELS["half"] for mode in pixels]  # constants, but for those of a data set
        for name, values in zip(("mean", "std"), zip(*statistics, strict=True), strict=True):
            is_kept = "dataset" in pixels
            channels = 255 * torch.tensor(values, device=None if is_kept else "cpu")
            self.register_buffer(name, channels[..., None, None], persistent=is_kept)  # (cameras, 3, 1, 1)
        self.backbone, channels = resnet_body(backbone, group_norm)
        self.backbone.requires_grad_(not freeze)
        if keypoints is None:
            self.dim = channels
            self.pool, self.out = nn.AdaptiveAvgPool2d(1), nn.Identity()
        else:
            self.dim = 2 * keypoints
            self.pool = SpatialSoftmax(channels, keypoints, (-(-size[0] // STRIDE), -(-size[1] // STRIDE)))
            self.out = nn.Sequential(nn.Linear(self.dim, self.dim), nn.ReLU())

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Set the mode; a frozen backbone stays in evaluation mode: batch normalisation keeps its statistics."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, h, w) from 0 to 255, one camera's after the other's, to (N, dim)."""
        return self.out(self.pool(self._maps(images, self.mean, self.std)).flatten(1))

    def keypoints(self, images: Tensor, camera: int = 0) -> Tensor | None:
        """Map (B, To, 3, h, w) from 0 to 255 to (B, To, K, 2), x and y in pixels; None with the global average."""
        if not isinstance(self.pool, SpatialSoftmax):
            return None
        statistics = self.mean[camera, None], self.std[camera, None]
        places = self.pool(self._maps(images.flatten(0, 1), *statistics)).unflatten(
            0, images.shape[:2]
        )  # (B, To, K, 2) in [-1, 1]
        height, width = self.pool.cells
        return (places + 1) / 2 * STRIDE * (torch.tensor([width, height], device=places.device) - 1)

    def load_backbone(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Take over the weights of a torchvision ResNet, but for its classifier.

        Raises:
            UsageError: they do not fit; the message names ``source`` and the first of them.
        """
        counts = "num_batches_tracked"  # which old files lack, and nothing reads
        weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
        expected = {key: value for key, value in self.backbone.state_dict().items() if not key.endswith(counts)}
        given = {key: value for key, value in weights.items() if not key.endswith(counts)}
        if wrong := shape_misfits(given, expected):
            raise UsageError(f"{source}: {len(wrong)} weights do not fit the backbone: {'; '.join(wrong[:3])}")
        self.backbone.load_state_dict(weights, strict=False)

    def _maps(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Map (N, 3, h, w) from 0 to 255 to the backbone's last feature map, (N, C, ceil(h / 32), ceil(w / 32))."""
        mean, std = (each.repeat_interleave(len(images) // len(each), 0) for each in (mean, std))
        normalised = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.backbone(normalised)


class SpatialSoftmax(nn.Module):
    """Where each of K learned maps is active: the expected x and y under the softmax of the map.

    Args:
        channels: of the feature map.
        keypoints: K.
        cells: (rows, columns) of the feature map; -1 is its first row or column, 1 its last.
    """

    x: Tensor
    y: Tensor

    def __init__(self, channels: int, keypoints: int, cells: tuple[int, int]) -> None:
        super().__init__()
        self.cells = cells
        self.maps = nn.Conv2d(channels, keypoints, 1, bias=False)  # the softmax would cancel a bias
        self.register_buffer("y", torch.linspace(-1, 1, cells[0], device="cpu"), persistent=False)
        self.register_buffer("x", torch.linspace(-1, 1, cells[1], device="cpu"), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, rows, columns) to (N, K, 2), x and y in [-1, 1]."""
        attention = self.maps(features).flatten(2).softmax(-1).unflatten(2, self.cells)  # (N, K, rows, columns)
        # Sums, not matrix products: those would be rounded to half precision in mixed-precision training.
        x = (attention.sum(2) * self.x).sum(-1)
        y = (attention.sum(3) * self.y).sum(-1)
        return torch.stack([x, y], dim=-1)


def resnet_body(name: str, group_norm: bool) -> tuple[nn.Sequential, int]:
    """Return a torchvision ResNet up to its last feature map, under torchvision's names, and the channels of that map.

    Group normalisation has groups of 16 channels, as in real-stanford/diffusion_policy.
    """
    from torchvision import models  # takes seconds, which policies without cameras do not have to wait

    norm = (lambda channels: nn.GroupNorm(channels // 16, channels)) if group_norm else nn.BatchNorm2d
    resnet = getattr(models, name)(norm_layer=norm)
    body = nn.Sequential(OrderedDict(list(resnet.named_children())[:-2]))  # without average and classifier
    # Channels last are somewhat faster on CPUs, in training and in encoding batches.
    return body.to(memory_format=torch.channels_last), resnet.fc.in_features


def read_weights(backbone: str, name: str) -> dict[str, Tensor]:
    """Return the weights of a backbone by torchvision's name for them, which may download them, or from a file.

    Raises:
        UsageError: a name that torchvision does not know, or a file that holds something else.
        RobodiffError: a file that cannot be opened, or a download that failed.
    """
    if name.endswith((".pth", ".pt", ".safetensors")):
        return _read_file(Path(os.path.expanduser(name)))
    from torchvision.models import get_model_weights

    known = get_model_weights(backbone)
    short = name.removeprefix(f"{known.__name__}.")
    if short not in known.__members__:
        raise UsageError(f"no weights {name!r} for {backbone}; there is {', '.join(map(str, known))}, or give a file")
    options = {"check_hash": True, "map_location": "cpu", "weights_only": True}
    try:
        return known[short].get_state_dict(progress=sys.stderr.isatty(), **options)
    except Exception as error:  # no network, a broken download, a cache that cannot be written: of many kinds
        url = known[short].url
        remedy = f"download it elsewhere and give the file: pretrained_backbone_weights: {Path(url).name}"
        raise RobodiffError(f"could not be downloaded from {url}: {error}; {remedy}") from None


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
