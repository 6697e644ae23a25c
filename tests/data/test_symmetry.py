"""Maps of a scene onto itself, and what they make of a recording."""

import numpy as np
import pytest

from robodiff.data import symmetry
from robodiff.data.episodes import ACTION, Episodes, Feature
from robodiff.data.symmetry import ImageMap, Side, Symmetry, VectorMap, with_symmetries
from robodiff.errors import UsageError

STATE, CAMERA, NOTE = "observation.state", "observation.image", "note"
MIRROR = Symmetry(
    "mirror",
    {
        STATE: VectorMap((0, 2, 1), sign=(-1.0, 1.0, 1.0), offset=(8.0, 0.0, 0.0)),
        CAMERA: ImageMap(left_right=True),
        ACTION: VectorMap((1, 0), sign=-1.0, offset=4.0),
    },
)


def recorded() -> Episodes:
    """Three episodes of 2, 3 and 4 frames."""
    random = np.random.default_rng(0)
    arrays = {
        STATE: random.normal(size=(9, 3)).astype(np.float32),
        CAMERA: random.integers(0, 256, (9, 3, 4, 6), np.uint8),
        ACTION: random.normal(size=(9, 2)).astype(np.float32),
        NOTE: np.ones((9, 1), np.float32),
    }
    features = {key: Feature.of(array) for key, array in arrays.items()}
    table = {"task": ["a", "b", "c"], "episode_index": [3, 5, 7]}
    return Episodes("here", arrays, np.array([2, 5, 9]), 10.0, features, table)


def test_chosen_episodes_follow_under_each_symmetry() -> None:
    episodes = recorded()
    whole, origins = with_symmetries(episodes, np.array([0, 2]), [MIRROR, MIRROR])
    assert (whole.lengths.tolist(), origins.tolist()) == ([2, 3, 4, 2, 4, 2, 4], [0, 1, 2, 0, 2, 0, 2])
    assert whole.table == {"task": [*"abcacac"], "episode_index": [3, 5, 7, 3, 7, 3, 7]}
    chosen = np.r_[0:2, 5:9]
    for key, array in episodes.arrays.items():
        np.testing.assert_array_equal(whole.arrays[key][:9], array)
        np.testing.assert_array_equal(whole.arrays[key][9:15], whole.arrays[key][15:])
        assert whole.arrays[key].dtype == array.dtype
    state, camera, action = (episodes.arrays[key][chosen] for key in (STATE, CAMERA, ACTION))
    np.testing.assert_array_equal(whole.arrays[STATE][9:15], np.stack([8 - state[:, 0], state[:, 2], state[:, 1]], 1))
    np.testing.assert_array_equal(whole.arrays[CAMERA][9:15], camera[..., ::-1])
    np.testing.assert_array_equal(whole.arrays[ACTION][9:15], 4 - action[:, ::-1])
    np.testing.assert_array_equal(whole.arrays[NOTE], 1)


def test_without_symmetries_or_episodes_nothing_changes() -> None:
    episodes = recorded()
    for chosen, symmetries in (([1], []), ([], [MIRROR])):
        same, origins = with_symmetries(episodes, np.array(chosen, np.int64), symmetries)
        assert same is episodes
        assert origins.tolist() == [0, 1, 2]


def test_every_image_map_is_one_of_the_eight_of_a_square() -> None:
    image = np.arange(4).reshape(1, 1, 2, 2)
    flags = np.ndindex(2, 2, 2)
    seen = {tuple(ImageMap(*map(bool, each))(image).ravel().tolist()) for each in flags}
    turns = {tuple(np.rot90(side, k).ravel().tolist()) for side in (image[0, 0], image[0, 0].T) for k in range(4)}
    assert seen == turns


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({STATE: VectorMap((0, 1, 2))}, "does not say how observation.image is mapped; leave it out"),
        ({STATE: VectorMap((1, 0))}, r"does not fit observation.state, which is of shape \(3,\)"),
        ({STATE: ImageMap()}, r"does not fit observation.state, which is of shape \(3,\)"),
        ({**MIRROR.maps, CAMERA: ImageMap(transpose=True)}, r"observation.image is not square: \(3, 4, 6\)"),
    ],
)
def test_a_symmetry_that_does_not_fit_is_refused(maps: dict[str, VectorMap | ImageMap], message: str) -> None:
    with pytest.raises(UsageError, match=f"the symmetry turn .*{message}"):
        with_symmetries(recorded(), np.array([0]), [Symmetry("turn", maps)])


def test_a_map_takes_each_dimension_once() -> None:
    with pytest.raises(UsageError, match=r"has each of 0 to 1 once; found \(0, 0\)"):
        VectorMap((0, 0))


@pytest.mark.parametrize(
    ("maps", "side", "message"),
    [
        ({STATE: VectorMap((0, 1), sign=-1.0)}, Side(ACTION, 1.0), "maps no vector action, by which it tells sides"),
        ({STATE: ImageMap()}, Side(STATE, 1.0), "maps no vector observation.state"),
        ({STATE: VectorMap((0, 1), sign=-1.0)}, Side(STATE, (1.0, 1.0, 1.0)), "has 3 weights; observation.state has 2"),
        ({STATE: VectorMap((1, 2, 0), sign=-1.0)}, Side(STATE, 1.0), "observation.state mapped twice is another"),
        ({STATE: VectorMap((0,), -1.0), ACTION: VectorMap((0,), 1.0, 2.0)}, Side(STATE, 1.0), "action mapped twice"),
        ({STATE: VectorMap((0,), -1.0, 4.0)}, Side(STATE, 1.0, 1.0), "does not lead from each side by observation"),
        ({STATE: VectorMap((0, 1), (-1.0, 1.0))}, Side(STATE, 1.0), "does not lead from each side by observation"),
    ],
)
def test_what_has_a_side_leads_from_each_to_the_other(
    maps: dict[str, VectorMap | ImageMap], side: Side, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Symmetry("turn", maps, side)


def test_a_scene_lies_beyond_the_threshold_or_not() -> None:
    mirror = Symmetry("mirror", {STATE: VectorMap((0, 1), (-1.0, 1.0), (8.0, 0.0))}, Side(STATE, (2.0, 0.0), 8.0))
    assert mirror.side is not None
    assert mirror.side(np.array([[5.0, 1.0], [3.0, 9.0]])).tolist() == [2, -2]


def test_more_than_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetry, "memory_free", lambda: 100)
    with pytest.raises(UsageError, match=r"here: with its symmetries it takes .* GB, and 0\.0 GB of memory are free"):
        with_symmetries(recorded(), np.array([0]), [MIRROR])
