"""``robodiff learning-curve``: nested demonstrations, the same held out for all, and the same command goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.test_fit_seeds import SMALL
from tests.conftest import Tags, write_recording

from robodiff.cli.configuration import read_run_config
from robodiff.cli.learning_curve import LearningCurveOptions, _configs
from robodiff.data.provenance import read_trained_on
from robodiff.evaluation.learning_curve import LearningCurve
from robodiff.evaluation.results import read_result
from robodiff.evaluation.runs import seed_runs

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("data") / "demos.zarr", episodes=10)


def overrides() -> dict[str, str | None]:
    return dict(word.removeprefix("--").split("=") for word in SMALL[1:])


def test_demonstrations_are_nested_and_none_is_held_out_elsewhere(demos: Path, tmp_path: Path) -> None:
    options = LearningCurveOptions(config="pusht_keypoints", data=[str(demos)], episodes="8,2,4", out=str(tmp_path))
    configs = _configs(options, overrides())
    assert len(configs) == 9
    held_out = configs[2, 1].data.val_episodes
    assert held_out is not None
    assert len(held_out) == 2
    trained_on = {}
    for (count, seed), config in configs.items():
        data = config.data
        training, validation = data.split(data.read())
        assert (data.val_episodes, len(training), len(validation)) == (held_out, count, 2)
        trained_on[count, seed] = {*(data.episodes or ())} - {*held_out}
        assert config.seed_everything == seed
    for seed in (1, 2, 3):
        assert trained_on[2, seed] < trained_on[4, seed] < trained_on[8, seed]
    assert trained_on[2, 1] != trained_on[2, 2]
    every = {count: configs[count, 1].trainer.check_val_every_n_epoch for count in (2, 4, 8)}
    assert (every[2], every[4]) == (4 * every[8], 2 * every[8])  # after as many optimizer steps


def test_several_recordings_are_divided_together(demos: Path, tmp_path: Path) -> None:
    both = [str(demos), str(write_recording(tmp_path / "other.zarr"))]
    options = LearningCurveOptions(config="pusht_keypoints", data=both, episodes="2,12", out=str(tmp_path))
    data = _configs(options, overrides())[12, 1].data
    training, validation = data.split(data.read([]))
    assert (len(training), len(validation)) == (12, len(data.val_episodes or ()))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_command_goes_on_and_tells_the_result(
    robodiff: Run, demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run, page=None: run)  # whose figures take longer
    command = ("learning-curve", *SMALL, "--data", demos, "--episodes", "2,4", "--seeds", "1,2")
    code, out, err = robodiff(*command, "--out", tmp_path / "curve", "--shard", "1/2")
    assert code == 0, err
    assert "2 runs of 4 not measured yet" in out
    code, out, err = robodiff(*command, "--out", tmp_path / "curve")
    assert code == 0, err
    result = read_result(tmp_path / "curve", LearningCurve)
    assert (result.measured, result.where, result.episodes) == ("error", str(demos), 2)
    assert [(cell.demonstrations, cell.seed) for cell in result.cells] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    assert result.conclusion in out
    assert Tags((tmp_path / "curve" / "report.html").read_text()).open == []
    run = seed_runs(tmp_path / "curve" / "episodes-2")["1"]
    recorded = read_trained_on(run)
    assert recorded is not None
    assert [*map(int, recorded.held_out)] == read_run_config(run).data.val_episodes
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "curve").glob("episodes-*/seed-*/metrics.csv")}
    code, _, err = robodiff(*command, "--out", tmp_path / "curve")  # nothing is left to do
    assert code == 0, err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    code, _, err = robodiff(*command, "--trainer.max_steps", 4, "--out", tmp_path / "curve")
    assert (code, "was begun with other options" in err) == (2, True)
    code, out, err = robodiff(*command, "--out", tmp_path / "env", "--env", "pusht", "--eval_episodes", 2)
    assert code == 0, err
    assert read_result(tmp_path / "env", LearningCurve).measured == "success"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--episodes", "4,9"), "has 8 episodes to train on and 2 held out; give 1 to 8"),
        (("--episodes", "0,4"), "give 1 to 8"),
        (("--episodes", "4,4"), "--episodes 4,4: has 4 twice"),
        (("--episodes", "4-8"), "--episodes: expected whole numbers"),
        (("--episodes", "2,4", "--data.val_split", 0), "no episode is held out to measure on; give --data.val_split"),
        (("--episodes", "2,4", "--trainer.max_epochs", 3, "--trainer.max_steps", "null"), "an epoch is shorter the"),
        (("--episodes", "2,4", "--env", "push"), "unknown environment 'push'"),
        (("--episodes", "2,4", "--eval_episodes", 5), "--eval_episodes is for episodes in an environment"),
        (("--episodes", "2,4", "--shard", "3/2"), "i of i/n goes from 1 to n"),
        ((), "episodes is missing"),
    ],
    ids=str,
)
def test_mistakes(robodiff: Run, demos: Path, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    code, _, err = robodiff("learning-curve", *SMALL, "--data", demos, "--out", tmp_path / "out", *options)
    assert (code, "Traceback" in err, err.count("\n") <= 2) == (2, False, True), err
    assert message in err
    assert not (tmp_path / "out").exists()
