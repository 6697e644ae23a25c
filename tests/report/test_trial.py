"""The page of a trial: blind while it goes on, and at its end the answer and who acted in which episode."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import Tags

from robodiff.deploy.config import LoopConfig
from robodiff.evaluation.config import Stopping
from robodiff.evaluation.results import write_result
from robodiff.evaluation.trial import Attempt, Contender, Setup, Trial

SETUP = Setup(
    policies=(Contender(name="runs/alpha", policy="a1"), Contender(name="runs/<beta>", policy="b2")),
    robot="my_robot.py",
    seed=5,
    seconds=3.0,
    success_means="a person says so",
    loop=LoopConfig(),
)


def trial(pairs: int) -> Trial:
    """The first policy always succeeds, the second never."""
    attempts = [
        Attempt(pair=pair, turn=turn, success=SETUP.actor(pair, turn) == 0, steps=30 + turn, reason="3 s are over")
        for pair in range(pairs)
        for turn in (0, 1)
    ]
    return Trial(setup=SETUP, stopping=Stopping(most=20, smallest_difference=0.2), attempts=attempts)


def test_answer_and_episodes_in_the_order_of_play(
    robodiff: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    whole = trial(9)
    write_result(tmp_path, replace(whole.ended(), attempts=whole.attempts))
    code, out, err = robodiff("report", tmp_path)
    assert (code, out.strip()) == (0, f"written: {tmp_path / 'report.html'}"), err
    page = (tmp_path / "report.html").read_text()
    assert Tags(page).open == []
    assert "runs/alpha succeeds more often than runs/&lt;beta&gt;: decided after 9 of at most 20 episodes" in page
    played = re.findall(r'<td class="name">(runs/\S+?)</td><td class="\w+">(yes|no)', page)
    assert played == [
        ("runs/alpha", "yes") if SETUP.actor(pair, turn) == 0 else ("runs/&lt;beta&gt;", "no")
        for pair in range(9)
        for turn in (0, 1)
    ]
    assert "Difference in success, after each pair" in page


def test_a_trial_that_goes_on_stays_blind(robodiff: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    write_result(tmp_path, trial(3))
    code, _, err = robodiff("report", tmp_path, "--out", tmp_path / "so_far.html")
    assert code == 0, err
    page = (tmp_path / "so_far.html").read_text()
    assert Tags(page).open == []
    assert "3 whole pairs of at most 20 pairs" in page
    rows = re.findall(r"<tr><td.*", page)
    assert len(rows) == 6
    assert not any("alpha" in row or "beta" in row for row in rows)


@pytest.mark.parametrize("pairs", [1, 450])
def test_any_length_has_a_figure(robodiff: Callable[..., tuple[int, str, str]], tmp_path: Path, pairs: int) -> None:
    write_result(tmp_path, trial(pairs).ended())
    code, _, err = robodiff("report", tmp_path)
    assert code == 0, err
    assert "<svg" in (tmp_path / "report.html").read_text()
