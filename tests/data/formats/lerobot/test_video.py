"""Videos: the frames at given times, exactly, and what is said of those that cannot be decoded."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from robodiff.data.formats.lerobot.video import decode_frames, describe_video, encode_video
from robodiff.data.images import resized
from robodiff.errors import RobodiffError

SIZE = (64, 96)


def moving(length: int) -> np.ndarray:
    """A block that wanders: every frame differs from every other."""
    images = np.full((length, 3, *SIZE), 40, np.uint8)
    for frame in range(length):
        row, column = divmod(frame, 12)
        images[frame, :, 8 * (row % 8) : 8 * (row % 8) + 8, 8 * column : 8 * column + 8] = (220, 120, 20 + frame)[
            frame % 3
        ]
    return images


def all_frames(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24").transpose(2, 0, 1) for f in container.decode(video=0)])


def decode(path: Path, frames: Any, fps: float = 20, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.concatenate(list(decode_frames(path, np.asarray(frames) / fps, fps, size)))


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_what_is_encoded_is_decoded(tmp_path: Path, codec: Any) -> None:
    images = moving(90)
    encode_video(tmp_path / "v.mp4", images, 20, codec)
    decoded = decode(tmp_path / "v.mp4", range(90))
    assert np.abs(decoded.astype(int) - images).mean() < 4
    np.testing.assert_array_equal(decoded, all_frames(tmp_path / "v.mp4"))
    np.testing.assert_array_equal(decode(tmp_path / "v.mp4", range(50, 60)), decoded[50:60])


def test_frames_are_exact_in_videos_with_reordered_frames_and_few_key_frames(tmp_path: Path) -> None:
    with av.open(tmp_path / "v.mp4", "w") as container:
        options = {"g": "50", "bf": "8", "b-pyramid": "normal", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}
        stream: Any = container.add_stream("libx264", rate=20, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index, image in enumerate(moving(96)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    every = all_frames(tmp_path / "v.mp4")
    for first in range(30, 96, 3):
        np.testing.assert_array_equal(
            decode(tmp_path / "v.mp4", range(first, min(first + 3, 96))), every[first : first + 3]
        )
    np.testing.assert_array_equal(decode(tmp_path / "v.mp4", [0, 1, 40, 95]), every[[0, 1, 40, 95]])


def test_times_may_be_a_little_off(tmp_path: Path) -> None:
    encode_video(tmp_path / "v.mp4", moving(10), 20, "h264")
    every = all_frames(tmp_path / "v.mp4")
    np.testing.assert_array_equal(decode(tmp_path / "v.mp4", [3.2, 4.2]), every[3:5])
    with pytest.raises(RobodiffError, match=r"has no whole frame at 0\.175 s; .*0\.200 s"):
        decode(tmp_path / "v.mp4", [3.5])


def test_resizing_averages_areas(tmp_path: Path) -> None:
    encode_video(tmp_path / "v.mp4", moving(10), 20, "h264")
    every = all_frames(tmp_path / "v.mp4")
    small = np.concatenate(list(decode_frames(tmp_path / "v.mp4", np.arange(10) / 20, 20, SIZE, (16, 24))))
    mean = every.reshape(10, 3, 16, 4, 24, 4).mean(axis=(3, 5))
    assert np.abs(small - mean).mean() < 1.5  # colours are stored at half the resolution
    alone = resized(every, (16, 24))
    assert np.abs(alone - mean).mean() < 1.5


def sound(path: Path) -> None:
    with av.open(path, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is missing; copy or download it again"),
        (lambda path: path.write_bytes(b""), "is not a video, or a broken one"),
        (lambda path: path.write_bytes(bytes(5000)), "is not a video, or a broken one"),
        (sound, "is not a video, or a broken one: it holds no pictures"),
        (lambda path: encode_video(path, moving(4), 20, "h264"), r"has no whole frame at 0\.200 s; .*0\.150 s"),
        (lambda path: encode_video(path, moving(6), 25, "h264"), "is 64x96 at 25 .* says 64x96 at 20"),
        (lambda path: encode_video(path, moving(6)[..., :64], 20, "h264"), "is 64x64 .* but .* says 64x96"),
    ],
    ids=["absent", "empty", "zeros", "sound", "short", "rate", "size"],
)  # fmt: skip
def test_what_is_no_such_video_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "v.mp4")
    with pytest.raises(RobodiffError, match=rf"v\.mp4: {message}"):
        decode(tmp_path / "v.mp4", range(6))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
def test_truncated_videos_are_refused_whatever_is_left_of_them(tmp_path: Path, share: float) -> None:
    encode_video(tmp_path / "v.mp4", moving(40), 20, "av1")
    content = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(content[: int(share * len(content))])
    with pytest.raises(RobodiffError, match=r"v\.mp4: "):
        decode(tmp_path / "v.mp4", range(40))


def test_sizes_that_cannot_be_encoded() -> None:
    for size in ((63, 64), (64, 32)):
        with pytest.raises(RobodiffError, match=r"an even height and width of at least 64; .* store .* as png"):
            describe_video(*size, fps=10, codec="av1")
