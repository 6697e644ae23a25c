"""ALOHA's folders of HDF5 files, raw and compressed."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.recordings import SIZE, encoded, episode, write_aloha

from robodiff.data.formats.aloha import FORMAT, AlohaConfig
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError

HIGH = "observation.images.cam_high"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def test_a_folder_is_read_with_its_own_names(tmp_path: Path) -> None:
    episodes = open_path(str(write_aloha(tmp_path / "demos"))).read()
    assert episodes.episode_ends.tolist() == [30, 61, 93, 126]
    assert {*episodes.arrays} == {"observation.state", "observation.qvel", HIGH, "observation.images.cam_low", "action"}
    assert episodes.fps == 50
    third = episode(2)
    np.testing.assert_array_equal(episodes.arrays["action"][episodes.slice(2)], third["action"])
    np.testing.assert_array_equal(episodes.arrays["observation.state"][episodes.slice(2)], third["state"])
    np.testing.assert_array_equal(episodes.arrays[HIGH][episodes.slice(2)], third["images"].transpose(0, 3, 1, 2))
    assert episodes.features[HIGH].shape == (3, *SIZE)


def test_episodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos", episodes=11)
    episodes = AlohaConfig(path=str(folder), episodes=[10, 2]).read(["observation.state"])
    assert episodes.table["episode_index"] == [2, 10]
    np.testing.assert_array_equal(episodes.arrays["action"][episodes.slice(1)], episode(10)["action"])


def test_one_file_is_one_episode(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos")
    assert open_path(str(folder / "episode_1.hdf5")).read().episode_ends.tolist() == [31]


@pytest.mark.parametrize("kind", ["padded", "variable", "strings", "png"])
def test_compressed_pictures_have_the_colours_that_were_recorded(tmp_path: Path, kind: str) -> None:
    folder = write_aloha(tmp_path / "demos", compress=True)
    for number in range(4):
        with h5py.File(folder / f"episode_{number}.hdf5", "r+") as file:
            form = "PNG" if kind == "png" else "JPEG"
            rows = [encoded(image[..., ::-1], form) for image in episode(number)["images"]]
            if kind != "padded":
                del file["observations/images/cam_high"]
            if kind == "strings":
                file["observations/images/cam_high"] = np.array(rows)
            elif kind != "padded":
                data = file.create_dataset("observations/images/cam_high", len(rows), h5py.vlen_dtype(np.uint8))
                for frame, row in enumerate(rows):
                    data[frame] = np.frombuffer(row, np.uint8)
    images = AlohaConfig(path=str(folder)).read().arrays[HIGH]
    expected = np.concatenate([episode(number)["images"] for number in range(4)]).transpose(0, 3, 1, 2)
    assert images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).mean() < (1 if kind == "png" else 3)
    true_colours = AlohaConfig(path=str(folder), swap_channels=False).read().arrays[HIGH]
    np.testing.assert_array_equal(true_colours, images[:, ::-1])


def test_images_are_brought_to_a_size(tmp_path: Path) -> None:
    config = AlohaConfig(path=str(write_aloha(tmp_path / "demos", compress=True)), resize_shape=12, fps=30)
    assert config.open().arrays["observations/images/cam_high"].feature.shape == (3, 12, 16)  # pyright: ignore
    episodes = config.read()
    assert episodes.arrays[HIGH].shape == (126, 3, 12, 16)
    assert episodes.fps == 30


def test_a_key_map_names_what_is_read(tmp_path: Path) -> None:
    key_map = {"qvel": "observation.state", "action": "action"}
    episodes = AlohaConfig(path=str(write_aloha(tmp_path / "demos")), key_map=key_map).read()
    assert {*episodes.arrays} == {"observation.state", "action"}


def test_depth_and_masks_are_left_out(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos", episodes=1)
    with h5py.File(folder / "episode_0.hdf5", "r+") as file:
        file["observations/images/cam_depth"] = np.ones((30, *SIZE, 1), np.uint16)
        file["observations/depth"] = np.ones((30, *SIZE), np.float32)
        file["observations/mask"] = np.ones((30, *SIZE), np.uint8)
        file["observations/bytes"] = np.ones((30, 4000), np.uint8)
        file["observations/pose"] = np.ones((30, 4, 4))
    episodes = AlohaConfig(path=str(folder)).read()
    assert episodes.features["observation.pose"].shape == (16,)
    assert len(episodes.arrays) == 6
    assert {f"observations/{name}" for name in ("images/cam_depth", "depth", "mask", "bytes")} <= {*episodes.unread}


def _cut(file: h5py.File) -> None:
    qpos = file["observations/qpos"][:-2]
    del file["observations/qpos"]
    file["observations/qpos"] = qpos


def _remove(file: h5py.File) -> None:
    del file["observations/qpos"]


def _break_picture(file: h5py.File) -> None:
    file["observations/images/cam_high"][3, 10:] = 0


def _other_size(file: h5py.File) -> None:
    row = np.frombuffer(encoded(np.zeros((10, 10, 3), np.uint8)), np.uint8)
    file["observations/images/cam_high"][3] = 0
    file["observations/images/cam_high"][3, : len(row)] = row


def _external_link(file: h5py.File) -> None:
    file["observations/linked"] = h5py.ExternalLink("/etc/other.hdf5", "/x")


def _dangling_link(file: h5py.File) -> None:
    file["observations/linked"] = h5py.SoftLink("/nowhere")


def _unwritten(file: h5py.File) -> None:
    del file["observations/qvel"]
    file.create_dataset("observations/qvel", (32, 3), "f4")


def _half_written(file: h5py.File) -> None:
    del file["observations/qvel"]
    file.create_dataset("observations/qvel", (32, 3), "f4", chunks=(8, 3))[:16] = 1


def _virtual(file: h5py.File) -> None:
    del file["observations/qvel"]
    layout = h5py.VirtualLayout((32, 3), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (32, 3))
    file.create_virtual_dataset("observations/qvel", layout)


def _external_storage(file: h5py.File) -> None:
    del file["observations/qvel"]
    file.create_dataset("observations/qvel", (32, 3), "f4", external=[("other.bin", 0, 384)])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, ["episode_2.hdf5", "qpos", "30 frames"]),
        (_remove, ["episode_2.hdf5", "qpos"]),
        (_break_picture, ["episode_2.hdf5", "cam_high", "frame 3"]),
        (_other_size, ["episode_2.hdf5", "cam_high", "frame 3", "10x10"]),
        (_external_link, ["episode_2.hdf5", "linked", "link"]),
        (_dangling_link, ["episode_2.hdf5", "linked", "link"]),
        (_unwritten, ["episode_2.hdf5", "qvel", "never written"]),
        (_half_written, ["episode_2.hdf5", "qvel", "never written at frames 16 to 31"]),
        (_virtual, ["episode_2.hdf5", "qvel", "other files"]),
        (_external_storage, ["episode_2.hdf5", "qvel", "other files"]),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, damage: object, words: list[str]) -> None:
    folder = write_aloha(tmp_path / "demos", compress=True)
    with h5py.File(folder / "episode_2.hdf5", "r+") as file:
        damage(file)  # type: ignore[operator]
    with pytest.raises(RobodiffError) as error:
        AlohaConfig(path=str(folder)).read()
    assert all(word in str(error.value) for word in words), error.value


def test_what_is_broken_and_not_read_is_no_fault(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos")
    with h5py.File(folder / "episode_2.hdf5", "r+") as file:
        _unwritten(file)
    assert len(AlohaConfig(path=str(folder)).read(["observation.state"])) == 4


def test_a_file_elsewhere_is_not_followed(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos")
    (folder / "episode_3.hdf5").rename(tmp_path / "elsewhere.hdf5")
    (folder / "episode_3.hdf5").symlink_to(tmp_path / "elsewhere.hdf5")
    with pytest.raises(RobodiffError, match="leads out of"):
        AlohaConfig(path=str(folder)).read()


def test_what_is_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AlohaConfig(path=str(write_aloha(tmp_path / "demos")))
    monkeypatch.setattr("robodiff.data.formats.pieces.memory_free", lambda: 4000)
    with pytest.raises(RobodiffError, match=r"memory"):
        config.read([])


def test_it_is_recognised_by_content(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos")
    (folder / "episode_0.hdf5").rename(folder / "episode_0.HDF5")
    assert FORMAT.recognise(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/episode_0.hdf5").write_text("no HDF5")
    assert not FORMAT.recognise(tmp_path / "other")
    assert not FORMAT.recognise(tmp_path)


def test_hdf5_of_any_name(tmp_path: Path) -> None:
    folder = write_aloha(tmp_path / "demos")
    expected = open_path(str(folder)).read()
    for file in [*folder.iterdir()]:
        file.rename(file.with_suffix(".HDF" if file.stem == "episode_0" else ""))
    (folder / "notes.txt").write_text("of Monday")
    np.testing.assert_array_equal(open_path(str(folder)).read().arrays["action"], expected.arrays["action"])
