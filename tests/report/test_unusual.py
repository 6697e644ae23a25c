"""Which episodes are unlike the others, and in what."""

import numpy as np
import pytest
from tests.report.test_recording import made

from robodiff.data.episodes import Episodes
from robodiff.report.joints import groups
from robodiff.report.unusual import FEWEST, UNUSUAL, unusual_episodes


def swings(count: int, length: int = 30, starts: float = 0.0) -> np.ndarray:
    """Return (count, length, 2): waves that differ a little."""
    random, time = np.random.default_rng(0), np.linspace(0, 6, length)
    sizes, ends = random.normal(1, 0.1, (2, count, 1, 2))
    return np.sin(time)[None, :, None] * sizes + 0.1 * ends + starts


def of(waves: np.ndarray, names: tuple[str, ...] = ("hip", "knee")) -> Episodes:
    return made(waves.reshape(-1, 2), waves.reshape(-1, 2), len(waves), names=(names, names))


def test_like_episodes_are_not_unusual() -> None:
    unusual = unusual_episodes(of(swings(40)), groups(of(swings(40)), 8))
    assert unusual is not None
    assert unusual.values.max() < UNUSUAL


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        (lambda waves: waves[11, :1, 1].__iadd__(9), "start of observation.state: knee"),
        (lambda waves: waves[11, :, 0].__iadd__(5), "mean of observation.state: hip"),
        (
            lambda waves: waves[11, 1:, 1].__imul__(np.where(np.arange(29) % 2, 7, -7)),
            "spread of observation.state: knee",
        ),
    ],
)
def test_what_stands_out_is_found_and_named(change: object, quantity: str) -> None:
    waves = swings(40)
    change(waves)  # type: ignore[operator]
    unusual = unusual_episodes(of(waves), groups(of(waves), 8))
    assert unusual is not None
    assert [*np.flatnonzero(unusual.values >= UNUSUAL)] == [11]
    assert unusual.names[unusual.quantities[11]] == quantity


def test_length_stands_out() -> None:
    waves, lengths = swings(20).reshape(-1, 2), np.full(20, 29)
    lengths[4], lengths[5] = 30 + 17, 3
    ends = np.cumsum(lengths)
    base = made(waves[: ends[-1]], waves[: ends[-1]])
    episodes = Episodes("demos", base.arrays, ends, 10.0, base.features)
    unusual = unusual_episodes(episodes, groups(episodes, 8))
    assert unusual is not None
    assert unusual.names[unusual.quantities[5]] == "length"
    assert unusual.values.argmax() == 5


def test_what_several_do_belongs_to_the_task() -> None:
    waves = swings(40)
    waves[:6] += 20
    unusual = unusual_episodes(of(waves), groups(of(waves), 8))
    assert unusual is not None
    assert unusual.values.max() < UNUSUAL


def test_too_few_tell_nothing() -> None:
    episodes = of(swings(FEWEST - 1))
    assert unusual_episodes(episodes, groups(episodes, 8)) is None
