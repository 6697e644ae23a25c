"""Each episode has the images that are its own: videos that are too short, that overlap, that change their size."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.formats.lerobot.sets import TOP, VIDEO, images, pictured, write_mjpeg, write_v21, write_v30
from tests.readers import read_lerobot
from tests.recordings import encoded

from robodiff.data.check import examine
from robodiff.data.episodes import Finding
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.video import encode_video
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError

SPAN = pytest.mark.kind("a video's span that is not the episode's own")
SIZE = pytest.mark.kind("a picture whose size changes")
CAMERA = pytest.mark.kind("a camera that is missing")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def check(root: Path, **options: object) -> list[Finding]:
    return examine(LeRobotConfig(root=str(root), **options), WindowShape(2, 16, 8))  # type: ignore[arg-type]


@SPAN
@pytest.mark.parametrize(
    "spans", [[(0.0, 2.0), (2.0, 4.0)], [(0.0, None), (2.0, None)], [(0.0, 1.96), (2.0, 3.96)]],
    ids=["said", "not said", "nearly said"],
)  # fmt: skip
def test_the_images_of_sound_spans_are_those_of_the_episodes(tmp_path: Path, spans: list) -> None:
    root = write_v30(tmp_path / "set", spans)
    assert check(root) == []
    brightness = read_lerobot(root).arrays[TOP].mean(axis=(1, 2, 3))
    expected = np.concatenate([images(20, level).mean(axis=(1, 2, 3)) for level in (0, 150)])
    np.testing.assert_allclose(brightness, expected, atol=4)


@SPAN
@pytest.mark.parametrize(
    ("spans", "frames", "episode", "words"),
    [
        ([(0.0, 1.9), (1.9, 3.9)], (19, 20), 0, "no image of its own from frame 19 on"),
        ([(0.0, None), (1.9, None)], (19, 20), 0, "but episode 1 begins at 1.900 s"),
        ([(0.0, 1.9), (2.0, 4.0)], (20, 20), 0, "but meta/ says that it ends at 1.900 s"),
        ([(0.0, 2.0), (2.0, 4.0)], (20, 19), 1, "but the video ends at 3.900 s"),
        ([(0.0, 2.0), (2.0, 4.0)], (19, 20), 1, "no image of its own from frame 19 on"),
        ([(0.0, None), (2.0, None)], (20, 18), 1, "no image of its own from frame 18 on"),
        ([(0.0, 2.2), (2.0, 4.0)], (20, 20), 0, "said to end at 2.200 s, but episode 1 begins at 2.000 s"),
        ([(0.0, 2.0), (2.0, 4.5)], (20, 20), 1, "said to end at 4.500 s, but the video ends at 4.000 s"),
        ([(0.0, 2.0), (0.0, 2.0)], (20, 20), 0, "no image of its own from frame 0 on"),
        ([(2.0, 4.0), (1.0, 3.0)], (20, 20), 1, "but episode 0 begins at 2.000 s"),
    ],
)
def test_spans_that_are_not_the_episodes_own_are_named(
    tmp_path: Path, spans: list, frames: tuple[int, int], episode: int, words: str
) -> None:
    root = write_v30(tmp_path / "set", spans, frames)
    with pytest.raises(RobodiffError, match=rf"{VIDEO}: {TOP} of episode {episode} .*{words}"):
        read_lerobot(root)
    findings = check(root)
    assert [(f.severity, f.check, f.key, f.episode) for f in findings] == [("fatal", "images", TOP, episode)]
    assert words in findings[0].message
    assert [*read_lerobot(root, ["observation.state", "action"]).arrays] == ["observation.state", "action"]
    other = read_lerobot(root, episodes=[1 - episode]).arrays[TOP]  # what the advice says is possible
    assert len(other) == 20


@SPAN
def test_a_video_for_each_episode_that_is_too_short(tmp_path: Path) -> None:
    root = write_v21(
        tmp_path / "set", (20, 25, 21), features={TOP: {"dtype": "video", "shape": [64, 64, 3], "names": None}}
    )
    for episode, frames in enumerate((19, 25, 18)):
        path = root / f"videos/{TOP}/episode_{episode:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode_video(path, images(frames, 50 * episode), 10, "h264")
    findings = check(root)
    assert [(f.episode, f.key) for f in findings] == [(0, TOP), (2, TOP)]
    assert "from frame 19 on" in findings[0].message
    assert "from frame 18 on" in findings[1].message
    assert read_lerobot(root, episodes=[1]).arrays[TOP].shape == (25, 3, 64, 64)


@SIZE
@pytest.mark.parametrize("resize", [None, 32])
def test_a_video_whose_size_changes(tmp_path: Path, resize: int | None) -> None:
    root = write_v30(tmp_path / "set")
    for number in (0, 1):
        write_mjpeg(root / VIDEO.replace("000.mp4", f"00{number}.mp4"), [(64, 64)] * 7 + [(32, 32)] * 13)
    findings = check(root, resize_shape=resize)
    assert [(f.check, f.key, f.episode) for f in findings] == [("images", TOP, 0), ("images", TOP, 1)]
    assert "becomes 32x32 at 0.700 s; expected 64x64" in findings[0].message
    assert "frame 7 of episode 1" in findings[1].message
    with pytest.raises(RobodiffError, match=rf"{VIDEO}: becomes 32x32"):
        read_lerobot(root, resize_shape=resize)


@SIZE
def test_pictures_in_cells_whose_size_changes(tmp_path: Path) -> None:
    def cell(episode: int, frame: int) -> dict:
        height = 8 if (episode, frame) in ((0, 3), (1, 5), (1, 6)) else 16
        return {"bytes": encoded(np.zeros((height, 16, 3), np.uint8), "PNG"), "path": None}

    findings = check(pictured(tmp_path / "set", cell, (16, 16, 3)))
    assert [(f.check, f.key, f.episode) for f in findings if f.severity == "fatal"] == [
        ("images", TOP, 0),
        ("images", TOP, 1),
    ]
    assert "it is 8x16 (height x width), not 16x16" in findings[0].message
    assert "frame 5 of episode 1" in findings[1].message


@CAMERA
@pytest.mark.parametrize("what", ["missing", "pointer"])
def test_a_missing_camera_is_named_and_can_be_left_out(tmp_path: Path, what: str) -> None:
    root = write_v30(tmp_path / "set")
    video, words = root / VIDEO, "is missing"
    video.unlink()
    if what == "pointer":
        video.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        words = "git lfs pull"
    config = LeRobotConfig(root=str(root))
    episodes, cameras = config.overview()
    assert ({*episodes.arrays}, {*cameras}) == ({"observation.state", "action"}, {TOP})
    assert VIDEO in episodes.findings[0].message
    assert words in episodes.findings[0].message
    findings = check(root)
    assert [(f.severity, f.check, f.key, f.episode) for f in findings] == [("fatal", "images", TOP, 0)]
    assert words in findings[0].message
    with pytest.raises(RobodiffError, match=words):
        config.read([TOP])
    assert check(root, keys=["observation.state"]) == []
    left = LeRobotConfig(root=str(root), keys=["observation.state"]).read()
    assert ({*left.arrays}, [*left.unread]) == ({"observation.state", "action"}, [TOP])


@CAMERA
def test_the_others_are_checked_where_a_camera_is_missing(tmp_path: Path) -> None:
    root = write_v30(tmp_path / "set")
    shutil.rmtree(root / "videos")
    table = root / "data/chunk-000/file-000.parquet"
    columns = pq.read_table(table).to_pydict()
    columns["observation.state"] = [[1.0, 2.0, 3.0]] * 40
    pq.write_table(pa.table(columns), table)
    assert [(f.check, f.key) for f in check(root)] == [
        ("images", TOP),
        ("images", TOP),
        ("constant", "observation.state"),
    ]


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RobodiffError, match=r"has no 'observation\.stat'; .*Did you mean 'observation\.state'"):
        LeRobotConfig(root=str(write_v21(tmp_path / "set")), keys=["observation.stat"]).read()
