"""A run that is killed and resumed ends in the same weights, bit for bit, and in the same metrics."""

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import write_recording
from tests.faults.processes import run

from robodiff.errors import RobodiffError
from robodiff.files import read_rows
from robodiff.training.resume import MetricsCsv

ARGUMENTS = [
    "--config", "pusht_keypoints", "--model.down_dims", "[8,16]", "--model.n_groups", "4",
    "--model.diffusion_step_embed_dim", "8", "--model.scheduler_warmup_steps", "3", "--model.num_inference_steps", "2",
    "--data.train_batch_size", "8", "--data.val_split", "0.2", "--rollout.env", "null",
    "--trainer.check_val_every_n_epoch", "1", "--trainer.log_every_n_steps", "1",
    "--trainer.checkpoint_every_minutes", "0", "--trainer.tensorboard", "false",
]  # fmt: skip

# Both have epochs of 9 batches.
EPOCHS = {
    "whole": [],
    "shortened": ["--data.train_batch_size", "4", "--trainer.limit_train_batches", "9",
                  "--trainer.accumulate_grad_batches", "2", "--trainer.precision", "bf16-mixed",
                  "--data.symmetries", "pusht", "--model.canonicalize", "pusht"],
}  # fmt: skip


def kill_after(batches: int, moment: str) -> None:
    """kill -9 when so many batches are done, at the end of one of the callback's hooks."""
    from robodiff.training.callbacks import Checkpoints

    hook = getattr(Checkpoints, moment)

    def killed(self: Checkpoints, trainer: Any, module: Any, *rest: Any) -> None:
        hook(self, trainer, module, *rest)
        if module.micro_batches >= batches:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(Checkpoints, moment, killed)


def outcome(run: Path) -> tuple[dict, str]:
    return load_file(run / "policy-last" / "model.safetensors"), (run / "metrics.csv").read_text()


@pytest.fixture(scope="module", params=["whole", "shortened"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The arguments of a run and its folder, finished without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_recording(folder / "demos.zarr")
    arguments = [*ARGUMENTS, "--data.path", str(data), "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu",
                 *EPOCHS[request.param]]  # fmt: skip
    run("fit", *arguments, "--run", folder / "run").done()
    return arguments, folder / "run"


def test_metrics_that_were_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,global_step,train/loss,val/l\xffss\n0,1,0.5,3\n0,\xff,0.4,3\n0,2,0.\xff,3\n1,9,0.1,3\n")
    MetricsCsv(path, resumed_step=5)
    assert [(row["global_step"], row["train/loss"]) for row in read_rows(path, "global_step")] == [
        ("1", "0.5"), ("2", "0.\ufffd"),
    ]  # fmt: skip
    path.write_text("epoch,train/loss\n0,0.5\n")
    with pytest.raises(RobodiffError, match=r"metrics\.csv: has no column 'global_step'"):
        MetricsCsv(path, resumed_step=5)
    assert path.read_text() == "epoch,train/loss\n0,0.5\n"


def test_metrics_that_come_later_widen_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCsv(path)
    logger.log_metrics({"train/loss": 1.0, "epoch": 0}, 0)
    logger.log_metrics({"epoch": 0}, 0)
    logger.log_metrics({"train/loss": 0.5, "train/kl": 0.25, "epoch": 0}, 1)
    logger.log_metrics({"train/loss": 0.4, "rollout/distance": 3.0, "epoch": 1}, 2)
    columns = ["global_step", "train/loss", "train/kl", "rollout/distance"]
    expected = [["1", "1", "", ""], ["2", "0.5", "0.25", ""], ["3", "0.4", "", "3"]]
    assert [[row[name] for name in columns] for row in read_rows(path, "global_step")] == expected
    again = MetricsCsv(path, resumed_step=2)  # which forgets the line after, and keeps its column
    again.log_metrics({"train/loss": 0.3, "train/kl": 0.1, "epoch": 1}, 2)
    assert again.columns[-2:] == ["train/kl", "rollout/distance"]
    rows = [[row[name] for name in columns] for row in read_rows(path, "global_step")]
    assert rows == [*expected[:2], ["3", "0.3", "0.1", ""]]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_run_of_an_earlier_version_goes_on(
    robodiff: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, run = Path(__file__).parents[1] / "fixtures" / "run_0_1_0", tmp_path / "run"
    shutil.copytree(earlier, run)
    monkeypatch.chdir(run)  # where its recording is
    code, _, err = robodiff("fit", "--resume", run, "--trainer.max_steps", 6)
    assert code == 0, err
    weights, expected = (
        load_file(run / name) for name in ("policy-last/model.safetensors", "resumed_to_6.safetensors")
    )
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-6)
    assert [row["global_step"] for row in read_rows(run / "metrics.csv", "global_step")] == list("12334566")


# An epoch has 9 batches: 13 is within the second, 18 is its last.
@pytest.mark.parametrize(
    ("after", "moment"),
    [(13, "on_train_batch_start"), (18, "on_train_epoch_end"), (18, "on_train_batch_start")],
    ids=["mid-epoch", "last-batch", "next-epoch"],
)
def test_killed_and_resumed_is_the_same(whole: tuple[list[str], Path], tmp_path: Path, after: int, moment: str) -> None:
    arguments, finished = whole
    folder = tmp_path / "run"
    run("fit", *arguments, "--run", folder, trouble=partial(kill_after, after, moment)).killed()
    before, _ = outcome(folder)
    run("fit", "--resume", folder).done()
    weights, metrics = outcome(finished)
    resumed_weights, resumed_metrics = outcome(folder)
    assert weights.keys() == resumed_weights.keys()
    for name, value in weights.items():
        assert value.equal(resumed_weights[name]), name
    assert metrics == resumed_metrics
    assert any(not value.equal(before[name]) for name, value in weights.items())  # there was something left to do
