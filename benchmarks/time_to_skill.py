"""Success and reward on unseen seeds against minutes of training, from scripted and from human demonstrations.

Each run has the preset ``pusht_keypoints``. Its last row is the finished policy on seeds from 100000 on; the rows
before are rollouts on 50 other seeds on the way, when the learning rate has not come down yet.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import keep


def robodiff(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "robodiff", *map(str, arguments)], check=True)


def measure(data: str, minutes: float, episodes: int, options: list[str], folder: Path) -> list[dict[str, Any]]:
    """Train for some minutes, evaluate on seeds from 100000 on."""
    run = folder / f"{data}-{minutes:g}"
    robodiff("fit", "--config", "pusht_keypoints", "--minutes", minutes, "--run", run, *options,
             "--rollout.every_n_epochs", 8)  # fmt: skip
    robodiff("eval", run, "--env", "pusht", "--episodes", episodes, "--out", run / "measured")
    with (run / "metrics.csv").open(newline="") as file:
        rollouts = [row for row in csv.DictReader(file) if row["rollout/success_rate"]]
    total = int(rollouts[-1]["global_step"])
    rows = [
        {
            "demonstrations": data,
            "minutes of training": f"{minutes * int(row['global_step']) / total:.1f} of {minutes:g}",
            "success": f"{float(row['rollout/success_rate']):.2f}",
            "mean maximum reward": f"{float(row['rollout/mean_max_reward']):.3f}",
            "unseen seeds": "50",
        }
        for row in rollouts[:-1]
    ]
    metrics = json.loads((run / "measured" / "metrics.json").read_text())
    low, high = metrics["success_rate_ci95"]
    return [
        *rows,
        {
            "demonstrations": data,
            "minutes of training": f"{minutes:g}",
            "success": f"**{metrics['success_rate']:.2f}** ({low:.2f} to {high:.2f})",
            "mean maximum reward": f"**{metrics['mean_max_reward']:.3f}**",
            "unseen seeds": str(episodes),
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scripted", type=float, nargs="*", default=[7], help="minutes of each run")
    parser.add_argument("--human", type=float, nargs="*", default=[6], help="minutes of each run")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.scripted:
            rows += measure("scripted, built in", minutes, 100, [], Path(folder))
            keep("time_to_skill", rows)
        recorded = os.environ.get("ROBODIFF_TEST_DATA")
        for minutes in options.human if recorded else []:
            path = Path(recorded or "") / "pusht" / "pusht_human.zarr.zip"
            human = ["--data.path", str(path), "--data.layout", "pusht"]
            rows += measure("human, 206", minutes, 50, human, Path(folder))
            keep("time_to_skill", rows)


if __name__ == "__main__":
    main()
