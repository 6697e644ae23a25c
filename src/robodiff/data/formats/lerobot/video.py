"""Camera videos: frames decoded in order at given times, and an episode's images encoded."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from robodiff.errors import RobodiffError
from robodiff.files import reading

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
    path: Path, times: np.ndarray, fps: float, size: tuple[int, int], resize: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """Decode the frames of a video that are shown at some times, in one pass.

    Args:
        path: the video.
        times: (n,) seconds, increasing.
        fps: frames per second that it must have.
        size: height and width that it must have.
        resize: height and width of what is yielded; ``size`` when None. Pixels are averaged over their area.

    Yields:
        Images (1, 3, H, W) uint8.

    Raises:
        RobodiffError: no video there, a broken one, another rate or size, or no frame at one of the times.
    """
    wanted, reformatter = 0, VideoReformatter()
    with reading(path, "a video"), av.open(path, metadata_errors="replace") as container:
        stream = _check(path, container, fps, size)
        first = float(times[0]) - _REORDERED / fps
        if first > 0:
            container.seek(int(first / stream.time_base), stream=stream)
        shown = -1.0
        for frame in container.decode(stream):
            if frame.time is None:
                raise RobodiffError(f"{path}: is broken: a frame after {shown:.3f} s does not say when it is shown")
            shown = frame.time
            late = (shown - times[wanted]) * fps
            if late < -TOLERANCE:
                continue
            if late > TOLERANCE:
                raise RobodiffError(f"{path}: has no frame at {times[wanted]:.3f} s; the next is at {shown:.3f} s")
            if frame.is_corrupt:
                raise RobodiffError(f"{path}: is broken: the frame at {shown:.3f} s cannot be decoded whole")
            yield _planes(frame, reformatter, resize)[None]
            wanted += 1
            if wanted == len(times):
                return
    raise RobodiffError(f"{path}: ends with the frame at {max(shown, 0):.3f} s, but one at {times[wanted]:.3f} s is "
                        "needed; the video is shorter than what meta/ says of it")  # fmt: skip


def describe_video(height: int, width: int, fps: int, codec: Codec) -> dict[str, Any]:
    """Return what info.json says of a video; raises ``RobodiffError`` for a size that the codec does not take."""
    if codec not in _ENCODERS:
        raise RobodiffError(f"unknown codec {codec!r}; there is {', '.join(_ENCODERS)}")
    if height % 2 or width % 2 or min(height, width) < 64:
        raise RobodiffError(f"a video needs an even height and width of at least 64; found {height}x{width}; "
                            "store such images as png")  # fmt: skip
    return {
        "video.height": height, "video.width": width, "video.codec": codec, "video.pix_fmt": "yuv420p",
        "video.fps": fps, "video.channels": 3, "is_depth_map": False, "has_audio": False,
    }  # fmt: skip


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


def _check(path: Path, container: Any, fps: float, size: tuple[int, int]) -> Any:
    if not container.streams.video or container.streams.video[0].codec_context is None:
        raise RobodiffError(f"{path}: is not a video, or a broken one: it holds no pictures; copy or download it again")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # several videos are decoded at once, which wastes less than sharing one
    if stream.average_rate is not None and abs(stream.average_rate / fps - 1) > 0.01:
        raise RobodiffError(
            f"{path}: has {float(stream.average_rate):g} frames a second, but meta/info.json says fps {fps:g}"
        )
    if (stream.height, stream.width) != size:
        raise RobodiffError(
            f"{path}: is {stream.height}x{stream.width} (height x width), but meta/info.json says {size[0]}x{size[1]}"
        )
    return stream


def _planes(frame: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or size == (frame.height, frame.width):
        frame = reformatter.reformat(frame, format="rgb24")
    else:
        frame = reformatter.reformat(frame, size[1], size[0], "rgb24", interpolation="AREA")
    return frame.to_ndarray().transpose(2, 0, 1)
