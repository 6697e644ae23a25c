"""What a frozen image encoder costs: training preset ``mycobot`` on frames that are encoded once, or at every step,
in turn in one process; and how long its policy takes from an image to an action.

ResNet-34 at 224 x 224 has random weights here, which take as long as any.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torchvision import models

from benchmarks.common import keep
from robodiff import PolicyRunner, load_policy
from robodiff.cli.collect import run as collect
from robodiff.cli.fit import run as fit

ANEW = ["--model.crop_shape", "[224,224]", "--model.crop_is_random", "true"]
"""A random crop of the whole image changes nothing but that frames count as different each time."""
DECISIONS = 200


def train(data: Path, weights: Path, run: Path, steps: int, options: list[str]) -> float:
    """Return windows a second of the training steps alone."""
    fit(["--config", "mycobot", "--data", str(data), "--run", str(run), "--trainer.max_steps", str(steps),
         "--model.pretrained_backbone_weights", str(weights), "--trainer.tensorboard", "false",
         "--data.val_split", "0", *options])  # fmt: skip
    return json.loads((run / "run.json").read_text())["samples_per_second"]


def decisions(policy: Path) -> np.ndarray:
    """Return the seconds of single decisions, from a camera's image to an action."""
    runner = PolicyRunner(load_policy(policy))
    runner.reset(seeds=[0])
    image = np.random.default_rng(0).integers(0, 256, (3, 240, 424), np.uint8)
    took = []
    for _ in range(DECISIONS + 10):
        begun = time.perf_counter()
        runner.act({"observation.images.front": image})
        took.append(time.perf_counter() - begun)
    return np.array(took[10:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="of training on encoded frames; a tenth of them without")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.save(models.resnet34().state_dict(), weights := place / "resnet34.pth")
        collect(["stack_cube_mycobot", "--format", "mycobot", "--episodes", "12", "--out", str(place / "eps")])
        rates = {"on frames encoded once": [], "encoding frames at every step": []}
        for attempt in range(2):
            for way, more in zip(rates, ([], ANEW), strict=True):
                run = place / f"{way.split()[0]}-{attempt}"
                steps = max(20, options.steps // 10) if more else options.steps
                rates[way].append(train(place / "eps", weights, run, steps, more))
        best = {way: max(values) for way, values in rates.items()}
        slowest = min(best.values())
        rows = [{"training": way, "windows/s": f"{rate:,.0f}", "ratio": f"{rate / slowest:,.0f}"}
                for way, rate in best.items()]  # fmt: skip
        keep("frozen", rows)
        milliseconds = 1000 * decisions(place / "on-0" / "policy")
        percentiles = {f"p{share}": f"{np.percentile(milliseconds, share):.1f}" for share in (50, 95)}
        keep("frozen_latency", [{"decision": "ResNet-34 at 224 x 224 once, 10 steps of DDIM", **percentiles}])


if __name__ == "__main__":
    main()
