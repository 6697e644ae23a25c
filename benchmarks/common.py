"""What the measurements share: timing, the hardware, results as JSON and as tables."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robodiff.machine import processor

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def side_by_side(candidates: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of each candidate, taken in turn so that a change of the machine's speed meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for attempt in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if attempt > 0:  # the first is the warm-up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def keep(name: str, rows: list[dict[str, Any]], measured_on: dict[str, Any] | None = None, **more: Any) -> None:
    """Print the rows as a Markdown table and write them to ``results/<name>.json``, with the hardware: this if None.

    What ``more`` there is to keep is written, too.
    """
    print(markdown(rows))
    RESULTS.mkdir(exist_ok=True)
    content = {"hardware": measured_on or hardware(), "rows": rows, **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[key]) for key in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
