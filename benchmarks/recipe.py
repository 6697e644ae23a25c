"""What makes a policy better in the same time: the levers of ``recipe_levers``, alone and joined, on Push-T.

Preset ``pusht_keypoints`` without validation and rollouts. All cells have the same training seeds and are measured on
the same evaluation seeds. With ``--minutes`` each run has that time and all cores, and the machine must be quiet. With
``--steps`` runs share the cores and the machine may be busy: ``plain`` has that many optimizer steps, and other cells
as many as take as long, by the cost of a step. Where a lever changes that it is measured before, in turn and by one
process, beside which nothing else should run. What was measured is in ``results/recipe.json`` and is not measured
again.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from rich.console import Console

import robodiff
from benchmarks.common import RESULTS, hardware, markdown
from benchmarks.recipe_levers import LEVERS, Lever
from robodiff.cli.configuration import find_config, to_yaml
from robodiff.envs.spec import get_env_spec
from robodiff.evaluation.config import SEED
from robodiff.evaluation.rollout import rollout
from robodiff.evaluation.statistics import mcnemar_exact, wilson_interval
from robodiff.machine import cores
from robodiff.policies.checkpoint import load_policy
from robodiff.training.config import FitConfig, max_time
from robodiff.training.fit import fit
from robodiff.training.module import PolicyTraining

KEPT = RESULTS / "recipe.json"
Runs = list[dict[str, Any]]
PLAIN = "plain"
COST_STEPS, COST_ROUNDS = 40, 3


class Job(NamedTuple):
    """One training, and its episodes."""

    demonstrations: str
    """scripted, or human."""
    budget: str
    """``5 minutes``, or ``4000 steps`` of the plain preset."""
    cell: str
    """Levers, joined by +."""
    seed: int
    """Of training."""


def configuration(job: Job, length: dict[str, Any]) -> FitConfig:
    """Return the preset with the levers of a cell."""
    draft = find_config("pusht_keypoints")
    if job.demonstrations == "human":
        draft.choose("data", str(Path(os.environ["ROBODIFF_TEST_DATA"]) / "pusht" / "pusht_human.zarr.zip"))
        draft.values["data"]["layout"] = "pusht"
    for lever in levers(job.cell):
        if lever.model:
            robodiff.register(lever.model)
            draft.choose("model", lever.model.__name__)
        for option, value in lever.options.items():
            part, name = option.split(".")
            values = draft.values[part]
            values[name] = value(values[name]) if callable(value) else value
    draft.top["seed_everything"] = job.seed
    draft.clear_length()
    draft.values["trainer"].update(**length, accelerator="cpu", limit_val_batches=0, tensorboard=False)
    draft.values["rollout"]["env"] = None
    return draft.build()


def levers(cell: str) -> list[Lever]:
    return [LEVERS[name] for name in cell.split("+") if cell != PLAIN]


def train(job: Job, length: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return what a run says of itself."""
    config = configuration(job, length)
    with ExitStack() as patches:
        for lever in levers(job.cell):
            patches.enter_context(lever.patched())
        fit(config, run, to_yaml(config), console=Console(quiet=True))
    return json.loads((run / "run.json").read_text())


def measure(job: Job, length: dict[str, Any], episodes: int, threads: int) -> dict[str, Any]:
    """Train and let act; return what is kept of it."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        facts = train(job, length, Path(folder) / "run")
        policy = load_policy(Path(folder) / "run" / "policy-last")
    records = rollout(policy, get_env_spec("pusht"), range(SEED, SEED + episodes), num_envs=50)
    return {
        **job._asdict(),
        "steps": facts["steps"],
        "minutes": round(facts["minutes"], 2),
        "mean maximum reward": round(statistics.mean(record.max_reward for record in records), 4),
        "successes": "".join(str(int(record.success)) for record in records),
        "threads": threads,
    }


def costs(cells: Sequence[str], demonstrations: str) -> dict[str, float]:
    """Return how much of a core's time an optimizer step of each cell takes, in steps of the plain preset."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {cell: [] for cell in cells}
    with TemporaryDirectory() as folder:
        for attempt, cell in itertools.product(range(COST_ROUNDS), cells):
            job, ends = Job(demonstrations, "", cell, 0), []
            run = Path(folder) / f"{cell}-{attempt}"
            with clock(ends):
                train(job, {"max_steps": COST_STEPS}, run)
            seconds[cell].append(statistics.median(after - before for before, after in itertools.pairwise(ends)))
    plain = min(seconds[PLAIN])
    return {cell: round(min(each) / plain, 3) for cell, each in seconds.items()}


def clock(ends: list[float], now: Callable[[], float] = time.process_time) -> Any:
    """Note when each optimizer step has ended; by the clock of the process time that others have does not count."""
    whole = PolicyTraining.optimizer_step

    def timed(module: Any, *given: Any, **options: Any) -> None:
        whole(module, *given, **options)
        ends.append(now())

    return patch.object(PolicyTraining, "optimizer_step", timed)


def table(runs: Runs, cost: dict[str, float]) -> list[dict[str, str]]:
    """Return a row for each cell, over all its training seeds; a group of rows begins with the plain preset."""
    rows = []
    for demonstrations, budget in dict.fromkeys((run["demonstrations"], run["budget"]) for run in runs):
        group = [run for run in runs if (run["demonstrations"], run["budget"]) == (demonstrations, budget)]
        ranked = sorted(dict.fromkeys(run["cell"] for run in group), key=lambda cell: -rate(group, cell))
        for cell in sorted(ranked, key=lambda cell: cell != PLAIN):
            own = sorted((run for run in group if run["cell"] == cell), key=lambda run: run["seed"])
            other = reference(cell, ranked)
            wins = [run["successes"].count("1") / len(run["successes"]) for run in own]
            flags = "".join(run["successes"] for run in own)
            low, high = wilson_interval(flags.count("1"), len(flags))
            rows.append(
                {
                    "demonstrations, budget": f"{demonstrations}, {budget}",
                    "recipe": cell,
                    "success": f"**{flags.count('1') / len(flags):.3f}** ({low:.3f} to {high:.3f})",
                    "of each training seed": " ".join(f"{win:.2f}" for win in wins),
                    "mean maximum reward": f"{statistics.mean(run['mean maximum reward'] for run in own):.3f}",
                    "difference": "" if cell == PLAIN else against(other, group, own),
                    "cost of a step": f"{cost[cell]:.2f}" if cell in cost and "steps" in budget else "",
                }
            )
    return rows


def rate(runs: Runs, cell: str) -> float:
    flags = "".join(run["successes"] for run in runs if run["cell"] == cell)
    return flags.count("1") / len(flags)


def reference(cell: str, measured: Sequence[str]) -> str:
    """Return what a cell is compared with: the longest beginning of it that was measured, or the plain preset."""
    parts = cell.split("+")
    beginnings = ("+".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((each for each in beginnings if each in measured), PLAIN)


def against(other: str, runs: Runs, own: Runs) -> str:
    """Return the difference in success over pairs of equal training and evaluation seed, with McNemar's exact p."""
    theirs = {run["seed"]: run["successes"] for run in runs if run["cell"] == other}
    pairs = [
        pair
        for run in own
        if run["seed"] in theirs
        for pair in zip(theirs[run["seed"]], run["successes"], strict=False)
    ]
    if not pairs:
        return ""
    lost, won = pairs.count(("1", "0")), pairs.count(("0", "1"))
    return f"{(won - lost) / len(pairs):+.3f} to {other}, p {mcnemar_exact(lost, won):.2g}"


def kept() -> dict[str, Any]:
    """Return what was measured."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {"costs": {}, "runs": []}


def keep(runs: Runs, cost: dict[str, float]) -> None:
    """Write everything that was measured, and its table."""
    content = {"hardware": hardware(), "rows": table(runs, cost), "costs": cost, "runs": runs}
    temporary = KEPT.with_suffix(".partial")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(KEPT)


def measured(jobs: Sequence[Job], length: dict[str, dict[str, Any]], episodes: int, at_once: int) -> Runs:
    """Measure the jobs that were not, and return the runs of all that ever were.

    Args:
        jobs: to be measured; a run of more episodes will do.
        length: of training, by the name of a cell: options of the trainer.
        episodes: of each.
        at_once: jobs that run at a time; each has its share of the cores.
    """
    runs, cost = kept()["runs"], kept()["costs"]
    done = {job_of(run) for run in runs if len(run["successes"]) >= episodes}
    threads = max(1, cores() // at_once)
    os.environ |= {"OMP_NUM_THREADS": str(threads)}
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(measure, job, length[job.cell], episodes, threads) for job in jobs if job not in done]
        for finished in as_completed(running):
            if finished.exception():
                continue  # the others are kept before it is raised
            run = finished.result()
            runs = [*(each for each in runs if job_of(each) != job_of(run)), run]
            keep(runs, cost)
            print(*job_of(run), f"{run['successes'].count('1') / episodes:.3f}", flush=True)
    for each in running:
        each.result()
    return runs


def job_of(run: dict[str, Any]) -> Job:
    return Job(*(run[name] for name in Job._fields))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of each run, on a quiet machine")
    budget.add_argument("--steps", type=int, help="of the plain preset, beside other work")
    known = f"{PLAIN}, or levers joined by +: {', '.join(LEVERS)}"
    parser.add_argument("--cells", nargs="+", default=[PLAIN, *LEVERS], help=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training")
    parser.add_argument("--episodes", type=int, default=200, help="a run")
    parser.add_argument("--human", action="store_true", help="human demonstrations, in ROBODIFF_TEST_DATA")
    parser.add_argument("--jobs", type=int, default=cores(), help="runs at once, with --steps")
    given = parser.parse_args()
    if unknown := {name for cell in given.cells for name in cell.split("+")} - {PLAIN, *LEVERS}:
        parser.error(f"no lever is called {min(unknown)}; expected {known}")
    if both := [cell for cell in given.cells if sum(lever.model is not None for lever in levers(cell)) > 1]:
        parser.error(f"{both[0]}: only one of its levers can say what the policy is")
    return given


def main() -> None:
    given = options()
    runs, cost, demonstrations = kept()["runs"], kept()["costs"], "human" if given.human else "scripted"
    if given.steps:
        cost |= {cell: 1.0 for cell in given.cells if not any(lever.costs_time for lever in levers(cell))}
        if new := [cell for cell in given.cells if cell not in cost]:
            cost |= costs([PLAIN, *new], demonstrations)
        keep(runs, cost)
    budget = f"{given.steps} steps" if given.steps else f"{given.minutes:g} minutes"
    jobs = [Job(demonstrations, budget, cell, seed) for seed in given.seeds for cell in given.cells]
    length = {
        cell: {"max_steps": round(given.steps / cost[cell])} if given.steps else {"max_time": max_time(given.minutes)}
        for cell in given.cells
    }
    print(markdown(table(measured(jobs, length, given.episodes, given.jobs if given.steps else 1), cost)))


if __name__ == "__main__":
    main()
