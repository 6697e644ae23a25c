"""The results that a run keeps: what is written is read, older files load, and broken ones are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from robodiff.errors import RobodiffError
from robodiff.evaluation.results import Comparison, EnvResult, OfflineResult, RunFacts, read_result, write_result

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"
"""As robodiff 0.1.0 wrote it."""
FILES: list[tuple[Path, Any]] = [
    (RUN, RunFacts),
    (RUN / "eval" / "pusht-seed100000-n2", EnvResult),
    (RUN / "eval" / "offline-seed100000-n8", OfflineResult),
]


@pytest.mark.parametrize(("folder", "kind"), FILES)
def test_what_is_written_is_what_was_read(folder: Path, kind: Any, tmp_path: Path) -> None:
    write_result(tmp_path, read_result(folder, kind))
    before, after = (json.loads((path / kind.file).read_text()) for path in (folder, tmp_path))
    for episode in after.get("episodes", []):
        assert episode.pop("extra") == {}  # which is new
    if kind is not RunFacts:
        assert after["evaluated"].pop("policies") == {}
    assert after == before
    assert read_result(tmp_path, kind) == read_result(folder, kind)


def test_evaluations_of_before_count_no_actions_that_are_not_finite(tmp_path: Path) -> None:
    written = json.loads((FILES[1][0] / "metrics.json").read_text())
    del written["non_finite_actions"], written["extra"], written["evaluated"]["num_envs"]
    for episode in written["episodes"]:
        del episode["non_finite"]
    (tmp_path / "metrics.json").write_text(json.dumps(written))
    result = read_result(tmp_path, EnvResult)
    assert (result.non_finite_actions, result.extra, result.evaluated.num_envs) == (0, {}, None)
    assert not any(episode.non_finite for episode in result.episodes)


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        (EnvResult, ["evaluated"], {}, r"evaluated: .*missing .*policy.*; evaluate again"),
        (EnvResult, ["evaluated"], "pusht", "evaluated: expected mapping; found 'pusht'"),
        (EnvResult, ["success_rate"], "high", "success_rate: expected float; found 'high'"),
        (EnvResult, ["success_rate"], float("nan"), "cannot be read as JSON"),
        (EnvResult, ["success_rate"], 1e15, "success_rate: expected float < 1"),
        (EnvResult, ["success_rate_ci95"], [0.5], "success_rate_ci95: expected list of length 2"),
        (EnvResult, ["episodes"], [], "episodes: expected list of length >= 1"),
        (EnvResult, ["episodes", 1, "seed"], 1e300, r"episodes\[1\]\.seed: expected int; found 1e\+300"),
        (EnvResult, ["episodes", 1, "success"], 1, r"episodes\[1\]\.success: expected bool; found 1"),
        (EnvResult, ["latency_ms", "p50"], None, r"latency_ms\.p50: expected float"),
        (OfflineResult, ["steps", 2, "hold"], [1.0], "dimensions"),
        (OfflineResult, ["worst_dimension"], 2, "dimensions"),
        (OfflineResult, ["evaluated", "episodes"], [], r"evaluated\.episodes: expected list of length"),
        (RunFacts, ["minutes"], [3], "minutes: expected float; found .3.; remove it"),
    ],
)
def test_results_of_another_form(kind: Any, place: list[Any], value: Any, message: str, tmp_path: Path) -> None:
    folder = next(folder for folder, of in FILES if of is kind)
    holder = written = json.loads((folder / kind.file).read_text())
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (tmp_path / kind.file).write_text(json.dumps(written))
    with pytest.raises(RobodiffError, match=rf"{kind.file}: {message}") as told:
        read_result(tmp_path, kind)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "[" * 10**5, '"\udcff"'])
def test_what_is_no_result(content: str, tmp_path: Path) -> None:
    (tmp_path / Comparison.file).write_text(content, errors="surrogateescape")
    with pytest.raises(RobodiffError, match=r"comparison\.json: .*; compare again with"):
        read_result(tmp_path, Comparison)
