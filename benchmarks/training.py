"""Samples a second that ``fit`` trains on, as a preset is and with what may make it faster, in turn in one process.

On a GPU the figures are kept as training_gpu, else as training_cpu. Validation, rollouts and the first ten batches,
with which torch.compile is busy, are left out.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.common import keep
from robodiff.cli.fit import run as fit
from robodiff.training.optim import make_optimizer

Way = tuple[list[str], Callable[[], AbstractContextManager]]
BF16, COMPILED = ["--trainer.precision", "bf16-mixed"], ["--trainer.compile", "true"]
WAYS: dict[str, Way] = {
    "as it is": ([], nullcontext),
    "optimizer not fused": ([], lambda: patch("robodiff.training.module.make_optimizer", _not_fused)),
    "torch.compile": (COMPILED, nullcontext),
    "bf16-mixed": (BF16, nullcontext),
    "bf16-mixed, torch.compile": (BF16 + COMPILED, nullcontext),
}
ON_GPU: dict[str, Way] = {
    "windows from the host's memory": ([], lambda: patch("torch.cuda.mem_get_info", lambda device: (0, 0))),
}


def _not_fused(policy: Any, fused: bool) -> torch.optim.Optimizer:
    return make_optimizer(policy, fused=False)


def train(preset: str, way: Way, steps: int, options: list[str], run: Path) -> dict[str, Any]:
    """What one run says of itself."""
    with way[1]():
        fit(["--config", preset, "--run", str(run), "--trainer.max_steps", str(steps), "--rollout.env", "null",
             "--trainer.check_val_every_n_epoch", "1000", "--trainer.tensorboard", "false", "--data.val_split", "0",
             *options, *way[0]])  # fmt: skip
    return json.loads((run / "run.json").read_text())


def measure(preset: str, options: list[str], steps: int, rounds: int) -> list[dict[str, str]]:
    ways = {**WAYS, **(ON_GPU if torch.cuda.is_available() else {})}
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(rounds):
            for place, (name, way) in enumerate(ways.items()):
                torch._dynamo.reset()
                facts[name].append(train(preset, way, steps, options, Path(folder) / f"{place}-{attempt}"))
    rates = {name: statistics.median(fact["samples_per_second"] for fact in runs) for name, runs in facts.items()}
    return [
        {
            "preset": f"`{preset}`",
            "training": name,
            "samples/s": f"{rate:,.0f}",
            "ratio": f"{rate / rates['as it is']:.2f}",
        }
        for name, rate in rates.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, whose median counts")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    recorded = os.environ.get("ROBODIFF_TEST_DATA")
    presets = {} if gpu else {"pusht_keypoints": []}
    if recorded:
        images = Path(recorded) / "pusht" / "pusht_human.zarr.zip"
        presets["pusht_basic" if gpu else "pusht_cpu"] = ["--data", str(images), "--data.layout", "pusht"]
    rows = []
    for preset, data in presets.items():
        rows += measure(preset, data, options.steps, options.rounds)
        keep("training_gpu" if gpu else "training_cpu", rows)


if __name__ == "__main__":
    main()
