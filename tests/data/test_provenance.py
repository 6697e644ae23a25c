"""What a run knows of its recording, and what becomes of it when the recording changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.provenance import FRAMES_DIGESTED, TrainedOn, digest, divide, read_trained_on, write_trained_on
from robodiff.errors import RobodiffError

CONFIG = ZarrConfig(path="recording", val_split=0.25)
CAMERA, STATE = "observation.image", "observation.state"


def recorded(
    numbers: list[int],
    fps: float = 10.0,
    offset: float = 0.0,
    unit: str | None = None,
    numbered: list[int] | None = None,
) -> Episodes:
    """Episodes of 20 frames, each made from its number alone."""
    randoms = [np.random.default_rng(number) for number in numbers]
    walks = np.concatenate([random.normal(size=(20, 3)).cumsum(0) for random in randoms]).astype(np.float32) + offset
    images = np.concatenate([random.integers(0, 255, (20, 3, 8, 8), np.uint8) for random in randoms])
    arrays = {STATE: walks, "action": walks[:, :2] + 1, CAMERA: images}
    features = {key: Feature.of(array, unit if key == STATE else None) for key, array in arrays.items()}
    table = {} if numbered is None else {"episode_index": numbered}
    return Episodes("recording", arrays, np.arange(1, len(numbers) + 1) * 20, fps, features, table)


def begun(numbers: list[int]) -> TrainedOn:
    return divide(CONFIG, recorded(numbers), None).found


FOUR = begun([0, 1, 2, 3])
HELD_OUT = int(next(iter(FOUR.held_out)))


def test_a_run_that_begins_divides_as_its_configuration_says() -> None:
    division = divide(CONFIG, recorded([0, 1, 2, 3]), None)
    training, held_out = CONFIG.split(recorded([0, 1, 2, 3]))
    assert (division.to_train.tolist(), division.to_hold_out.tolist()) == (training.tolist(), held_out.tolist())
    assert not division.changes
    assert {*division.found.training} == {*map(str, training.tolist())}
    assert division.found.run != divide(CONFIG, recorded([0, 1, 2, 3]), None).found.run
    assert division.found.fingerprint == FOUR.fingerprint


def test_the_record_decides_and_not_the_configuration() -> None:
    for config in (replace(CONFIG, val_split_seed=n, val_split=0.5) for n in range(5)):
        division = divide(config, recorded([0, 1, 2, 3]), FOUR)
        assert division.to_hold_out.tolist() == division.unseen.tolist() == [HELD_OUT]
        assert not division.changes


@pytest.mark.kind("a recording that is not what the run was trained on")
@pytest.mark.parametrize(
    ("numbers", "changes", "message"),
    [
        ([0, 1, 2, 3, 4, 5], {}, "6 episodes in place of 4"),
        ([0, 1, 2], {}, "3 episodes in place of 4"),
        ([0, 1, 9, 3], {}, r"other values in 1 of its 4 episodes \(2\)"),
        ([1, 0, 2, 3], {}, r"other values in 2 of its 4 episodes \(0, 1\)"),
        ([0, 1, 2, 5], {"numbered": [0, 1, 2, 5]}, "other episodes: without 3, with 5"),
        ([1, 0, 2, 3], {"numbered": [1, 0, 2, 3]}, "its episodes are in another order"),
        ([0, 1, 2, 3], {"offset": 1e-3}, r"other values in 4 of its 4 episodes \(0, 1, 2, 3\)"),
        ([0, 1, 2, 3], {"fps": 20.0}, "20 frames a second in place of 10"),
        ([0, 1, 2, 3], {"unit": "deg"}, "observation.state: unit is 'deg' in place of null"),
    ],
)
def test_changes_are_told(numbers: list[int], changes: dict, message: str) -> None:
    division = divide(CONFIG, recorded(numbers, **changes), FOUR)
    with pytest.raises(RobodiffError, match=message) as error:
        division.check("recording", "do this")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.kind("a recording that is not what the run was trained on")
def test_what_was_trained_on_is_never_held_out() -> None:
    trained = {int(number) for number in FOUR.training}
    for numbers in ([*range(12)], [5, 6, 3, 2, 1, 0], [2, 1], [7, *trained, HELD_OUT, 8]):
        episodes = recorded(numbers)
        division = divide(replace(CONFIG, val_split=0.5), episodes, FOUR)
        seen = {place for place, number in enumerate(numbers) if number in trained}
        assert {*division.seen.tolist()} == seen
        assert seen.isdisjoint(division.to_hold_out.tolist())
        if HELD_OUT in numbers:
            assert division.to_hold_out.tolist() == [numbers.index(HELD_OUT)]
        again = divide(CONFIG, episodes, division.found)  # what was accepted is the record from then on
        assert (again.changes, again.to_hold_out.tolist()) == ((), division.to_hold_out.tolist())
    smaller = divide(CONFIG, recorded([8, 9]), FOUR).found
    back = divide(CONFIG, recorded([0, 1, 2, 3]), smaller)
    assert {*back.seen.tolist()} == trained  # although the recording was without them for a while


@pytest.mark.kind("a recording that is not what the run was trained on")
def test_what_was_held_out_stays_so_when_images_are_compressed_anew() -> None:
    grown = recorded([0, 1, 2, 3, 4, 5])
    grown.arrays[CAMERA] ^= 1
    assert divide(CONFIG, grown, FOUR).to_hold_out.tolist() == [HELD_OUT]


def test_images_are_digested_at_a_few_frames() -> None:
    episodes = recorded([0, 1])
    looked_at = np.linspace(0, 19, FRAMES_DIGESTED).astype(int)
    for frame in range(20):
        changed = recorded([0, 1])
        changed.arrays[CAMERA][frame] ^= 1
        same = digest(changed, [0, 1])[0] == digest(episodes, [0, 1])[0]
        assert same == (frame not in looked_at)
        division = divide(CONFIG, changed, begun([0, 1]))
        assert len(division.seen) == len(begun([0, 1]).training)  # by its numbers it is the same episode


def test_the_record_is_kept_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert read_trained_on(tmp_path) is None
    write_trained_on(tmp_path, FOUR)
    assert read_trained_on(tmp_path) == FOUR
    for damage in ("{", "[]", "{}", '{"run": 3}', (tmp_path / "recording.json").read_text().replace("10.0", "-1")):
        (tmp_path / "recording.json").write_text(damage)
        with pytest.raises(RobodiffError, match=r"recording\.json.*take it from a copy of the run"):
            read_trained_on(tmp_path)
