"""Conversion between zarr, LeRobot and HDF5, from each to each, and what it cannot take along."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats.convert import convert, lost
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.recordings import open_path as read_any
from robodiff.errors import RobodiffError, UsageError, notice

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def episodes() -> Episodes:
    random = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)
    arrays = {
        "observation.images.front": np.broadcast_to(smooth, (23, 3, 64, 64)).copy(),
        "observation.state": random.normal(size=(23, 3)).astype(np.float32),
        "action": random.normal(size=(23, 2)).astype(np.float32),
    }
    table = {"task": ["push", "pull", "push"], "success": [True, False, True], "seed": [4, 5, 9],
             "mask.train": [True, True, False]}  # fmt: skip
    features = {key: Feature.of(array) for key, array in arrays.items()}
    return Episodes("made up", arrays, np.array([8, 15, 23]), 10.0, features, table)


@pytest.mark.parametrize("target", ["set", "demos.zarr", "demos.zarr.zip", "demos.hdf5"])
@pytest.mark.parametrize("back", ["set2", "back.zarr", "back.h5"])
def test_there_and_back_is_the_same(episodes: Episodes, tmp_path: Path, target: str, back: str) -> None:
    source, texts = episodes, True
    for name in (target, back):
        convert(source, tmp_path / name, "png" if name.startswith("set") else None)
        found = source = read_any(str(tmp_path / name)).read()
        texts = texts and ".zarr" not in name  # which has no place for them
        assert (found.episode_ends.tolist(), found.fps) == ([8, 15, 23], 10.0)
        assert set(found.arrays) == set(episodes.arrays)
        for key, array in episodes.arrays.items():
            np.testing.assert_array_equal(found.arrays[key], array)
        for column in ("success", "seed", "mask.train"):
            assert found.table[column] == episodes.table[column]
        if texts:
            assert found.table["task"] == ["push", "pull", "push"]


def test_videos_lose_little(episodes: Episodes, tmp_path: Path) -> None:
    convert(episodes, tmp_path / "set", "h264")
    key = "observation.images.front"
    found = read_any(str(tmp_path / "set")).read().arrays[key].astype(int)
    assert np.abs(found - episodes.arrays[key]).mean() < 6


@pytest.mark.parametrize("target", ["set", "demos.zarr"])
def test_a_stopped_conversion_goes_on(episodes: Episodes, tmp_path: Path, target: str) -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    images = "png" if target == "set" else None
    with pytest.raises(KeyboardInterrupt):
        convert(episodes, tmp_path / target, images, stop)
    done: list[int] = []
    convert(episodes, tmp_path / target, images, done.append)
    assert done == [3]
    found = read_any(str(tmp_path / target)).read()
    np.testing.assert_array_equal(found.arrays["action"], episodes.arrays["action"])


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def others(episodes: Episodes) -> list[Episodes]:
    """Recordings of as many episodes, each with one thing otherwise."""
    changed = {key: array.copy() for key, array in episodes.arrays.items()}
    changed["action"][-1] += 1
    drawn = {key: array.copy() for key, array in episodes.arrays.items()}
    drawn["observation.images.front"][8] //= 2
    return [
        dataclasses.replace(episodes, source="another"),
        dataclasses.replace(episodes, arrays=changed),
        dataclasses.replace(episodes, arrays=drawn),
        dataclasses.replace(episodes, table={**episodes.table, "seed": [4, 5, 10]}),
    ]


@pytest.mark.parametrize("target", ["set", "demos.zarr"])
def test_recordings_are_not_mixed(episodes: Episodes, tmp_path: Path, target: str) -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out, images = tmp_path / target, "png" if target == "set" else None
    with pytest.raises(KeyboardInterrupt):
        convert(episodes, out, images, stop)
    for _ in ("stopped", "whole"):
        before = contents(out)
        for other in others(episodes):
            with pytest.raises(RobodiffError, match=r"holds another recording \(.*made up.*; choose another path"):
                convert(other, out, images)
        if target == "set":
            with pytest.raises(RobodiffError, match=r"holds another recording \(.*'images': 'png'"):
                convert(episodes, out, "h264")
        assert contents(out) == before
        convert(episodes, out, images)
    before = contents(out)
    elsewhere = dataclasses.replace(episodes, source="folder/made up")  # its name is the same
    assert not convert(elsewhere, out, images)
    assert contents(out) == before
    np.testing.assert_array_equal(read_any(str(out)).read().arrays["action"], episodes.arrays["action"])


def test_a_data_set_of_others_stays_as_it_is(episodes: Episodes, tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path / "set", 10, "png")
    writer.append({key: array[:8] for key, array in episodes.arrays.items()}, task="push")
    writer.close()
    before = contents(tmp_path / "set")
    with pytest.raises(RobodiffError, match="set: holds another recording; choose another path"):
        convert(episodes, tmp_path / "set", "png")
    assert contents(tmp_path / "set") == before


def test_another_attempt_where_nothing_was_written(episodes: Episodes, tmp_path: Path) -> None:
    images = episodes.arrays["observation.images.front"][:, :, :63]
    odd = dataclasses.replace(
        episodes,
        arrays={**episodes.arrays, "observation.images.front": images},
        features={**episodes.features, "observation.images.front": Feature.of(images)},
    )
    with pytest.raises(RobodiffError, match="an even height and width"):
        convert(odd, tmp_path / "set", "h264")
    assert convert(odd, tmp_path / "set", "png")  # as the message tells


def test_a_conversion_stopped_before_it_was_packed(
    episodes: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("robodiff.data.formats.convert.pack_zip", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(episodes, tmp_path / "demos.zip")
    assert convert(episodes, tmp_path / "demos.zip")
    np.testing.assert_array_equal(read_any(str(tmp_path / "demos.zip")).read().arrays["action"],
                                  episodes.arrays["action"])  # fmt: skip


@pytest.mark.parametrize(("target", "missing"), [
    ("set", ["env_args"]), ("demos.zarr", ["env_args", "robot_type", "names and units of dimensions"]),
    ("demos.h5", ["robot_type", "names and units of dimensions"])])  # fmt: skip
def test_what_is_said_of_all_of_it(episodes: Episodes, tmp_path: Path, target: str, missing: list[str]) -> None:
    features = {**episodes.features, "action": Feature("vector", (2,), "float32", unit="rad")}
    attributes = {"env_args": {"env_name": "Can", "type": 1, "env_kwargs": {"control_freq": 10}}, "robot_type": "arm"}
    said = dataclasses.replace(episodes, table={}, features=features, attributes=attributes)
    assert lost(said, tmp_path / target) == missing
    convert(said, tmp_path / target)
    found = read_any(str(tmp_path / target)).read().attributes
    assert found == {name: value for name, value in attributes.items() if name not in missing}


@pytest.mark.parametrize("target", ["set", "demos.zarr", "demos.hdf5"])
def test_columns_that_are_not_alike_in_all_episodes(episodes: Episodes, tmp_path: Path, target: str) -> None:
    table = {"score": [1, 0.5, 0.25], "success": [True, None, None], "late": [None, 2, 3], "mixed": [True, 2, 3],
             "task": ["push", None, "push"]}  # fmt: skip
    uneven, out = dataclasses.replace(episodes, table=table), tmp_path / target
    convert(uneven, out)
    found = read_any(str(out)).read().table
    assert found["score"] == [1.0, 0.5, 0.25]
    assert "mixed" not in found
    if target == "demos.hdf5":
        assert (found["success"], found["late"]) == (table["success"], table["late"])
        assert lost(uneven, out) == ["mixed"]
    else:
        assert not {"success", "late"} & set(found)
        assert lost(uneven, out) == ["success", "late", "mixed", *(["task"] if target == "demos.zarr" else [])]
    if target == "set":
        assert found["task"] == ["push", "", "push"]


def test_refused(episodes: Episodes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zarr stores images as they are; leave out --images png"):
        convert(episodes, tmp_path / "demos.zarr", "png")
    with pytest.raises(UsageError, match="HDF5 stores images as they are; leave out --images png"):
        convert(episodes, tmp_path / "demos.hdf5", "png")
    for name in ("demos.zip", "demos.hdf5"):
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match="exists already"):
            convert(episodes, tmp_path / name)
    with pytest.raises(UsageError, match=r"fps is a whole number; found 12\.5"):
        convert(dataclasses.replace(episodes, fps=12.5), tmp_path / "set")


def test_the_command(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    notice.cache_clear()
    code, out, err = robodiff("data", "convert", recording, tmp_path / "set")
    assert (code, err) == (0, "")
    assert "6 episodes, 135 frames" in out
    code, out, err = robodiff("data", "convert", tmp_path / "set", tmp_path / "again.zarr")
    assert (code, "again.zarr has no place for task, names and units" in err) == (0, True), err
    first, again = (read_any(str(path)).read() for path in (recording, tmp_path / "again.zarr"))
    assert first.arrays.keys() == again.arrays.keys()
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[key], array)
    arrays = {**first.arrays, "next.reward": first.arrays["action"][:, :1]}
    features = {key: Feature.of(array) for key, array in arrays.items()}
    convert(dataclasses.replace(first, arrays=arrays, features=features), tmp_path / "more.zarr")
    code, out, err = robodiff("data", "convert", tmp_path / "more.zarr", tmp_path / "more.hdf5")
    assert (code, "more.hdf5 has no place for next.reward; left out" in err) == (0, True), err
    code, out, err = robodiff("data", "convert", tmp_path / "more.zarr", tmp_path / "more")
    code, out, err = robodiff("data", "convert", tmp_path / "more", tmp_path / "less.zarr")
    assert (code, "more also holds next.reward; not read, and left out" in err) == (0, True), err
    code, out, err = robodiff("data", "convert", tmp_path / "more", tmp_path / "less.zarr")
    assert (code, "there already, whole: " in out, "written" in out) == (0, True, False), err
    assert robodiff("data", "info", tmp_path / "set")[0] == 0
    code, _, err = robodiff("data", "convert", recording, tmp_path / "other", "--images", "gif")
    assert (code, "Traceback" in err) == (2, False)
