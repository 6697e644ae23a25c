"""``robodiff data info``."""

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


def test_info(robodiff: Run, recording: Path) -> None:
    code, out, err = robodiff("data", "info", recording)
    assert (code, err) == (0, "")
    assert "6 episodes, 135 frames at 10 Hz" in out
    assert "lengths: 20 to 25 frames, median 22" in out
    assert "seed: 0 to 5" in out
    assert "success: 6 of 6" in out
    for key in ("observation.state", "observation.environment_state", "action"):
        assert key in out
    assert "px" in out


def test_info_of_the_human_demonstrations(robodiff: Run, recorded_data: Path) -> None:
    code, out, _ = robodiff("data", "info", recorded_data / "pusht" / "pusht_human.zarr.zip", "--layout", "pusht")
    assert code == 0
    assert "206 episodes, 25,650 frames at 10 Hz (42.8 minutes)" in out
    assert "observation.image" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "robodiff data info PATH"),
        (["inf", "x"], 2, "Did you mean 'info'?"),
        (["info"], 2, "path"),
        (["info", "nowhere.zarr"], 1, "nowhere.zarr: no such file"),
        (["info", "nowhere.zarr", "--layout", "pushd"], 1, "nowhere.zarr: no such file"),
    ],
)
def test_refused(robodiff: Run, arguments: list[str], code: int, message: str) -> None:
    got, _, err = robodiff("data", *arguments)
    assert got == code
    assert message in err
