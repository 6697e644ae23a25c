"""What a second program on the same cores costs training and acting, by how threads wait and how many there are.

Each figure is of a process of its own: alone, and beside a program that trains a network with torch's defaults. The
ways are taken in turn, so that a change of the machine's speed meets all of them.

    python -m benchmarks.busy
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import keep

WAYS: dict[str, dict[str, str]] = {
    "torch's defaults": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": ""},
    "a short spin, as robodiff does": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"},
    "sleeping at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Environment variables; an empty one is unset."""
SECONDS = 3.0


def work(name: str) -> Callable[[], object]:
    """Return one piece of work, with the names of the rows."""
    import torch

    from robodiff.data.episodes import ACTION, Feature
    from robodiff.policies.denoisers import DiffusionConfig
    from robodiff.training.optim import make_optimizer

    wide = name.startswith("66 M")
    sizes = {"down_dims": (256, 512, 1024) if wide else (32, 64, 128), "num_inference_steps": 10}
    flow = {"noise_scheduler_type": "Flow", "beta_schedule": "flow", "prediction_type": "velocity"}
    config = DiffusionConfig(n_obs_steps=2, horizon=16, n_action_steps=8, **sizes, **flow)  # pyright: ignore
    features = {"observation.state": Feature("vector", (18,), "float32"), ACTION: Feature("vector", (2,), "float32")}
    policy = config.make_policy(features, fps=10)
    size = 1 if "chunk" in name else 16 if wide else 128
    observed = torch.rand(size, 2, 18)
    if "chunk" in name:
        policy.eval()
        return lambda: policy.predict_chunk({"observation.state": observed})
    optimizer = make_optimizer(policy, fused=True)
    actions, pad = torch.rand(size, 16, 2), torch.zeros(size, 16, dtype=torch.bool)
    batch = {"observation.state": observed, ACTION: actions, "action_is_pad": pad}

    def step() -> None:
        policy.loss(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


WORK = (
    "1.2 M U-Net, training step of 128",
    "1.2 M U-Net, chunk of 10 steps",
    "66 M U-Net, chunk of 10 steps",
)


def repeat(name: str, seconds: float) -> float:
    """Return the mean milliseconds of a piece of work, after one for warming up."""
    run = work(name)
    run()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        count += 1
    return 1e3 * (time.perf_counter() - start) / count


def start(name: str, way: str, seconds: float) -> subprocess.Popen[str]:
    variables = {**os.environ, **WAYS[way]}
    environment = {key: value for key, value in variables.items() if value and not (key in WAYS[way] and not value)}
    command = [sys.executable, "-m", "benchmarks.busy", "--work", name, "--seconds", str(seconds), "--way", way]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def measure(name: str, way: str, in_company: bool) -> float:
    other = start(WORK[0], "torch's defaults", 1e6) if in_company else None
    if other is not None:
        time.sleep(6)  # until it trains
    try:
        return float(start(name, way, SECONDS).communicate()[0])
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", help="be one of the processes")
    parser.add_argument("--way", default="torch's defaults")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    if options.work:
        print(repeat(options.work, options.seconds))
        return
    times: dict[tuple[str, str, bool], list[float]] = {}
    for _ in range(options.rounds):
        for name in WORK:
            for way in WAYS:
                for in_company in (False, True):
                    times.setdefault((name, way, in_company), []).append(measure(name, way, in_company))
    keep("busy", [row(times, name, way) for name in WORK for way in WAYS])


def row(times: dict[tuple[str, str, bool], list[float]], name: str, way: str) -> dict[str, Any]:
    alone, company = (statistics.median(times[name, way, in_company]) for in_company in (False, True))
    usual = statistics.median(times[name, "torch's defaults", False])
    return {
        "work": name,
        "threads": way,
        "alone, ms": f"{alone:.1f}",
        "of torch's defaults": f"{alone / usual:.2f}",
        "beside another program, ms": f"{company:.1f}",
        "times slower": f"{company / alone:.1f}",
    }


if __name__ == "__main__":
    main()
