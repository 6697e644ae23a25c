"""``robodiff demo``: Push-T from demonstrations to a success rate."""

from dataclasses import dataclass
from typing import Annotated

from robodiff.cli import eval as evaluation
from robodiff.cli import fit
from robodiff.cli.options import Options, read_options
from robodiff.documents import Above, AtLeast, FilePath

PRESET = "pusht_keypoints"


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Train a policy for Push-T on the demonstrations inside the package, then measure it on unseen seeds.

    Examples:
      robodiff demo
      robodiff demo --minutes 10 --run runs/longer
    """

    minutes: Annotated[float, Above(0)] = 5.0
    """How long to train; measuring comes on top."""
    run: FilePath | None = None
    """Folder of the run; runs/demo-<date>-<time> when not given."""
    episodes: Annotated[int, AtLeast(1)] = 100
    """Episodes to measure."""


def run(arguments: list[str]) -> None:
    """Fit, evaluate, and say what to try next."""
    options = read_options(DemoOptions, "demo", arguments)
    folder = options.run or fit.new_run("demo")
    fit.run(["--config", PRESET, "--minutes", str(options.minutes), "--run", folder, "--rollout.env", "null"])
    measured = evaluation.run([folder, "--env", "pusht", "--episodes", str(options.episodes)])
    print(
        f"\nopen {folder}/report.html: the answer, videos, what the policy would do, and what it learned from\n"
        f"videos of the first successes and failures: {measured / 'videos'}\n"
        "next:\n"
        f"  robodiff eval {folder} --env pusht --sweep steps=3,5,10    fewer denoising steps: what they save and cost\n"
        f"  robodiff fit --config {PRESET} --minutes 15    more training\n"
        "  robodiff data info builtin:pusht    what it learned from"
    )
