"""Bags of ROS 2: topics of different rates become frames, and nothing is invented."""

from pathlib import Path

import numpy as np
import pytest
from tests.recordings import JOINTS, SIZE, write_rosbag

from robodiff.cli.main import main
from robodiff.data.formats.rosbag2 import Rosbag2Config
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError, UsageError

HEAD, STATE = "observation.images.head", "observation.state"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("storage", "compress", "encoding"),
    [("mcap", False, "rgb8"), ("mcap", False, "bgr8"), ("mcap", True, "rgb8"), ("sqlite3", False, "rgb8")],
)
def test_a_bag_is_an_episode_at_the_rate_of_its_camera(
    tmp_path: Path, storage: str, compress: bool, encoding: str
) -> None:
    values = write_rosbag(tmp_path / "bag", storage=storage, compress=compress, encoding=encoding)
    episodes = open_path(str(tmp_path / "bag"), joints=[*JOINTS]).read()
    assert (episodes.fps, len(episodes)) == (10, 1)
    assert {*episodes.arrays} == {STATE, HEAD, "action"}
    seen = slice(2, None)  # the camera speaks last
    np.testing.assert_array_equal(episodes.arrays[STATE], values["state"][seen])
    np.testing.assert_array_equal(episodes.arrays["action"], values["action"][seen])
    np.testing.assert_array_equal(episodes.arrays[HEAD], values["images"][seen].transpose(0, 3, 1, 2))
    assert episodes.features[HEAD].shape == (3, *SIZE)
    for key in (STATE, "action"):
        assert (episodes.features[key].names, episodes.features[key].unit) == (JOINTS, ("rad",) * 3)


def test_joints_come_in_the_order_of_the_first_message(tmp_path: Path) -> None:
    write_rosbag(tmp_path / "bag")
    feature = open_path(str(tmp_path / "bag")).read().features[STATE]
    assert feature.names == ("joint_c", "joint_a", "joint_b", "wheel")


def test_a_folder_of_bags_is_a_recording_and_a_file_alone_is_one(tmp_path: Path) -> None:
    values = [write_rosbag(tmp_path / "bags" / f"demo_{number}", number) for number in (2, 10)]
    episodes = open_path(str(tmp_path / "bags"), joints=[*JOINTS]).read([STATE])
    assert episodes.lengths.tolist() == [len(each["state"]) - 2 for each in values]
    np.testing.assert_array_equal(episodes.arrays["action"][episodes.slice(1)], values[1]["action"][2:])
    file = next((tmp_path / "bags" / "demo_2").glob("*.mcap"))
    assert open_path(str(file)).read([STATE]).lengths.tolist() == [len(values[0]["state"]) - 2]


def test_another_rate_takes_the_newest_message_of_each_frame(tmp_path: Path) -> None:
    values = write_rosbag(tmp_path / "bag")
    episodes = open_path(str(tmp_path / "bag"), fps=5, joints=[*JOINTS]).read()
    np.testing.assert_array_equal(episodes.arrays[STATE], values["state"][2::2])
    np.testing.assert_array_equal(episodes.arrays[HEAD], values["images"][2::2].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(episodes.arrays["action"], values["action"][3::2])  # the last before the next frame
    twice = open_path(str(tmp_path / "bag"), fps=20).read([STATE])
    assert len(twice.arrays[STATE]) == 2 * len(values["state"]) - 5


def test_what_is_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rosbag(tmp_path / "bag", encoding="16UC1")
    main(["data", "info", str(tmp_path / "bag")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "/head/color/image_raw (16UC1" in shown
    assert "/rosout (std_msgs/msg/String" in shown


def test_a_key_map_names_topics(tmp_path: Path) -> None:
    write_rosbag(tmp_path / "bag")
    names = {"/joint_states": "observation.joints", "joint_trajectory": "action"}
    assert {*Rosbag2Config(path=str(tmp_path / "bag"), key_map=names).read().arrays} == {"observation.joints", "action"}


@pytest.mark.kind("a value that was never written")
def test_a_camera_that_was_silent_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    write_rosbag(tmp_path / "bag", silent="/head/color/image_raw")
    with pytest.raises(RobodiffError, match=r"image_raw of bag is silent for 1\.60 s from 0\.70 s on"):
        open_path(str(tmp_path / "bag")).read()
    assert len(open_path(str(tmp_path / "bag"), fps=10, keys=[STATE]).read().arrays[STATE]) == 30


@pytest.mark.kind("a truncated or damaged file")
@pytest.mark.parametrize("cut", [5, 3000, 100_000])
def test_a_bag_that_was_cut_off_is_refused_in_a_line(tmp_path: Path, cut: int) -> None:
    write_rosbag(tmp_path / "bag", cut=cut)
    with pytest.raises(RobodiffError) as raised:
        open_path(str(tmp_path / "bag")).read()
    assert str(tmp_path / "bag") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{}, {"action_from": "next_state"}])
def test_without_commands_an_action_is_the_next_state(tmp_path: Path, options: dict[str, str]) -> None:
    write_rosbag(tmp_path / "bag", skip=[] if options else ["/arm_controller/joint_trajectory"])
    episodes = open_path(str(tmp_path / "bag"), **options).read()
    np.testing.assert_array_equal(episodes.arrays["action"][:-1], episodes.arrays[STATE][1:])
    assert episodes.features["action"].names == episodes.features[STATE].names


def test_topics_that_never_speak_at_one_time_are_no_episode(tmp_path: Path) -> None:
    write_rosbag(tmp_path / "bag", late="/head/color/image_raw")
    with pytest.raises(RobodiffError, match="of bag has no frames"):
        open_path(str(tmp_path / "bag")).read()


def test_joints_that_no_topic_has_are_refused(tmp_path: Path) -> None:
    write_rosbag(tmp_path / "bag")
    with pytest.raises(UsageError, match="joints: no topic has elbow"):
        open_path(str(tmp_path / "bag"), joints=["joint_a", "elbow"]).read()
    assert open_path(str(tmp_path / "bag"), joints=["wheel"]).read([STATE]).features[STATE].names == ("wheel",)


def test_what_is_wrong_with_a_topic_is_told_where_it_is_read(tmp_path: Path) -> None:
    write_rosbag(tmp_path / "bag", short="/arm_controller/joint_trajectory")
    with pytest.raises(RobodiffError, match=r"joint_trajectory of bag in message 5: says no position of joint_c"):
        open_path(str(tmp_path / "bag")).read()
    episodes = open_path(str(tmp_path / "bag"), action_from="next_state").read()
    assert {*episodes.arrays} == {STATE, HEAD, "action"}
