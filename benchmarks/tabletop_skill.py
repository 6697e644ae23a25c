"""Success of policies that were learnt from scripted demonstrations at a table, from states, on 100 unseen seeds.

Preset ``tabletop_state``, with the noise of each task's own in the demonstrations, one training seed. Minutes are those
of training, of each agent where each has a policy of its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, keep

ROWS = (
    ("lift_cube", "one", 100, 5),
    ("stack_cube_mycobot", "one", 300, 10),
    ("lift_barrier", "each its own", 100, 3),
    ("lift_barrier", "one for all", 100, 5),
    ("two_robots_stack_cube", "each its own", 300, 10),
)
"""Task, policies, demonstrations, minutes."""


def robodiff(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "robodiff", *map(str, arguments)], check=True)


def measure(task: str, policies: str, demonstrations: int, minutes: float, folder: Path) -> dict[str, Any]:
    """Collect, train, let act; a run that is there already is measured again."""
    data, run = folder / f"{task}-{demonstrations}.zarr", folder / f"{task}-{policies.replace(' ', '-')}-{minutes:g}"
    agents = ["--all_agents"] if policies == "each its own" else []
    if not run.exists():
        robodiff("collect", task, "--episodes", demonstrations, "--out", data)
        robodiff("fit", "--config", "tabletop_state", "--data", data, "--minutes", minutes, "--run", run, *agents)
    robodiff("eval", run, "--env", task, "--episodes", 100, "--videos", 1, "--out", run / "measured")
    metrics = json.loads((run / "measured" / "metrics.json").read_text())
    low, high = metrics["success_rate_ci95"]
    return {
        "task": f"`{task}`",
        "policies": policies,
        "demonstrations": demonstrations,
        "minutes of training": f"{minutes:g}" + (" each" if agents else ""),
        "success": f"**{metrics['success_rate']:.2f}** ({low:.2f} to {high:.2f})",
        "mean steps": f"{metrics['mean_episode_length']:.0f}",
        "episodes with a collision": f"{metrics['extra']['collision']:.0%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", help="measure these alone, and keep the other rows as they are")
    parser.add_argument("--folder", type=Path, default=Path("tabletop_skill"), help="where runs go")
    options = parser.parse_args()
    kept = RESULTS / "tabletop_skill.json"
    earlier = json.loads(kept.read_text())["rows"] if kept.exists() and options.tasks else []
    rows = {(row["task"], row["policies"], row["demonstrations"]): row for row in earlier}
    for task, policies, demonstrations, minutes in ROWS:
        if not options.tasks or task in options.tasks:
            row = measure(task, policies, demonstrations, minutes, options.folder)
            rows[row["task"], policies, demonstrations] = row
            keep("tabletop_skill", [*rows.values()])


if __name__ == "__main__":
    main()
