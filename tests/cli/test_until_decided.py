"""``robodiff eval --until_decided``: both policies block by block until it is decided which is better."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import use_env
from tests.policies.test_diffusion import FLOW

from robodiff.data.normalize import Statistics
from robodiff.envs.pusht.env import PushTEnv
from robodiff.envs.pusht.spec import SPEC
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import Latency

Run = Callable[..., tuple[int, str, str]]


class GoRight(PushTEnv):
    """Push-T of at most 4 steps, in which success is to be sent to the right of x = 110."""

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, {**info, "is_success": bool(action[0] > 110)}


@pytest.fixture
def two(
    small_policy: Callable[..., DiffusionPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A policy that goes right, and one that cannot; how long their chunks take is not measured."""
    monkeypatch.setattr("robodiff.evaluation.evaluate.chunk_latency", lambda *_: Latency(p50=1, p95=2))
    use_env(monkeypatch, dataclasses.replace(SPEC, name="right", make=lambda keys: GoRight(keys, max_steps=4)))
    for name, most in (("right", 512.0), ("left", 100.0)):
        policy = small_policy(**FLOW)
        ranges = {key: feature.shape[0] for key, feature in policy.features.items()}
        policy.normalizer.fit(
            {
                key: Statistics(
                    np.zeros(d), np.full(d, most if key == "action" else 512.0), np.full(d, 50.0), np.ones(d)
                )
                for key, d in ranges.items()
            }
        )
        save_policy(policy, tmp_path / name)
    return tmp_path / "right", tmp_path / "left"


COMMON = ("--env", "right", "--num_envs", 4, "--videos", 0, "--until_decided")


def test_it_stops_when_it_is_decided(
    robodiff: Run, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, left = two
    code, out, err = robodiff("eval", right, *COMMON, "--episodes", 40, "--against", left)
    assert code == 0, err
    assert f"{right} succeeds more often than {left}: decided after 8 of at most 40 episodes" in out
    assert "McNemar" not in out
    ours, theirs = (tmp_path / "eval" / f"{name}-right-seed100000-most40" for name in ("right", "left"))
    results = [json.loads((folder / "metrics.json").read_text()) for folder in (ours, theirs)]
    assert [[e["seed"] for e in each["episodes"]] for each in results] == [[*range(100000, 100008)]] * 2
    assert [each["success_rate"] for each in results] == [1.0, 0.0]
    paired = json.loads((ours / "comparison.json").read_text())
    assert (paired["mcnemar_p"], paired["reward_difference_ci95"]) == (None, None)
    assert paired["anytime_p"] < 0.05
    assert paired["stopping"] == {"most": 40, "smallest_difference": None}
    assert paired["evaluated"] == results[0]["evaluated"]
    report = (ours / "report.html").read_text()
    assert "decided after 8 of at most 40 episodes" in report
    assert "stopped as soon as it was decided, of at most 40 episodes" in report

    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)  # whose figures take longer
    # the same command gives the same, and an evaluation of the other policy is taken as it is
    code, _, err = robodiff("eval", right, *COMMON, "--episodes", 40, "--against", left)
    assert code == 0, err
    again = [json.loads((folder / "metrics.json").read_text()) for folder in (ours, theirs)]
    assert [each["episodes"] for each in again] == [each["episodes"] for each in results]
    written = (theirs / "metrics.json").stat().st_mtime_ns
    code, out, err = robodiff("eval", right, *COMMON, "--episodes", 40, "--against", theirs, "--seed", 100001)
    assert code == 0, err
    assert "decided after 7 of at most 7 episodes" in out
    assert (theirs / "metrics.json").stat().st_mtime_ns == written


def test_it_ends_undecided_or_where_no_difference_that_matters_is_left(
    robodiff: Run, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)
    right, _ = two
    (tmp_path / "same").mkdir()
    for file in right.iterdir():
        (tmp_path / "same" / file.name).write_bytes(file.read_bytes())
    code, out, err = robodiff("eval", right, *COMMON, "--episodes", 6, "--against", tmp_path / "same")
    assert code == 0, err
    assert "6 of at most 6 episodes do not decide between" in out
    code, out, err = robodiff("eval", right, *COMMON, "--episodes", 80, "--against", tmp_path / "same",
                              "--smallest_difference", 0.5)  # fmt: skip
    assert code == 0, err
    assert "of at most 80 episodes a difference of 0.5 or more is excluded" in out
    measured = json.loads((tmp_path / "eval" / "right-right-seed100000-most80" / "metrics.json").read_text())
    assert len(measured["episodes"]) < 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--env", "right", "--until_decided"), "--until_decided measures two policies in an environment"),
        (("--until_decided", "--against", "{left}"), "give --env and --against"),
        (("--env", "right", "--against", "{left}", "--smallest_difference", "0.1"), "give --until_decided"),
        (("--env", "right", "--against", "{left}", "--until-decide"), "Did you mean '--until_decided'?"),
    ],
)
def test_mistakes_get_a_line(robodiff: Run, two: tuple[Path, Path], words: tuple[str, ...], message: str) -> None:
    code, _, err = robodiff("eval", two[0], *(word.format(left=two[1]) for word in words))
    assert (code, "Traceback" in err) == (2, False), err
    assert message in err
