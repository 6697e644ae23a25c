"""Success and reward on 500 unseen seeds against the length of training, from scripted and from human demonstrations.

Preset ``pusht_keypoints`` without validation and rollouts, and as it was with AdamW, three training seeds a row, beside
what others published. The runs are those of ``benchmarks.recipe``: they are kept in ``results/recipe.json`` and may be
made beside other work. How many minutes so many steps take is measured with all cores by ``--clock``, on a quiet
machine.

python -m benchmarks.time_to_skill --steps 1700 5100 8500 [--human]
python -m benchmarks.time_to_skill --clock
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.common import RESULTS, hardware, keep
from benchmarks.recipe import PLAIN, Job, Runs, clock, kept, measured, train
from robodiff.evaluation.seeds import mean_interval, success_interval
from robodiff.machine import cores

KEPT = RESULTS / "time_to_skill.json"
EPISODES, SEEDS, CLOCKED = 500, (0, 1, 2), 300
PUBLISHED = (  # whose policies, success, score, episodes; all from the 206 human demonstrations, on a GPU
    ("[LeRobot](https://huggingface.co/lerobot/diffusion_pusht_keypoints), keypoints", "0.710", "0.969", "see there"),
    (
        "[the-future-dev](https://huggingface.co/the-future-dev/diffusion-pusht-keypoints), keypoints and the goal's",
        "0.868",
        "0.978",
        "500",
    ),
    ("[LeRobot](https://huggingface.co/lerobot/diffusion_pusht), images", "0.654", "0.955", "500"),
)
NAMES = {"scripted": "scripted, built in", "human": "human, 206"}
POLICIES = {PLAIN: "{:,} steps on a CPU", "adamw": "{:,} steps of AdamW"}
"""What a row is called, by the cell of the recipe."""


def step_seconds() -> float:
    """Return how long an optimizer step takes with all cores, by the clock on the wall."""
    torch.set_num_threads(cores())
    ends: list[float] = []
    with TemporaryDirectory() as folder, clock(ends, time.perf_counter):
        train(Job("scripted", "", PLAIN, 0), {"max_steps": CLOCKED}, Path(folder) / "run")
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def rows(runs: Runs, cost: dict[str, float], seconds: float | None) -> list[dict[str, str]]:
    """Return a row for each length of training, over its seeds, then what others have published.

    Args:
        runs: of ``benchmarks.recipe``.
        cost: of a step of a recipe, in steps of the preset.
        seconds: of an optimizer step of the preset; None if not measured.
    """
    made = [run for run in runs if run["cell"] in POLICIES and len(run["successes"]) >= EPISODES]
    own = []
    for kind in sorted({(run["demonstrations"], run["cell"], run["budget"]) for run in made}, key=_order):
        group = [run for run in made if (run["demonstrations"], run["cell"], run["budget"]) == kind]
        group.sort(key=lambda run: run["seed"])
        won = np.array([[flag == "1" for flag in run["successes"][:EPISODES]] for run in group])  # (S, E)
        scores = np.array([run["mean maximum reward"] for run in group])
        steps = group[0]["steps"]
        own.append(
            {
                "demonstrations": NAMES[kind[0]],
                "policy": POLICIES[kind[1]].format(steps),
                "minutes of training": "" if seconds is None else f"{steps * cost[kind[1]] * seconds / 60:.1f}",
                "success": f"**{won.mean():.3f}**{_between(success_interval(won))}",
                "of each training seed": " ".join(f"{each:.3f}" for each in won.mean(1)),
                "score": f"**{scores.mean():.3f}**{_between(mean_interval(scores))}",
                "episodes": str(EPISODES),
            }
        )
    others = [
        {"demonstrations": NAMES["human"], "policy": whose, "minutes of training": "on a GPU", "success": success,
         "of each training seed": "one policy", "score": score, "episodes": episodes}
        for whose, success, score, episodes in PUBLISHED
    ]  # fmt: skip
    missing = [
        {**dict.fromkeys(others[0], ""), "demonstrations": name, "policy": "not measured"}
        for demonstrations, name in NAMES.items()
        if demonstrations not in {run["demonstrations"] for run in made}
    ]
    return [*own, *missing, *others]


def _order(kind: tuple[str, str, str]) -> tuple[int, int, float]:
    demonstrations, cell, budget = kind
    return [*NAMES].index(demonstrations), [*POLICIES].index(cell), float(budget.split()[0])


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {min(1.0, interval[1]):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="*", default=[], help="lengths of training")
    parser.add_argument("--human", action="store_true", help="human demonstrations, in ROBODIFF_TEST_DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of training")
    parser.add_argument("--jobs", type=int, default=cores(), help="runs at once")
    parser.add_argument("--clock", action="store_true", help="measure a step; nothing else may run")
    given = parser.parse_args()
    before = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    seconds = step_seconds() if given.clock else before.get("step_seconds")
    demonstrations, runs = "human" if given.human else "scripted", kept()["runs"]
    for steps in given.steps:
        jobs = [Job(demonstrations, f"{steps} steps", PLAIN, seed) for seed in given.seeds]
        runs = measured(jobs, {PLAIN: {"max_steps": steps}}, EPISODES, given.jobs)
    machine = hardware() if given.steps or given.clock else before["hardware"]
    keep("time_to_skill", rows(runs, kept()["costs"], seconds), machine, step_seconds=seconds)


if __name__ == "__main__":
    main()
