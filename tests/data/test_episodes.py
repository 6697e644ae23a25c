"""Episodes, some of them, with past actions; features, a part of one, and their units."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robodiff.data.datamodule import WindowDataModule
from robodiff.data.episodes import PAST_ACTION, Episodes, Feature, Finding, Unit, same_unit, with_past_action
from robodiff.data.formats.convert import convert
from robodiff.data.recordings import open_path
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError, UsageError

KEYS = ["observation.state", PAST_ACTION]


@pytest.fixture
def episodes() -> Episodes:
    action = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    features = {"action": Feature("vector", (3,), "float32", unit="rad")}
    return Episodes("made up", {"action": action}, np.array([5, 6, 12]), 10.0, features)  # one of a single frame


def test_what_was_found_in_episodes_that_are_chosen_stays_at_its_frame(episodes: Episodes) -> None:
    frames = {0: 3, 2: 8, None: 5}  # by episode, of the whole recording
    found = [Finding("warning", "jump", "", "", "action", episode, frame) for episode, frame in frames.items()]
    found.append(Finding("note", "length", "", "", None, 2))
    chosen = replace(episodes, findings=found).only(np.array([1, 2])).only(np.array([1]))
    assert [(each.episode, each.frame) for each in chosen.findings] == [(2, 2), (None, None), (2, None)]


@pytest.mark.parametrize("stride", [1, 2, 7])
def test_past_actions_are_those_of_the_definition(episodes: Episodes, stride: int) -> None:
    expected, start = [], 0
    for end in episodes.episode_ends:
        for frame in range(start, end):
            before = frame - stride
            expected.append(episodes.arrays["action"][before] if before >= start else np.zeros(3))
        start = end
    found = with_past_action(episodes, KEYS, stride)
    np.testing.assert_array_equal(found.arrays[PAST_ACTION], expected)
    assert found.features[PAST_ACTION] == episodes.features["action"]
    assert PAST_ACTION not in episodes.arrays


def test_past_actions_are_added_only_where_they_are_asked_for_and_were_not_recorded(episodes: Episodes) -> None:
    assert with_past_action(episodes, None, 1) is episodes
    assert with_past_action(episodes, KEYS[:1], 1) is episodes
    once = with_past_action(episodes, KEYS, 1)
    assert with_past_action(once, KEYS, 2) is once


@pytest.mark.parametrize("name", ["again.zarr", "lerobot"])
def test_they_are_trained_on_whatever_the_format(recording: Path, tmp_path: Path, name: str) -> None:
    source = open_path(str(recording))
    convert(source.read(), tmp_path / name)
    again = open_path(str(tmp_path / name))
    with pytest.raises(RobodiffError, match=r"has no 'observation\.depth'; it has "):
        again.read(["observation.depth", PAST_ACTION])
    state, near = "observation.state", "observation.states"
    with pytest.raises(RobodiffError, match=rf"Did you mean '{state}'"):
        again.read([near])
    with pytest.raises(RobodiffError, match=rf"has no '{near}'") as error:
        again.read([state, near])
    assert f"Did you mean '{state}'" not in str(error.value)  # it is observed already
    data = WindowDataModule(again, WindowShape(2, 16, 8, frame_stride=3), KEYS, seed=0)
    assert set(data.episodes.arrays) == {*KEYS, "action"}
    expected = with_past_action(source.read(), KEYS, 3).arrays[PAST_ACTION]
    np.testing.assert_array_equal(data.episodes.arrays[PAST_ACTION], expected)


def test_past_actions_that_were_recorded_are_read(recording: Path, tmp_path: Path) -> None:
    episodes = with_past_action(open_path(str(recording)).read(), KEYS, 2)
    convert(episodes, tmp_path / "again.zarr")
    data = WindowDataModule(open_path(str(tmp_path / "again.zarr")), WindowShape(2, 16, 8), KEYS, seed=0)
    np.testing.assert_array_equal(data.episodes.arrays[PAST_ACTION], episodes.arrays[PAST_ACTION])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("rad", "rad", "share"), ("Radians", "rad", "share"), True),
        (("rad", "rad", "share"), ("rad", "rad", "%"), False),
        (("rad", "rad", ""), ("rad", "rad", "percent"), True),
        (("rad", "rad"), ("rad", "rad", "share"), False),
        (("degrees", "degrees", "percent"), "deg", True),  # of joints, as it was written for all
        (("deg", "deg", "percent"), "rad", False),
        (("deg", "deg", "percent"), None, True),
        (("", "", ""), "rad", True),
    ],
)
def test_units_of_each_dimension(one: Unit, other: Unit, same: bool) -> None:
    assert (same_unit(one, other), same_unit(other, one)) == (same, same)


def test_a_part_keeps_its_names_and_units() -> None:
    feature = Feature("vector", (3,), "float32", ("a", "b", "c"), ("deg", "rad", "percent"))
    assert feature.part([2, 0]) == Feature("vector", (2,), "float32", ("c", "a"), ("percent", "deg"))
    assert Feature("vector", (3,), "float32", unit="m").part([1]) == Feature("vector", (1,), "float32", unit="m")
    with pytest.raises(UsageError, match="expected as many units as dimensions, 3; found 2"):
        Feature("vector", (3,), "float32", unit=("deg", "rad"))
