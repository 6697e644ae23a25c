"""Presets of different networks and conditionings: the same demonstrations, minutes and seeds, in one run.

From keypoints, on the 206 human demonstrations of Push-T. Each preset is trained for some minutes alone on the machine;
its policy is then measured on seeds from 100000 on.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import keep
from benchmarks.time_to_skill import robodiff
from robodiff.policies.checkpoint import load_policy

PRESETS = {
    "pusht_keypoints": "U-Net, global (FiLM)",
    "pusht_transformer": "transformer, global (cross-attention)",
    "pusht_inpaint": "U-Net, inpaint",
}


def measure(preset: str, minutes: float, episodes: int, recording: Path, folder: Path) -> dict[str, Any]:
    run = folder / preset
    robodiff("fit", "--config", preset, "--minutes", minutes, "--run", run, "--data.path", recording,
             "--data.layout", "pusht")  # fmt: skip
    robodiff("eval", run, "--env", "pusht", "--episodes", episodes, "--out", run / "measured")
    metrics = json.loads((run / "measured" / "metrics.json").read_text())
    low, high = metrics["success_rate_ci95"]
    policy = load_policy(run)
    return {
        "preset": f"`{preset}`",
        "network": PRESETS[preset],
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
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=[*PRESETS], help="to measure; all")
    options = parser.parse_args()
    recorded = os.environ.get("ROBODIFF_TEST_DATA")
    if recorded is None:
        parser.error("set ROBODIFF_TEST_DATA to the folder of pusht/pusht_human.zarr.zip")
    recording = Path(recorded) / "pusht" / "pusht_human.zarr.zip"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            rows.append(measure(preset, options.minutes, options.episodes, recording, Path(folder)))
            keep("denoisers", rows)


if __name__ == "__main__":
    main()
