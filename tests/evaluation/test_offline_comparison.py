"""Two policies at the same windows of a recording: what differs, how certain it is, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.conftest import write_recording
from tests.policies.test_diffusion import FLOW

from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.conditions import HELD_OUT, OTHERS, OWN_AGAIN, TRAINED_ON, EvaluatedOffline, Sampling
from robodiff.evaluation.offline import relative
from robodiff.evaluation.offline_comparison import compare_offline
from robodiff.evaluation.results import (
    DimensionErrors,
    OfflineComparison,
    OfflineResult,
    StepErrors,
    read_result,
    write_result,
)
from robodiff.evaluation.runs import read_run
from robodiff.evaluation.window_errors import WindowErrors, read_windows, write_windows
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.runtime import Latency
from robodiff.report.answers import answer, conclusion
from robodiff.report.comparison import write_comparison

KIND = pytest.mark.kind("policies compared on recordings as if measured alike")
FLOW_10, DDIM_3 = Sampling(sampler="Flow", steps=10), Sampling(sampler="DDIM", steps=3)
EPISODES = np.array([3, 3, 3, 7, 7, 9])


def measured(folder: Path, errors: np.ndarray, hold: float = 2.0, units: str | None = "px", **changes: Any) -> Path:
    """Write an evaluation at six windows in three episodes, with errors (6, n, 2) where holding errs by so much."""
    own = changes.pop("own", FLOW_10)
    sampled = changes.pop("sampled", own)
    names = changes.pop("names", ("x", "y"))
    held = np.where(np.isnan(errors), np.nan, hold)
    windows = WindowErrors(changes.pop("frames", np.arange(10, 16)), EPISODES, errors, held)
    dimensions = [
        DimensionErrors(name=name, unit=units, moves=True, mae=mae, rmse=mae, hold=hold, mean=4.0, spread=0.0)
        for name, mae in zip(names, np.nanmean(errors, (0, 1)).tolist(), strict=True)
    ]
    zeros = [0.0, 0.0]
    lists = {"mae": zeros, "rmse": zeros, "hold": zeros, "mean": zeros}
    steps = [StepErrors(step=step, executed=True, windows=6, **lists) for step in range(errors.shape[1])]
    evaluated = EvaluatedOffline(policy=folder.name, **vars(sampled), device="cpu", own=own, data="demos.zarr",
                                 episodes=[3, 7, 9], which=HELD_OUT, windows=6, of_windows=6, seed=100_000, rate=10.0,
                                 actions="abc")  # fmt: skip
    latency = Latency(p50=1, p95=2)
    errors_of = vars(relative(dimensions, steps))
    write_result(folder, OfflineResult(**errors_of, evaluated=replace(evaluated, **changes), latency_ms=latency))
    write_windows(folder, windows)
    return folder


def constant(value: float, steps: int = 4) -> np.ndarray:
    return np.full((6, steps, 2), value)


def test_differences_and_their_interval_over_episodes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.uniform(0.5, 1.5, (6, 4, 2)), random.uniform(0.5, 1.5, (6, 4, 2))
    for errors in (ours, theirs):
        errors[2, 3] = errors[5, 2:] = np.nan  # beyond the end of an episode
    result = compare_offline(measured(tmp_path / "a", ours), measured(tmp_path / "b", theirs), "a", "b")
    recorded = np.isfinite(ours[:, :, 0])
    assert result.first == pytest.approx(np.nansum(ours) / (4 * recorded.sum()))
    assert result.second == pytest.approx(np.nansum(theirs) / (4 * recorded.sum()))
    assert (result.windows, result.episodes, result.executed) == (6, 3, 4)
    of_episode = [number == EPISODES for number in (3, 7, 9)]
    values = np.array([np.nansum((ours - theirs)[rows]) for rows in of_episode])
    weights = np.array([4 * recorded[rows].sum() for rows in of_episode])
    residuals = values - result.difference * weights
    half = 4.302653 * np.sqrt(3 / 2 * (residuals**2).sum()) / weights.sum()  # Student's t of two degrees of freedom
    assert result.difference_ci95 == pytest.approx((result.difference - half, result.difference + half), rel=1e-5)
    assert [d.first for d in result.dimensions] == pytest.approx(np.nanmean(ours, (0, 1)))
    assert [(d.name, d.unit, d.hold) for d in result.dimensions] == [("x", "px", 2.0), ("y", "px", 2.0)]
    assert [step.first for step in result.steps] == pytest.approx(np.nanmean(ours, (0, 2)) / 2)
    write_result(tmp_path, result)
    assert read_result(tmp_path, OfflineComparison) == result


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (
            0.5,
            1.0,
            "a is closer to the recorded actions than b: a errs by 25.0 % against 50.0 % of the error of holding",
        ),
        (1.0, 0.5, "b is closer to the recorded actions than a: a errs by 50.0 % against 25.0 %"),
        (1.0, 1.0, "These 3 episodes do not decide between a and b: 50.0 % against 50.0 %"),
    ],
)
def test_conclusions(ours: float, theirs: float, words: str, tmp_path: Path) -> None:
    folders = measured(tmp_path / "a", constant(ours)), measured(tmp_path / "b", constant(theirs))
    assert words in compare_offline(*folders, "a", "b").conclusion


def test_one_episode_decides_nothing(tmp_path: Path) -> None:
    folders = [
        measured(tmp_path / "a", constant(0.5)),
        measured(tmp_path / "b", constant(1.5), frames=np.arange(15, 21)),
    ]
    result = compare_offline(*folders, "a", "b")  # they share the window at frame 15
    assert (result.windows, result.episodes, result.difference_ci95) == (1, 1, None)
    assert result.conclusion.startswith("One episode does not decide between a and b")


def test_only_what_both_execute_is_compared(tmp_path: Path) -> None:
    errors = constant(0.5, 8)
    errors[:, 4:] = 99
    result = compare_offline(measured(tmp_path / "a", errors), measured(tmp_path / "b", constant(0.5)))
    assert (result.executed, result.first, result.difference) == (4, 0.25, 0)


def test_both_were_trained_on_it(tmp_path: Path) -> None:
    a, b = (measured(tmp_path / name, constant(1), which=TRAINED_ON) for name in "ab")
    assert "Both were trained on these episodes" in compare_offline(a, b).conclusion


@KIND
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": "def", "data": "other.zarr"}, "episodes 3, 7, 9 of other.zarr"),
        ({"actions": "def", "episodes": [1, 2]}, "one may have been trained on what the other holds out"),
        ({"which": TRAINED_ON}, "all of which it was trained on"),
        ({"which": OTHERS}, "of another recording than its run's"),
        ({"rate": 20.0}, "at 10 actions per second with one at 20"),
        ({"seed": 7}, "with noise of seed 100000 with one with noise of seed 7"),
        ({"sampled": DDIM_3}, "sampled by Flow, 10 steps with one sampled by DDIM, 3 steps"),
        ({"units": "mm"}, "x in px with mm"),
        ({"names": ("x", "rotation 1:4")}, "action_rotations"),
    ],
)
def test_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folders = measured(tmp_path / "a", constant(1)), measured(tmp_path / "b", constant(1), **changes)
    for pair in (folders, folders[::-1]):
        with pytest.raises(UsageError, match="cannot compare") as told:
            compare_offline(*pair, "a", "b")
        assert str(told.value).count("\n") == 1
        assert words in str(told.value) or pair != folders


@KIND
def test_episodes_that_either_may_have_been_trained_on_are_refused(tmp_path: Path) -> None:
    a, b = (measured(tmp_path / name, constant(1), which=OWN_AGAIN) for name in "ab")
    with pytest.raises(UsageError, match="may have been trained on what the other holds out"):
        compare_offline(a, b)


def test_alike_all_the_same(tmp_path: Path) -> None:
    """Each samples in its own way, or both in the same; what says no unit goes with any; one policy in two ways."""
    first = measured(tmp_path / "a", constant(1))
    for changes in ({"own": DDIM_3}, {"own": DDIM_3, "sampled": FLOW_10}, {"units": None}, {"units": "Pixels"}):
        assert compare_offline(first, measured(tmp_path / "b", constant(1), **changes)).difference == 0
    fewer = measured(tmp_path / "b", constant(1), policy="a", sampled=DDIM_3)
    assert (
        "between A with Flow, 10 steps and B with DDIM, 3 steps" in compare_offline(first, fewer, "A", "B").conclusion
    )


def test_errors_that_are_missing_or_of_another_evaluation(tmp_path: Path) -> None:
    folder = measured(tmp_path / "a", constant(1))
    result = read_result(folder, OfflineResult)
    write_windows(folder, WindowErrors(np.arange(6), EPISODES, constant(2), constant(2)))
    with pytest.raises(RobodiffError, match=r"is not of the evaluation in offline.json beside it; measure again"):
        read_windows(folder, result)
    (folder / WindowErrors.file).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(RobodiffError, match=r"cannot be read: .*; measure again"):
        read_windows(folder, result)
    (folder / WindowErrors.file).unlink()
    with pytest.raises(RobodiffError, match="is missing, as where an earlier version measured; measure again"):
        read_windows(folder, result)


def test_two_runs_without_a_simulator(
    robodiff: Any, small_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line to the page; what was measured already is not measured again."""
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)  # whose figures take longer
    write_recording(tmp_path / "demos.zarr")
    for name, changes, split in (("a", {}, 0.4), ("b", {"n_action_steps": 4}, 0.4), ("c", {}, 0.2)):
        data = {"class_path": "ZarrConfig", "init_args": {"path": str(tmp_path / "demos.zarr"), "val_split": split}}
        save_policy(small_policy(**FLOW, **changes), tmp_path / name / "policy")
        config = {"model": {"class_path": "DiffusionConfig", "init_args": {}}, "data": data, "rollout": {"env": None}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    a, b, c = (tmp_path / name for name in "abc")
    code, out, err = robodiff("eval", a, "--against", b, "--windows", 9)
    assert code == 0, err
    assert all(line.startswith("robodiff: note: ") for line in err.splitlines())  # the runs kept no record
    ours, theirs = (folder / "eval" / "offline-seed100000-n9" for folder in (a, b))
    found = read_result(ours, OfflineComparison)
    assert f"against {b}, at the same {found.windows} windows in 2 episodes, over 4 executed steps" in out
    assert found.windows >= 7  # although the windows of the one reach nearer to the end of an episode
    assert found.conclusion in out
    assert found.first == pytest.approx(found.second, abs=1e-3)  # the same weights and the same noise
    run = read_run(a)
    assert conclusion(answer(run, run.offline)) == found.conclusion
    page = write_comparison([a, b], tmp_path / "page.html").read_text()
    assert "do not decide between b and a" in page
    assert "not evaluated" not in page
    assert re.search(r"\bEpisodes \d, \d of ", page)
    offline = json.loads((ours / "offline.json").read_text())
    alone = {**offline, "evaluated": {**offline["evaluated"], "episodes": [3]}}
    (ours / "offline.json").write_text(json.dumps(alone))
    assert re.search(r"\bEpisode 3 of ", write_comparison([a, c], tmp_path / "page.html").read_text())
    (ours / "offline.json").write_text(json.dumps(offline))

    written = theirs.joinpath("offline.json").stat().st_mtime_ns
    code, out, err = robodiff("eval", a, "--against", theirs, "--windows", 9)
    assert (code, theirs.joinpath("offline.json").stat().st_mtime_ns) == (0, written), err
    for arguments, message in (
        ((c, "--against", a), "one may have been trained on what the other holds out"),
        (
            (a, "--against", theirs, "--windows", 9, "--steps", 2),
            "sampled by Flow, 2 steps in place of its own Flow, 4 steps with one",
        ),
    ):
        code, _, err = robodiff("eval", *arguments)
        told = [line for line in err.splitlines() if not line.startswith("robodiff: note: ")]
        assert (code, len(told)) == (2, 2), err
        assert message in err
    assert not (c / "eval").exists()
