"""Success and reward on unseen seeds against minutes of training, from scripted and from human demonstrations.

Each row is a run of its own with the preset ``pusht_keypoints``: the learning rate comes down within its minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import keep


def robodiff(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "robodiff", *map(str, arguments)], check=True)


def measure(data: str, minutes: float, episodes: int, options: list[str], folder: Path) -> dict[str, Any]:
    """Train for some minutes, evaluate on seeds from 100000 on."""
    run = folder / f"{data}-{minutes:g}"
    start = time.monotonic()
    robodiff("fit", "--config", "pusht_keypoints", "--minutes", minutes, "--run", run, *options)
    wall = (time.monotonic() - start) / 60
    robodiff("eval", run, "--env", "pusht", "--episodes", episodes, "--out", run / "measured")
    metrics = json.loads((run / "measured" / "metrics.json").read_text())
    low, high = metrics["success_rate_ci95"]
    return {
        "demonstrations": data,
        "minutes of training": f"{minutes:g}",
        "wall clock with rollouts, minutes": f"{wall:.1f}",
        "success": f"{metrics['success_rate']:.2f} ({low:.2f} to {high:.2f})",
        "mean maximum reward": f"{metrics['mean_max_reward']:.3f}",
        "unseen seeds": str(episodes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scripted", type=float, nargs="*", default=[1, 2.5, 5], help="minutes of each run")
    parser.add_argument("--human", type=float, nargs="*", default=[1, 3, 6], help="minutes of each run")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.scripted:
            rows.append(measure("scripted, built in", minutes, 100, [], Path(folder)))
        recorded = os.environ.get("ROBODIFF_TEST_DATA")
        for minutes in options.human if recorded else []:
            path = Path(recorded or "") / "pusht" / "pusht_human.zarr.zip"
            human = ["--data.path", str(path), "--data.layout", "pusht"]
            rows.append(measure("human, 206", minutes, 50, human, Path(folder)))
    keep("time_to_skill", rows)


if __name__ == "__main__":
    main()
