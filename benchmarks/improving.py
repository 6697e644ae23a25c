"""Does it help that the expert takes over? ``robodiff improve`` beside plain training that goes on for as long.

python -m benchmarks.improving runs/demo                 (a run of preset pusht_keypoints; a quiet machine)

Both begin from the run's policy, with the same learning rate, and every policy is measured on the same seeds. The
folder of the rounds is kept beside the run, so that the same command goes on where it was stopped.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import keep
from robodiff.cli import eval as evaluation
from robodiff.cli import fit, improve
from robodiff.cli.configuration import read_run_config
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.results import EnvResult, RunFacts, read_result
from robodiff.training.improve import Improvement, minutes_of


def goes_on(run: Path, minutes: float, out: Path) -> Path:
    """Return a run that trains on from the policy of another, on what that was trained on."""
    if not (out / RunFacts.file).is_file():
        rate = improve.LATER * read_run_config(run).model.learning_rate
        words = ["--config", str(run / "config.yaml"), "--initial_weights", str(run), "--run", str(out)]
        fit.run([*words, "--minutes", f"{minutes:g}", "--model.learning_rate", f"{rate:g}"])
    return out


def row(name: str, minutes: float, taken_over: int, result: EnvResult, first: EnvResult) -> dict[str, Any]:
    """Return a row of the table."""
    low, high = result.success_rate_ci95
    paired = compare(result, first)
    return {
        "policy": name,
        "minutes of training": f"{minutes:.1f}",
        "episodes taken over": str(taken_over),
        "success": f"**{result.success_rate:.3f}** ({low:.3f} to {high:.3f})",
        "mean maximum reward": f"{result.mean_max_reward:.3f}",
        "to the first": "" if result is first else f"{paired.success_difference:+.3f}, p {paired.p:.2g}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5, help="of training in each round")
    parser.add_argument("--taken_over", type=int, default=30, help="episodes in each round")
    parser.add_argument("--episodes", type=int, default=200, help="to measure each policy in")
    given = parser.parse_args()
    measure = ["--episodes", str(given.episodes)]

    def measured(run: Path) -> EnvResult:
        return read_result(evaluation.run([str(run), "--env", "pusht", *measure]), EnvResult)

    folder = Path(f"{given.run}-improved")
    words = ["--rounds", given.rounds, "--minutes", given.minutes, "--episodes", given.taken_over]
    words += ["--measure", given.episodes, "--out", folder]
    improve.run([str(given.run), "--env", "pusht", *map(str, words)])
    first = measured(given.run)
    rows = [
        row("the first" if number == 0 else f"round {number}", each.minutes, each.taken_over,
            first if number == 0 else measured(Path(each.run)), first)
        for number, each in enumerate(read_result(folder, Improvement).rounds)
    ]  # fmt: skip
    longer = goes_on(given.run, given.rounds * given.minutes, Path(f"{given.run}-longer"))
    minutes = minutes_of(given.run) + minutes_of(longer)
    keep("improving", [*rows, row("trained on without", minutes, 0, measured(longer), first)])


if __name__ == "__main__":
    main()
