"""LeRobot data sets as others write them: cells, types, names, clocks and lines that are good, and what is not read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.formats.lerobot.sets import FPS, TOP, numbers, pictured, walk, write_v21
from tests.readers import read_lerobot
from tests.recordings import encoded

from robodiff.data.check import examine
from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.video import decode_frames, encode_video
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError

GOOD = pytest.mark.kind("good files that were refused")
IMAGES = pytest.mark.kind("images that are taken for numbers, or dropped")
NAMED = pytest.mark.kind("what is read, and what is not, without a word")
CLOCK = pytest.mark.kind("a clock that is not even")
WINDOW = WindowShape(2, 16, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def picture(episode: int, frame: int, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(100 * episode + frame)
    return random.integers(0, 255, (8, 12, channels), np.uint8)


def png(episode: int, frame: int, channels: int = 3) -> bytes:
    return encoded(picture(episode, frame, channels).squeeze(), "PNG")


@GOOD
@pytest.mark.parametrize("form", ["bytes", "struct", "list", "path", "struct path"])
def test_pictures_in_cells_of_any_form(tmp_path: Path, form: str) -> None:
    root = tmp_path / "set"

    def cell(episode: int, frame: int) -> Any:
        path = f"images/{episode}-{frame}.png"
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(episode, frame))
        data = png(episode, frame)
        return {
            "bytes": data,
            "struct": {"bytes": data, "path": "elsewhere.png"},
            "list": list(data),
            "path": path,
            "struct path": {"bytes": None, "path": path},
        }[form]

    kinds = {"bytes": pa.binary(), "path": pa.string(), "list": pa.list_(pa.uint8())}
    arguments = (cell, (8, 12, 3), kinds[form]) if form in kinds else (cell, (8, 12, 3))
    episodes = read_lerobot(pictured(root, *arguments))
    expected = np.stack([picture(e, f) for e, frames in enumerate((20, 25)) for f in range(frames)])
    np.testing.assert_array_equal(episodes.arrays[TOP], expected.transpose(0, 3, 1, 2))
    if "path" in form:  # the file that a cell names is part of what the cache depends on
        (root / "images/1-4.png").write_bytes(png(9, 9))
        again = read_lerobot(root).arrays[TOP]
        np.testing.assert_array_equal(again[24], picture(9, 9).transpose(2, 0, 1))


@GOOD
def test_a_picture_that_is_missing_is_named_with_its_frame(tmp_path: Path) -> None:
    def cell(episode: int, frame: int) -> Any:
        absent = {(0, 4): None, (1, 7): {"bytes": None, "path": None}}
        return absent.get((episode, frame), {"bytes": png(episode, frame), "path": None})

    root = pictured(tmp_path / "set", cell, (8, 12, 3))
    findings = examine(LeRobotConfig(root=str(root)), WINDOW)
    assert [(f.check, f.key, f.episode) for f in findings] == [("images", TOP, 0), ("images", TOP, 1)]
    assert "there is no picture" in findings[0].message
    assert f"({TOP}, frame 4 of episode 0)" in findings[0].message
    assert f"({TOP}, frame 7 of episode 1)" in findings[1].message


@IMAGES
@pytest.mark.parametrize(
    ("shape", "channels"), [((8, 12, 1), 1), ((1, 8, 12), 1), ((8, 12), 1), ((8, 12, 4), 3), ((3, 8, 12), 3)]
)
def test_pictures_of_any_channels(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    recorded = 4 if 4 in shape else channels  # how opaque a pixel is is left out
    root = pictured(tmp_path / "set", lambda e, f: {"bytes": png(e, f, recorded), "path": None}, shape)
    episodes = read_lerobot(root)
    assert episodes.features[TOP] == Feature("image", (channels, 8, 12), "uint8")
    np.testing.assert_array_equal(episodes.arrays[TOP][20], picture(1, 0, recorded)[..., :channels].transpose(2, 0, 1))


@IMAGES
@pytest.mark.parametrize(
    ("made", "shape", "words"),
    [
        (lambda: np.full((8, 12), 40_000, np.uint16), (8, 12, 1), "more than 8 bits a value"),
        (lambda: picture(0, 0), (8, 12, 1), "it is RGB, which 1 channels cannot hold"),
    ],
)
def test_pictures_that_would_lose_something_are_named(
    tmp_path: Path, made: Callable[[], np.ndarray], shape: tuple[int, ...], words: str
) -> None:
    root = pictured(tmp_path / "set", lambda e, f: {"bytes": encoded(made(), "PNG"), "path": None}, shape)
    with pytest.raises(RobodiffError, match=words):
        read_lerobot(root)


@IMAGES
def test_planes_of_numbers_are_no_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {"depth": ("uint16", (20, 30)), "mask": ("uint8", (4, 6)), "cloud": ("float32", (100, 3)),
              "jpeg": ("uint8", (600,)), "corners": ("float32", (8, 3)), "rgb": ("uint8", (8, 12, 3))}  # fmt: skip

    def column(dtype: str, shape: tuple[int, ...]) -> Callable[[int, int], Any]:
        kind = pa.from_numpy_dtype(np.dtype(dtype))
        for _ in shape:
            kind = pa.list_(kind)
        return lambda e, frames: pa.array(np.random.default_rng(e).integers(0, 99, (frames, *shape)).tolist(), kind)

    columns = {f"observation.{name}": column(*each) for name, each in shapes.items()}
    features = {f"observation.{name}": {"dtype": d, "shape": [*shape]} for name, (d, shape) in shapes.items()}
    features[TOP] = {"dtype": "video", "shape": [8, 12, 1], "info": {"video.pix_fmt": "gray12le"}}
    root = write_v21(tmp_path / "set", columns={**columns, "action": numbers(2)}, features=features)
    episodes = read_lerobot(root)
    assert {key: array.shape[1:] for key, array in episodes.arrays.items()} == {
        "observation.rgb": (3, 8, 12), "observation.corners": (24,), "action": (2,)
    }  # fmt: skip
    left_out = {finding.key for finding in episodes.findings if finding.check == "unread"}
    assert left_out == {"observation.depth", "observation.mask", "observation.cloud", "observation.jpeg", TOP}
    err = capsys.readouterr().err
    assert "observation.corners of shape (8, 3) is read as 24 numbers" in err
    assert read_lerobot(root, resize_shape=(4, 6)).arrays["observation.rgb"].shape == (45, 3, 4, 6)


@IMAGES
def test_videos_of_grey_and_of_depth(tmp_path: Path) -> None:
    images = np.broadcast_to(np.arange(0, 200, 10, np.uint8)[:, None, None, None], (20, 3, 64, 64))
    encode_video(tmp_path / "grey.mp4", images, FPS, "h264")
    grey = np.concatenate([*decode_frames(tmp_path / "grey.mp4", np.arange(20) / FPS, FPS, (64, 64), None, 1)])
    assert grey.shape == (20, 1, 64, 64)
    np.testing.assert_allclose(grey[:, 0, 0, 0], images[:, 0, 0, 0], atol=3)
    import av

    with av.open(tmp_path / "depth.mkv", "w") as container:
        stream: Any = container.add_stream("ffv1", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "gray12le"
        frame = av.VideoFrame(64, 64, "gray12le")
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(RobodiffError, match=r"more than 8 bits a value \(gray12le\)"):
        list(decode_frames(tmp_path / "depth.mkv", np.zeros(1), FPS, (64, 64), None, 1))


@GOOD
def test_numbers_of_another_width_than_is_said(tmp_path: Path) -> None:
    columns = {"observation.state": numbers(3, 0, pa.float64()), "action": numbers(2, 9, pa.float64())}
    episodes = read_lerobot(write_v21(tmp_path / "set", columns=columns))
    np.testing.assert_array_equal(episodes.arrays["action"][20:], walk(25, 2, 10))


@GOOD
@pytest.mark.parametrize("state", ["state", "observation.state"])
def test_names_of_openpi(tmp_path: Path, state: str) -> None:
    cells = lambda episode, frames: pa.array([png(episode, frame) for frame in range(frames)], pa.binary())  # noqa: E731
    columns = {state: numbers(3), "actions": numbers(2, 9)}
    cameras = ("image", "wrist_image") if state == "state" else ("observation.images.wrist_image",)
    features = {camera: {"dtype": "image", "shape": [8, 12, 3]} for camera in cameras}
    root = write_v21(tmp_path / "set", columns=columns | dict.fromkeys(cameras, cells), features=features)
    episodes = read_lerobot(root)
    expected = {"observation.state", "action", "observation.images.wrist_image"}
    assert {*episodes.arrays} == expected | ({"observation.image"} if state == "state" else set())
    np.testing.assert_array_equal(episodes.arrays["action"][:20], walk(20, 2, 9))
    assert examine(LeRobotConfig(root=str(root)), WINDOW) == []


@GOOD
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"do it", "do\u2028it".encode()),
        (b"do it", "do\x85it".encode()),
        (b"\n", b"\n  \n\n"),
        (b"\n", b"\r\n"),
        (b'{"episode_index": 0', b'\xef\xbb\xbf{"episode_index": 0'),
    ],
    ids=["line separator", "next line", "blank lines", "carriage returns", "byte order mark"],
)
def test_lines_of_json(tmp_path: Path, old: bytes, new: bytes) -> None:
    root = write_v21(tmp_path / "set")
    path = root / "meta/episodes.jsonl"
    path.write_bytes(path.read_bytes().replace(old, new))
    assert read_lerobot(root).table["task"][1] == "do it".replace(*(each.decode() for each in (old, new)))


@GOOD
def test_a_byte_order_mark_before_info(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "set")
    path = root / "meta/info.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_lerobot(root)) == 2


@GOOD
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_set_that_does_not_say_its_version_is_told_which_it_has(tmp_path: Path, version: str) -> None:
    root = write_v21(tmp_path / "set")
    info = json.loads((root / "meta/info.json").read_text())
    del info["codebase_version"]
    (root / "meta/info.json").write_text(json.dumps(info))
    if version == "v3.0":
        (root / "meta/episodes").mkdir()
    with pytest.raises(RobodiffError, match=rf'add "codebase_version": "{version}"'):
        read_lerobot(root)


@NAMED
def test_everything_that_is_not_read_is_named(tmp_path: Path) -> None:
    texts = lambda episode, frames: pa.array(["go"] * frames)  # noqa: E731
    columns = {"observation.state": numbers(3), "action": numbers(2, 9), "next.reward": numbers(1),
               "subtask": texts, "unlisted": numbers(1)}  # fmt: skip
    features = {"next.reward": {"dtype": "float32", "shape": [1]}, "subtask": {"dtype": "string", "shape": [1]}}
    root = write_v21(tmp_path / "set", columns=columns, features=features)
    assert [*LeRobotConfig(root=str(root)).overview()[0].unread] == ["next.reward", "subtask", "unlisted"]
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('["do it"]', '["do it", "and that"]'))
    assert "task_index" in LeRobotConfig(root=str(root)).overview()[0].unread


CLOCKS: dict[str, Callable[[int], np.ndarray]] = {
    "jitter": lambda n: np.arange(n) / FPS + np.where(np.arange(n) % 7 == 3, 0.04, 0),
    "much jitter": lambda n: np.cumsum(np.tile([0.05, 0.15], n)[:n]),
    "drift": lambda n: np.arange(n) / 9.7,
    "a lost frame": lambda n: np.arange(n) / FPS + 0.1 * (np.arange(n) > n // 2),
    "another rate": lambda n: np.arange(n) / 30,
    "milliseconds": lambda n: np.arange(n) * 100.0,
    "time of day": lambda n: 1.7e9 + np.arange(n) / FPS,
}


@CLOCK
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_clock_that_is_not_even_is_told_and_resampled_on_request(
    tmp_path: Path, clock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    times = CLOCKS[clock]
    root = write_v21(tmp_path / "set", (120, 90), times=times)
    if clock == "another rate":
        with pytest.raises(RobodiffError, match=r"timestamp 0\.0333333 at frame 1 of episode 0; .*--fps 30"):
            read_lerobot(root)
    else:
        assert read_lerobot(root).episode_ends.tolist() == [120, 210]
        assert ("not even" in capsys.readouterr().err) == (clock not in ("milliseconds", "time of day"))
    episodes, start = read_lerobot(root, fps=10.0), 0
    assert episodes.fps == 10
    state = [walk(120, 3, 0), walk(90, 3, 1)]
    for episode, values in enumerate(state):
        own = times(len(values)) - times(len(values))[0]
        own = own / (1000 if clock == "milliseconds" else 1)
        grid = np.arange(int((own[-1] + min(0.1, own[-1] / (len(own) - 1)) / 2) * 10 + 1e-6) + 1) / 10
        nearest = np.abs(own[None] - grid[:, None] + 1e-9).argmin(axis=1)
        np.testing.assert_array_equal(episodes.arrays["observation.state"][episodes.slice(episode)], values[nearest])
        start += len(grid)
    assert start == episodes.episode_ends[-1]


@CLOCK
@pytest.mark.parametrize("fps", [None, 10.0])
@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_a_clock_that_is_broken_is_named(tmp_path: Path, value: float, fps: float | None) -> None:
    root = write_v21(
        tmp_path / "set", times=lambda n: np.where(np.arange(n) == 5, value, np.arange(n) / FPS) if n == 25 else
        np.arange(n) / FPS
    )  # fmt: skip
    config = LeRobotConfig(root=str(root), fps=fps)
    findings = examine(config, WINDOW)
    assert [(f.check, f.episode) for f in findings] == [("clock", 1)]
    assert "at frame 5 of episode 1" in findings[0].message or "at frame 6 of episode 1" in findings[0].message
    assert len(LeRobotConfig(root=str(root), fps=fps, episodes=[0]).read()) == 1


def test_images_are_taken_with_their_rows(tmp_path: Path) -> None:
    root = pictured(tmp_path / "set", lambda e, f: {"bytes": png(e, f), "path": None}, (8, 12, 3))
    episodes = read_lerobot(root, fps=5.0)
    assert episodes.episode_ends.tolist() == [10, 23]
    assert isinstance(episodes.arrays[TOP], np.memmap)
    for frame in (0, 3, 9):
        np.testing.assert_array_equal(episodes.arrays[TOP][frame], picture(0, 2 * frame).transpose(2, 0, 1))
    assert pq.read_table(root / "data/chunk-000/episode_000000.parquet").num_rows == 20
