"""ManiSkill's and RoboFactory's trajectories."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.recordings import episode, write_maniskill

from robodiff.data.formats.aloha import FORMAT as ALOHA
from robodiff.data.formats.convert import convert
from robodiff.data.formats.maniskill import FORMAT, ManiSkillConfig
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def test_the_last_observation_is_dropped(tmp_path: Path) -> None:
    episodes = open_path(str(write_maniskill(tmp_path / "demos.h5"))).read()
    assert episodes.episode_ends.tolist() == [29, 59, 90, 122]
    assert {*episodes.arrays} == {
        "observation.state",
        "observation.qvel",
        "observation.tcp_pose",
        "observation.images.base",
        "action",
    }
    second = episode(1)
    np.testing.assert_array_equal(episodes.arrays["action"][episodes.slice(1)], second["action"][:-1])
    np.testing.assert_array_equal(episodes.arrays["observation.state"][episodes.slice(1)], second["state"][:-1])
    image = episodes.arrays["observation.images.base"][episodes.slice(1)][5]
    np.testing.assert_array_equal(image[:, :-1], second["images"][5].transpose(2, 0, 1)[:, :-1])
    assert episodes.features["observation.state"].shape == (3,)
    assert any(key.endswith("depth") for key in episodes.unread)


def test_the_file_beside_it_says_rate_and_success(tmp_path: Path) -> None:
    episodes = ManiSkillConfig(path=str(write_maniskill(tmp_path / "demos.h5")), episodes=[0, 3]).read([])
    assert episodes.fps == 25
    assert episodes.table == {"episode_index": [0, 3], "success": [False, True], "seed": [100, 103]}
    assert ManiSkillConfig(path=str(tmp_path / "demos.h5"), fps=5).read([]).fps == 5


@pytest.mark.parametrize(
    "text", [None, "no JSON", '{"env_info": {"env_kwargs": {"sim_config": {"control_freq": -1}}}}']
)
def test_without_a_usable_file_beside_it_the_rate_is_usual(tmp_path: Path, text: str | None) -> None:
    path = write_maniskill(tmp_path / "demos.h5", sidecar=False)
    if text is not None:
        path.with_suffix(".json").write_text(text)
    assert ManiSkillConfig(path=str(path)).read([]).fps == 20


def test_two_agents(tmp_path: Path) -> None:
    path = write_maniskill(tmp_path / "demos.h5", agents=2)
    names = {stored.name for stored in ManiSkillConfig(path=str(path)).open().arrays.values()} - {None}
    assert names == {
        *(f"agents.{n}.{key}" for n in (0, 1) for key in ("action", "observation.state", "observation.qvel",
                                                          "observation.images.head_camera")),
        "observation.tcp_pose",
        "observation.images.head_camera_global",
    }  # fmt: skip
    one = ManiSkillConfig(path=str(path), agent="1").read()
    np.testing.assert_array_equal(one.arrays["action"][one.slice(0)], episode(0)["action"][:-1] + 1)
    assert one.arrays["observation.images.head_camera"][0, 0, -1, -1] == 1
    both = ManiSkillConfig(path=str(path)).read()
    assert both.arrays["action"].shape[1] == both.arrays["observation.state"].shape[1] == 6


def test_names_of_agents_that_are_not_counted_from_zero(tmp_path: Path) -> None:
    path = write_maniskill(tmp_path / "demos.h5", agents=2)
    with h5py.File(path, "r+") as file:
        for trajectory in file.values():
            for parent in ("actions", "obs/agent"):
                trajectory.move(f"{parent}/panda-0", f"{parent}/left")
                trajectory.move(f"{parent}/panda-1", f"{parent}/right")
    names = {stored.name for stored in ManiSkillConfig(path=str(path)).open().arrays.values()}
    assert {"agents.0.action", "agents.1.action"} <= names


def test_observations_that_are_one_vector(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "demos.h5", "w") as file:
        for number in range(2):
            file[f"traj_{number}/actions"], file[f"traj_{number}/obs"] = np.ones((5, 2)), np.ones((6, 9))
    episodes = ManiSkillConfig(path=str(tmp_path / "demos.h5")).read()
    assert episodes.arrays["observation.state"].shape == (10, 9)


def test_trajectories_without_observations_say_what_to_do(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "demos.h5", "w") as file:
        file["traj_0/actions"], file["traj_0/env_states/actors/cube"] = np.ones((5, 2)), np.ones((6, 13))
    with pytest.raises(RobodiffError, match=r"no observations.*replay"):
        open_path(str(tmp_path / "demos.h5")).read()


def test_an_episode_of_another_shape_is_named(tmp_path: Path) -> None:
    path = write_maniskill(tmp_path / "demos.h5")
    with h5py.File(path, "r+") as file:
        del file["traj_2/obs/agent/qpos"]
        file["traj_2/obs/agent/qpos"] = np.ones((32, 5))
    with pytest.raises(RobodiffError, match=r"demos\.h5.*qpos.*traj_2"):
        ManiSkillConfig(path=str(path)).read()
    assert len(ManiSkillConfig(path=str(path), episodes=[0, 1, 3]).read()) == 3


def test_it_is_recognised_by_content(tmp_path: Path) -> None:
    path = write_maniskill(tmp_path / "demos.h5").rename(tmp_path / "demos.data")
    assert FORMAT.recognise(path)
    assert not ALOHA.recognise(path)


def test_names_survive_the_way_to_robomimic(tmp_path: Path) -> None:
    episodes = open_path(str(write_maniskill(tmp_path / "demos.h5", agents=2))).read()
    convert(episodes, tmp_path / "again.hdf5")
    assert {*open_path(str(tmp_path / "again.hdf5")).read().arrays} == {*episodes.arrays}
