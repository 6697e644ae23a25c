"""Presets of different networks and conditionings: the same demonstrations, minutes and seeds, in one run.

On the 206 human demonstrations of Push-T, from keypoints, or from pixels on a GPU. Each preset is trained for some
minutes alone on the machine; its policy is then measured on seeds from 100000 on.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import keep
from benchmarks.time_to_skill import robodiff
from robodiff.policies.checkpoint import load_policy

KEYPOINTS = {
    "pusht_keypoints": "U-Net, global (FiLM)",
    "pusht_transformer": "transformer, global (cross-attention)",
    "pusht_inpaint": "U-Net, inpaint",
}
PIXELS = {
    "pusht_basic": "U-Net, global (FiLM)",
    "pusht_transformer_image": "transformer, global (cross-attention)",
}


def measure(
    preset: str, network: str, data: list[object], minutes: float, episodes: int, folder: Path
) -> dict[str, Any]:
    """One row; ``data`` are the options of ``robodiff fit`` that name the demonstrations."""
    run = folder / preset
    robodiff("fit", "--config", preset, "--minutes", minutes, "--run", run, *data)
    robodiff("eval", run, "--env", "pusht", "--episodes", episodes, "--out", run / "measured")
    metrics = json.loads((run / "measured" / "metrics.json").read_text())
    low, high = metrics["success_rate_ci95"]
    policy = load_policy(run)
    return {
        "preset": f"`{preset}`",
        "network": network,
        "told of": f"{policy.config.n_obs_steps} obs., denoises {policy.config.denoised_steps}",
        "predicts": policy.config.prediction_type,
        "parameters": f"{sum(p.numel() for p in policy.denoiser.parameters()):,}",
        "minutes": f"{minutes:g}",
        "optimizer steps": f"{json.loads((run / 'run.json').read_text())['steps']:,}",
        "success": f"{metrics['success_rate']:.2f} ({low:.2f} to {high:.2f})",
        "mean maximum reward": f"**{metrics['mean_max_reward']:.3f}**",
        "unseen seeds": str(episodes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of training, each")
    parser.add_argument("--episodes", type=int, default=100, help="to measure with")
    parser.add_argument("--pixels", action="store_true", help="the presets that see images, kept apart; needs a GPU")
    options = parser.parse_args()
    recorded = os.environ.get("ROBODIFF_TEST_DATA")
    if not recorded:
        print("denoisers: skipped, ROBODIFF_TEST_DATA does not name a folder of recorded data")
        return
    if options.pixels and not torch.cuda.is_available():
        sys.exit("denoisers: --pixels needs a GPU; without one it would take days")
    if options.pixels:
        presets, data = PIXELS, ["--data.root", Path(recorded) / "lerobot_pusht_v3"]
    else:
        presets = KEYPOINTS
        data = ["--data.path", Path(recorded) / "pusht" / "pusht_human.zarr.zip", "--data.layout", "pusht"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(preset, network, data, options.minutes, options.episodes, Path(folder))
            for preset, network in presets.items()
        ]
    keep("denoisers_pixels" if options.pixels else "denoisers", rows)


if __name__ == "__main__":
    main()
