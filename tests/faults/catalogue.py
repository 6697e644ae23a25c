"""Every fault: a function that causes it for real, checks what is kept, and returns what the user sees of it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import write_recording
from tests.faults.processes import Seen, run

SMALL = (
    "--config", "pusht_keypoints", "--model.down_dims", "[8,16]", "--model.n_groups", "4", "--data.val_split", "0.2",
    "--model.diffusion_step_embed_dim", "8", "--data.train_batch_size", "8", "--model.num_inference_steps", "1",
    "--rollout.env", "null", "--trainer.check_val_every_n_epoch", "1", "--trainer.log_every_n_steps", "1",
    "--trainer.tensorboard", "false", "--model.canonicalize", "null",
)  # fmt: skip
"""A policy that is trained in a second."""


class Place:
    """A folder to cause faults in.

    Args:
        folder: an empty one.
        finished: the recording ``DATA`` and the finished run ``RUN``, as ``prepare`` made them.
    """

    def __init__(self, folder: Path, finished: Path) -> None:
        self.folder, self.data, self._finished = folder, finished / "DATA", finished / "RUN"
        self.run, self.policy, self.out = folder / "RUN", folder / "RUN" / "policy", folder / "OUT"

    def with_run(self) -> "Place":
        """Put a copy of the finished run of 4 steps in."""
        shutil.copytree(self._finished, self.run)
        return self

    def fit(self, *options: Any) -> tuple[Any, ...]:
        """The command that trains a small policy."""
        return "fit", *SMALL, "--data.path", self.data, "--run", self.run, *options

    def resume(self, steps: int) -> tuple[Any, ...]:
        """The command that makes the run longer."""
        return "fit", "--resume", self.run, "--trainer.max_steps", steps

    def eval(self, *options: Any) -> tuple[Any, ...]:
        """The command that measures the run's policy in one episode."""
        return "eval", self.run, "--env", "pusht", "--episodes", 1, "--num_envs", 1, "--out", self.out, *options

    def collect(self, episodes: int, *options: Any) -> tuple[Any, ...]:
        """The command that records demonstrations."""
        return "collect", "pusht", "--corrections", 1, "--episodes", episodes, "--out", self.out, *options


def prepare(folder: Path) -> Path:
    """Make the recording and the run that faults start from."""
    write_recording(folder / "DATA")
    place = Place(folder, folder)
    run(*place.fit("--trainer.max_steps", 4)).done()
    return folder


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    cause: str
    """How it is caused."""
    kept: str
    """What ``happen`` checks to be kept, and how work goes on."""
    happen: Callable[[Place], Seen]
    module: str
    """Where it is."""


FAULTS: list[Fault] = []


def fault(cause: str, kept: str) -> Callable[[Callable[[Place], Seen]], Callable[[Place], Seen]]:
    """Put a function into the catalogue; its docstring is the fault's name."""

    def add(happen: Callable[[Place], Seen]) -> Callable[[Place], Seen]:
        FAULTS.append(Fault((happen.__doc__ or "").strip().rstrip("."), cause, kept, happen, happen.__module__))
        return happen

    return add


def no_traces(folder: Path) -> None:
    """Check that no lock, no temporary and nothing that was moved aside is left: their names begin with a dot."""
    assert not [str(path) for path in folder.rglob(".*")]
