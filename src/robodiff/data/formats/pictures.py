"""Pictures, JPEG or PNG, and videos: recognised, measured, decoded, and those of an episode as one array."""

import hashlib
import io
from collections.abc import Iterator, Sequence
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


def decode_picture(picture: bytes | Path, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) uint8.

    Raises:
        RobodiffError: it says that it is of another size, which is found out before it is decoded.
    """
    with _opened(picture) as image:
        if (image.height, image.width) != size:
            raise RobodiffError(f"is {image.height}x{image.width} (height x width); the first picture is "
                                f"{size[0]}x{size[1]}")  # fmt: skip
        return np.asarray(image.convert("RGB"))


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
    import av
    import av.error

    with reading(path, "a video"), av.open(path, metadata_errors="replace") as container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise RobodiffError(f"{path}: holds no video; copy or record it again")
        stream = container.streams.video[0]
        size, rate = (stream.height, stream.width), stream.average_rate
        frames = sum(1 for packet in container.demux(stream) if packet.size)
    piece = Piece(path, path.name, frames, (*size, 3), "uint8", "image", partial(_video, path, size))
    return piece, float(rate) if rate else None


def _files(files: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    for file in files:
        with reading(file, "a picture"):
            try:
                yield decode_picture(file, size)[None]
            except RobodiffError as error:
                raise RobodiffError(f"{file}: {error}; all pictures of a key must have one size") from None


def _video(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    import av
    import av.error

    with reading(path, "a video"), av.open(path, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # several videos are decoded at once
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
