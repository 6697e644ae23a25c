"""Arrays of encoded pictures: a JPEG or PNG file in each row, as bytes or as padded uint8."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robodiff.data.formats.pictures import decode_picture, is_picture, picture_shape
from robodiff.data.formats.pieces import Piece
from robodiff.data.images import resized

LOOKED_AT = 4
"""Rows that are looked at to see what an array is: the first may be empty."""


def may_be_encoded(shape: tuple[int, ...], dtype: Any) -> bool:
    """Tell whether frames of this shape and type may be files: rows of bytes."""
    dtype = np.dtype(dtype)
    return (shape == () and dtype.kind in "SO") or (len(shape) == 1 and dtype == np.uint8)


def encoded_shape(rows: Iterable[Any]) -> tuple[int, int, int] | None:
    """Return (H, W, C) of the first row that is a picture, no channels where it is depth; None where none is one."""
    picture = next((row for row in map(_bytes, rows) if is_picture(row)), None)
    return None if picture is None else picture_shape(picture) or (1, 1, 0)


@dataclass(frozen=True)
class Decoder:
    """Make images of rows of files."""

    where: str
    """What messages call the array."""
    shape: tuple[int, int, int]
    """Height, width and channels, which all must have."""
    swap_channels: bool = False
    """Whether red and blue are swapped in the files."""
    resize: tuple[int, int] | None = None
    """Height and width to which they are brought."""

    @property
    def recipe(self) -> str:
        """What of the source is made, for the cache."""
        return f"pictures {self.swap_channels} {self.resize}"

    def __call__(self, rows: Iterable[Any], first: int = 0) -> np.ndarray:
        """Return (n, C, H, W) uint8 of rows from frame ``first`` on."""
        images = [
            decode_picture(f"{self.where} at frame {first + place}", _bytes(row), self.shape)
            for place, row in enumerate(rows)
        ]
        stack = np.stack(images).transpose(0, 3, 1, 2)
        return resized(stack[:, ::-1] if self.swap_channels else stack, self.resize)


def pictures_of(piece: Piece, swap_channels: bool = False) -> Piece:
    """Return the pictures that the rows of an array are; the array as it is where they are none."""
    if piece.fault or not piece.frames or not may_be_encoded(piece.shape, piece.dtype):
        return piece
    if (shape := encoded_shape(piece.until(min(LOOKED_AT, piece.frames)).read())) is None:
        return piece
    if not shape[2]:
        return replace(piece, shape=(*piece.shape, 1), dtype="pictures of more than 8 bits", kind=None)
    decode = Decoder(f"{piece.source}: {piece.place}", shape, swap_channels)

    def blocks() -> Iterator[np.ndarray]:
        frame = 0
        for block in piece.blocks():
            for row in block:  # decoded, they are far larger
                yield decode([row], frame).transpose(0, 2, 3, 1)
                frame += 1

    return replace(
        piece, shape=shape, dtype="uint8", kind="image", blocks=blocks, recipe=f"{piece.recipe}{decode.recipe}"
    )


def _bytes(row: Any) -> bytes:
    if isinstance(row, np.ndarray):
        return row.tobytes() if row.dtype == np.uint8 else b""
    return row if isinstance(row, bytes) else b""
