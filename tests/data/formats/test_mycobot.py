"""myCobot's folders of episodes: what is written, and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats.convert import convert
from robodiff.data.formats.mycobot import NAMES
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError, UsageError

STATE, CAMERA = "observation.state", "observation.images.front"


def recorded(unit: str | None) -> Episodes:
    """Two episodes, of 3 and 4 frames, with states between -1 and 1."""
    random = np.random.default_rng(0)
    states = random.uniform(-1, 1, (7, 7)).astype(np.float32)
    arrays = {STATE: states, CAMERA: random.integers(0, 256, (7, 3, 6, 8), dtype=np.uint8), "action": states}
    features = {
        STATE: Feature("vector", (7,), "float32", NAMES, unit),
        CAMERA: Feature("image", (3, 6, 8), "uint8"),
        "action": Feature("vector", (7,), "float32", NAMES, unit),
    }
    return Episodes("made up", arrays, np.array([3, 7]), 10.0, features, {"seed": [7, 61_008]})


def test_degrees_come_back_to_the_bit(tmp_path: Path) -> None:
    episodes = recorded("deg")
    assert convert(episodes, tmp_path / "d", form="mycobot") == ["action"]
    found = open_path(str(tmp_path / "d")).read()
    np.testing.assert_array_equal(found.arrays[STATE], episodes.arrays[STATE])
    np.testing.assert_array_equal(found.arrays[CAMERA], episodes.arrays[CAMERA])
    np.testing.assert_array_equal(found.arrays["action"], episodes.arrays[STATE][[1, 2, 2, 4, 5, 6, 6]])
    assert (found.features[STATE], found.episode_ends.tolist()) == (episodes.features[STATE], [3, 7])


def test_files_are_as_the_robots_own(tmp_path: Path) -> None:
    episodes = recorded(None)
    convert(episodes, tmp_path / "d", form="mycobot")
    folders = sorted((tmp_path / "d").iterdir())
    assert [folder.name for folder in folders] == ["episode_20000101_000000_007", "episode_20000101_000101_008"]
    rows = json.loads((folders[1] / "states.json").read_text())
    assert len(rows) == 4
    assert rows[0].keys() == {"angles", "gripper_value", "image"}
    np.testing.assert_allclose(rows[0]["angles"], np.degrees(episodes.arrays[STATE][3, :6]), rtol=1e-6)
    np.testing.assert_allclose(rows[0]["gripper_value"], 100 * episodes.arrays[STATE][3, 6:], rtol=1e-6)
    assert rows[0]["image"] == "frame_dir/image_00000.png"
    image = np.asarray(Image.open(folders[1] / rows[0]["image"]))
    np.testing.assert_array_equal(image, episodes.arrays[CAMERA][3].transpose(1, 2, 0))


def test_without_a_unit_large_angles_are_degrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = recorded(None)
    episodes.arrays[STATE][:] *= 90
    convert(episodes, tmp_path / "d", form="mycobot")
    assert "does not say its unit; taken as in deg" in capsys.readouterr().err
    np.testing.assert_array_equal(open_path(str(tmp_path / "d")).read().arrays[STATE], episodes.arrays[STATE])


def test_an_episode_without_states_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(recorded("deg"), tmp_path / "d", form="mycobot")
    (tmp_path / "d" / "episode_20000101_000000_007" / "states.json").unlink()
    assert len(open_path(str(tmp_path / "d")).read()) == 1
    assert "episode_20000101_000000_007: has no states.json; left out" in capsys.readouterr().err


def test_what_is_no_mycobot_is_refused(tmp_path: Path) -> None:
    episodes = recorded("deg")
    other = Episodes("made up", {STATE: np.ones((2, 8), np.float32)}, np.array([2]), 10.0,
                     {STATE: Feature("vector", (8,), "float32")})  # fmt: skip
    blind = Episodes("made up", {STATE: np.ones((2, 7), np.float32)}, np.array([2]), 10.0,
                     {STATE: episodes.features[STATE]})  # fmt: skip
    for wrong, message in ((other, "six joint angles"), (blind, "needs the images of a camera")):
        with pytest.raises(UsageError, match=message):
            convert(wrong, tmp_path / "d", form="mycobot")
    with pytest.raises(UsageError, match=r"no format 'mycobots' is written; there is zarr, .*mycobot"):
        convert(episodes, tmp_path / "d", form="mycobots")
    with pytest.raises(UsageError, match=r"d\.zarr: would be read as a zarr group; choose a name"):
        convert(episodes, tmp_path / "d.zarr", form="mycobot")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no frames"),
        ([{"angles": [1, 2], "gripper_value": [3], "image": "a.png"}], r"states\.json: .*length 6"),
        ([{"angles": [1] * 6, "gripper_value": [3], "image": "../../../a.png"}], "leads out of the recording"),
        ([{"angles": [1] * 6, "gripper_value": [3], "image": "a.png"}], "not found"),
    ],
)
def test_broken_episodes_are_named(tmp_path: Path, rows: list, message: str) -> None:
    (tmp_path / "d" / "episode_1").mkdir(parents=True)
    (tmp_path / "d" / "episode_1" / "states.json").write_text(json.dumps(rows))
    with pytest.raises(RobodiffError, match=message):
        open_path(str(tmp_path / "d")).read()
