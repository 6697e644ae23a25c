"""The page about a recording: what it shows, and that it stays small."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Tags

from robodiff.data.episodes import Episodes, Feature, Finding
from robodiff.errors import UsageError
from robodiff.report.pages import write_page
from robodiff.report.recording import write_view

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
    findings = [Finding("warning", "jump", f"<jump {i}>", "look", episode=i) for i in range(200)]
    page = write_view(Episodes("big", arrays, ends, 10.0, features), findings, tmp_path / "data.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert len(page) < 3_000_000
    assert sum(link.startswith("data:image/jpeg") for link in tags.loads) == 16
    assert "&lt;jump 49&gt;" in page
    assert "&lt;jump 50&gt;" not in page
    assert "And 150 more" in page
    assert "frame 0 of episode 625" in page


def test_refused(robodiff: Run, tmp_path: Path) -> None:
    code, _, err = robodiff("data", "view", tmp_path / "nowhere.zarr")
    assert (code, err.strip()) == (1, f"robodiff data: error: {tmp_path / 'nowhere.zarr'}: no such file or folder")
    with pytest.raises(UsageError, match=r"is a folder; name the page to write, such as .*view\.html"):
        write_page(tmp_path, "view.html")
