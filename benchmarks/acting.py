"""What ways of acting achieve and cost: sweeps over trained policies, in one table.

python -m benchmarks.acting --policy pusht=runs/pusht --policy stack_cube_mycobot=runs/cube
python -m benchmarks.acting --policy pusht=runs/pusht --sweep steps=1,2,3 best_of=1,8 --episodes 200
"""

import argparse
from typing import Any

from benchmarks.common import keep
from robodiff.cli.eval import run as evaluate
from robodiff.evaluation.results import SweepResult, read_result

SWEEPS = ("steps=1,2,3,5,10,20", "n_action_steps=4,6,8,10,12", "best_of=1,8 n_action_steps=4,8")
"""Each by itself: one lever, and at last two together."""


def swept(environment: str, policy: str, sweep: str, episodes: int) -> SweepResult:
    """Return what a sweep over a policy gives."""
    words = ["--sweep", *sweep.split(), "--episodes", str(episodes)]
    return read_result(evaluate([policy, "--env", environment, *words]), SweepResult)


def rows_of(environment: str, result: SweepResult) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    rows = []
    for place, each in enumerate(result.cells):
        low, high = each.success_rate_ci95
        rows.append(
            {
                "environment": environment,
                "way of acting": str(each.way) + (" (its own)" if place == 0 else ""),
                "success": f"{each.success_rate:.2f} ({low:.2f} to {high:.2f})",
                "mean maximum reward": f"{each.mean_max_reward:.3f}",
                "ms a chunk": f"{each.latency_ms.p50:.1f}",
                "ms an action": f"{each.action_ms:.2f}",
                "difference": "" if place == 0 else f"{each.success_difference:+.2f}",
                "p": "" if place == 0 else f"{each.holm_p:.2g}",
                "episodes": result.episodes,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", action="append", required=True, help="ENVIRONMENT=RUN")
    parser.add_argument("--sweep", nargs="+", help="as for robodiff eval; in place of those that are usual")
    parser.add_argument("--episodes", type=int, default=100, help="of each way of acting")
    options = parser.parse_args()
    sweeps = [" ".join(options.sweep)] if options.sweep else SWEEPS
    rows = []
    for environment, policy in (each.split("=", 1) for each in options.policy):
        for sweep in sweeps:
            rows += rows_of(environment, swept(environment, policy, sweep, options.episodes))
    keep("acting", rows)


if __name__ == "__main__":
    main()
