"""What precision costs a trained policy: errors of its actions at recorded observations, and successes on equal seeds.

python -m benchmarks.precision keypoints runs/pusht builtin:pusht --episodes 100
python -m benchmarks.precision images runs/images images.zarr.zip --episodes 50
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.common import RESULTS, keep
from robodiff.cli.eval import run as evaluate
from robodiff.cli.export import run as export

WAYS = (("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("onnx", "fp32"), ("onnx", "int8"))
ENGINES = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}


def successes(policy: Path, options: argparse.Namespace, out: Path) -> list[bool]:
    """Return which episodes a policy succeeds in."""
    evaluate(
        [str(policy), "--env", options.env, "--episodes", str(options.episodes), "--videos", "0", "--out", str(out)]
    )
    return [each["success"] for each in json.loads((out / "metrics.json").read_text())["episodes"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the policy in the table")
    parser.add_argument("policy", type=Path)
    parser.add_argument("data", help="the recording to compare at")
    parser.add_argument("--env", default="pusht")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    kept = json.loads((RESULTS / "precision.json").read_text())["rows"] if (RESULTS / "precision.json").exists() else []
    rows = [row for row in kept if row["policy"] != options.name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = successes(options.policy, options, folder / "torch")
        for to, precision in WAYS:
            out = folder / f"{to}-{precision}"
            export([str(options.policy), "--to", to, "--precision", precision, "--data", options.data,
                    "--accept_errors", "--out", str(out)])  # fmt: skip
            verified = json.loads((out / "export.json").read_text())["verified"]
            others = successes(out, options, folder / f"{to}-{precision}-eval")
            rows.append(
                {
                    "policy": options.name,
                    "engine": ENGINES[to],
                    "precision": precision,
                    "MB": f"{verified['megabytes']:.1f}",
                    "mean error": f"{verified['mean_error']:.1e}",
                    "largest error": f"{verified['max_error']:.1e}",
                    "success": f"{sum(others) / len(others):.2f}",
                    "in torch": f"{sum(own) / len(own):.2f}",
                    "episodes": len(own),
                    "of which differ": sum(a != b for a, b in zip(own, others, strict=True)),
                }
            )
    keep("precision", rows)


if __name__ == "__main__":
    main()
