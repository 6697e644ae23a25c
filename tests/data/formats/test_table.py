"""CSV and Parquet, with pictures beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.recordings import encoded, episode, write_table

from robodiff.data.episodes import RecordingError
from robodiff.data.formats.table import FORMAT, TableConfig
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError

FRONT = "observation.images.front"
IMAGES = pytest.mark.kind("images that are taken for numbers, or dropped")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_are_gathered_and_pictures_decoded(tmp_path: Path, suffix: str) -> None:
    episodes = open_path(str(write_table(tmp_path / f"demos.{suffix}"))).read()
    assert episodes.episode_ends.tolist() == [30, 61, 93, 126]
    assert {*episodes.arrays} == {"observation.state", "action", FRONT}
    np.testing.assert_allclose(episodes.arrays["action"][episodes.slice(3)], episode(3)["action"], rtol=1e-6)
    np.testing.assert_array_equal(episodes.arrays[FRONT][episodes.slice(3)], episode(3)["images"].transpose(0, 3, 1, 2))
    assert episodes.features["action"].names == ("action_0", "action_1", "action_2")
    assert episodes.fps == 20
    assert episodes.table["task"] == ["task 0", "task 1", "task 0", "task 1"]


def test_chosen_episodes_alone_are_read(tmp_path: Path) -> None:
    episodes = TableConfig(path=str(write_table(tmp_path / "demos.csv")), episodes=[2], resize_shape=(12, 12)).read()
    assert episodes.table["episode_index"] == [2]
    assert episodes.arrays[FRONT].shape == (32, 3, 12, 12)


def test_lists_and_a_file_for_each_episode(tmp_path: Path) -> None:
    (tmp_path / "demos").mkdir()
    for number in range(11):
        values = np.arange(12.0).reshape(6, 2) + number
        table = {
            "observation.state": pa.array(values.tolist()),
            "action": pa.FixedSizeListArray.from_arrays(values.ravel(), 2),
        }
        pq.write_table(pa.table(table), tmp_path / f"demos/{number}.parquet")
    episodes = TableConfig(path=str(tmp_path / "demos")).read()
    assert len(episodes) == 11
    pq.write_table(pa.table({"action": [1.0, 2.0], "episode_index": [0, 1]}), tmp_path / "demos/11.parquet")
    with pytest.raises(RobodiffError, match=r"11\.parquet: holds 2 episodes"):
        TableConfig(path=str(tmp_path / "demos")).read()
    np.testing.assert_array_equal(episodes.arrays["action"][episodes.slice(10)], np.arange(12.0).reshape(6, 2) + 10)


def test_named_dimensions_and_single_columns(tmp_path: Path) -> None:
    (tmp_path / "demos.csv").write_text(
        "observation.state.x,observation.state.y,action.x,action.grip,reward\n" + "1,2,3,4,0\n" * 5
    )
    episodes = TableConfig(path=str(tmp_path / "demos.csv")).read()
    assert {key: array[0].tolist() for key, array in episodes.arrays.items()} == {
        "observation.state": [1, 2],
        "action": [3, 4],
    }


def test_cameras_are_told_apart_and_other_columns_may_lack_values(tmp_path: Path) -> None:
    for colour in (10, 20):
        (tmp_path / f"{colour}.png").write_bytes(encoded(np.full((4, 4, 3), colour, np.uint8), "PNG"))
    text = "cam_0,cam_1,action_0,action_1,force,note\n" + "10.png,20.png,1,2,,\n" * 3 + "10.png,20.png,1,2,0.5,\n"
    (tmp_path / "demos.csv").write_text(text)
    episodes = TableConfig(path=str(tmp_path / "demos.csv")).read(
        ["observation.images.cam_0", "observation.images.cam_1"]
    )
    assert [episodes.arrays[f"observation.images.cam_{n}"][0, 0, 0, 0] for n in (0, 1)] == [10, 20]
    with pytest.raises(RobodiffError, match="force is not finite"):
        TableConfig(path=str(tmp_path / "demos.csv")).read(["observation.force"])


CELLS = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def rows_of(path: Path, **columns: Any) -> Path:
    """Two episodes of 10 frames with more columns."""
    walk = np.random.default_rng(0).normal(size=(20, 5)).cumsum(0)
    usual = {"episode": [0] * 10 + [1] * 10, "state": walk[:, :3].tolist(), "action": walk[:, 3:].tolist()}
    pq.write_table(pa.table({**usual, **columns}), path)
    return path


def picture(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 255, (8, 12, 3), np.uint8)


@IMAGES
@pytest.mark.parametrize("form", ["bytes", "large", "list", "struct"])
def test_pictures_in_cells_are_decoded(tmp_path: Path, form: str) -> None:
    data = [encoded(picture(frame), "PNG") for frame in range(20)]
    kinds = {"bytes": pa.binary(), "large": pa.large_binary(), "list": pa.list_(pa.uint8()), "struct": CELLS}
    cells = [{"bytes": each, "path": None} for each in data] if form == "struct" else data
    cells = [list(each) for each in data] if form == "list" else cells
    path = str(rows_of(tmp_path / "demos.parquet", front=pa.array(cells, kinds[form])))
    for episodes in ([1], [0], None):  # which episode it is, is part of what the cache depends on
        images = open_path(path, episodes=episodes).read().arrays[FRONT]
        expected = [picture(frame) for e in episodes or [0, 1] for frame in range(10 * e, 10 * e + 10)]
        np.testing.assert_array_equal(images, np.stack(expected).transpose(0, 3, 1, 2))


@IMAGES
def test_cells_that_are_no_picture_are_named(tmp_path: Path) -> None:
    cells = [None if frame in (13, 17) else encoded(picture(frame), "PNG") for frame in range(20)]
    path = rows_of(tmp_path / "demos.parquet", front=pa.array(cells, pa.binary()))
    with pytest.raises(RobodiffError, match="front at frame 3 cannot be decoded: there is no picture") as caught:
        open_path(str(path)).read()
    assert isinstance(caught.value, RecordingError)
    assert [(f.key, f.episode) for f in caught.value.findings] == [("front", 1)]
    deep = [encoded(np.full((4, 6), 9000, np.uint16), "PNG")] * 20
    for cells in (deep, [b"something else"] * 20):
        path = rows_of(tmp_path / "demos.parquet", front=pa.array(cells, pa.binary()))
        episodes = open_path(str(path)).read()
        assert {*episodes.arrays} == {"observation.state", "action"}
        assert "front" in episodes.unread


def test_lists_of_unequal_lengths_are_no_reason_not_to_read_the_others(tmp_path: Path) -> None:
    path = str(rows_of(tmp_path / "demos.parquet", force=[[1.0] * (1 + frame % 2) for frame in range(20)]))
    assert {*open_path(path, keys=["observation.state"]).read().arrays} == {"observation.state", "action"}
    with pytest.raises(RobodiffError, match="force of episode 0 has 2 values in row 1, and 1 in row 0"):
        open_path(path).read()


@pytest.mark.kind("numbers that float32 does not hold")
def test_whole_numbers_among_floats_that_float32_rounds_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demos.csv").write_text("state_0,state_1,action\n" + "16777217,0.5,1\n16777218,0.5,2\n" * 3)
    open_path(str(tmp_path / "demos.csv")).read()
    assert "state_0 holds whole numbers above 2^24, which are rounded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1,2,a.png\n1,2,missing.png\n", ["missing.png"]),
        ("1,2,a.png\n1,2,../a.png\n", ["../a.png", "row 1"]),
        ("1,2,a.png\n1,2,link.png\n", ["link.png"]),
        ("1,2,a.png\n1,2,small.png\n", ["small.png", "1x1"]),
        ("1,2,a.png\n1,2,text.png\n", ["text.png"]),
        ("1,2,a.png\n1,,a.png\n", ["action", "finite", "frame 1"]),
        ("1,2,a.png\n2,2,a.png\n1,2,a.png\n", ["episode 1", "sort"]),
        ("", ["no rows"]),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, rows: str, words: list[str]) -> None:
    folder = tmp_path / "demos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8), "PNG"))
    (folder / "small.png").write_bytes(encoded(np.zeros((1, 1, 3), np.uint8), "PNG"))
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8), "PNG"))
    (folder / "text.png").write_text("no picture")
    (folder / "link.png").symlink_to(tmp_path / "a.png")
    (folder / "demos.csv").write_text("episode,action,front\n" + rows)
    with pytest.raises(RobodiffError) as error:
        TableConfig(path=str(folder / "demos.csv")).read()
    assert all(word in str(error.value) for word in words), error.value


def test_tables_of_other_things_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    assert not FORMAT.recognise(tmp_path / "metrics.csv")
    assert not FORMAT.recognise(tmp_path)
