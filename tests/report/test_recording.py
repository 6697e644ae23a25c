"""The page about a recording: what it shows, and that it stays small."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Tags

from robodiff.data.episodes import Episodes, Feature, Finding
from robodiff.errors import UsageError
from robodiff.report.joints import most_moving, move_within_episodes
from robodiff.report.pages import write_page
from robodiff.report.recording import Part, describe, movements, write_view
from robodiff.text import printable, shortened

Run = Callable[..., tuple[int, str, str]]


def test_view_of_a_recording(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    code, out, err = robodiff("data", "view", recording, "--out", tmp_path / "data.html")
    assert (code, out.strip()) == (0, f"written: {tmp_path / 'data.html'}"), err
    page = (tmp_path / "data.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert all(link.startswith(("data:", "#")) for link in tags.loads)
    assert "6 episodes, 135 frames at 10 Hz" in page
    assert page.count("<svg ") == 2 + 2 + 16  # the state's and the action's are one


def test_ten_thousand_episodes_with_cameras(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ends = np.arange(1, 10_001) * 3
    colours = random.integers(0, 255, (3, 48, 64), np.uint8)
    arrays = {
        "observation.images.front": np.broadcast_to(colours, (30_000, 3, 48, 64)),
        "observation.depth": np.broadcast_to(colours[:1], (30_000, 1, 48, 64)),
        "action": random.normal(size=(30_000, 50)).astype(np.float32),
    }
    features = {key: Feature.of(array) for key, array in arrays.items()}
    findings = [Finding("warning", f"kind {i // 2}", f"<jump {i}>", "look", episode=i) for i in range(200)]
    page = write_view(Episodes("big", arrays, ends, 10.0, features), findings, tmp_path / "data.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert len(page) < 3_000_000
    assert page.count('"url":"data:image/webp') == 1 + 2 * 12  # first frames, and the cameras of the sample
    assert "This page carries 12 of 10,000 episodes to watch" in page
    assert "&lt;jump 98&gt;; look (and 1 more of this kind, episode 99)" in page  # the first of each kind
    assert "&lt;jump 99&gt;" not in page
    assert "&lt;jump 100&gt;" not in page
    assert "And 50 more" in page
    assert "Of 50 dimensions the 32 that move most are drawn." in page


def made(state: np.ndarray, action: np.ndarray, episodes: int = 2, source: str = "demos", **described: Any) -> Episodes:
    """Return a recording of one state and one action, both (N, D), with what else ``Episodes`` has."""
    names, units = described.pop("names", (None, None)), described.pop("units", (None, None))
    arrays = {"action": action.astype(np.float32), "observation.state": state.astype(np.float32)}
    features = {
        key: Feature.of(array, unit, name)
        for (key, array), name, unit in zip(arrays.items(), names[::-1], units[::-1], strict=True)
    }
    ends = np.arange(1, episodes + 1) * (len(state) // episodes)
    return Episodes(source, arrays, ends, 10.0, features, **described)


def walk(dimensions: int, frames: int = 40, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(frames, dimensions)), axis=0)


def titles(page: str) -> list[str]:
    return re.findall(r'class="title" aria-hidden="true">([^<]*)<', page)


def joined(part: Part) -> bool:
    return part.keys == ("observation.state", "action")


PAGES = pytest.mark.kind("a page that hides, cuts or misnames what it shows")


@PAGES
@pytest.mark.parametrize("dimensions", [1, 2, 26, 60])
@pytest.mark.parametrize("named", [True, False])
def test_state_and_action_of_a_joint_share_a_panel(dimensions: int, named: bool) -> None:
    names = tuple(f"joint_{d}" for d in range(dimensions))
    values = walk(dimensions)
    order = (
        np.random.default_rng(1).permutation(dimensions) if named else np.arange(dimensions)
    )  # by name, not by place
    described = {"names": (names, tuple(names[d] for d in order))} if named else {}
    parts = movements(made(values, values[:, order] + 0.01, **described), 8)["parts"]
    assert [joined(part) for part in parts] == [True]
    assert len(parts[0].panels) == min(dimensions, 8)
    assert parts[0].moving == dimensions
    expected = names if named else [f"dimension {d}" for d in range(dimensions)]
    assert {title for panel in parts[0].panels for title in titles(panel)} <= set(expected)


@PAGES
def test_each_dimension_has_its_own_unit() -> None:
    values, names, units = walk(2), ("joint", "gripper"), ("deg", "percent")
    episodes = made(values, values + 0.01, names=(names, names), units=(units, units))
    (part,) = movements(episodes, 8)["parts"]
    assert {title for panel in part.panels for title in titles(panel)} == {"joint (deg)", "gripper (percent)"}
    assert [(row["dimension"], row["unit"]) for row in describe(episodes)["table"]] == 2 * [
        *zip(names, units, strict=True)
    ]


@PAGES
@pytest.mark.parametrize(
    ("described", "scale"),
    [
        ({"names": (("a", "b"), ("c", "d"))}, 1),  # other joints
        ({"names": (("a", "a"), ("a", "b"))}, 1),  # a name that several have
        ({"units": ("deg", "rad")}, 1),
        ({}, 1e-3),  # one would be a flat line
    ],
)
def test_what_is_not_one_joint_is_drawn_apart(described: dict[str, Any], scale: float) -> None:
    parts = movements(made(walk(2), scale * walk(2), **described), 32)["parts"]
    assert [(part.keys, len(part.panels)) for part in parts] == [(("observation.state",), 2), (("action",), 2)]


@PAGES
def test_the_dimensions_that_move_most() -> None:
    """Within episodes: neither those that only differ from one to the next, nor constant ones, nor small ones."""
    values = np.zeros((40, 26))
    values[:, 3] = np.arange(40) >= 20  # another value in the second episode
    values[:, [7, 20, 25]] = 5 * walk(3) / np.ptp(walk(3), axis=0)
    values[:, 12:15] = 0.01 * walk(3)
    names = tuple(f"joint_{d}" for d in range(26))
    part = movements(made(values, values, names=(names, names)), 3)["parts"][0]
    assert [title for panel in part.panels for title in titles(panel)] == ["joint_7", "joint_20", "joint_25"]
    assert part.moving == 7
    assert part.resting == [names[d] for d in range(26) if d not in (3, 7, 12, 13, 14, 20, 25)]
    assert set(most_moving(move_within_episodes(made(values, values), "action"), 3)) == {7, 20, 25}


@PAGES
@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (["pick <b>"] * 2, "Task: pick &lt;b&gt;"),
        (["pick", "place"], "Tasks: pick (1 episode); place (1 episode)"),
        ([f"task {n}" for n in range(20)], "task 7 (1 episode); and 12 more"),
        ([None, "pick"], "Task: pick"),
    ],
)
def test_tasks_are_named(tmp_path: Path, tasks: list[str | None], expected: str) -> None:
    episodes = made(walk(1), walk(1), len(tasks), table={"task": tasks})
    assert f"{expected}</p>" in write_view(episodes, [], tmp_path / "page.html").read_text()


@PAGES
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_cameras_of_every_kind(tmp_path: Path, channels: int) -> None:
    base = made(walk(1), walk(1))
    cameras = {f"observation.images.{n}": np.full((40, channels, 8, 1), 9, np.uint8) for n in range(4)}
    features = {key: Feature.of(array) for key, array in cameras.items()}
    episodes = replace(base, arrays={**base.arrays, **cameras}, features={**base.features, **features})
    page = write_view(episodes, [], tmp_path / "page.html").read_text()
    assert Tags(page).open == []
    assert page.count('"url":"data:image/webp') == 1 + 2 * 4  # first frames, and four cameras of two episodes


@PAGES
@pytest.mark.parametrize(("scale", "offset"), [(1e37, 0), (1, 1e6), (1e-3, 1), (0, 0.3), (0, 0), (1e-9, 0)])
def test_values_of_any_size(tmp_path: Path, scale: float, offset: float) -> None:
    values = scale * walk(2) / np.abs(walk(2)).max() + offset
    page = write_view(made(values, values), [], tmp_path / "page.html").read_text()
    assert Tags(page).open == []
    assert len(titles(page)) == (2 if scale >= 1e-3 else 0)
    assert ("What never moves is not drawn: dimension 0, dimension 1." in page) is (scale < 1e-3)


@pytest.mark.kind("a count that does not agree with its noun")
@pytest.mark.parametrize(
    ("episodes", "frames", "expected"),
    [
        (1, 1, "demos: 1 episode, 1 frame at 10 Hz, which is 0.1 seconds."),
        (1, 2, "demos: 1 episode, 2 frames at 10 Hz, which is 0.2 seconds."),
        (2, 2, "demos: 2 episodes, 2 frames at 10 Hz, which is 0.2 seconds. Each episode has 1 frame."),
        (500, 1000, "demos: 500 episodes, 1,000 frames at 10 Hz, which is 1.7 minutes. Each episode has 2 frames."),
    ],
)
def test_plurals(tmp_path: Path, episodes: int, frames: int, expected: str) -> None:
    recording = made(walk(1, frames), walk(1, frames), episodes)
    page = write_view(recording, [], tmp_path / "page.html").read_text()
    assert f"<p>{expected}</p>" in page
    assert f"<h1>demos: {'1 episode' if episodes == 1 else f'{episodes} episodes'}</h1>" in page


@pytest.mark.kind("a name that acts instead of being shown")
@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "\x1b]0;title\x07", "\u202eevil", "n" * 10_000, "_x", "$x$"]
)
def test_names_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    described = {"names": ((name,), (name,)), "units": (name, name), "table": {"task": [name, "x"]}, "source": name}
    page = write_view(made(walk(1), walk(1), **described), [], tmp_path / "page.html").read_text()
    assert Tags(page).open == []
    assert "<img" not in page
    assert "<script>al" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page)
    shown = escape(printable(shortened(name, 120)))
    assert len(page) < 150_000
    assert titles(page) == [f"{shown} ({shown})"]


def test_refused(robodiff: Run, tmp_path: Path) -> None:
    code, _, err = robodiff("data", "view", tmp_path / "nowhere.zarr")
    assert (code, err.strip()) == (1, f"robodiff data: error: {tmp_path / 'nowhere.zarr'}: no such file or folder")
    with pytest.raises(UsageError, match=r"is a folder; name the page to write, such as .*view\.html"):
        write_page(tmp_path, "view.html")
