"""Writing LeRobot v3.0 data sets: what is in the files, what is refused, and what a stopped writer leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.readers import read_lerobot

from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot import parquet
from robodiff.data.formats.lerobot.stats import image_stats, merge_stats, vector_stats
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.errors import RobodiffError, UsageError

CAMERA = "observation.image"
ROWS = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def episode(seed: int, length: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        CAMERA: random.integers(0, 256, (length, 64, 64, 3)).astype(np.uint8),
        "observation.state": random.normal(size=(length, 3)),
        "action": random.normal(size=(length, 2)).astype(np.float32),
        "next.reward": random.normal(size=length).astype(np.float32),
        "next.done": np.arange(length) == length - 1,
    }


def vectors(seed: int, length: int = 5) -> dict[str, np.ndarray]:
    return {key: array for key, array in episode(seed, length).items() if key != CAMERA}


def info_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "meta/info.json").read_text())


def test_files_are_as_lerobot_writes_them(tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path, 10.0, "h264", {"action": Feature("vector", (2,), "float32", ("x", "y"), "px")})
    writer.append(episode(0), task="push", seed=7)
    writer.append(episode(1, 4), task="pull", seed=8)
    writer.close()
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/info.json",
        "meta/stats.json", "meta/tasks.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4",
        f"videos/{CAMERA}/chunk-000/file-001.mp4",
    }  # fmt: skip
    info = info_of(tmp_path)
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 10, {"train": "0:2"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 9, 2)
    assert {key: (f["dtype"], f["shape"]) for key, f in info["features"].items()} == {
        CAMERA: ("video", [64, 64, 3]), "observation.state": ("float32", [3]), "action": ("float32", [2]),
        "next.reward": ("float32", [1]), "next.done": ("bool", [1]), "timestamp": ("float32", [1]),
        "frame_index": ("int64", [1]), "episode_index": ("int64", [1]), "index": ("int64", [1]),
        "task_index": ("int64", [1]),
    }  # fmt: skip
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["x", "y"], "unit": "px"}

    data = pq.ParquetFile(tmp_path / "data/chunk-000/file-000.parquet")
    assert data.schema_arrow.field("action").type == pa.list_(pa.float32(), 2)
    assert data.schema_arrow.field("next.reward").type == pa.float32()
    columns = data.read().to_pydict()
    assert columns["index"] == list(range(9))
    assert columns["frame_index"] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert columns["task_index"] == columns["episode_index"] == [0] * 5 + [1] * 4
    np.testing.assert_allclose(columns["timestamp"], np.array(columns["frame_index"]) / 10, rtol=1e-6)
    types = json.loads(data.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert types["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "Sequence"}
    assert CAMERA not in types

    tasks = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["push", "pull"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    rows = pq.read_table(tmp_path / ROWS).to_pydict()
    assert (rows["length"], rows["tasks"], rows["seed"]) == ([5, 4], [["push"], ["pull"]], [7, 8])
    assert (rows["dataset_from_index"], rows["dataset_to_index"]) == ([0, 5], [5, 9])
    assert rows[f"videos/{CAMERA}/file_index"] == [0, 1]
    assert rows[f"videos/{CAMERA}/to_timestamp"] == [0.5, 0.4]


def test_statistics(tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path, 10, "png")
    parts = [episode(seed, 30 + 10 * seed) for seed in range(3)]
    for part in parts:
        writer.append(part)
    writer.close()
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    every = np.concatenate([part["action"] for part in parts]).astype(np.float64)
    for name, value in (("min", every.min(0)), ("max", every.max(0)), ("mean", every.mean(0)), ("std", every.std(0))):
        np.testing.assert_allclose(stats["action"][name], value, rtol=1e-6)
    for name, q in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(stats["action"][name], np.quantile(every, q, axis=0), rtol=1e-6)
    assert stats["action"]["count"] == [120]
    assert np.array(stats[CAMERA]["mean"]).shape == (3, 1, 1)
    assert stats[CAMERA]["count"] == [120]


def test_statistics_of_images_are_those_of_their_pixels() -> None:
    images = np.random.default_rng(0).integers(10, 240, (7, 3, 40, 30)).astype(np.uint8)
    images[:, 1] //= 2
    stats, channels = image_stats(images), images.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(stats["mean"].ravel(), channels.mean(1))
    np.testing.assert_allclose(stats["std"].ravel(), channels.std(1))
    np.testing.assert_array_equal(stats["min"].ravel(), channels.min(1))
    np.testing.assert_array_equal(stats["max"].ravel(), channels.max(1))
    for name, q in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        np.testing.assert_allclose(stats[name].ravel(), np.quantile(channels, q, axis=1), atol=1.01 / 255)
    assert image_stats(np.zeros((300, 3, 400, 600), np.uint8))["count"].tolist() == [100]  # a sample of them


def test_merged_statistics_do_not_depend_on_the_division() -> None:
    values = np.random.default_rng(0).normal(3, 5, (100, 2))
    merged = merge_stats([vector_stats(values[:30]), vector_stats(values[30:])])
    whole = vector_stats(values)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name])


def test_full_files_are_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FULL", 500)
    monkeypatch.setattr(parquet, "CHUNK", 2)
    writer = LeRobotWriter(tmp_path, 10)
    for seed in range(9):
        writer.append(vectors(seed))
    writer.close()
    files = [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.glob("data/*/*"))]
    assert files[:3] == ["data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet",
                         "data/chunk-001/file-000.parquet"]  # fmt: skip
    episodes = read_lerobot(tmp_path)
    expected = np.concatenate([vectors(seed)["action"] for seed in range(9)])
    np.testing.assert_array_equal(episodes.arrays["action"], expected)
    some = read_lerobot(tmp_path, episodes=[1, 7])
    np.testing.assert_array_equal(some.arrays["action"], np.concatenate([expected[5:10], expected[35:40]]))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fps is a whole number; found 29\.97"):
        LeRobotWriter(tmp_path, 29.97)
    writer = LeRobotWriter(tmp_path, 10)
    writer.close()
    assert not list(tmp_path.iterdir())
    writer.append(vectors(0), seed=1)
    nan = np.zeros((5, 2), np.float32)
    nan[3, 1] = np.nan
    for changes, row, message in (
        ({"action": np.zeros((4, 2), np.float32)}, {}, r"arrays must be equally long; found \[4, 5\] frames"),
        (
            {"action": np.zeros((5, 3), np.float32)},
            {},
            r"action must be as in the episodes before, .*\[2\].*found .*\[3\]",
        ),
        ({"observation.gripper": np.zeros(5)}, {}, "observation.gripper must be as in the episodes before, absent"),
        ({"action": nan}, {}, "action must be finite numbers"),
        ({"action": np.array(["a"] * 5)}, {}, "action must be finite numbers"),
        ({"action": np.zeros((5, 2, 2))}, {}, "action must be finite numbers"),
        ({"frame_index": np.zeros(5)}, {}, "'frame_index' is a name that LeRobot's format keeps"),
        ({}, {"length": 3}, "'length' is a name that LeRobot's format keeps"),
        ({}, {"seed": "one"}, "seed must be as in the episodes before, int; found str"),
        (
            {"observation.image": np.zeros((5, 63, 64, 3), np.uint8)},
            {},
            "an even height and width .*; store it as png",
        ),
        ({"observation.image": np.zeros((5, 64, 64, 2), np.uint8)}, {}, "images of 1, 3 or 4 channels"),
    ):
        with pytest.raises(RobodiffError, match=message):
            writer.append({**vectors(1), **changes}, **{"seed": 2, **row})
    writer.append(vectors(2), seed=2)  # none of that is left
    writer.close()
    assert read_lerobot(tmp_path).table["seed"] == [1, 2]
    with pytest.raises(UsageError, match="exists already"):
        LeRobotWriter(tmp_path, 10)
