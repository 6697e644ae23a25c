"""A run's folder, read for people: what it measured, how it was configured, and how it was evaluated."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robodiff import documents
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.forms import EVALUATION, FACTS, OFFLINE, read_formed
from robodiff.files import read_rows

RUN_FILE = "run.json"
"""How long a run took, and on what; written by ``fit``."""
METRICS_FILE = "metrics.json"
"""What an evaluation measured; written by ``eval``."""
OFFLINE_FILE = "offline.json"
"""What ``eval`` without an environment measured."""
COMPARISON_FILE = "comparison.json"
"""The evaluation beside it against another; written by ``eval --against``."""

NON_FINITE_FOLDER = "non_finite"
"""What the policy observed where an action was not finite, beside it; written by ``eval``."""

_AGAIN = "evaluate again with robodiff eval"
_FACTS_AGAIN = "remove it: it tells how long training took, and the report leaves that out then"


@dataclass(frozen=True)
class Evaluation:
    """One ``metrics.json`` and the videos beside it."""

    folder: Path
    metrics: dict[str, Any]

    @property
    def videos(self) -> list[Path]:
        """Successes first."""
        return sorted(video_files(self.folder / "videos"), key=lambda p: (p.name.startswith("failure"), p.name))

    @property
    def stopped(self) -> str:
        """In a sentence, how many episodes were stopped by an action that is not finite; empty where none was."""
        count, of = self.metrics["non_finite_actions"], len(self.metrics["episodes"])
        if count == 0:
            return ""
        return (
            f"{count} of {of} episodes {'was' if count == 1 else 'were'} stopped by an action that is not finite, "
            f"before it was executed; what the policy observed there is in {self.folder / NON_FINITE_FOLDER}"
        )


@dataclass(frozen=True)
class Run:
    """What is known of a run."""

    folder: Path
    config: str
    """``config.yaml`` as text."""
    facts: dict[str, Any]
    """``run.json``: minutes, steps, machine; empty while the first ``fit`` has not ended."""
    curves: dict[str, tuple[list[float], list[float]]]
    """Per logged quantity the optimizer steps and the values there."""
    evaluations: list[Evaluation]
    """The latest first."""
    offline: list[dict[str, Any]]
    """Every ``offline.json``, the latest first."""

    @classmethod
    def of_evaluation(cls, folder: Path) -> "Run":
        """An evaluation of a policy whose run is not known; in one folder there may be one of each kind."""
        offline = [read_offline(folder)] if (folder / OFFLINE_FILE).is_file() else []
        evaluations = [read_evaluation(folder)] if (folder / METRICS_FILE).is_file() or not offline else []
        return cls(folder, "", {}, {}, evaluations, offline)

    @property
    def best(self) -> tuple[int, str, float] | None:
        """The optimizer step that ``policy/`` was kept at, what was measured then, and its value; None: the last step.

        It is what ``fit`` keeps: the highest reward in rollouts or, where there are none, the smallest error.
        """
        for measured, pick in (("rollout/mean_max_reward", max), ("val/action_mse", min)):
            if measured in self.curves:
                steps, values = self.curves[measured]
                value = pick(values)
                return int(steps[values.index(value)]), measured, value
        return None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read_run(folder: Path) -> Run:
    """Read a run's folder; a run that is still going on can be read, too.

    Raises:
        UsageError: it is not a run.
        RobodiffError: one of its files is broken.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder}: is not the folder of a run (it has no config.yaml)")
    facts = folder / RUN_FILE
    return Run(
        folder,
        documents.read(config)[0],
        read_formed(facts, FACTS, _FACTS_AGAIN, samples_per_second=None) if facts.is_file() else {},
        read_curves(folder / "metrics.csv"),
        [read_evaluation(path) for path in _latest_first(folder, METRICS_FILE)],
        [read_offline(path) for path in _latest_first(folder, OFFLINE_FILE)],
    )


def run_of(policy: Path) -> Path | None:
    """The run that a policy's folder lies in (``policies/epoch-0300`` is two folders deep), or is; None if in none."""
    folder = policy.resolve() if policy.name in ("", "..") else policy
    return next((run for run in (folder, folder.parent, folder.parent.parent) if (run / "config.yaml").is_file()), None)


def read_evaluation(folder: Path) -> Evaluation:
    """Read ``metrics.json`` and check that it holds what a reader needs; older ones count no non-finite actions."""
    return Evaluation(folder, read_formed(folder / METRICS_FILE, EVALUATION, _AGAIN, non_finite_actions=0))


def read_offline(folder: Path) -> dict[str, Any]:
    """Read ``offline.json`` and check that it holds what a reader needs."""
    found = read_formed(folder / OFFLINE_FILE, OFFLINE, _AGAIN)
    dimensions = len(found["dimensions"])
    lengths = {len(step[name]) for step in found["steps"] for name in ("mae", "hold")}
    if lengths != {dimensions} or (found["worst_dimension"] or 0) not in range(dimensions):
        raise RobodiffError(
            f"{folder / OFFLINE_FILE}: its steps have not the errors of {dimensions} dimensions; {_AGAIN}"
        )
    return found


def video_files(folder: Path) -> list[Path]:
    """The videos that ``eval`` wrote there; others' are not its own."""
    return [path for path in folder.glob("*.mp4") if re.fullmatch(r"(success|failure)-\d+", path.stem)]


def non_finite_files(folder: Path) -> list[Path]:
    """The observations that ``eval`` wrote there."""
    return [path for path in folder.glob("*.npz") if re.fullmatch(r"seed-\d+", path.stem)]


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read ``metrics.csv``: per quantity the steps and values that are numbers; half a line is left out."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in read_rows(path, "global_step"):
        step = _number(row["global_step"])
        for key, text in row.items():
            value = _number(text)
            if step is not None and value is not None and key not in ("epoch", "global_step"):
                steps, values = curves.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def _latest_first(run: Path, name: str) -> list[Path]:
    """The folders of the evaluations that hold a file of that name."""
    found = sorted(run.glob(f"eval/*/{name}"), key=lambda path: (-path.stat().st_mtime, path))
    return [path.parent for path in found]


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
