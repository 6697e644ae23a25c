"""Runs on several recordings, in one of which a policy acted until an expert took over."""

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from tests.conftest import write_recording
from tests.faults.catalogue import SMALL
from tests.faults.processes import run
from tests.training.test_resume import kill_after, outcome

from robodiff.cli import report
from robodiff.cli.configuration import read_run_config
from robodiff.data.episodes import INTERVENTION
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.mixture import MixtureConfig
from robodiff.data.provenance import read_trained_on
from robodiff.evaluation.conditions import HELD_OUT, SEEN
from robodiff.evaluation.results import OfflineResult, read_result

Run = Callable[..., tuple[int, str, str]]


def write_take_overs(path: Path, offset: float = 5.0) -> Path:
    """Four episodes of Push-T of 24 frames; for the first ten a policy acts, whose actions are ``offset`` away."""
    random = np.random.default_rng(1)
    writer = ZarrWriter(path, fps=10.0, layout="pusht")
    expert = (np.arange(24) >= 10)[:, None]
    for episode in range(4):
        walk = (256 + np.cumsum(random.normal(0, 8, (24, 5)), axis=0)).astype(np.float32)
        action = walk[:, :2] + np.where(expert, 5, offset)
        arrays = {"state": walk, "action": action.astype(np.float32), INTERVENTION: expert.astype(np.float32)}
        writer.append(arrays, seed=10 + episode, success=True)
    writer.close()
    return path


def without_report() -> None:
    """Draw no report in this process."""
    report.report = lambda run, page=None: run


def arguments(folder: Path, takeovers: Path) -> list[str]:
    weights = ("--data.weights", "[1,1.5]", "--trainer.max_epochs", "2", "--trainer.checkpoint_every_minutes", "0")
    return ["fit", *SMALL, "--data", str(folder / "demos.zarr"), "--data", str(takeovers), *weights]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings and a run on both of them, ``run``."""
    folder = tmp_path_factory.mktemp("two")
    write_recording(folder / "demos.zarr")
    run(*arguments(folder, write_take_overs(folder / "takeovers.zarr")), "--run", folder / "run").done()
    return folder


def test_the_run_knows_both_recordings(folder: Path) -> None:
    config = read_run_config(folder / "run").data
    assert isinstance(config, MixtureConfig)
    paths = [str(folder / "demos.zarr"), str(folder / "takeovers.zarr")]
    assert (config.recordings, config.weights) == (paths, [1, 1.5])
    trained_on = read_trained_on(folder / "run")
    assert trained_on is not None
    assert {*trained_on.episodes} == {*map(str, range(10))}
    assert INTERVENTION in trained_on.features
    assert (folder / "run" / "report.html").is_file()
    policy = yaml.safe_load((folder / "run" / "policy" / "config.json").read_text())
    assert INTERVENTION not in str(policy)


def test_what_the_policy_did_changes_no_bit_of_the_run(
    folder: Path, tmp_path: Path, robodiff: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)
    absurd = write_take_overs(tmp_path / "takeovers.zarr", offset=-200.0)
    code, out, err = robodiff(*arguments(folder, absurd), "--run", tmp_path / "run")
    assert code == 0, err
    told = r"(\d+) windows to train on \((\d+) in an epoch, by data.weights\), \d+ held out"
    all_windows, in_epoch = map(int, re.search(told, " ".join(out.split())).groups())  # pyright: ignore
    assert all_windows < in_epoch < 1.5 * all_windows
    weights, metrics = outcome(folder / "run")
    others, other_metrics = outcome(tmp_path / "run")
    assert all(value.equal(others[name]) for name, value in weights.items())
    assert metrics == other_metrics


def test_killed_and_resumed_is_the_same(folder: Path, tmp_path: Path) -> None:
    command = arguments(folder, folder / "takeovers.zarr")
    run(*command, "--run", tmp_path / "run", trouble=partial(kill_after, 15, "on_train_batch_start")).killed()
    before = load_file(tmp_path / "run" / "policy-last" / "model.safetensors")
    run("fit", "--resume", tmp_path / "run", trouble=without_report).done()
    weights, metrics = outcome(folder / "run")
    resumed, resumed_metrics = outcome(tmp_path / "run")
    assert all(value.equal(resumed[name]) for name, value in weights.items())
    assert metrics == resumed_metrics
    assert any(not value.equal(before[name]) for name, value in weights.items())


def test_it_is_measured_on_what_was_held_out_of_both(folder: Path, robodiff: Run, tmp_path: Path) -> None:
    trained_on = read_trained_on(folder / "run")
    assert trained_on is not None
    of_demos = sum(int(number) < 6 for number in trained_on.training)
    for data, which in (((), HELD_OUT), (("--data", folder / "demos.zarr"), f"{of_demos} {SEEN}")):
        code, _, err = robodiff("eval", folder / "run", *data, "--windows", 8, "--out", tmp_path / str(len(data)))
        assert code == 0, err
        assert read_result(tmp_path / str(len(data)), OfflineResult).evaluated.which == which
    assert read_result(tmp_path / "0", OfflineResult).evaluated.episodes == sorted(map(int, trained_on.held_out))


def test_a_recording_that_changed_is_told(folder: Path, robodiff: Run, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path / "copy")))
    shutil.rmtree(tmp_path / "copy" / "takeovers.zarr")
    write_take_overs(tmp_path / "copy" / "takeovers.zarr", offset=50.0)
    code, _, err = robodiff("fit", "--resume", tmp_path / "copy" / "run", "--trainer.max_epochs", 3)
    assert (code, "has changed since the run was trained on it: other values in 4 of its 10" in err) == (1, True), err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data.weights", "[1]"), "weights: expected one for each of 2 recordings; found 1"),
        (("--data", "missing.zarr"), "missing.zarr: no such file or folder"),
        (("--data.layout", "pusht"), "unknown option data.layout of MixtureConfig; known to ZarrConfig"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    folder: Path, tmp_path: Path, robodiff: Run, options: tuple[str, ...], message: str
) -> None:
    command = arguments(folder, folder / "takeovers.zarr")
    code, _, err = robodiff(*command, "--run", tmp_path / "run", *options)
    assert code in (1, 2)
    assert message in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_options_of_one_recording_are_given_with_its_path(folder: Path, robodiff: Run) -> None:
    demos = f"{{path: {folder / 'demos.zarr'}, layout: pusht, episodes: [0, 1]}}"
    code, out, err = robodiff("fit", "--config", "pusht_keypoints", "--data", demos, "--data",
                              folder / "takeovers.zarr", "--print_config")  # fmt: skip
    assert code == 0, err
    data = yaml.safe_load(out)["data"]
    assert data["class_path"] == "MixtureConfig"
    assert data["init_args"]["recordings"][0]["episodes"] == [0, 1]
    assert "path" not in data["init_args"]
