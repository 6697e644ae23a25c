"""recording.yaml, which says what files of one's own are."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import zarr
from tests.recordings import episode, write_maniskill, write_npz, write_odd, write_table

from robodiff.data.formats.mapped import MappedConfig
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError

IMAGE = "observation.image"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def test_a_folder_for_each_episode(tmp_path: Path) -> None:
    episodes = open_path(str(write_odd(tmp_path / "odd", episodes=11))).read()
    assert episodes.lengths.tolist() == [30 + number for number in range(11)]
    np.testing.assert_allclose(episodes.arrays["action"][episodes.slice(10)], episode(10)["action"], rtol=1e-6)
    images = episodes.arrays["observation.images.front"][episodes.slice(10)]
    assert np.abs(images.astype(int) - episode(10)["images"].transpose(0, 3, 1, 2)).mean() < 3
    assert episodes.features["observation.state"].unit == "rad"
    assert episodes.features["observation.state"].names == ("j0", "j1", "j2")
    assert episodes.fps == 30


@pytest.mark.parametrize(
    ("text", "write"),
    [
        ("episodes: demos.h5:traj_*\narrays: {action: actions, observation.state: obs/agent/qpos, "
         "observation.image: obs/sensor_data/base/rgb}", lambda folder: write_maniskill(folder / "demos.h5")),
        ("episode_ends: d.npz:episode_ends\narrays: {action: 'd.npz:action', observation.state: 'd.npz:state', "
         "observation.image: 'd.npz:images'}", lambda folder: write_npz(folder / "d.npz")),
        ("episodes: demos/*.npz\narrays: {action: action, observation.state: state, observation.image: images}",
         lambda folder: write_npz(folder / "demos")),
        ("episode_numbers: d.csv:episode\narrays: {action: {source: d.csv, columns: [action_0, action_1, action_2]}, "
         "observation.state: 'd.csv:state', observation.image: 'd.csv:front'}",
         lambda folder: write_table(folder / "d.csv")),
    ],
    ids=["hdf5", "npz", "npz files", "csv"],
)  # fmt: skip
def test_other_ways_to_divide(tmp_path: Path, text: str, write: object) -> None:
    write(tmp_path)  # type: ignore[operator]
    (tmp_path / "recording.yaml").write_text(f"fps: 12\n{text}\n")
    episodes = open_path(str(tmp_path)).read()
    cut = 1 if "demos.h5" in text else 0  # the observation after the last action
    assert episodes.lengths.tolist() == [30 - cut, 31 - cut, 32 - cut, 33 - cut]
    for key, name in (("action", "action"), ("observation.state", "state")):
        expected = np.concatenate([episode(n)[name][: len(episode(n)[name]) - cut] for n in range(4)])
        np.testing.assert_allclose(episodes.arrays[key], expected, rtol=1e-6)
    assert episodes.arrays[IMAGE][:, 0, 10, 10].tolist() == [200] * len(expected)


def test_zarr_npy_and_a_file_of_another_name(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    group.create_array("a/state", data=np.ones((6, 2), np.float32))
    np.save(tmp_path / "action.npy", np.arange(6.0))
    np.save(tmp_path / "ends.npy", np.array([2, 6]))
    text = "episode_ends: ends.npy\narrays:\n  action: action.npy\n  observation.state: d.zarr:a/state\n"
    (tmp_path / "mine.yaml").write_text(text)
    episodes = open_path(str(tmp_path / "mine.yaml")).read()
    assert episodes.episode_ends.tolist() == [2, 6]
    assert episodes.arrays["action"].ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_videos(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"run{number}").mkdir()
        np.save(tmp_path / f"run{number}/action.npy", np.ones((8, 2)))
        with av.open(tmp_path / f"run{number}/cam.mp4", "w") as container:
            stream = container.add_stream("libx264", rate=15)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            for frame in range(8):
                picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 * frame, np.uint8), format="rgb24")
                picture.pts, picture.time_base = frame, Fraction(1, 15)
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    (tmp_path / "recording.yaml").write_text(
        "episodes: run*/\narrays: {action: action.npy, observation.image: cam.mp4}\n"
    )
    episodes = open_path(str(tmp_path)).read()
    assert episodes.fps == 15
    assert episodes.arrays[IMAGE].shape == (16, 3, 64, 96)
    np.testing.assert_allclose(episodes.arrays[IMAGE][8:, 1, 9, 9], 20 * np.arange(8), atol=4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arays: {}", ["arays", "arrays"]),
        ("arrays: {action: {sorce: log.csv}}", ["arrays.action", "sorce", "source"]),
        ("arrays: {action: 3}", ["arrays.action"]),
        ("fps: -1\narrays: {action: log.csv:u}", ["fps"]),
        ("episodes: runs/*\nepisode_ends: x\narrays: {action: log.csv:u}", ["episode_ends", "one of them"]),
        ("episodes: nothing/*\narrays: {action: log.csv:u}", ["nothing/*"]),
        ("episodes: ../*\narrays: {action: log.csv:u}", ["leads out of"]),
        ("episodes: runs/*\narrays: {action: 'log.csv:v'}", ["arrays.action", "'v'", "time"]),
        (
            "episodes: runs/*\narrays: {action: {source: log.csv, columns: [u9]}}",
            ["arrays.action", "u9", "Did you mean"],
        ),
        ("episodes: runs/*\narrays: {action: lag.csv}", ["lag.csv", "not found"]),
        ("episodes: runs/*\narrays: {action: ../../outside.csv}", ["outside.csv"]),
        ("episodes: runs/*\narrays: {action: 'log.csv:u', observation.image: 'front/*.bmp'}", ["*.bmp", "no pictures"]),
        ("episodes: [runs", ["YAML"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    folder = write_odd(tmp_path / "odd", described=False, episodes=2)
    (tmp_path / "outside.csv").write_text("u\n1\n")
    (folder / "recording.yaml").write_text(text)
    with pytest.raises(RobodiffError) as error:
        open_path(str(folder)).read()
    assert all(word in str(error.value) for word in ["odd", *words]), error.value
    assert len(str(error.value).splitlines()) == 1


def test_an_episode_that_is_cut_short_is_named(tmp_path: Path) -> None:
    folder = write_odd(tmp_path / "odd")
    (folder / "runs/run_2/front/31.jpg").unlink()
    (folder / "runs/run_2/front/30.jpg").unlink()
    with pytest.raises(RobodiffError, match=r"front.*run_2.*30 frames.*32"):
        MappedConfig(path=str(folder)).read()
    assert len(MappedConfig(path=str(folder), episodes=[0, 3]).read()) == 2
