"""``robodiff eval`` and ``report`` of several training seeds: each as one alone, then all of them together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_fit_seeds import fit_seeds
from tests.conftest import Tags

from robodiff.evaluation.results import EnvResult, read_result
from robodiff.evaluation.runs import seed_runs
from robodiff.evaluation.seeds import SeedsComparison, SeedsResult

Run = Callable[..., tuple[int, str, str]]
ENV = ("--env", "pusht", "--episodes", 3, "--num_envs", 3, "--videos", 0)
PLACE = "eval/pusht-seed100000-n3"
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_seeds(tmp_path_factory.mktemp("made"))


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of the runs of seeds 2 and 10."""
    return Path(shutil.copytree(made / "all", tmp_path / "all"))


@pytest.fixture(autouse=True)
def _unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pages of each run, whose figures take longer than all else, and with fewer chunks timed."""
    monkeypatch.setattr("robodiff.cli.eval_seeds.report_evaluation", Path)
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)
    monkeypatch.setattr("robodiff.evaluation.chunks.SECONDS_OF_CHUNKS", 0)


def test_all_seeds_are_measured_together(robodiff: Run, runs: Path) -> None:
    (runs / "seed-2" / "report.html").touch()
    code, out, err = robodiff("eval", runs, *ENV)
    assert code == 0, err
    each = {seed: read_result(run / PLACE, EnvResult) for seed, run in seed_runs(runs).items()}
    result = read_result(runs / PLACE, SeedsResult)
    assert [(m.seed, m.value, m.policy) for m in result.members] == [
        (int(seed), one.success_rate, one.evaluated.policy) for seed, one in each.items()
    ]
    assert (result.measured, result.where, result.episodes, result.what_if) == ("success", "pusht", 3, [])
    assert result.mean == np.mean([one.success_rate for one in each.values()])
    assert result.mean_ci95 is not None
    assert result.mean_ci95[0] <= result.lowest <= result.highest <= result.mean_ci95[1]
    assert "over 2 training seeds (95 % interval" in out
    page = (runs / "report.html").read_text()
    assert Tags(page).open == []
    assert "each measured on the same 3 episodes of pusht" in page
    assert '<a href="seed-2/report.html">' in page

    shutil.copytree(runs / "seed-10", alone := runs.parent / "alone", ignore=shutil.ignore_patterns("eval"))
    assert robodiff("eval", alone, *ENV)[0] == 0
    assert read_result(alone / PLACE, EnvResult).episodes == each["10"].episodes

    shutil.copytree(runs / "seed-2" / "policy", runs / "seed-10" / "policy", dirs_exist_ok=True)  # trained on since
    assert robodiff("report", runs)[0] == 0
    assert "not evaluated" in (runs / "report.html").read_text()


def test_shares_are_measured_and_taken_over(robodiff: Run, runs: Path) -> None:
    code, out, err = robodiff("eval", runs, *ENV, "--shard", "1/2")
    assert (code, "not measured yet: seed 10" in out) == (0, True), err
    assert not (runs / "eval").exists()
    first = (runs / "seed-2" / PLACE / "metrics.json").read_text()
    code, out, _ = robodiff("eval", runs, *ENV, "--shard", "2/2")
    assert f"written: {runs / PLACE / 'seeds.json'}" in out
    together = json.loads((runs / PLACE / "seeds.json").read_text())
    assert robodiff("eval", runs, *ENV)[0] == 0
    assert json.loads((runs / PLACE / "seeds.json").read_text()) == together
    assert (runs / "seed-2" / PLACE / "metrics.json").read_text() == first  # its latency, too: nothing ran again


def test_recipes_are_compared_by_seed(robodiff: Run, runs: Path) -> None:
    other = Path(shutil.copytree(runs, runs.parent / "other"))
    code, out, err = robodiff("eval", runs, *ENV, "--against", other, "--out", runs.parent / "out")
    assert code == 0, err
    paired = read_result(runs.parent / "out", SeedsComparison)
    assert ([member.seed for member in paired.members], paired.difference, paired.episodes) == ([2, 10], 0, 3)
    assert paired.conclusion in out
    page = (runs.parent / "out" / "report.html").read_text()
    assert paired.conclusion.replace("'", "&#39;") in page
    assert not (runs / "eval").exists()

    (other / "seed-2").rename(other / "seed-3")
    code, out, err = robodiff("eval", runs, "--windows", 4, "--against", other)
    assert code == 0, err
    place = runs / "eval" / "offline-seed100000-n4"
    paired, result = read_result(place, SeedsComparison), read_result(place, SeedsResult)
    assert ([member.seed for member in paired.members], paired.measured) == ([10], "error")  # what both have
    assert "One training seed does not tell" in paired.conclusion
    assert result.std is not None
    assert result.std > 0
    assert Tags((runs / "report.html").read_text()).open == []


def test_what_cannot_be_measured_or_compared(robodiff: Run, made: Path, runs: Path) -> None:
    alone, other = made / "all" / "seed-2", runs.parent / "other"
    shutil.copytree(runs / "seed-2", other / "seed-4")
    shutil.rmtree(runs / "seed-2" / "policy")
    for options, message in [
        ((runs,), f"{runs / 'seed-2'}: not trained yet; go on with: robodiff fit --resume {runs}"),
        ((runs, "--against", alone), f"is one policy, {runs} has 2 training seeds\ntrain it with --seeds 2,10, too"),
        ((alone, "--against", runs), f"has 2 training seeds, {alone} one\nname one of them, such as {runs / 'seed-2'}"),
        ((runs, "--against", other), "share no training seed (2, 10 and 4)"),
        ((alone, "--shard", "1/2"), "divides a run with several training seeds"),
        ((runs, "--shard", "5/4"), "i of i/n goes from 1 to n"),
    ]:
        code, _, err = robodiff("eval", *options, *ENV)
        assert (code, "Traceback" in err, err.count("\n") <= 2) == (2, False, True), err
        assert message in err


def test_several_policies_are_no_policy(robodiff: Run, made: Path) -> None:
    for command in (("serve", made / "all"), ("report", made / "all", made / "all" / "seed-2"),
                    ("export", made / "all", "--to", "onnx")):  # fmt: skip
        code, _, err = robodiff(*command)
        assert (code > 0, "Traceback" in err) == (True, False)
        assert str(made / "all" / "seed-2") in err, command
