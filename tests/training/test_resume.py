"""A run that is killed and resumed ends in the same weights, bit for bit, and in the same metrics."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ARGUMENTS = [
    "--config", "pusht_keypoints", "--model.down_dims", "[8,16]", "--model.n_groups", "4",
    "--model.diffusion_step_embed_dim", "8", "--model.scheduler_warmup_steps", "3", "--model.num_inference_steps", "2",
    "--data.train_batch_size", "8", "--data.val_split", "0.2", "--rollout.env", "null",
    "--trainer.check_val_every_n_epoch", "1", "--trainer.log_every_n_steps", "1",
    "--trainer.checkpoint_every_minutes", "0", "--trainer.tensorboard", "false",
]  # fmt: skip

KILLED = """
import os, signal, sys
import torch
from robodiff.cli.main import main
from robodiff.training.callbacks import Keeper

torch.set_num_threads(1)
after, moment = int(sys.argv[1]), sys.argv[2]
hook = getattr(Keeper, moment)

def killed(self, trainer, module, *args):
    result = hook(self, trainer, module, *args)
    if module.micro_batches >= after:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(Keeper, moment, killed)
main(["fit", *sys.argv[3:]])
"""


def train(*arguments: str, kill: tuple[int, str] | None = None) -> int:
    start = ["-c", KILLED, str(kill[0]), kill[1], *arguments] if kill else ["-m", "robodiff", "fit", *arguments]
    done = subprocess.run(
        [sys.executable, *start],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def outcome(run: Path) -> tuple[dict, str]:
    return load_file(run / "policy-last" / "model.safetensors"), (run / "metrics.csv").read_text()


@pytest.fixture(scope="module", params=[1, 2], ids=["every-batch", "accumulated"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The arguments of a run and its folder, finished without a stop."""
    from tests.conftest import write_recording

    folder = tmp_path_factory.mktemp("whole")
    data = write_recording(folder / "demos.zarr")
    arguments = [*ARGUMENTS, "--data.path", str(data), "--trainer.max_epochs", "3",
                 "--trainer.accumulate_grad_batches", str(request.param)]  # fmt: skip
    assert train(*arguments, "--run", str(folder / "run")) == 0
    return arguments, folder / "run"


# An epoch has 9 batches: 13 is within the second, 18 is its last.
@pytest.mark.parametrize(
    ("after", "moment"),
    [(13, "on_train_batch_start"), (18, "on_train_epoch_end"), (18, "on_train_batch_start")],
    ids=["mid-epoch", "last-batch", "next-epoch"],
)
def test_killed_and_resumed_is_the_same(whole: tuple[list[str], Path], tmp_path: Path, after: int, moment: str) -> None:
    arguments, finished = whole
    run = tmp_path / "run"
    assert train(*arguments, "--run", str(run), kill=(after, moment)) == -signal.SIGKILL
    before, _ = outcome(run)
    assert train("--resume", str(run)) == 0
    weights, metrics = outcome(finished)
    resumed_weights, resumed_metrics = outcome(run)
    assert weights.keys() == resumed_weights.keys()
    for name, value in weights.items():
        assert value.equal(resumed_weights[name]), name
    assert metrics == resumed_metrics
    assert any(not value.equal(before[name]) for name, value in weights.items())  # there was something left to do
