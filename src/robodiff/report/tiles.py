"""Many small pictures in one: a sheet of tiles that the page's player draws from."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robodiff.data.images import SheetForm, encode_sheet

ENCODERS = {"WEBP": {"quality": 80, "method": 2}, "JPEG": {"quality": 80}}
"""What they are told: WebP is two thirds as large, JPEG is made six times as fast."""


@dataclass(frozen=True)
class Tiles:
    """A sheet of equal tiles, row after row."""

    url: str
    """The sheet, as a data: URL."""
    width: int
    """Of one tile, in pixels."""
    height: int
    """Likewise."""
    columns: int
    """Tiles in a row."""


def encode_tiles(tiles: Sequence[np.ndarray], columns: int, form: SheetForm = "WEBP") -> Tiles:
    """Encode pictures as one sheet.

    Args:
        tiles: see ``encode_sheet``.
        columns: likewise.
        form: of the sheet; JPEG where somebody waits for it.
    """
    height, width, _ = tiles[0].shape
    sheet = base64.b64encode(encode_sheet(tiles, columns, form, **ENCODERS[form])).decode()
    return Tiles(f"data:image/{form.lower()};base64,{sheet}", width, height, columns)


def tile_of(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a recorded image (C, H, W) uint8 of 1 or more channels as a tile of (height, width), (h, w, 3) uint8."""
    from PIL import Image

    pixels = np.asarray(image)[:3].transpose(1, 2, 0)  # CHW -> HWC
    picture = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])).convert("RGB")
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=1.5)
    return np.asarray(picture)


def fitted(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return the size at which the longer side of a picture has at most so many pixels, (height, width)."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
