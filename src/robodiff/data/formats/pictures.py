"""Pictures, JPEG or PNG, and videos: recognised, measured, decoded, and those of an episode as one array."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.formats.pieces import Piece
from robodiff.errors import RobodiffError
from robodiff.files import reading

SUFFIXES = (".png", ".jpg", ".jpeg")
"""How the names of picture files end."""
VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
"""How the names of video files end."""
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def is_picture(data: bytes) -> bool:
    """Tell whether bytes start as a JPEG or PNG file does."""
    return data.startswith(_STARTS)


def picture_size(picture: bytes | Path) -> tuple[int, int]:
    """Return the height and width that the head of a picture says; nothing is decoded."""
    with _opened(picture) as image:
        return image.height, image.width


def decode_picture(where: str, picture: bytes | Path, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) uint8.

    Raises:
        RobodiffError: it is broken, or of another size, which is found out before it is decoded; the message begins
            with ``where``.
    """
    try:
        with _opened(picture) as image:
            if (image.height, image.width) != size:
                raise ValueError(f"it is {image.height}x{image.width} (height x width), not {size[0]}x{size[1]}")
            return np.asarray(image.convert("RGB"))
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
    with reading(files[0], "a picture"):
        size = picture_size(files[0])
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    blocks = partial(_files, list(files), size)
    return Piece(files[0], place, len(files), (*size, 3), "uint8", "image", blocks, recipe=digest.hexdigest())


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


def _files(files: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    return (decode_picture(str(file), file, size)[None] for file in files)


def _video(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    with opened_video(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if (frame.height, frame.width) != size or frame.is_corrupt:
                raise RobodiffError(f"{path}: is broken: frame {number} cannot be decoded as {size[0]}x{size[1]}")
            yield frame.to_ndarray(format="rgb24")[None]


def _opened(picture: bytes | Path) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise ValueError(error) from None
