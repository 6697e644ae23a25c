"""What makes a run survive being killed: whole checkpoints, and a metrics file that goes on where it stopped."""

import csv
import hashlib
import io
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from robodiff.data.provenance import FILE, REMEDY, TrainedOn
from robodiff.errors import RobodiffError, UsageError, first_line, notice
from robodiff.evaluation.runs import CONFIG_FILE
from robodiff.files import naming, read_rows, reading, replacing
from robodiff.networks.layers import shape_misfits
from robodiff.training.module import PolicyTraining

COLUMNS: list[str] = [
    *("epoch", "global_step"),
    *(f"train/{name}" for name in ("loss", "loss_std", "loss_min", "loss_max", "learning_rate", "grad_norm")),
    *("val/loss", "val/action_mse"),
    *("rollout/success_rate", "rollout/mean_max_reward", "rollout/non_finite_actions"),
]
"""What is logged of every run, in the order of the columns of metrics.csv."""


_SEAL = b"robodiff sha256 "
_SEAL_LENGTH = len(_SEAL) + 2 * hashlib.sha256().digest_size
"""The hash of a checkpoint is the comment of the zip archive that it is: so no kill comes between the two."""


class Finished(UsageError):
    """A run has done all of its steps, and no more are asked for."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are either whole or not there, and say so themselves."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write beside ``path``, sync, rename."""
        content = io.BytesIO()  # torch.save to a file that cannot be written raises no OSError
        torch.save(checkpoint, content)
        content.seek(-2, io.SEEK_END)  # where a zip archive tells the length of its comment
        content.write(_SEAL_LENGTH.to_bytes(2, "little"))
        content.write(_SEAL + hashlib.sha256(content.getbuffer()).hexdigest().encode())
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def read_checkpoint(path: Path, sealed: bool = False) -> dict[str, Any]:
    """Return what a checkpoint holds; its tensors stay on disk until they are used, and nothing of it is executed.

    Args:
        path: of the file.
        sealed: it must hold its own hash, which those of earlier versions do not.

    Raises:
        RobodiffError: it cannot be read, or is not as it was written.
    """
    remedy = "begin a new run; the policies of this one stay"
    with reading(path, "a checkpoint"):  # refuses what is no file
        pass
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            seal, sha256 = content[-_SEAL_LENGTH:], hashlib.sha256(memoryview(content)[:-_SEAL_LENGTH])
        if seal != _SEAL + sha256.hexdigest().encode() and (sealed or seal.startswith(_SEAL)):
            raise ValueError("it is not as it was written, by its sha256")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a broken archive raises many kinds
        raise RobodiffError(f"{path}: cannot be read: {first_line(error)[:200]}\n{remedy}") from None


def check_checkpoint(
    run: Path, checkpoint: Path, module: PolicyTraining, recorded: TrainedOn | None, new_length: bool
) -> int:
    """Return how many optimizer steps a checkpoint has done.

    Raises:
        Finished: these are all, and no more are asked for.
        RobodiffError: it cannot be read, is of another run, or does not fit the run's configuration.
    """
    content = read_checkpoint(checkpoint, sealed=recorded is not None)
    try:
        step, total = int(content["global_step"]), content["robodiff"]["total_steps"]
        misfits = shape_misfits(content["state_dict"], module.state_dict())
        owner = content["robodiff"].get("run", "")
    except (LookupError, TypeError, ValueError, AttributeError):
        raise RobodiffError(f"{checkpoint}: is not a checkpoint of robodiff\nbegin a new run") from None
    if owner and recorded is None:
        raise RobodiffError(f"{run / FILE}: is missing\n{REMEDY}")
    if owner != (recorded.run if recorded else ""):
        remedy = "put back its own; to go on with the other one, resume its folder"
        raise RobodiffError(f"{checkpoint}: is of another run than {run}\n{remedy}")
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        remedy = f"put back {run / CONFIG_FILE} as it was, or begin a new run"
        raise RobodiffError(f"{checkpoint}: does not fit the configuration: {misfits[0]}{more}\n{remedy}")
    if recorded is None:
        notice(
            f"{run}: does not say what it was trained on, as later versions do; whether that has changed is not known"
        )
    if total is not None and step >= total and not new_length:
        raise Finished(f"{run}: has finished its {total} steps; give it more: --trainer.max_steps {2 * total}")
    return step


class MetricsCsv(Logger):
    """``metrics.csv``: a line each time something was measured. Columns are ``COLUMNS``, then others as they come.

    Args:
        path: of the file; an earlier one is appended to.
        resumed_step: lines after this optimizer step are dropped, for they will be measured again.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        super().__init__()
        self.path = path
        rows = [row for row in read_rows(path, "global_step") if row["global_step"].isdecimal()]
        kept = [row for row in rows if int(row["global_step"]) <= resumed_step]
        self.columns = list(dict.fromkeys([*COLUMNS, *(kept[0] if kept else ())]))
        if rank_zero_only.rank == 0:
            self._write(kept)

    name = "csv"  # pyright: ignore[reportAssignmentType]
    """Lightning asks for it, and for a version."""
    version = ""  # pyright: ignore[reportAssignmentType]

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Write nothing: the run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        row = {key: f"{value:.8g}" for key, value in metrics.items() if key != "epoch"}
        if not row:
            return
        done = (step or 0) + 1  # Lightning numbers steps from 0; here it is how many are done
        row.update(global_step=str(done), epoch=str(int(metrics.get("epoch", 0))))
        if new := [key for key in row if key not in self.columns]:
            self.columns += new
            self._write(read_rows(self.path, "global_step"))
        with naming(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
