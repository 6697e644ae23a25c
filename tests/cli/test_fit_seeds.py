"""``robodiff fit --seeds``: each seed's run is as one alone, at any number of processes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.conftest import write_recording

from robodiff.cli.configuration import read_run_config
from robodiff.cli.fit import note_length
from robodiff.cli.main import main
from robodiff.cli.shards import numbers, of_shard
from robodiff.errors import UsageError
from robodiff.evaluation.runs import seed_runs
from robodiff.policies.checkpoint import policy_hash

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--config=pusht_keypoints", "--model.down_dims=[8,16]", "--model.n_groups=4", "--data.train_batch_size=8",
         "--model.diffusion_step_embed_dim=8", "--model.num_inference_steps=2", "--data.val_split=0.2",
         "--rollout.env=null", "--trainer.max_steps=3", "--trainer.tensorboard=false",
         "--trainer.accelerator=cpu")  # fmt: skip


def fit_seeds(folder: Path) -> Path:
    """Make a recording in a folder, and ``all`` beside it with the runs of seeds 2 and 10, without their pages."""
    data = write_recording(folder / "demos.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robodiff.cli.report.report", lambda run: run)  # whose figures take longer than all else
        main(["fit", *SMALL, f"--data={data}", "--seeds", "2,10", f"--run={folder / 'all'}"])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_seeds(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def _unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run, page=None: run)


def assert_same(one: Path, other: Path) -> None:
    first, second = (load_file(run / "policy-last" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(value.equal(second[name]) for name, value in first.items())
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def test_each_seed_has_a_run_as_one_alone(robodiff: Run, made: Path, tmp_path: Path) -> None:
    runs = seed_runs(made / "all")
    assert [*runs] == ["2", "10"]
    assert [read_run_config(run).seed_everything for run in runs.values()] == [2, 10]
    assert policy_hash(runs["2"] / "policy") != policy_hash(runs["10"] / "policy")
    how = ("--data", made / "demos.zarr", "--seed_everything", 10, "--run", tmp_path / "plain")
    assert robodiff("fit", *SMALL, *how)[0] == 0
    assert_same(runs["10"], tmp_path / "plain")


def test_processes_share_the_runs(robodiff: Run, made: Path, tmp_path: Path) -> None:
    what = ("fit", *SMALL, "--data", made / "demos.zarr", "--seeds", "2,10", "--run", tmp_path / "runs")
    code, _, err = robodiff(*what, "--shard", "2/2")
    assert code == 0, err
    runs = seed_runs(tmp_path / "runs")
    assert [run.name for run in runs.values() if (run / "run.json").exists()] == ["seed-10"]
    code, _, err = robodiff(*what, "--shard", "2/2")
    assert (code, "exists already" in err) == (2, True)
    code, _, err = robodiff(*what, "--trainer.max_steps", 4, "--shard", "1/2")
    assert (code, "exists already" in err) == (2, True)  # of other options
    code, _, err = robodiff(*what, "--shard", "3/3")
    assert (code, "nothing is left for this one" in err) == (0, True)
    code, _, err = robodiff("fit", "--resume", tmp_path / "runs")  # the other, whose turn never came
    assert (code, err.count("has finished its 3 steps")) == (0, 1), err
    for seed, run in seed_runs(made / "all").items():
        assert_same(run, runs[seed])


def test_longer_runs_of_a_share(robodiff: Run, made: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(made / "all", tmp_path / "all"))
    assert robodiff("fit", "--resume", runs, "--trainer.max_steps", 4, "--shard", "2/2")[0] == 0
    assert [read_run_config(run).trainer.max_steps for run in seed_runs(runs).values()] == [3, 4]


def test_the_time_of_all_is_told(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_run_config(made / "all" / "seed-2")
    minutes = replace(config, trainer=replace(config.trainer, max_steps=None, max_time="00:00:05:00"))
    note_length({Path(name): minutes for name in "abc"})
    assert "3 runs of 5.0 minutes: about 15.0 minutes of training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "1,1"), "--seeds 1,1: has 1 twice"),
        (("--seeds", "1,x"), "--seeds: expected whole numbers with commas between, such as 1,2,3 or null; found '1,x'"),
        (("--seeds", "9999999999"), "seed_everything: expected int >= 0 and <= 4294967295"),
        (("--seeds", "1,2", "--shard", "3/2"), "--shard 3/2: i of i/n goes from 1 to n; write 1/2 to 2/2"),
        (("--seeds", "1,2", "--shard", "0/2"), "--shard 0/2: i of i/n goes from 1 to n"),
        (("--seeds", "1,2", "--shard", "2"), "--shard: expected i/n, such as 1/4"),
        (("--shard", "1/2"), "is one run; it divides those of --seeds or --all_agents"),
        (("--seeds", "1,2", "--seed_everything", 3), "--seeds and --seed_everything do not go together"),
        (("--seeds", "1,2", "--all_agents"), "--seeds and --all_agents do not go together"),
    ],
    ids=str,
)
def test_mistakes(robodiff: Run, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    code, _, err = robodiff("fit", *SMALL, "--data", "builtin:pusht", "--run", tmp_path / "run", *options)
    assert (code, "Traceback" in err, err.count("\n") <= 2) == (2, False, True), err
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_share_needs_a_folder(robodiff: Run) -> None:
    code, _, err = robodiff("fit", *SMALL, "--seeds", "1,2", "--shard", "1/2")
    assert (code, "all processes write to one folder; name it with --run" in err) == (2, True)


def test_shards_and_lists() -> None:
    runs = {str(number): number for number in range(7)}
    shares = [of_shard(runs, f"{own}/3") for own in (1, 2, 3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert {key: run for share in shares for key, run in share.items()} == runs
    assert of_shard(runs, None) == runs
    assert numbers("seeds", "3,1,2") == [3, 1, 2]
    with pytest.raises(UsageError, match="has 7 twice"):
        numbers("seeds", "7,8,7")
