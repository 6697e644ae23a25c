"""Frames by a clock: which rate it tells, and the frames nearest to even times."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robodiff.data.episodes import Episodes, Feature, RecordingError
from robodiff.data.recordings import open_path
from robodiff.data.resample import at_one_rate, rate_of
from robodiff.errors import UsageError

CLOCK = pytest.mark.kind("a clock that is not even")


@pytest.mark.parametrize(
    ("times", "fps"),
    [
        (np.arange(50) / 30, 30),
        (1.7e9 + np.arange(50) / 12.5, 12.5),
        (np.arange(50) * 20, 50),
        (np.arange(50) * 100_000_000 + 10**18, 10),
        (np.zeros(50), None),
        (-np.arange(50.0), None),
        (np.full(50, np.nan), None),
        (np.zeros(1), None),
    ],
)
def test_a_clock_tells_the_rate(times: np.ndarray, fps: float | None) -> None:
    rate = rate_of([times])
    assert (rate.fps if rate else None) == (pytest.approx(fps) if fps else None)


@CLOCK
@pytest.mark.parametrize(
    ("name", "step", "fps"),
    [
        ("time_ms", 1, 1000),
        ("time_us", 1000, 1000),
        ("time_s", 2.0, 0.5),
        ("t", 1, None),
        ("t", 0.5, 2),
        ("time", 20, 50),
    ],
)
def test_the_name_of_a_clock_may_say_its_unit(name: str, step: float, fps: float | None) -> None:
    """And what counts frames is no clock."""
    rate = rate_of([np.arange(50) * step], name)
    assert (rate.fps if rate else None) == fps


@CLOCK
def test_a_rate_at_which_frames_would_be_taken_many_times() -> None:
    with pytest.raises(UsageError, match="1e\\+09 frames a second cannot be taken; ask for at most 10 times"):
        at_one_rate(counted(50), np.arange(50) / 10, 1e9)


def counted(*lengths: int, fps: float = 10.0) -> Episodes:
    """Episodes whose only number is that of the frame."""
    frames = np.arange(sum(lengths), dtype=np.float32)[:, None]
    feature = Feature("vector", (1,), "float32")
    return Episodes("x", {"action": frames}, np.cumsum(lengths), fps, {"action": feature})


@CLOCK
@pytest.mark.parametrize(
    ("times", "fps", "frames"),
    [
        (np.arange(6) / 10, 10, [0, 1, 2, 3, 4, 5]),
        (np.arange(6) / 10 + [0, 0.04, -0.04, 0.04, 0, -0.04], 10, [0, 1, 2, 3, 4, 5]),
        (np.arange(6) / 10, 5, [0, 2, 4]),
        (np.arange(7) / 10, 5, [0, 2, 4, 6]),
        (np.arange(4) / 10, 20, [0, 0, 1, 1, 2, 2, 3]),
        (np.array([0, 0.1, 0.2, 0.5, 0.6]), 10, [0, 1, 2, 2, 3, 3, 4]),
        (np.array([0, 0.1, 0.11, 0.12, 0.2]), 10, [0, 1, 4]),
        (np.arange(5) / 9, 10, [0, 1, 2, 3, 4]),
        (7 + np.arange(3) / 10, 10, [0, 1, 2]),
        (np.zeros(1), 10, [0]),
    ],
    ids=["even", "jitter", "half", "half and the last", "twice", "gap", "burst", "drift", "time of day", "one"],
)
def test_the_nearest_frame_is_taken_and_of_two_the_earlier(times: np.ndarray, fps: float, frames: list[int]) -> None:
    twice = np.concatenate([times, times])
    made = at_one_rate(replace(counted(len(times), len(times)), fps=fps), twice, fps)
    assert made.arrays["action"][:, 0].tolist() == [*frames, *(frame + len(times) for frame in frames)]
    assert made.episode_ends.tolist() == [len(frames), 2 * len(frames)]


@CLOCK
@pytest.mark.parametrize(
    ("times", "frame"), [([0, 0.1, 0.1, 0.3], 2), ([0, 0.2, 0.1, 0.3], 2), ([0, np.nan, 0.2, 0.3], 1), ([0, 1, 31], 2)]
)
def test_clocks_that_cannot_be_followed_are_named(times: list[float], frame: int) -> None:
    clock = np.concatenate([np.arange(5) / 10, times])
    with pytest.raises(RecordingError, match=f"frame {frame} of episode 1") as caught:
        at_one_rate(counted(5, len(times)), clock, 10.0)
    assert [finding.episode for finding in caught.value.findings] == [1]


def test_what_is_memory_mapped_stays_so(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.arange(20 * 3 * 4 * 4, dtype=np.uint8).reshape(20, 3, 4, 4))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    episodes = replace(counted(20), arrays={"observation.image": images})
    made = at_one_rate(replace(episodes, fps=5.0), np.arange(20) / 10, 5.0, tmp_path / "cache")
    assert isinstance(made.arrays["observation.image"], np.memmap)
    np.testing.assert_array_equal(made.arrays["observation.image"], images[::2])


def write(path: Path, times: np.ndarray, name: str = "timestamp") -> Path:
    rows = np.column_stack([times, np.arange(len(times)), np.arange(len(times)) % 7])
    np.savetxt(path, rows, fmt="%.17g", delimiter=",", header=f"{name},state,action", comments="")
    return path


@CLOCK
@pytest.mark.parametrize(
    ("times", "name"),
    [(np.arange(60) / 30, "timestamp"), (np.arange(60) * 1000 / 30, "time_ms"), (5e8 + np.arange(60) / 30, "t")],
)
def test_a_table_is_brought_to_a_rate_by_its_clock(tmp_path: Path, times: np.ndarray, name: str) -> None:
    path = str(write(tmp_path / "demos.csv", times, name))
    assert open_path(path).read().fps == 30
    episodes = open_path(path, fps=10.0).read()
    assert episodes.fps == 10
    assert episodes.arrays["observation.state"][:, 0].tolist() == [*range(0, 60, 3)]


@CLOCK
@pytest.mark.parametrize(
    ("times", "words"),
    [
        (np.arange(12) / 10 + 0.5 * (np.arange(12) > 6), "not even"),
        (np.where(np.arange(12) == 5, np.nan, np.arange(12) / 10), "no clock"),
        (np.zeros(12), "no clock"),
    ],
)
def test_a_clock_of_a_table_that_is_not_even_is_told(
    tmp_path: Path, times: np.ndarray, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_path(str(write(tmp_path / "demos.csv", times))).read().fps == 10
    assert words in capsys.readouterr().err
