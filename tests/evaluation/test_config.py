"""Which seeds are whose: demonstrations on those of evaluations are told of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robodiff import errors
from robodiff.cli import play
from robodiff.evaluation.config import note_measured_seeds

TOLD = "seeds from 100000 to 999999 are those of evaluations"


@pytest.fixture(autouse=True)
def untold() -> None:
    errors.notice.cache_clear()


@pytest.mark.kind("a policy trained on the episodes that it is measured on")
@pytest.mark.parametrize(
    ("first", "episodes", "is_told"),
    [(0, 50, False), (99_990, 10, False), (99_990, 11, True), (250_000, 1, True), (999_999, 1, True),
     (1_000_000, 50, False), (100_000, 0, False)],
)  # fmt: skip
def test_demonstrations_on_seeds_of_evaluations_are_told_of(
    capsys: pytest.CaptureFixture[str], first: int, episodes: int, is_told: bool
) -> None:
    note_measured_seeds(first, episodes)
    told = capsys.readouterr().err
    assert (TOLD in told, told.count("\n")) == (is_told, int(is_told))


@pytest.mark.kind("a policy trained on the episodes that it is measured on")
def test_collect_and_play_tell(
    robodiff: Callable[..., tuple[int, str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("collect", "pusht", "--episodes", 1, "--out", tmp_path / "d.zarr", "--seed", 100_003)
    code, _, err = robodiff(*command)
    assert (code, err.count(TOLD)) == (0, 1)
    errors.notice.cache_clear()
    code, _, err = robodiff(*command)  # nothing is left to record
    assert (code, TOLD in err) == (0, False)
    for out, is_told in ((str(tmp_path / "mine.zarr"), True), (None, False)):
        errors.notice.cache_clear()
        with play._stage(play.PlayOptions(env="pusht", out=out, seed=100_003)):
            pass
        assert (TOLD in capsys.readouterr().err) == is_told
