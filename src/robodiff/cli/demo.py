"""``robodiff demo``: Push-T from demonstrations to a success rate."""

import time

from robodiff.cli.parser import Parser

DESCRIPTION = """Train a policy for Push-T on the demonstrations inside the package, then measure it on unseen seeds.

Examples:
  robodiff demo
  robodiff demo --minutes 10 --run runs/longer"""
PRESET = "pusht_keypoints"


def run(arguments: list[str]) -> None:
    """Fit, evaluate, and say what to try next."""
    from robodiff.cli import eval as evaluation
    from robodiff.cli import fit

    parser = Parser("demo", "[--minutes 5] [options]", DESCRIPTION)
    parser.add_argument("--minutes", type=float, default=5.0, help="How long to train; measuring comes on top.")
    parser.add_argument("--run", type=str | None, help="Folder of the run; runs/demo-<date>-<time> when not given.")
    parser.add_argument("--episodes", type=int, default=100, help="Episodes to measure.")
    options = parser.parse_args(arguments)
    folder = options.run or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}"
    measuring = [folder, "--env", "pusht", "--episodes", str(options.episodes)]
    evaluation.parse(measuring)  # what it refuses is refused before the training
    fit.run(["--config", PRESET, "--minutes", str(options.minutes), "--run", folder])
    measured = evaluation.run(measuring)
    print(
        f"\nopen {folder}/report.html: the answer, videos, what the policy would do, and what it learned from\n"
        f"videos of the first successes and failures: {measured / 'videos'}\n"
        "next:\n"
        f"  robodiff eval {folder} --env pusht --steps 3    the same policy, three times as fast\n"
        f"  robodiff fit --config {PRESET} --minutes 15    more training\n"
        "  robodiff data info builtin:pusht    what it learned from"
    )
