"""A file for each agent: from one recording of a team and back, and from RoboFactory's trajectories in one command."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.recordings import episode, write_maniskill

from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.recordings import open_path

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def arrays_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in (path / "data").rglob("*") if file.is_file()}


def test_there_and_back(robodiff: Run, tmp_path: Path) -> None:
    write_maniskill(tmp_path / "demos.h5", agents=2)
    files = tmp_path / "LiftBarrier-rf_Agent{agent}_4.zarr"
    for source, target in (("demos.h5", "team.zarr"), ("demos.h5", files.name), (files.name, "again.zarr")):
        code, _, err = robodiff("data", "convert", tmp_path / source, tmp_path / target)
        assert code == 0, err
    assert {path.name for path in tmp_path.glob("*.zarr")} == {
        "team.zarr", "again.zarr", "LiftBarrier-rf_Agent0_4.zarr", "LiftBarrier-rf_Agent1_4.zarr"
    }  # fmt: skip
    assert arrays_of(tmp_path / "again.zarr") == arrays_of(tmp_path / "team.zarr")
    direct, joined = open_path(str(tmp_path / "team.zarr")).read(), open_path(str(files)).read()
    assert joined.features == direct.features
    assert (joined.table, joined.fps, joined.episode_ends.tolist()) == (direct.table, 25, [29, 59, 90, 122])
    for path, options in ((str(files), {"agent": "1"}), (str(files).replace("{agent}", "1"), {})):
        one = open_path(path, **options).read()
        np.testing.assert_array_equal(one.arrays["action"][one.slice(0)], episode(0)["action"][:-1] + 1)
        assert one.arrays["observation.images.head_camera"][0, 0, -1, -1] == 1
    group = zarr.open_group(str(files).replace("{agent}", "0"), mode="r", zarr_format=2)
    assert {"head_camera", "state", "action"} <= {*group["data"]}  # type: ignore[arg-type]


def test_files_of_others_hold_what_is_their_agents(robodiff: Run, tmp_path: Path) -> None:
    for agent in (0, 1, 10):
        group = zarr.open_group(tmp_path / f"Task_Agent{agent}_2.zarr", mode="w", zarr_format=2)
        for key in ("state", "action"):
            group.create_array(f"data/{key}", data=np.full((7, 2), agent + 1, np.float32))
        group.create_array("meta/episode_ends", data=np.array([3, 7]))
    path = tmp_path / "Task_Agent{agent}_2.zarr"
    code, _, err = robodiff("data", "convert", path, tmp_path / "team.zarr", "--fps", 20)
    assert code == 0, err
    team = open_path(str(tmp_path / "team.zarr")).read()
    assert team.arrays["action"][0].tolist() == [1, 1, 2, 2, 11, 11]
    assert team.fps == 20
    (tmp_path / "Task_Agent1_2.zarr/data/action/0.0").unlink()
    code, _, err = robodiff("data", "convert", path, tmp_path / "again.zarr", "--fps", 20)
    assert (code, "agent 1: data/action was never written at frames 0 to 2 of episode 0" in err) == (1, True), err


def test_refused(robodiff: Run, tmp_path: Path, recording: Path) -> None:
    (tmp_path / "x_0.zarr").mkdir()
    team = tmp_path / "team.zarr"
    writer = ZarrWriter(team, 10)
    writer.append({f"agents.{agent}.action": np.ones((3, 2), np.float32) for agent in (0, 1)})
    writer.close()
    for arguments, code, message in (
        ((recording, tmp_path / "y_{agent}.zarr"), 2, "its keys name no agents"),
        ((tmp_path / "none_{agent}.zarr", tmp_path / "y.zarr"), 1, "no such files; {agent} stands for an agent's id"),
        ((team, tmp_path / "x_{agent}.zarr"), 2, "x_0.zarr: exists already"),
    ):
        found, _, err = robodiff("data", "convert", *arguments)
        assert (found, message in err) == (code, True), err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "x_1.zarr").exists()
    for agent, length in ((0, 3), (1, 4)):
        writer = ZarrWriter(tmp_path / f"z_{agent}.zarr", 10)
        writer.append({"action": np.ones((length, 2), np.float32)})
        writer.close()
    code, _, err = robodiff("data", "info", tmp_path / "z_{agent}.zarr")
    assert (code, "z_1.zarr: its episodes are not those of" in err) == (1, True), err
    for agent in (0, 1):
        writer = ZarrWriter(tmp_path / f"seed_{agent}.zarr", 10)
        writer.append({"action": np.ones((3, 2), np.float32)}, seed=agent)
        writer.close()
    code, _, err = robodiff("data", "info", tmp_path / "seed_{agent}.zarr")
    assert (code, "seed_1.zarr: its episodes are not those of" in err) == (1, True), err
    writer = ZarrWriter(tmp_path / "z_2.zarr", 20)
    writer.append({"action": np.ones((3, 2), np.float32)})
    writer.close()
    shutil.rmtree(tmp_path / "z_1.zarr")
    code, _, err = robodiff("data", "info", tmp_path / "z_{agent}.zarr")
    assert (code, "has 20 frames a second, but " in err) == (1, True), err
    assert robodiff("data", "convert", team, tmp_path / "one_{agent}.zarr", "--agent", 1)[0] == 0
    assert [path.name for path in tmp_path.glob("one_*")] == ["one_1.zarr"]
    assert robodiff("data", "convert", team, tmp_path / "own_{agent}.zarr")[0] == 0
    shutil.copytree(tmp_path / "own_0.zarr", tmp_path / "own_2.zarr")
    code, _, err = robodiff("data", "info", tmp_path / "own_{agent}.zarr")
    assert (code, "own_2.zarr: holds nothing of agent 2" in err) == (1, True), err


def test_images_of_the_other_agents_are_not_missed(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "team.zarr", mode="w")
    for agent in "01":
        group.create_array(f"data/agents.{agent}.action", data=np.ones((20, 2), np.float32))
        group.create_array(f"data/agents.{agent}.observation.images.head", data=np.ones((20, 3, 8, 8), np.uint8))
    group.create_array("meta/episode_ends", data=np.array([10, 20]))
    episodes = open_path(str(tmp_path / "team.zarr"), agent="0", fps=10).read()
    assert "observation.images.head" in episodes.arrays
    assert not [finding for finding in episodes.findings if "agents.1" in finding.message]
