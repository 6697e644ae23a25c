"""Camera videos: frames decoded in order at given times, and an episode's images encoded."""

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from robodiff.data.formats.lerobot.info import DEEP
from robodiff.data.formats.pictures import opened_video
from robodiff.data.images import FORMATS
from robodiff.errors import RobodiffError

Codec = Literal["av1", "h264"]
TOLERANCE = 0.25
"""How far a time may be off, as a share of the time from one frame to the next."""
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "av1": ("libsvtav1", {"crf": "30", "preset": "10"}),
    "h264": ("libx264", {"crf": "23", "preset": "medium"}),
}
os.environ.setdefault("SVT_LOG", "1")  # errors alone: the AV1 encoder prints a page about each video
_REORDERED = 32  # more frames than any codec shows out of the order in which they are stored


def decode_frames(
    path: Path,
    times: np.ndarray,
    fps: float,
    size: tuple[int, int],
    resize: tuple[int, int] | None = None,
    channels: int = 3,
) -> Iterator[np.ndarray]:
    """Decode the frames of a video that are shown at some times, in one pass.

    Args:
        path: the video.
        times: (n,) seconds, increasing.
        fps: frames per second that it must have.
        size: height and width that it must have.
        resize: height and width of what is yielded; ``size`` when None. Pixels are averaged over their area.
        channels: C of what is yielded, 1 for grey.

    Yields:
        Images (1, C, H, W) uint8.

    Raises:
        RobodiffError: no video there, a broken one, one of depth, another rate or size, which may also change within
            it, or no frame at one of the times.
    """
    wanted, shown, reformatter = 0, 0.0, VideoReformatter()
    with opened_video(path) as (container, stream):
        rate = fps if stream.average_rate is None else float(stream.average_rate)
        if (stream.height, stream.width) != size or abs(rate / fps - 1) > 0.01:
            actual, expected = f"{stream.height}x{stream.width} at {rate:g}", f"{size[0]}x{size[1]} at {fps:g}"
            raise RobodiffError(f"{path}: is {actual} frames a second, but meta/info.json says {expected}")
        if DEEP.match(str(stream.pix_fmt)):
            raise RobodiffError(f"{path}: has more than 8 bits a value ({stream.pix_fmt}), as depth has")
        first = float(times[0]) - _REORDERED / fps
        if first > 0:
            container.seek(int(first / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            shown = math.nan if frame.time is None else frame.time
            late = (shown - times[wanted]) * fps
            if late < -TOLERANCE:
                continue
            if not late <= TOLERANCE or frame.is_corrupt:
                break
            if (frame.height, frame.width) != size:
                text = f"becomes {frame.height}x{frame.width} at {shown:.3f} s; expected {size[0]}x{size[1]}"
                raise RobodiffError(f"{path}: {text}")
            yield _planes(frame, reformatter, FORMATS[channels], resize)[None]
            wanted += 1
            if wanted == len(times):
                return
    raise RobodiffError(f"{path}: has no whole frame at {times[wanted]:.3f} s; decoding ended at {shown:.3f} s")


def describe_video(height: int, width: int, fps: int, codec: Codec) -> dict[str, Any]:
    """Return what info.json says of a video; raises ``RobodiffError`` for a size that the codec does not take."""
    if height % 2 or width % 2 or min(height, width) < 64:
        size = f"{height}x{width}"
        raise RobodiffError(f"a video needs an even height and width of at least 64; found {size}; store it as png")
    sizes = {"video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps}
    return {**sizes, "video.codec": codec, "video.pix_fmt": "yuv420p", "is_depth_map": False, "has_audio": False}


def encode_video(path: Path, images: Iterable[np.ndarray], fps: float, codec: Codec, key_frames: int = 2) -> None:
    """Write images (3, H, W) uint8, of even height and width, as an mp4 that starts while it loads.

    Args:
        path: the file.
        images: frame by frame.
        fps: frames per second.
        codec: how they are compressed.
        key_frames: one of so many frames is a key frame; every second, as in LeRobot, makes random access quick.
    """
    name, options = _ENCODERS[codec]
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = container.add_stream(name, rate=rate, options={**options, "g": str(key_frames)})
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", 1 / rate
        for index, image in enumerate(images):
            if index == 0:
                stream.height, stream.width = image.shape[1:]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _planes(frame: av.VideoFrame, reformatter: VideoReformatter, form: str, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or size == (frame.height, frame.width):
        frame = reformatter.reformat(frame, format=form)
    else:
        frame = reformatter.reformat(frame, size[1], size[0], form, interpolation="AREA")
    return frame.to_ndarray().reshape(frame.height, frame.width, -1).transpose(2, 0, 1)
