"""How punctual the real-time loop is, and a picture of it: which chunk is computed when, and acts when.

python -m benchmarks.loop_timing RUN ENVIRONMENT [--steps N] [--seconds 20] [--mode real_time]
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import keep
from robodiff.deploy.config import LoopConfig
from robodiff.deploy.episode import Episode
from robodiff.deploy.loop import ControlLoop
from robodiff.deploy.opening import open_runtime
from robodiff.deploy.robot import GuardedRobot
from robodiff.envs.robot import EnvRobot
from robodiff.envs.spec import get_env_spec
from robodiff.evaluation.actor import needed_keys, seen_by

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "loop.svg"
SHOWN = 32
"""Steps in the picture."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("env")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    policy: Any = open_runtime(options.run, steps=options.steps)
    spec = seen_by(policy, get_env_spec(options.env))
    rows = []
    for mode in ("real_time", "naive", "synchronous"):
        robot = GuardedRobot(EnvRobot(spec, needed_keys(policy, spec), seed=100_000), options.env)
        episode = ControlLoop(policy, robot, LoopConfig(mode=mode, patience=1000)).run(options.seconds)  # type: ignore
        robot.close()
        rows.append({"mode": mode, "Hz": round(1 / episode.spacing, 3), **episode.summary})
        if mode == "real_time":
            draw(episode)
    keep("loop_timing", rows)


def draw(episode: Episode) -> None:
    """Draw the first steps: above when chunks are computed, below when actions are executed, in the chunk's colour."""
    figure, (above, below) = plt.subplots(
        2, figsize=(9, 2.6), sharex=True, height_ratios=[1, 1], layout="constrained", gridspec_kw={"hspace": 0.05}
    )
    taken = [chunk.taken for chunk in episode.chunks if chunk.taken is not None]
    for number, chunk in enumerate(episode.chunks):
        if chunk.arrived is not None:
            above.barh(0, chunk.arrived - chunk.asked, left=chunk.asked, height=0.5, color=f"C{number % 10}")
            above.annotate(f"chunk {number + 1}", (chunk.asked, 0.32), fontsize=8)
    for step, executed in zip(episode.steps, episode.executed, strict=True):
        number = int(np.searchsorted(taken, step, side="right")) - 1
        below.plot([executed, executed], [0.1, 0.9], color=f"C{number % 10}", linewidth=4)
    for axes, title in ((above, "computed"), (below, "executed")):
        axes.set_yticks([])
        axes.set_ylabel(title)
        axes.spines[["top", "right", "left"]].set_visible(False)
    above.set_ylim(-0.4, 0.7)
    below.set_ylim(0, 1)
    below.set_xticks(np.arange(SHOWN + 1) * episode.spacing, minor=True)
    below.set_xlim(-0.6 * episode.spacing, SHOWN * episode.spacing)
    below.set_xlabel("seconds")
    plt.rcParams["svg.hashsalt"] = "robodiff"
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
