"""From recorded images to those that a network sees: resized, cropped and, in training, in changed colours.

All of it runs on the device that holds the images, for a whole batch at once.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robodiff.errors import UsageError


@dataclass(frozen=True)
class Preparation:
    """From recorded images to those that the network sees, all cameras alike."""

    resize: tuple[int, int] | None = None
    """(height, width) that images are resized to first."""
    crop: tuple[int, int] | None = None
    """(height, width) that is then cut out."""
    random_crop: bool = True
    """In training cut at a random place; else, and always in evaluation, at the centre."""
    jitter: float = 0.0
    """Strength of ``color_jitter`` in training."""

    @property
    def is_fixed(self) -> bool:
        """Whether an image is prepared in training as it is when acting."""
        return not (self.jitter or (self.crop is not None and self.random_crop))

    def __call__(self, images: Tensor, training: bool) -> Tensor:
        """Map (B, To, C, H, W) uint8, C 1 or 3, to (B, To, 3, h, w), uint8 or float32, from 0 to 255.

        In training each of the B samples has a place and colours of its own, the same for its To frames.
        """
        images = images.expand(-1, -1, 3, -1, -1)  # grey becomes three equal channels
        if self.resize is not None:
            steps = images.shape[:2]
            images = F.interpolate(images.flatten(0, 1).float(), self.resize, mode="bilinear", antialias=True)
            images = images.unflatten(0, steps)
        if self.crop is not None:
            images = (random_crop if training and self.random_crop else centre_crop)(images, *self.crop)
        if training and self.jitter:
            images = color_jitter(images, self.jitter)
        return images

    def size(self, camera: str, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the (h, w) that is seen of images (C, H, W).

        Raises:
            UsageError: channels that a backbone cannot take, or a crop larger than the image.
        """
        channels, *recorded = shape
        if channels not in (1, 3):
            raise UsageError(f"{camera} has {channels} channels; an encoder takes 1 (grey) or 3 (red, green, blue)")
        height, width = self.resize or recorded
        crop = self.crop or (height, width)
        if crop[0] > height or crop[1] > width:
            message = f"crop_shape {in_words(crop)} is larger than the image: {camera} is {height}x{width}"
            raise UsageError(f"{message}; set --model.crop_shape null, or a smaller one")
        return crop


def centre_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Map (..., H, W) to (..., height, width), the same pixels as torchvision's ``CenterCrop``."""
    top, left = round((images.shape[-2] - height) / 2), round((images.shape[-1] - width) / 2)
    return images[..., top : top + height, left : left + width]


def random_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Map (B, To, C, H, W) to (B, To, C, height, width), at a place of its own for each of the B samples."""
    windows = images.unfold(3, height, 1).unfold(4, width, 1)  # (B, To, C, tops, lefts, height, width), a view
    samples = torch.arange(len(images), device=images.device)
    top, left = (torch.randint(windows.shape[d], samples.shape, device=images.device) for d in (3, 4))
    return windows[samples, :, :, top, left]


def color_jitter(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation, as torchvision's functions do, of (B, To, 3, h, w) from 0 to 255.

    Each by a factor between 1 - strength and 1 + strength, which each of the B samples has for itself.
    """
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, 1, device=images.device) - 1)
    brightness, contrast, saturation = factors
    images = (images * brightness).clamp(0, 255)
    images = torch.lerp(_grey(images).mean((-2, -1), keepdim=True), images, contrast).clamp(0, 255)
    return torch.lerp(_grey(images), images, saturation).clamp(0, 255)


def _grey(images: Tensor) -> Tensor:
    """Map (..., 3, h, w) to its luminance, (..., 1, h, w), with torchvision's weights."""
    red, green, blue = images.split(1, dim=-3)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def in_words(size: tuple[int, int]) -> str:
    """Return a height and a width as messages give them."""
    return f"{size[0]}x{size[1]}"
