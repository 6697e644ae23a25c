"""What the player is given of a recording."""

from dataclasses import replace

import numpy as np
import pytest
from tests.report.test_recording import made, walk

from robodiff.data.episodes import Episodes, Feature, Finding
from robodiff.data.recordings import open_path
from robodiff.report import playable
from robodiff.report.playable import PAGE, SERVED, SMALLEST, Budget, Playable, rounded, short_key
from robodiff.report.recording import playable as playable_of


def filmed(episodes: int = 4, frames: int = 40, cameras: int = 2, size: tuple[int, int] = (12, 16)) -> Episodes:
    """Return a recording of made-up noise, seen by cameras."""
    base = made(
        walk(2, frames), walk(2, frames) + 0.01, episodes, table={"task": [f"task {n}" for n in range(episodes)]}
    )
    noise = np.random.default_rng(0).integers(0, 255, (frames, 3, *size), np.uint8)
    images = {f"observation.images.cam{n}": noise for n in range(cameras)}
    features = {key: Feature.of(array) for key, array in images.items()}
    return replace(base, arrays={**images, **base.arrays}, features={**features, **base.features})


def test_an_episode() -> None:
    episodes = filmed()
    findings = [
        Finding("warning", "jump", "x jumps", "look", "action", 2, 23),
        Finding("note", "window", "short", "let it be", None, 2),
        Finding("warning", "jump", "x jumps", "look", "action", 1, 11),
        Finding("note", "constant", "of all", "", "action"),
    ]
    episode = playable_of(episodes, findings).episode(2, PAGE)
    assert (episode["fps"], episode["length"], episode["task"]) == (10.0, 10, "task 2")
    assert [(mark["frame"], mark["severity"]) for mark in episode["marks"]] == [(3, "warning"), (0, "note")]
    assert [camera["name"] for camera in episode["cameras"]] == ["cam0", "cam1"]
    assert [camera["every"] for camera in episode["cameras"]] == [1, 1]
    assert [panel["name"] for panel in episode["panels"]] == ["dimension 0", "dimension 1"]
    for dimension, panel in enumerate(episode["panels"]):
        lines = {line["name"]: line["values"] for line in panel["lines"]}
        assert list(lines) == ["state", "action"]
        np.testing.assert_allclose(lines["state"], episodes.arrays["observation.state"][20:30, dimension], atol=1e-3)
    assert episode["left_out"] == 0


@pytest.mark.parametrize("budget", [PAGE, SERVED])
@pytest.mark.parametrize("cameras", [1, 5])
@pytest.mark.parametrize("length", [1, 30, 900, 50_000])
@pytest.mark.parametrize("shape", [(3, 480, 640), (3, 96, 96), (1, 2000, 3), (3, 8, 1)])
def test_pictures_are_within_their_budget(budget: Budget, cameras: int, length: int, shape: tuple[int, ...]) -> None:
    (height, width), every = budget.fit(length, 30.0, shape, cameras)
    assert cameras * (length // every) * height * width <= budget.pixels
    assert max(height, width) <= min(budget.longest, max(shape[1:]))
    assert max(height, width) >= min(SMALLEST, max(shape[1:]))


def test_a_sample_holds_the_worst_and_some_others() -> None:
    findings = [Finding("warning", "jump", f"jump {n}", "", None, n, 2 * n) for n in (3, 17)]
    episodes = made(walk(1, 200), walk(1, 200), 100)
    sample, firsts = playable_of(episodes, findings).sample()
    assert len(sample) == playable.CARRIED
    assert {3, 17} < set(sample)
    assert max(sample) > 70
    assert firsts == []


def test_a_sample_fits_into_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = playable_of(filmed(8, 80), [])
    whole, _ = recording.sample()
    assert list(whole) == [*range(8)]
    monkeypatch.setattr(playable, "LARGEST_SAMPLE", sum(map(len, whole.values())) // 2)
    part, firsts = recording.sample()
    assert 2 <= len(part) <= 4
    assert len(firsts[0]["places"]) == 8  # first frames of the others are there
    monkeypatch.setattr(playable, "LARGEST_PANELS", 300)
    assert recording.episode(0, PAGE, playable.LARGEST_PANELS)["left_out"] == 0
    assert recording.episode(0, PAGE, 150)["left_out"] == 1


def test_overview() -> None:
    findings = [Finding("warning", "jump", "", "", None, 1, 10), Finding("note", "jump", "", "", None, 1, 10)]
    base = filmed(4)
    episodes = replace(base, table={**base.table, "success": [True, False, True, True]}, findings=findings)
    overview = playable_of(episodes, findings).overview()
    assert overview["numbers"] == [0, 1, 2, 3]
    assert overview["lengths"] == [10] * 4
    assert overview["severities"] == [0, 2, 0, 0]
    assert overview["failed"] == [False, True, False, False]
    assert [overview["tasks"][place] for place in overview["task"]] == base.table["task"]
    assert overview["unusual"] == []  # too few to tell
    assert overview["pictures"]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e33])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_rounding_keeps_what_a_figure_shows(scale: float, offset: float) -> None:
    values = (scale * walk(1).ravel() + offset * scale).astype(np.float32)
    assert np.abs(np.array(rounded(values)) - values).max() <= 1e-4 * np.ptp(values) + 1e-6 * np.abs(values).max()


@pytest.mark.parametrize(
    ("key", "short"), [("observation.images.top", "top"), ("observation.image", "image"), ("action", "action")]
)
def test_short_keys(key: str, short: str) -> None:
    assert short_key(key) == short


def test_chosen_episodes_keep_their_numbers() -> None:
    episodes = filmed(8, 80).only(np.array([2, 5]))
    recording: Playable = playable_of(episodes, [Finding("warning", "jump", "", "", None, 5)])
    assert recording.overview()["numbers"] == [2, 5]
    assert recording.overview()["severities"] == [0, 2]
    assert len(recording.episode(1, PAGE)["marks"]) == 1


@pytest.mark.slow
@pytest.mark.kind("a page that hides, cuts or misnames what it shows")
def test_what_no_camera_saw_is_drawn() -> None:
    """The episodes of the built-in recording of Push-T, by the environment that has such observations."""
    episodes = open_path("builtin:pusht", episodes=[3, 8]).read_chosen()
    recording = playable_of(episodes, [])
    assert list(recording.cameras) == ["drawn by pusht"]
    (camera,) = recording.episode(1, PAGE)["cameras"]
    assert camera["tiles"]["url"].startswith("data:image/webp")
    assert not playable_of(made(walk(2), walk(2)), []).cameras  # of other numbers nothing is known
