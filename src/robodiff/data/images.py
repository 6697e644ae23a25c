"""Images at another size than they were recorded at: which size, and the pixels, averaged over their area; and many as
one sheet."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from robodiff.data.arrays import as_images
from robodiff.data.cache import Part, assembled, folder_of

Resize = tuple[int, int] | int | None
FORMATS = {1: "gray", 3: "rgb24"}
"""What FFmpeg calls images of so many channels."""
SheetForm = Literal["WEBP", "JPEG"]


def target_size(resize: Resize, height: int, width: int) -> tuple[int, int] | None:
    """Return the height and width to which images are brought; None where they stay as they are.

    Args:
        resize: height and width, or the length of the shorter side at most.
        height: as recorded.
        width: likewise.
    """
    if resize is None:
        return None
    if isinstance(resize, int):
        shorter = min(height, width)
        scale = min(1, resize / shorter)
        size = round(height * scale), round(width * scale)
    else:
        size = resize
    return None if size == (height, width) else size


def resized(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Bring images (n, C, H, W) uint8 to a size, (n, C, *size); None leaves them as they are."""
    if size is None:
        return images
    import av
    from av.video.reformatter import VideoReformatter

    reformatter, form = VideoReformatter(), FORMATS[images.shape[1]]
    made = np.empty((*images.shape[:2], *size), np.uint8)
    for image, target in zip(images.transpose(0, 2, 3, 1), made, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.squeeze(-1) if form == "gray" else image), form)
        frame = reformatter.reformat(frame, size[1], size[0], form, interpolation="AREA")
        target[:] = frame.to_ndarray().reshape(*size, -1).transpose(2, 0, 1)
    return made


@dataclass(frozen=True)
class Resized:
    """Bring recorded images, blocks (n, C, H, W) or (n, H, W, C), to a size."""

    source: str
    key: str
    size: tuple[int, int]

    @property
    def recipe(self) -> str:
        """What of the source is made, for the cache."""
        return str(self.size)

    def __call__(self, block: np.ndarray, first: int = 0) -> np.ndarray:
        """Return (n, C, *size) uint8."""
        return resized(as_images(self.source, self.key, block), self.size)


def assembled_images(
    what: str, parts: Sequence[Part], shape: tuple[int, ...], resize: Resize, cache_dir: str | None
) -> np.ndarray:
    """Decode images once, at the size to which they are brought, and return them memory-mapped, (N, C, H, W) uint8.

    Args:
        what: what is decoded, for messages.
        parts: what there is, in order; each yields blocks (n, C, H, W) uint8 as recorded.
        shape: of one recorded image, (C, H, W).
        resize: as in ``target_size``.
        cache_dir: as in ``DataConfig``.
    """
    size = target_size(resize, *shape[1:])

    def decode(part: Part) -> Iterator[np.ndarray]:
        return (resized(block, size) for block in part.decode())

    parts = [replace(part, recipe=f"{part.recipe} {size}", decode=partial(decode, part)) for part in parts]
    return assembled(what, parts, (shape[0], *(size or shape[1:])), np.dtype(np.uint8), folder_of(cache_dir))


def encode_sheet(pictures: Sequence[np.ndarray], columns: int, form: SheetForm, **how: Any) -> bytes:
    """Encode pictures as one, row after row.

    Args:
        pictures: at least one, (H, W, 3) uint8, all of one size.
        columns: pictures in a row. A sheet of WebP may be 16,383 pixels wide and high, one of JPEG 65,535.
        form: of the sheet.
        how: what Pillow's encoder is told, such as ``quality``.
    """
    from PIL import Image

    (height, width), rows = pictures[0].shape[:2], math.ceil(len(pictures) / columns)
    sheet = np.zeros((rows, height, columns, width, 3), np.uint8)
    for place, picture in enumerate(pictures):
        sheet[place // columns, :, place % columns] = picture
    buffer = io.BytesIO()
    Image.fromarray(sheet.reshape(rows * height, columns * width, 3)).save(buffer, form, **how)
    return buffer.getvalue()
