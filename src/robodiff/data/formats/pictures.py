"""Pictures, JPEG or PNG, and videos: recognised, measured, decoded, and those of an episode as one array.

All pictures of an array have one shape. Another size would shift what comes after it, and channels are brought to those
of the others only where nothing is lost by it.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.cache import file_state
from robodiff.data.formats.pieces import Piece, inside
from robodiff.errors import RobodiffError
from robodiff.files import reading

SUFFIXES = (".png", ".jpg", ".jpeg")
"""How the names of picture files end."""
VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
"""How the names of video files end."""
MODES = {1: "L", 3: "RGB"}
"""What Pillow calls pictures of so many channels."""
Cell = bytes | Path | None
"""A picture in a table: its bytes, or the file that holds it; None where there is none."""
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_PLAIN = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
"""As what pictures of other modes are taken; nothing but opacity is lost by it."""


def is_picture(data: bytes) -> bool:
    """Tell whether bytes start as a JPEG or PNG file does."""
    return data.startswith(_STARTS)


def picture_size(picture: bytes | Path) -> tuple[int, int]:
    """Return the height and width that the head of a picture says; nothing is decoded."""
    with _opened(picture) as image:
        return image.height, image.width


def picture_shape(picture: bytes | Path) -> tuple[int, int, int] | None:
    """Return (H, W, C) of a picture: one channel where it is grey, else three; how opaque it is is left out.

    None where it holds more than a byte a value, as depth does.
    """
    with _opened(picture) as image:
        if image.mode.startswith(("I", "F")):
            return None
        return image.height, image.width, 1 if _PLAIN.get(image.mode, image.mode) == "L" else 3


def decode_picture(where: str, picture: Cell, shape: tuple[int, ...]) -> np.ndarray:
    """Return (H, W, C) uint8; of a shape (H, W), with three channels.

    Raises:
        RobodiffError: it is broken, of other channels by which something would be lost, or of another size, which is
            found out before it is decoded; the message begins with ``where``.
    """
    height, width, channels = (*shape, 3)[:3]
    try:
        with _opened(picture) as image:
            if (image.height, image.width) != (height, width):
                raise ValueError(f"it is {image.height}x{image.width} (height x width), not {height}x{width}")
            if image.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a value, as depth has")
            image = image.convert(_PLAIN.get(image.mode, image.mode))
            made = image.convert(MODES[channels])
            if made.mode != image.mode and made.convert(image.mode).tobytes() != image.tobytes():
                raise ValueError(f"it is {image.mode}, which {channels} channels cannot hold")
            return np.asarray(made).reshape(height, width, channels)
    except (OSError, ValueError, SyntaxError) as error:
        raise RobodiffError(f"{where} cannot be decoded: {error}; record it again") from None


def files_piece(place: str, files: Sequence[Path]) -> Piece:
    """Return picture files, one a frame, as an array.

    Args:
        place: what messages call the array.
        files: in order.

    Raises:
        RobodiffError: the first is no picture.
    """
    return _piece(files[0], place, files, [str(file) for file in files])


def cells_piece(path: Path, place: str, column: Any) -> Piece | None:
    """Return the pictures in a column of a pyarrow table as an array; None where its first value is no picture.

    Args:
        path: the table, beside which files lie that cells name.
        place: the column.
        column: bytes of JPEG or PNG files, as they are, as lists, or in a struct with a path.
    """
    first = next((value for each in column if (value := picture_in(path.parent, each.as_py())) is not None), None)
    if isinstance(first, Path) or (first is not None and is_picture(first)):
        cells = [picture_in(path.parent, each.as_py()) for each in column]
        return _piece(path, place, cells, [f"{path}: {place} at frame {row}" for row in range(len(cells))])
    return None


def picture_in(folder: Path, value: Any) -> Cell:
    """Return the picture that the cell of a table holds or names.

    Args:
        folder: to which paths are relative, and out of which none may lead.
        value: bytes, a list of bytes, a path, or a dictionary of ``bytes`` and ``path``, of which one may be None.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, list):
        value = bytes(value)
    return inside(folder, folder / value) if isinstance(value, str) else value


def video_piece(path: Path) -> tuple[Piece, float | None]:
    """Return the frames of a video as an array, and how many a second it has.

    Raises:
        RobodiffError: no video there, or a broken one.
    """
    with opened_video(path) as (container, stream):
        size, rate = (stream.height, stream.width), stream.average_rate
        frames = sum(1 for packet in container.demux(stream) if packet.size)
    piece = Piece(path, path.name, frames, (*size, 3), "uint8", "image", partial(_video, path, size))
    return piece, float(rate) if rate else None


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video to decode its frames; yield the container and the stream. Errors name the file."""
    import av

    with reading(path, "a video"), av.open(path, metadata_errors="replace") as container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise ValueError("it holds no pictures")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # several videos are decoded at once, which wastes less than sharing one
        yield container, stream


def _piece(source: Path, place: str, pictures: Sequence[Cell], labels: Sequence[str]) -> Piece:
    """Return pictures, one a frame, as an array; messages call each by its label."""
    sample = next(picture for picture in pictures if picture is not None)
    with reading(source, "a picture"):
        shape = picture_shape(sample)
        size = shape or (*picture_size(sample), 1)
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(file_state(picture).encode() if isinstance(picture, Path) else picture or b"")

    def blocks() -> Iterator[np.ndarray]:
        yield from (decode_picture(*each, size)[None] for each in zip(labels, pictures, strict=True))

    kind, dtype = ("image", "uint8") if shape else (None, "uint16")
    return Piece(source, place, len(pictures), size, dtype, kind, blocks, recipe=digest.hexdigest())


def _video(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    with opened_video(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if (frame.height, frame.width) != size:
                actual = f"becomes {frame.height}x{frame.width} (height x width) at frame {number}"
                raise RobodiffError(f"{path}: {actual}; expected {size[0]}x{size[1]}")
            if frame.is_corrupt:
                raise RobodiffError(f"{path}: is broken: frame {number} cannot be decoded")
            yield frame.to_ndarray(format="rgb24")[None]


@contextmanager
def _opened(picture: Cell) -> Iterator[Any]:
    from PIL import Image

    if picture is None:
        raise ValueError("there is no picture")
    with reading(picture, "a picture") if isinstance(picture, Path) else nullcontext():
        source = picture if isinstance(picture, Path) else io.BytesIO(picture)
        try:
            opened = Image.open(source, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            raise ValueError(error) from None
        except Image.UnidentifiedImageError:
            raise ValueError("it is no JPEG or PNG file, or a broken one") from None
    with opened as image:
        yield image
