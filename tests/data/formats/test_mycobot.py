"""myCobot's folders of episodes: what is written, and read again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robodiff.data.check import examine, read_sound
from robodiff.data.episodes import Episodes, Feature, RecordingError, Unit
from robodiff.data.formats.convert import convert
from robodiff.data.formats.mycobot import IN_RADIANS, NAMES, UNITS
from robodiff.data.recordings import open_path
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError, UsageError

STATE, CAMERA = "observation.state", "observation.images.front"
FIRST, SECOND = "episode_20000101_000000_007", "episode_20000101_000101_008"


def recorded(unit: Unit, scale: float = 90) -> Episodes:
    """Two episodes, of 3 and 4 frames, with states and actions between -scale and scale."""
    random = np.random.default_rng(0)
    states, actions = random.uniform(-scale, scale, (2, 7, 7)).astype(np.float32)
    arrays = {STATE: states, CAMERA: random.integers(0, 256, (7, 3, 6, 8), dtype=np.uint8), "action": actions}
    features = {
        STATE: Feature("vector", (7,), "float32", NAMES, unit),
        CAMERA: Feature("image", (3, 6, 8), "uint8"),
        "action": Feature("vector", (7,), "float32", NAMES, unit),
    }
    return Episodes("made up", arrays, np.array([3, 7]), 10.0, features, {"seed": [7, 61_008]})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both episodes, as files; decoded images go beside them."""
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    convert(recorded(UNITS), tmp_path / "d", form="mycobot")
    return tmp_path / "d"


def change(folder: Path, episode: str, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Rewrite the rows of an episode."""
    file = folder / episode / "states.json"
    rows = json.loads(file.read_text())
    edit(rows)
    file.write_text(json.dumps(rows))


def faults(folder: Path, **options: Any) -> str:
    """Return all that is told when it is to be trained on, and by whom."""
    with pytest.raises(RecordingError) as told:
        open_path(str(folder), **options).read()
    return "\n".join(finding.message for finding in told.value.findings)


@pytest.mark.parametrize("unit", [UNITS, "deg"])
def test_degrees_and_actions_come_back_to_the_bit(tmp_path: Path, unit: Unit) -> None:
    episodes = recorded(unit)
    assert convert(episodes, tmp_path / "d", form="mycobot") == []
    found = open_path(str(tmp_path / "d")).read()
    for key in (STATE, CAMERA, "action"):
        np.testing.assert_array_equal(found.arrays[key], episodes.arrays[key])
        assert found.features[key] == recorded(UNITS).features[key]
    assert (found.episode_ends.tolist(), found.fps) == ([3, 7], 10.0)


@pytest.mark.parametrize("unit", [IN_RADIANS, "rad", None])
def test_files_are_as_the_robots_own(tmp_path: Path, unit: Unit) -> None:
    episodes = recorded(unit, scale=1)
    convert(episodes, tmp_path / "d", form="mycobot")
    folders = sorted((tmp_path / "d").iterdir())
    assert [folder.name for folder in folders] == [FIRST, SECOND]
    rows = json.loads((folders[1] / "states.json").read_text())
    assert len(rows) == 4
    assert [*rows[0]] == ["angles", "gripper_value", "image", "action"]
    for key, values in ((STATE, [*rows[0]["angles"], *rows[0]["gripper_value"]]), ("action", rows[0]["action"])):
        np.testing.assert_allclose(values[:6], np.degrees(episodes.arrays[key][3, :6]), rtol=1e-6)
        np.testing.assert_allclose(values[6:], 100 * episodes.arrays[key][3, 6:], rtol=1e-6)
    assert rows[0]["image"] == "frame_dir/image_00000.png"
    image = np.asarray(Image.open(folders[1] / rows[0]["image"]))
    np.testing.assert_array_equal(image, episodes.arrays[CAMERA][3].transpose(1, 2, 0))


def test_without_a_unit_large_angles_are_degrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = recorded(None)
    convert(episodes, tmp_path / "d", form="mycobot")
    assert "does not say its unit; taken as in deg" in capsys.readouterr().err
    np.testing.assert_array_equal(open_path(str(tmp_path / "d")).read().arrays[STATE], episodes.arrays[STATE])


def test_an_action_that_is_no_command_of_the_state_is_left_out(tmp_path: Path) -> None:
    episodes = recorded(UNITS)
    other = Feature("vector", (7,), "float32", (*"xyzabc", "gripper"))
    changed = Episodes("made up", episodes.arrays, episodes.episode_ends, 10.0, {**episodes.features, "action": other})
    assert convert(changed, tmp_path / "d", form="mycobot") == ["action"]
    assert "action" not in json.loads(next((tmp_path / "d").glob("*/states.json")).read_text())[0]


@pytest.mark.parametrize(
    ("options", "frames", "ends", "fps"),
    [
        ({"action_from": "next_state"}, [1, 2, 2, 4, 5, 6, 6], [3, 7], 10.0),
        ({"action_from": "same_state"}, [0, 1, 2, 3, 4, 5, 6], [3, 7], 10.0),
        ({"action_from": "next_state", "frame_skip": 2}, [2, 2, 5, 5], [2, 4], 5.0),
        ({"action_from": "next_state", "frame_skip": 3, "fps": 30.0}, [0, 6, 6], [1, 3], 10.0),
    ],
)
def test_which_state_is_an_action(folder: Path, options: dict, frames: list, ends: list, fps: float) -> None:
    """By the frame whose state it is."""
    states, found = recorded(UNITS).arrays[STATE], open_path(str(folder), **options).read()
    np.testing.assert_array_equal(found.arrays["action"], states[frames])
    assert (found.episode_ends.tolist(), found.fps) == (ends, fps)


@pytest.mark.parametrize(("skip", "frames", "actions"), [(2, [0, 2, 3, 5], [1, 2, 4, 6]), (3, [0, 3, 6], [2, 5, 6])])
def test_skipped_frames_lose_their_images_and_give_their_last_action(
    folder: Path, skip: int, frames: list[int], actions: list[int]
) -> None:
    """What the robot was told last before the next frame is where it went by then."""
    found, whole = open_path(str(folder), frame_skip=skip).read(), recorded(UNITS)
    for key in (STATE, CAMERA):
        np.testing.assert_array_equal(found.arrays[key], whole.arrays[key][frames])
    np.testing.assert_array_equal(found.arrays["action"], whole.arrays["action"][actions])


def test_the_documents_action_is_told_to_teach_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_path(str(folder), action_from="same_state").read()
    assert "learns nothing else" in capsys.readouterr().err


def test_rows_without_actions_have_the_next_state(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, SECOND, lambda rows: [rows[frame].pop("action") for frame in (1, 3)])
    np.testing.assert_array_equal(
        open_path(str(folder)).read().arrays["action"], recorded(UNITS).arrays[STATE][[1, 2, 2, 4, 5, 6, 6]]
    )
    assert "2 of 7 frames have no action; all actions are next states" in capsys.readouterr().err
    assert faults(folder, action_from="recorded").endswith(
        f"{SECOND}/states.json: has no action at frame 1, of all 2 frames"
    )


def test_a_plain_number_is_a_grippers_value(folder: Path) -> None:
    change(folder, FIRST, lambda rows: rows[0].update(gripper_value=50))
    assert open_path(str(folder)).read().arrays[STATE][0, 6] == 50


def test_an_episode_without_states_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / FIRST / "states.json").unlink()
    assert len(open_path(str(folder)).read()) == 1
    assert f"{FIRST}: has no states.json; left out" in capsys.readouterr().err


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


def test_another_rate_than_the_usual_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(open_path(str(folder), frame_skip=3).read(), folder / "copy", form="mycobot")
    assert f"read it with data.fps {10 / 3}" in capsys.readouterr().err
    assert open_path(str(folder / "copy"), fps=10 / 3).read().fps == 10 / 3


ROW = {"angles": [1] * 6, "gripper_value": [3], "image": "frame_dir/image_00000.png"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "angles": [1, 2]}, r"states\.json: \[0\]\.angles.*length 6"),
        ({**ROW, "gripper_value": [1, 2]}, r"gripper_value.*length 1"),
        ({**ROW, "action": [1] * 6}, r"action.*length 7"),
        ({"angles": [1] * 6, "gripper_value": [3]}, "image.* is missing|missing.*image"),
        ({**ROW, "angles": ["a"] * 6}, "angles"),
        ({**ROW, "angles": [float("nan")] * 6}, r"cannot be read as JSON.*at 'NaN, NaN, NaN"),
        ({**ROW, "angles": [1e300] * 6}, r"not finite at frame 0"),
        ({**ROW, "image": "../../../a.png"}, "leads out of the recording"),
        ({**ROW, "image": "a.png"}, f"{FIRST}/a.png: not found"),
    ],
)
def test_broken_rows_of_all_episodes_are_told_together(folder: Path, row: dict, message: str) -> None:
    for episode in (FIRST, SECOND):
        change(folder, episode, lambda rows: rows.insert(0, row))
    with pytest.raises(RecordingError, match=message) as told:
        open_path(str(folder)).read()
    assert [finding.episode for finding in told.value.findings] == [0, 1]
    assert str(told.value).count("\n") == 0


def test_broken_files_of_all_episodes_are_told_together(folder: Path) -> None:
    (folder / FIRST / "states.json").write_text("[")
    (folder / SECOND / "states.json").write_text("[]")
    one, other = faults(folder).splitlines()
    assert f"{FIRST}/states.json: " in one
    assert other.endswith(f"{SECOND}/states.json: has no frames")


def test_pictures_that_cannot_be_used_are_told_together(folder: Path) -> None:
    first, second = (folder / episode / "frame_dir" for episode in (FIRST, SECOND))
    Image.new("RGB", (6, 6)).save(first / "image_00001.png")
    (second / "image_00002.png").write_bytes(b"no picture")
    one, other = faults(folder).splitlines()
    assert f"{first / 'image_00001.png'} cannot be decoded: it is 6x6 (height x width), not 6x8" in one
    assert "image_00002.png" in other
    assert "it is no JPEG or PNG file" in other
    (first / "image_00000.png").unlink()
    (first / "image_00001.png").unlink()
    (second / "image_00000.png").write_bytes(b"no picture")
    one, other = faults(folder).splitlines()
    assert one.endswith("image_00000.png: not found; copy the recording again; and 1 further picture")
    assert "image_00000.png" in other
    assert len(open_path(str(folder)).read([STATE]).features) == 2  # what is not read does no harm
    messages = [finding.message for finding in examine(open_path(str(folder)), WindowShape(1, 1, 1))]
    assert {one, other} <= {*messages}


def test_episodes_of_other_images_are_named(folder: Path) -> None:
    for file in (folder / SECOND / "frame_dir").iterdir():
        Image.new("RGB", (6, 6)).save(file)
    assert f"{CAMERA} of {SECOND} is uint8 (4, 6, 6, 3); expected uint8 (6, 8, 3) a frame" in faults(folder)


def in_radians(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["angles"] = np.radians(row["angles"]).tolist()
    actions_in_radians(rows)


def actions_in_radians(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["action"][:6] = np.radians(row["action"][:6]).tolist()


def test_radians_are_told_from_degrees(folder: Path) -> None:
    change(folder, SECOND, in_radians)
    message = faults(folder)
    assert message.startswith(f"joints of angles in {SECOND} lie from -1")
    assert message.endswith("as radians do; others are degrees")
    assert "\n" not in message
    assert len(open_path(str(folder), episodes=[0]).read()) == 1
    assert len(open_path(str(folder), angles="deg").read()) == 2
    change(folder, FIRST, in_radians)
    message = faults(folder)
    assert (message.count("\n"), message[:20]) == (0, "all angles lie from ")
    found = open_path(str(folder), angles="rad").read()
    for key in (STATE, "action"):
        np.testing.assert_allclose(found.arrays[key], recorded(UNITS).arrays[key], rtol=1e-6)
    assert found.features[STATE].unit == UNITS


def test_actions_in_radians_are_told_from_states_in_degrees(folder: Path) -> None:
    for episode in (FIRST, SECOND):
        change(folder, episode, actions_in_radians)
    one, other = faults(folder).splitlines()
    assert one.startswith(f"joints of action in {FIRST} lie from -1")
    assert SECOND in other
    assert len(open_path(str(folder), action_from="next_state").read()) == 2  # which has no use for them


@pytest.mark.parametrize(
    ("values", "is_told"),
    [((0, 0.9), True), ((-50, 20), True), ((0, 1000), True), ((0, 60), False), ((0.4, 0.4), False), ((-2, 102), False)],
)
def test_a_gripper_that_is_not_in_per_cent_is_noted(
    folder: Path, capsys: pytest.CaptureFixture[str], values: tuple[float, float], is_told: bool
) -> None:
    for episode in (FIRST, SECOND):
        change(folder, episode, lambda rows: [row.update(gripper_value=values[i % 2]) for i, row in enumerate(rows)])
    read_sound(open_path(str(folder)), None)
    told = f"gripper_value of {FIRST} lies from {values[0]:g} to {values[1]:g}, and is read as per cent"
    assert (told in capsys.readouterr().err) == is_told


def test_what_harms_no_training_is_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, FIRST, lambda rows: rows.__delitem__(slice(1, None)))
    assert len(read_sound(open_path(str(folder)), None)) == 2
    notes = capsys.readouterr().err
    assert f"{FIRST} has one frame, and so no move to learn" in notes
    assert f"{FIRST} has 2 pictures that states.json does not name; left out, frame_dir/image_00001.png first" in notes


def test_nothing_is_read_through_links_out_of_it(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / FIRST / "states.json", tmp_path / "states.json")
    (folder / FIRST / "states.json").symlink_to(tmp_path / "states.json")
    with pytest.raises(RobodiffError, match="leads out of the recording"):
        open_path(str(folder)).read()
