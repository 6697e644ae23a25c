"""Conversion between zarr, LeRobot and HDF5, from each to each, and what it cannot take along."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robodiff.data.episodes import Episodes, Feature, Unit
from robodiff.data.formats.convert import convert, format_of
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
        convert(source, tmp_path / name, images="png" if name.startswith("set") else None)
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
    convert(episodes, tmp_path / "set", images="h264")
    key = "observation.images.front"
    found = read_any(str(tmp_path / "set")).read().arrays[key].astype(int)
    assert np.abs(found - episodes.arrays[key]).mean() < 6


@pytest.mark.parametrize("target", ["set", "demos.zarr", "demos.zip", "demos.hdf5"])
def test_a_conversion_is_whole_or_absent(episodes: Episodes, tmp_path: Path, target: str) -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(episodes, tmp_path / target, stop)
    assert list(tmp_path.iterdir()) == []
    done: list[int] = []
    convert(episodes, tmp_path / target, done.append)
    assert done == sorted(done)
    assert done[-1] == 3
    assert [path.name for path in tmp_path.iterdir()] == [target]
    again = read_any(str(tmp_path / target)).read()
    np.testing.assert_array_equal(again.arrays["action"], episodes.arrays["action"])


@pytest.mark.parametrize("target", ["set", "demos.zarr", "demos.zip", "demos.hdf5"])
def test_what_is_there_stays_as_it_is(episodes: Episodes, tmp_path: Path, target: str) -> None:
    convert(episodes, tmp_path / target)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UsageError, match=f"{target}: exists already; choose another path"):
        convert(episodes, tmp_path / target)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_attempt_where_nothing_was_written(episodes: Episodes, tmp_path: Path) -> None:
    images = episodes.arrays["observation.images.front"][:, :, :63]
    odd = dataclasses.replace(
        episodes,
        arrays={**episodes.arrays, "observation.images.front": images},
        features={**episodes.features, "observation.images.front": Feature.of(images)},
    )
    with pytest.raises(RobodiffError, match="an even height and width"):
        convert(odd, tmp_path / "set", images="h264")
    convert(odd, tmp_path / "set", images="png")  # as the message tells
    assert len(read_any(str(tmp_path / "set")).read(["observation.images.front"])) == 3


@pytest.mark.parametrize("unit", ["rad", ("deg", "percent")])
@pytest.mark.parametrize(("target", "missing"), [
    ("set", ["env_args"]), ("demos.zarr", ["env_args", "robot_type"]),
    ("demos.h5", ["robot_type", "names and units of dimensions"])])  # fmt: skip
def test_what_is_said_of_all_of_it(
    episodes: Episodes, tmp_path: Path, target: str, missing: list[str], unit: Unit
) -> None:
    features = {**episodes.features, "action": Feature("vector", (2,), "float32", unit=unit)}
    attributes = {"env_args": {"env_name": "Can", "type": 1, "env_kwargs": {"control_freq": 10}}, "robot_type": "arm"}
    said = dataclasses.replace(episodes, table={}, features=features, attributes=attributes)
    assert convert(said, tmp_path / target) == missing
    again = read_any(str(tmp_path / target)).read()
    assert again.features["action"].unit == (None if target == "demos.h5" else unit)
    assert again.attributes == {name: value for name, value in attributes.items() if name not in missing}


@pytest.mark.parametrize("target", ["set", "demos.zarr", "demos.hdf5"])
def test_columns_that_are_not_alike_in_all_episodes(episodes: Episodes, tmp_path: Path, target: str) -> None:
    table = {"score": [1, 0.5, 0.25], "success": [True, None, None], "late": [None, 2, 3], "mixed": [True, 2, 3],
             "task": ["push", None, "push"]}  # fmt: skip
    uneven, out = dataclasses.replace(episodes, table=table), tmp_path / target
    lost = convert(uneven, out)
    found = read_any(str(out)).read().table
    assert found["score"] == [1.0, 0.5, 0.25]
    assert "mixed" not in found
    if target == "demos.hdf5":
        assert (found["success"], found["late"]) == (table["success"], table["late"])
        assert lost == ["mixed"]
    else:
        assert not {"success", "late"} & set(found)
        assert lost == ["success", "late", "mixed", *(["task"] if target == "demos.zarr" else [])]
    if target == "set":
        assert found["task"] == ["push", "", "push"]


def test_refused(episodes: Episodes, tmp_path: Path) -> None:
    for name in ("demos.zarr", "demos.hdf5"):
        with pytest.raises(UsageError, match="has no option images; leave it out"):
            convert(episodes, tmp_path / name, images="png")
    with pytest.raises(UsageError, match=r"fps is a whole number; found 12\.5"):
        convert(dataclasses.replace(episodes, fps=12.5), tmp_path / "set")


@pytest.mark.parametrize("name", ["d.csv", "d.npz", "d.mp4", "d.json", "d.parquet", "d.pkl", "d.hdf", "d.zarr.tar"])
@pytest.mark.parametrize("form", [None, "zarr", "lerobot", "robomimic"])
def test_a_suffix_of_a_file_that_is_not_written_is_refused(tmp_path: Path, name: str, form: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        format_of(tmp_path / name, form)
    assert f"no {Path(name).suffix} file is written" in str(refused.value)
    assert "ends in one of .zarr, .zip, .hdf5, .h5, or has no suffix" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "form"),
    [("d", "zarr"), ("d.v2", "zarr"), ("d_0.5", "zarr"), ("d.zarr", "zarr"), ("d.zarr.zip", "zarr"),
     ("d.hdf5", "robomimic"), ("d.h5", "robomimic")],
)  # fmt: skip
def test_the_name_says_the_format(name: str, form: str) -> None:
    assert format_of(Path(name), usual="zarr").short_name == form


@pytest.mark.parametrize(
    "command",
    [("collect", "pusht", "--episodes", 1, "--out"), ("play", "pusht", "--out"), ("data", "convert", "builtin:pusht")],
    ids=str,
)
def test_the_commands_refuse_it_and_make_nothing(robodiff: Run, tmp_path: Path, command: tuple[object, ...]) -> None:
    code, out, err = robodiff(*command, tmp_path / "demos.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{tmp_path / 'demos.csv'}: no .csv file is written; choose a name that ends in one of " in err
    assert [*tmp_path.iterdir()] == []


def test_the_command(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    notice.cache_clear()
    code, out, err = robodiff("data", "convert", recording, tmp_path / "set")
    assert (code, err) == (0, "")
    assert "6 episodes, 135 frames" in out
    code, out, err = robodiff("data", "convert", tmp_path / "set", tmp_path / "again.zarr")
    assert (code, "again.zarr has no place for task;" in err) == (0, True), err
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
    code, _, err = robodiff("data", "convert", recording, tmp_path / "again.zarr")
    assert (code, "exists already; choose another path" in err) == (2, True), err
    code, out, err = robodiff("data", "convert", recording, tmp_path / "two.zarr", "--episodes", "[4, 1]")
    assert (code, "2 episodes" in out) == (0, True), err
    assert read_any(str(tmp_path / "two.zarr")).read().lengths.tolist() == first.lengths[[1, 4]].tolist()
    assert robodiff("data", "info", tmp_path / "set")[0] == 0
    code, _, err = robodiff("data", "convert", recording, tmp_path / "other", "--images", "gif")
    assert (code, "Traceback" in err) == (2, False)
