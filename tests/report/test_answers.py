"""Which evaluation a run's headline takes, which only tell what would be if, and the command that is possible."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import write_recording
from tests.policies.test_diffusion import FLOW

from robodiff.errors import UsageError
from robodiff.evaluation.results import EnvResult, OfflineResult, read_result
from robodiff.evaluation.runs import read_run
from robodiff.policies.checkpoint import save_policy
from robodiff.report.answers import answer, command, what_ifs
from robodiff.report.comparison import write_comparison

Run = Callable[..., tuple[int, str, str]]
KIND = pytest.mark.kind("a what-if evaluation taken for the policy's own")
EVALUATIONS = Path(__file__).parents[1] / "fixtures" / "run_0_1_0" / "eval"
OWN = {"sampler": "Flow", "steps": 10}
WHAT_IFS = [
    {"steps": 3},
    {"sampler": "FlowHeun"},
    {"own": {"sampler": "DDPM", "steps": 100}},
    {"first_seed": 200_000},
    {"environment": "other"},
    {"stopping": {"most": 500, "smallest_difference": None}},
]
OFFLINE_WHAT_IFS = [
    {"steps": 3},
    {"sampler": "FlowHeun"},
    {"seed": 7},
    {"which": "of another recording than its run's"},
    {"which": "of its run's own recording, on some of which it may have been trained"},
]


def make_run(folder: Path, env: str | None = "pusht") -> Path:
    """Write a run without a policy and without demonstrations, of which reports are made in no time."""
    folder.mkdir(parents=True)
    config = {
        "model": {"class_path": "DiffusionConfig", "init_args": {}},
        "data": {"class_path": "ZarrConfig", "init_args": {"path": "absent.zarr"}},
        "rollout": {"env": env},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def measure(
    run: Path, name: str, success: float = 0.5, episodes: int = 2, seed: int = 100_000, **evaluated: Any
) -> Path:
    """Write an evaluation of it."""
    written = json.loads((EVALUATIONS / "pusht-seed100000-n2" / EnvResult.file).read_text())
    written["episodes"] = [{**written["episodes"][0], "seed": seed + number} for number in range(episodes)]
    written["success_rate"] = success
    written["evaluated"] |= {"own": OWN, "first_seed": seed, **evaluated}
    return _write(run, name, EnvResult.file, written)


def measure_offline(run: Path, name: str, share: float = 0.5, **evaluated: Any) -> Path:
    """Write an evaluation on recorded episodes."""
    written = json.loads((EVALUATIONS / "offline-seed100000-n8" / OfflineResult.file).read_text())
    written["relative_to_hold"] = share
    written["evaluated"] |= {"own": OWN, "which": "held out from its training", **evaluated}
    return _write(run, name, OfflineResult.file, written)


def _write(run: Path, name: str, file: str, content: Any) -> Path:
    folder = run / "eval" / name
    folder.mkdir(parents=True)
    (folder / file).write_text(json.dumps(content))
    return folder


@KIND
@pytest.mark.parametrize("changes", WHAT_IFS)
def test_a_what_if_is_not_the_headline(changes: dict[str, Any], robodiff: Run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    seed = changes.get("first_seed", 100_000)
    measure(run, "what-if", success=0.99, episodes=9, seed=seed, **changes)  # better, and larger
    assert robodiff("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "not evaluated" in page
    assert f"robodiff eval {run} --env pusht" in page
    measure(run, "own", success=0.25)
    assert robodiff("report", run)[0] == 0
    page = (run / "report.html").read_text()
    headline, _, table = page.partition("What if: measured under other conditions")
    assert "25&#8239;% success" in headline
    assert "99" not in headline.partition("<body>")[2].partition("<svg")[0]
    assert "99 % success" in table


@KIND
@pytest.mark.parametrize("changes", OFFLINE_WHAT_IFS)
def test_nor_is_one_on_recorded_episodes(changes: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", env=None)
    measure_offline(run, "what-if", 0.1, **changes)
    found = read_run(run)
    assert answer(found, found.offline) is None
    own = measure_offline(run, "own", 0.9)
    found = read_run(run)
    standing = answer(found, found.offline)
    assert standing is not None
    assert standing.folder == own
    (row,) = what_ifs(found)
    assert (row.folder, row.measured) == ("what-if", "10 % of the error of holding the last action")


@KIND
def test_the_largest_of_its_own_is_the_headline(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    largest = measure(run, "large", episodes=5)
    measure(run, "small", episodes=2)
    found = read_run(run)
    standing = answer(found, found.evaluations)
    assert standing is not None
    assert standing.folder == largest
    assert what_ifs(found) == []


@KIND
def test_of_earlier_versions_the_configuration_says_how_a_policy_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    measure(run, "a", own=None)
    assert [row.folder for row in what_ifs(read_run(run))] == ["a"]  # it says nothing
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"] = {
        "noise_scheduler_type": "Flow",
        "num_inference_steps": None,
        "num_train_timesteps": 10,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    measure(run, "b", own=None, steps=3)
    assert [row.folder for row in what_ifs(read_run(run))] == ["b"]


@KIND
@pytest.mark.parametrize("changes", WHAT_IFS[:4])
def test_a_what_if_is_not_compared_with_anothers_own(changes: dict[str, Any], tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    measure(first, "own")
    measure(second, "what-if", seed=changes.get("first_seed", 100_000), **changes)
    with pytest.raises(UsageError, match="cannot compare an evaluation") as told:
        write_comparison([first, second], tmp_path / "page.html")
    lines = str(told.value).splitlines()
    assert lines[1] == f"measure both in one way: robodiff eval {second} --env pusht --against {first}"
    assert len(lines) == 2
    measure(first, "the-same", success=0.75, seed=changes.get("first_seed", 100_000), **changes)
    page = write_comparison([first, second], tmp_path / "page.html").read_text()  # both under equal conditions
    assert "Measured with" in page
    measure(second, "own")
    page = write_comparison([first, second], tmp_path / "page.html").read_text()
    assert "Measured with" not in page


@KIND
def test_runs_of_other_recordings_are_compared_where_they_can_be(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("first", "second")]
    for run, recorded in zip(runs, ("abc", "def"), strict=True):
        measure_offline(run, "offline", actions=recorded, rate=10.0)
    with pytest.raises(UsageError, match="one may have been trained on what the other holds out"):
        write_comparison(runs, tmp_path / "page.html")
    for run in runs:
        measure(run, "own")
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    assert "No difference in success between second and first" in page
    assert "one may have been trained on what the other holds out" in page


def test_runs_whose_trials_stopped_by_themselves_are_compared_by_what_holds_then(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("first", "second")]
    for run in runs:
        measure(run, "trial", stopping={"most": 40, "smallest_difference": None})
    page = " ".join(write_comparison(runs, tmp_path / "page.html").read_text().split())
    assert "2 of at most 40 episodes do not decide between second and first" in page
    assert "stopped as soon as it was decided, of at most 40 episodes: its interval and its p hold whenever one" in page
    assert "Success means: The block covers more than 95% of the goal" in page


@KIND
def test_only_a_comparison_of_the_headline_stands_beside_it(robodiff: Run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    counts = dict.fromkeys(("both", "only_first", "only_second", "neither"), 1)
    interval = {"success_difference_ci95": [0, 0], "reward_difference_ci95": [0, 0]}
    zeros = dict.fromkeys(("success_difference", "mcnemar_p", "reward_difference"), 0)
    trial = {"stopping": {"most": 40, "smallest_difference": 0.1}}
    for name, changes, conclusion in (
        ("own", {}, "of its own"),
        ("what-if", {"steps": 3}, "of a what-if"),
        ("trial", trial, "of a trial"),
        ("trial-what-if", {"steps": 3, **trial}, "of a what-if's trial"),
    ):
        folder = measure(run, name, **changes)
        evaluated = json.loads((folder / "metrics.json").read_text())["evaluated"]
        content = {**counts, **interval, **zeros, "against": "b", "episodes": 4, "conclusion": conclusion,
                   "evaluated": evaluated, "evaluated_against": evaluated}  # fmt: skip
        (folder / "comparison.json").write_text(json.dumps(content))
    assert robodiff("report", run)[0] == 0
    headline, _, table = (run / "report.html").read_text().partition("What if: measured under other conditions")
    assert "<p>of its own</p>" in headline
    assert "<p>of a trial</p>" in headline
    assert "stopped as soon as it was decided or a difference of 0.1 was excluded, of at most 40 episodes" in table
    assert "of a what-if" not in headline
    assert ". of a what-if" in table


def test_the_command_that_measures_a_run_is_possible(
    robodiff: Run, small_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_recording(tmp_path / "my demos.zarr")
    run = make_run(tmp_path / "my run", env=None)
    assert command(read_run(run)) == f"robodiff eval '{run}', once robodiff fit --resume {run} has made its policy"
    save_policy(small_policy(**FLOW), run / "policy")
    assert command(read_run(run), readable=False) == f"robodiff eval '{run}' --data PATH"
    assert command(read_run(run), env="pusht") == f"robodiff eval '{run}' --env pusht"  # as of the run beside it
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("absent.zarr", str(data)))
    told = command(read_run(run))
    assert told == f"robodiff eval '{run}'"
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)  # whose figures take longer
    code, _, err = robodiff(*shlex.split(told)[1:], "--windows", 4)
    assert code == 0, err
    found = read_run(run)
    assert answer(found, found.offline) is not None


def test_a_page_of_one_run_is_written_where_it_is_asked_for(robodiff: Run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code, out, err = robodiff("report", run, "--out", tmp_path / "pages" / "page.html")
    assert (code, out.strip()) == (0, f"written: {tmp_path / 'pages' / 'page.html'}"), err
    assert "not evaluated" in (tmp_path / "pages" / "page.html").read_text()
    assert not (run / "report.html").exists()
    code, _, err = robodiff("report", run, "--out", tmp_path / "pages")
    assert (code, "is a folder; name the page to write" in err) == (2, True)


def test_results_are_read_as_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert read_result(measure(run, "a", steps=3), EnvResult).evaluated.what_if() == [
        "Flow, 3 steps in place of its own Flow, 10 steps"
    ]


def test_a_page_says_how_its_policy_acts(robodiff: Run, tmp_path: Path) -> None:
    run, own = make_run(tmp_path / "run"), {**OWN, "n_action_steps": 4, "best_of": 8}
    measure(run, "a", **own, own=own)
    assert robodiff("report", run)[0] == 0
    assert "Flow, 10 steps, 4 actions, best of 8; one chunk takes" in (run / "report.html").read_text()
