"""Who acts when in a trial, when it is over, and what it tells."""

from dataclasses import replace
from pathlib import Path

import pytest

from robodiff.deploy.config import LoopConfig
from robodiff.errors import UsageError
from robodiff.evaluation.config import Stopping
from robodiff.evaluation.results import read_result, write_result
from robodiff.evaluation.trial import Attempt, Contender, Setup, Trial, open_trial

SETUP = Setup(
    policies=(Contender(name="A", policy="1"), Contender(name="B", policy="2")),
    robot="env:pusht",
    seed=5,
    seconds=None,
    success_means="it stands",
    loop=LoopConfig(),
)


def run(trial: Trial, successes: dict[int, str]) -> Trial:
    """Run a trial to its end; ``successes`` has of each policy a 1 or 0 a pair."""
    while (due := trial.next()) is not None:
        pair, turn = due
        success = successes[SETUP.actor(pair, turn)][pair] == "1"
        attempt = Attempt(pair=pair, turn=turn, success=success, steps=3, reason="over")
        trial = replace(trial, attempts=[*trial.attempts, attempt])
    return trial


def test_each_policy_acts_once_in_each_pair_and_the_first_turn_is_drawn() -> None:
    order = [(SETUP.actor(pair, 0), SETUP.actor(pair, 1)) for pair in range(200)]
    assert {*order} == {(0, 1), (1, 0)}
    assert 70 < order.count((0, 1)) < 130
    assert order == [(SETUP.actor(pair, 0), SETUP.actor(pair, 1)) for pair in range(200)]
    other = replace(SETUP, seed=6)
    assert order != [(other.actor(pair, 0), other.actor(pair, 1)) for pair in range(200)]


def test_it_ends_as_soon_as_it_is_decided() -> None:
    trial = run(Trial(setup=SETUP, stopping=Stopping(most=50)), {0: "0" * 50, 1: "1" * 50})
    assert len(trial.attempts) == 14
    answer = trial.ended().answer
    assert answer is not None
    assert (answer.successes, answer.success_difference) == ((0, 7), -1)
    assert answer.anytime_p < 0.05
    assert answer.conclusion.startswith("B succeeds more often than A: decided after 7 of at most 50 episodes")
    assert [pair.began for pair in answer.pairs] == [SETUP.actor(pair, 0) for pair in range(7)]
    assert trial.ended().next() is None


def test_it_ends_undecided_and_where_no_difference_that_matters_is_left() -> None:
    equal = {0: "10" * 30, 1: "10" * 30}
    answer = run(Trial(setup=SETUP, stopping=Stopping(most=3)), equal).ended().answer
    assert answer is not None
    assert answer.conclusion.startswith("3 of at most 3 episodes do not decide between A and B")
    trial = run(Trial(setup=SETUP, stopping=Stopping(most=60, smallest_difference=0.4)), equal)
    assert 3 < len(trial.attempts) // 2 < 20
    assert "equally often" in trial.ended().answer.conclusion  # type: ignore[union-attr]


def test_half_a_pair_does_not_count_and_a_smaller_number_ends_it() -> None:
    attempts = [
        Attempt(pair=pair, turn=turn, success=True, steps=3, reason="over")
        for pair, turn in ((0, 0), (0, 1), (1, 0))
    ]  # fmt: skip
    trial = Trial(setup=SETUP, stopping=Stopping(most=1), attempts=attempts)
    assert trial.next() is None
    assert replace(trial, stopping=Stopping(most=2)).next() == (1, 1)
    answer = trial.ended().answer
    assert answer is not None
    assert answer.successes == (1, 1)


def test_a_folder_keeps_one_trial(tmp_path: Path) -> None:
    open_trial(tmp_path, replace(SETUP, robot="misspelt"), Stopping(most=4))  # and nothing was done
    trial = open_trial(tmp_path, SETUP, Stopping(most=4))
    attempt = Attempt(pair=0, turn=0, success=True, steps=3, reason="over")
    write_result(tmp_path, replace(trial, attempts=[attempt]))
    again = open_trial(tmp_path, SETUP, Stopping(most=9))
    assert (again.attempts, again.stopping.most, again.next()) == ([attempt], 9, (0, 1))
    for other, what in (
        (replace(SETUP, seed=6), "seed: 5; now 6"),
        (replace(SETUP, robot="arm.py"), "robot"),
        (replace(SETUP, policies=SETUP.policies[::-1]), "policies"),
        (replace(SETUP, loop=LoopConfig(mode="naive")), "loop"),
    ):
        with pytest.raises(UsageError, match=f"holds a trial with other {what}"):
            open_trial(tmp_path, other, Stopping(most=4))
    assert read_result(tmp_path, Trial).attempts == [attempt]
