"""Image encoders: from what cameras recorded to embeddings that condition a denoiser.

Images are resized, cropped, normalised, run through a backbone up to a feature map, and pooled: by a spatial softmax
(Finn et al., 2016, arXiv 1509.06113), as in Diffusion Policy (Chi et al., 2023), or by the global average. Up to there
a frozen backbone gives the same every time, so that training can encode each frame once (``CameraEncoders.features``).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robodiff.errors import UsageError
from robodiff.networks.backbones import (
    IMAGENET,
    BackboneConfig,
    Statistics,
    feature_map,
    fold_norms,
    load_backbone,
    make_backbone,
    read_weights,
)
from robodiff.networks.images import Preparation, in_words

HALF: Statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
PIXELS = {"imagenet": IMAGENET, "half": HALF, "dataset": HALF}
"""Mean and standard deviation that pixels are normalised by; those of a data set are told by ``set_pixels``."""


@dataclass(frozen=True)
class EncoderConfig:
    """How an image becomes an embedding."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """What gives the feature map."""
    freeze: bool = False
    """The backbone is not trained."""
    keypoints: int | None = 32
    """Of the spatial softmax; the global average when None."""


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
        config: the network.
        separate: an encoder for each camera; else one for all, which must then see images of one size.
        pixels: per camera one of ``PIXELS``; of those that are not named the statistics of the pretrained weights or,
            without, half, which is [-1, 1].

    Raises:
        UsageError: images that cannot be encoded so; the message names the camera.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        preparation: Preparation,
        config: EncoderConfig = EncoderConfig(),
        separate: bool = False,
        pixels: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.pixels, self.preparation, self.config = dict(pixels or {}), preparation, config
        sizes = {camera: preparation.size(camera, shape) for camera, shape in shapes.items()}
        seen = ", ".join(f"{camera} {in_words(size)}" for camera, size in sizes.items())
        if not separate and len(set(sizes.values())) > 1:
            raise UsageError(f"images differ in size: {seen}; set resize_shape, or use_separate_rgb_encoder_per_camera")
        groups = {camera: [camera] for camera in sizes} if separate else {"shared": list(sizes)}
        # A module's name may not hold a dot.
        self.cameras = {name.replace(".", "/"): cameras for name, cameras in groups.items() if cameras}
        self.encoders = nn.ModuleDict(
            {
                name: ImageEncoder(sizes[cameras[0]], config, [self.pixels.get(each) for each in cameras])
                for name, cameras in self.cameras.items()
            }
        )
        for encoder, cameras in self._encoders():
            if config.keypoints is not None and min(encoder.form.shape[1:]) < 2:
                needed = f"spatial_softmax_num_keypoints needs > {encoder.form.stride} pixels"
                raise UsageError(f"{cameras[0]} {in_words(sizes[cameras[0]])}: {needed}; set null, or resize")

    @property
    def dims(self) -> dict[str, int]:
        """Per camera the numbers of its embedding."""
        return {camera: encoder.dim for encoder, cameras in self._encoders() for camera in cameras}

    @property
    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Per camera the shape of what ``features`` gives of a frame, where that stays the same in training."""
        if not (self.config.freeze and self.preparation.is_fixed):
            return {}
        return {camera: encoder.feature_shape for encoder, cameras in self._encoders() for camera in cameras}

    def features(self, camera: str, images: Tensor) -> Tensor:
        """Map a camera's frames (N, C, H, W) uint8 to what a frozen backbone gives of each, (N, ...) as floats."""
        encoder, place = self._encoder(camera)
        seen = self.preparation(images.unsqueeze(1), training=False).squeeze(1)
        return encoder.features(seen, encoder.mean[place, None], encoder.std[place, None])

    def folded(self) -> "CameraEncoders":
        """Return a copy for ``features`` alone, with its normalisations as ``fold_norms`` leaves them."""
        folded = copy.deepcopy(self)
        for encoder, _ in folded._encoders():
            encoder.backbone = fold_norms(encoder.backbone)
        return folded

    def constants(self, camera: str) -> list[Tensor]:
        """Return all the numbers that make ``features`` of a camera's frames."""
        encoder, place = self._encoder(camera)
        return [*encoder.backbone.state_dict().values(), encoder.mean[place], encoder.std[place]]

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed per camera (B, To, C, H, W) uint8 as (B, To, D); cameras that share an encoder in one call.

        Floating-point tensors (B, To, ...) are what ``features`` gave.
        """
        embeddings = {}
        for encoder, cameras in self._encoders():
            if images[cameras[0]].is_floating_point():
                # On a CPU bfloat16 is not mixed with float16: not even to concatenate.
                seen = torch.cat([images[camera].float() for camera in cameras])
                encoded = encoder.embed(seen.flatten(0, 1))
            else:
                seen = torch.cat([self.preparation(images[camera], self.training) for camera in cameras])
                encoded = encoder(seen.flatten(0, 1))
            encoded = encoded.unflatten(0, seen.shape[:2])  # (cameras * B, To, D)
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
        encoder, place = self._encoder(camera)
        for buffer, value in ((encoder.mean, mean), (encoder.std, std)):
            buffer[place] = value.expand(3)[:, None, None]

    def pixel_statistics(self, camera: str) -> tuple[Tensor, Tensor]:
        """Return by which mean and standard deviation (3, 1, 1) a camera's pixels are normalised, from 0 to 255."""
        encoder, place = self._encoder(camera)
        return encoder.mean[place], encoder.std[place]

    def load_pretrained(self) -> None:
        """Give every backbone the weights named, if any are.

        Raises:
            UsageError: a name that is not known, or weights that do not fit the backbone.
            RobodiffError: a file that cannot be read, or no network.
        """
        if self.config.backbone.pretrained is None or not self.encoders:
            return
        weights = read_weights(self.config.backbone)
        for encoder, _ in self._encoders():
            load_backbone(encoder.backbone, self.config.backbone, weights)

    def _encoder(self, camera: str) -> "tuple[ImageEncoder, int]":
        """The encoder of a camera, and which of its cameras that is."""
        return next((e, cameras.index(camera)) for e, cameras in self._encoders() if camera in cameras)

    def _encoders(self) -> "list[tuple[ImageEncoder, list[str]]]":
        """Every encoder with its cameras."""
        return [(self.encoders[name], cameras) for name, cameras in self.cameras.items()]  # pyright: ignore


class ImageEncoder(nn.Module):
    """One image as an embedding: two numbers a keypoint or, with the global average, one a channel of the backbone.

    Args:
        size: (h, w) of the images.
        config: the network.
        pixels: of each camera that shares the encoder, as in ``CameraEncoders``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: tuple[int, int], config: EncoderConfig, pixels: Sequence[str | None]) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.form = make_backbone(config.backbone, size)
        self.backbone.requires_grad_(not config.freeze)
        usual = HALF if config.backbone.pretrained is None else self.form.pixels
        statistics = [usual if mode is None else PIXELS[mode] for mode in pixels]
        for name, values in zip(("mean", "std"), zip(*statistics, strict=True), strict=True):
            is_kept = "dataset" in pixels or config.backbone.is_timms  # others are constants of this package
            channels = 255 * torch.tensor(values, device=None if is_kept else "cpu")
            self.register_buffer(name, channels[..., None, None], persistent=is_kept)  # (cameras, 3, 1, 1)
        channels, *cells = self.form.shape
        if config.keypoints is None:
            self.dim = channels
            self.pool, self.out = nn.AdaptiveAvgPool2d(1), nn.Identity()
        else:
            self.dim = 2 * config.keypoints
            self.pool = SpatialSoftmax(channels, config.keypoints, (cells[0], cells[1]))
            self.out = nn.Sequential(nn.Linear(self.dim, self.dim), nn.ReLU())
        self.train()

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of what ``features`` gives of an image: the average (C,), or the map (C, rows, columns)."""
        return self.form.shape if self.has_keypoints else self.form.shape[:1]

    @property
    def has_keypoints(self) -> bool:
        """Whether it is the spatial softmax that pools."""
        return self.config.keypoints is not None

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Set the mode; a frozen backbone stays in evaluation mode: batch normalisation keeps its statistics."""
        super().train(mode)
        if self.config.freeze:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, h, w) from 0 to 255, one camera's after the other's, to (N, dim)."""
        return self.embed(self.features(images, self.mean, self.std))

    def features(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Map (N, 3, h, w) from 0 to 255 to what is pooled by nothing that learns, (N, *feature_shape).

        Args:
            images: of one camera after those of the other.
            mean: (cameras, 3, 1, 1), by which theirs are normalised.
            std: likewise.
        """
        maps = self._maps(images, mean, std)
        return maps if self.has_keypoints else self.pool(maps).flatten(1)

    def embed(self, features: Tensor) -> Tensor:
        """Map (N, *feature_shape) to (N, dim)."""
        return self.out(self.pool(features).flatten(1)) if self.has_keypoints else features

    def keypoints(self, images: Tensor, camera: int = 0) -> Tensor | None:
        """Map (B, To, 3, h, w) from 0 to 255 to (B, To, K, 2), x and y in pixels; None with the global average.

        The first cell of the map is taken as centred on pixel 0, as a ResNet's is.
        """
        if not isinstance(self.pool, SpatialSoftmax):
            return None
        maps = self._maps(images.flatten(0, 1), self.mean[camera, None], self.std[camera, None])
        places = self.pool(maps).unflatten(0, images.shape[:2])  # (B, To, K, 2) in [-1, 1]
        height, width = self.pool.cells
        return (places + 1) / 2 * self.form.stride * (torch.tensor([width, height], device=places.device) - 1)

    def _maps(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Map (N, 3, h, w) from 0 to 255 to the backbone's feature map, (N, C, rows, columns)."""
        mean, std = (each.repeat_interleave(len(images) // len(each), 0) for each in (mean, std))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze):
            return feature_map(self.backbone, (images - mean) / std)


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
