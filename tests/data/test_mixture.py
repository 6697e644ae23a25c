"""Several recordings as one: joined frame by frame, refused where they are not alike, seen as often as asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robodiff.data.check import check_command, read_sound
from robodiff.data.datamodule import WindowDataModule
from robodiff.data.episodes import ACTION, INTERVENTION, Episodes, Feature
from robodiff.data.formats.convert import convert
from robodiff.data.mixture import RECORDING, MixtureConfig
from robodiff.data.provenance import divide, numbers_of
from robodiff.data.recordings import open_path
from robodiff.data.windows import WindowShape, epoch_order
from robodiff.errors import RobodiffError, UsageError, notice

STATE, CAMERA = "observation.state", "observation.image"
SHAPE = WindowShape(n_obs_steps=2, horizon=8, n_action_steps=4)


def recorded(seed: int, episodes: int = 3, **changes: Any) -> Episodes:
    """Episodes of 20 to 22 frames, of numbers and images."""
    random = np.random.default_rng(seed)
    ends = np.cumsum(20 + np.arange(episodes) % 3)
    walk = random.normal(size=(ends[-1], 3)).cumsum(0).astype(np.float32)
    images = random.integers(0, 255, (ends[-1], 3, 12, 10), np.uint8)
    arrays = {STATE: walk, ACTION: walk[:, :2] + 1, CAMERA: images, **changes.pop("arrays", {})}
    units = changes.pop("units", {})
    names = changes.pop("names", {})
    features = {key: Feature.of(array, units.get(key), names.get(key)) for key, array in arrays.items()}
    table = {"seed": [*range(seed, seed + episodes)]}
    return replace(Episodes("made up", arrays, ends, 10.0, features, table), **changes)


def written(folder: Path, name: str, episodes: Episodes) -> str:
    convert(episodes, folder / name, images="png" if "." not in name else None)
    return str(folder / name)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """A zarr recording of three episodes and a LeRobot data set of two."""
    return [written(tmp_path, "a.zarr", recorded(0)), written(tmp_path, "b", recorded(5, 2))]


@pytest.mark.parametrize("mapped", [False, True])
def test_recordings_of_two_formats_are_joined(
    two: list[str], mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mapped:  # as where memory has no room: into files of the cache
        monkeypatch.setattr("robodiff.data.mixture.memory_free", lambda: 0)
    config = MixtureConfig(recordings=two, cache_dir=str(tmp_path / "cache"))
    joined = config.read()
    alone = [recorded(0), recorded(5, 2)]
    for key in (STATE, ACTION, CAMERA):
        assert np.array_equal(joined.arrays[key], np.concatenate([each.arrays[key] for each in alone])), key
    assert {*joined.arrays} == {STATE, ACTION, CAMERA}
    if mapped:
        assert isinstance(joined.arrays[CAMERA], np.memmap)
    assert joined.lengths.tolist() == [20, 21, 22, 20, 21]
    assert joined.table["seed"] == [0, 1, 2, 5, 6]
    assert joined.table[RECORDING] == [two[0]] * 3 + [two[1]] * 2
    assert [joined.number(place) for place in range(5)] == [0, 1, 2, 3, 4]
    assert joined.source == ", ".join(two)
    assert [*config.read([STATE]).arrays] == [STATE, ACTION]
    assert np.array_equal(config.read().arrays[CAMERA], joined.arrays[CAMERA])  # from the cache, this time


def test_a_joined_file_is_another_once_a_part_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodiff.data.mixture.memory_free", lambda: 0)
    paths = [written(tmp_path, "a.zarr", recorded(0)), written(tmp_path, "b.zarr", recorded(5))]
    config = MixtureConfig(recordings=paths, cache_dir=str(tmp_path / "cache"))
    before = config.read().arrays[CAMERA]
    other = MixtureConfig(recordings=paths[::-1], cache_dir=str(tmp_path / "cache")).read().arrays[CAMERA]
    assert np.array_equal(other, np.concatenate([before[63:], before[:63]]))
    some = MixtureConfig(recordings=[{"path": paths[0], "episodes": [1]}, paths[1]], cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(some.read().arrays[CAMERA], np.concatenate([before[20:41], before[63:]]))


def test_options_are_for_all_or_for_one(two: list[str]) -> None:
    config = MixtureConfig(recordings=[{"path": two[0], "episodes": [2, 0]}, two[1]], keys=[STATE])
    joined = config.read()
    assert [*joined.arrays] == [STATE, ACTION]
    assert joined.table["seed"] == [0, 2, 5, 6]
    assert joined.lengths.tolist() == [20, 22, 20, 21]
    used = divide(replace(config, val_split=0.25), joined, None).found
    assert {*used.episodes} == {"0", "1", "2", "3"}
    alone = open_path(two[1], keys=[STATE])
    digests = divide(alone, alone.read(), None).found.episodes.values()
    assert {*map(numbers_of, digests)} <= {*map(numbers_of, used.episodes.values())}  # known wherever they are
    assert check_command(config) == (
        f"robodiff data check {two[0]} --keys '[\"{STATE}\"]'; robodiff data check {two[1]} --keys '[\"{STATE}\"]'"
    )


def test_who_acted_is_an_expert_where_it_was_not_recorded(tmp_path: Path) -> None:
    acted = (np.arange(63) % 21 > 9)[:, None].astype(np.float32)
    paths = [written(tmp_path, "demos.zarr", recorded(0)),
             written(tmp_path, "rounds.zarr", recorded(5, arrays={INTERVENTION: acted}))]  # fmt: skip
    joined = MixtureConfig(recordings=paths).read([STATE])
    assert joined.arrays[INTERVENTION].tolist() == [[1.0]] * 63 + acted.tolist()
    assert [*joined.features] == [STATE, ACTION, INTERVENTION]


def test_weights_say_how_often_windows_come(two: list[str]) -> None:
    once = WindowDataModule(MixtureConfig(recordings=two, val_split=0.2), SHAPE, [STATE], seed=3)
    ones = WindowDataModule(MixtureConfig(recordings=two, val_split=0.2, weights=[1, 1]), SHAPE, [STATE], seed=3)
    data = WindowDataModule(MixtureConfig(recordings=two, val_split=0.2, weights=[0.5, 3]), SHAPE, [STATE], seed=3)
    windows = len(data.train_windows)
    assert once.order(4).tolist() == ones.order(4).tolist() == epoch_order(windows, 3, 4).tolist()
    second = data.train_windows.now >= 63  # of the second recording
    halves = set()
    for epoch in range(3):
        order = data.order(epoch)
        assert len(order) == data.windows_in_epoch
        assert order.tolist() == data.order(epoch).tolist()
        seen = np.bincount(order, minlength=windows)
        assert set(seen[second].tolist()) == {3}
        assert set(seen[~second].tolist()) == {0, 1}
        assert seen[~second].sum() == round((~second).sum() / 2)
        halves.add(tuple(seen[~second]))
    assert len(halves) == 3
    assert data.order(0)[:40].tolist() != sorted(data.order(0)[:40].tolist())


def test_weights_that_leave_nothing_are_refused(two: list[str]) -> None:
    with pytest.raises(UsageError, match=r"data.weights leave no window in an epoch"):
        WindowDataModule(MixtureConfig(recordings=two, weights=[1e-6, 1e-6]), SHAPE, [STATE], seed=0)


WITHOUT = {STATE: recorded(5).arrays[STATE], ACTION: recorded(5).arrays[ACTION]}
JOINTS, SWAPPED = ("x", "y", "z"), ("y", "x", "z")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({}, {"fps": 5.0}, "frames a second are 10 in .*a.zarr and 5 in .*b.zarr\n.*--data.fps RATE"),
        ({}, {"arrays": {STATE: WITHOUT[STATE][:, :2]}}, r"observation.state is \(3,\) in .* and \(2,\) in "),
        ({}, {"arrays": {CAMERA: np.zeros((63, 3, 9, 9), np.uint8)}}, r"observation.image is .*\n--data.resize_shape"),
        ({"units": {STATE: "rad"}}, {"units": {STATE: "deg"}}, "is in rad in .*a.zarr and deg in .*b.zarr"),
        ({"names": {STATE: JOINTS}}, {"names": {STATE: SWAPPED}}, r"observation.state\[0\] is x in .* and y in .*"),
        ({"arrays": {"observation.extra": WITHOUT[STATE]}}, {},
         "b.zarr: has no 'observation.extra', which .*a.zarr has\nto leave it out: --data.keys"),
    ],
)  # fmt: skip
def test_recordings_that_are_not_alike_are_refused(tmp_path: Path, one: dict, other: dict, message: str) -> None:
    paths = [written(tmp_path, "a.zarr", recorded(0, **one)), written(tmp_path, "b.zarr", recorded(5, **other))]
    with pytest.raises(UsageError, match=f"(?s){message}") as error:
        MixtureConfig(recordings=paths).read()
    assert len(str(error.value).splitlines()) <= 2


def test_dimensions_of_other_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notice.cache_clear()
    paths = [written(tmp_path, name, recorded(n, names={STATE: names}))
             for n, (name, names) in enumerate([("a.zarr", JOINTS), ("b.zarr", ("j0", "j1", "j2"))])]  # fmt: skip
    assert MixtureConfig(recordings=paths).read().features[STATE].names == JOINTS
    assert "observation.state[0] is x in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recordings": []}, "recordings"),
        ({"recordings": ["a", "a"]}, "a is named twice"),
        ({"recordings": [{"episodes": [1]}]}, "expected a path, or a mapping with one"),
        ({"recordings": [{"path": "a", "val_split": 0.1}]}, "give it as data.val_split"),
        ({"recordings": ["a", "b"], "weights": [1]}, "expected one for each of 2 recordings; found 1"),
        ({"recordings": ["a"], "weights": [0]}, "weights"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixtureConfig(**options)


def test_a_fault_names_its_recording(two: list[str], tmp_path: Path) -> None:
    broken = recorded(9)
    broken.arrays[STATE][30] = 1e6
    config = MixtureConfig(recordings=[*two, written(tmp_path, "c.zarr", broken)])
    with pytest.raises(
        RobodiffError, match=rf"(?s){STATE}.*is 1e\+06 .*\nall that is wrong with it: robodiff data check"
    ):
        read_sound(config, None)
    with pytest.raises(RobodiffError, match=r"missing.zarr: no such file"):
        read_sound(MixtureConfig(recordings=[two[0], str(tmp_path / "missing.zarr")]), None)
