"""How long a chunk takes: torch, ONNX Runtime and OpenVINO on the same weights, one robot, engines in turn.

The image policy is the one of Diffusion Policy's Push-T (262.7 M parameters: ResNet-18 on 96x96 cropped to 84x84, U-Net
of 512, 1024 and 2048 channels, two observations, 16 steps) with random weights, at 10 steps of DDIM and as many
evaluations as 2 and 3 steps of flow matching take; the keypoints policy is the preset's. Frames are new at every chunk,
so all of them are encoded. Run it alone on the machine:

    python -m benchmarks.latency
    python -m benchmarks.latency --device cuda
"""

import robodiff  # noqa: F401  # isort: skip  # before torch, which reads once how its threads wait
import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import keep
from robodiff.cli.configuration import find_config
from robodiff.data.episodes import ACTION, Feature
from robodiff.deploy.export import write_exported
from robodiff.deploy.runtime import ExportedPolicy
from robodiff.envs.pusht.spec import SPEC
from robodiff.errors import RobodiffError
from robodiff.machine import cores
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import draw_noise

IMAGE = DiffusionConfig(
    down_dims=(512, 1024, 2048),
    diffusion_step_embed_dim=128,
    crop_shape=(84, 84),
    noise_scheduler_type="DDIM",
    num_inference_steps=10,
)
FEATURES = {
    "observation.image": Feature("image", (3, 96, 96), "uint8"),
    "observation.state": Feature("vector", (2,), "float32"),
    ACTION: Feature("vector", (2,), "float32"),
}
TORCH = "torch", "fp32"


def observations(policy: DiffusionPolicy) -> Iterator[dict[str, np.ndarray]]:
    """Yield what one robot observes, always new."""
    random, steps = np.random.default_rng(0), policy.config.n_obs_steps
    while True:
        yield {
            key: random.integers(0, 256, (1, steps, *each.shape)).astype(each.dtype)
            for key, each in policy.features.items()
            if key != ACTION
        }


def candidates(
    policy: DiffusionPolicy, folder: Path, threads: int, int8: bool
) -> Mapping[tuple[str, str], DiffusionPolicy | ExportedPolicy]:
    """Return the policy as each engine computes it, by engine and precision."""
    made: dict[tuple[str, str], DiffusionPolicy | ExportedPolicy] = {TORCH: policy}
    samples = [
        (seen, draw_noise(policy.noise_shape(1), n)) for n, seen in zip(range(4), observations(policy), strict=False)
    ]
    for engine, name in (("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")):
        for precision in ("fp32", "int8") if int8 else ("fp32",):
            place = folder / f"{engine}-{precision}"
            place.mkdir(parents=True)
            described = write_exported(policy, place, engine, precision, samples)  # type: ignore[arg-type]
            made[name, precision] = ExportedPolicy(place, described, policy.config, threads)
            if (engine, precision) == ("openvino", "fp32"):  # the same files
                graphs = {
                    part: replace(graph, precision="bf16") if part in ("encoder", "denoiser") else graph
                    for part, graph in described.graphs.items()
                }
                described = replace(described, graphs=graphs, precision="bf16")
                try:
                    made[name, "bf16"] = ExportedPolicy(place, described, policy.config, threads)
                except RobodiffError as error:  # this processor cannot
                    print(error)
    return made


def shortened(policy: Any, rows: int) -> None:
    """Make a policy evaluate its network so many times."""
    if isinstance(policy, ExportedPolicy):
        policy.described = replace(policy.described, rows=policy.described.rows[:rows])
    else:
        table = policy.sampler
        policy.sampler = replace(table, rows=table.rows[:rows], conversions=table.conversions[:rows])


def measure(policies: Mapping[tuple[str, str], Any], seconds: float) -> dict[tuple[str, str], tuple[float, float]]:
    """Return p50 and p95 in milliseconds of each, after a warm-up."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in policies}
    seen = observations(policies[TORCH])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[TORCH]) < 10:
        observation = next(seen)
        for key, policy in policies.items():
            noise = draw_noise(policy.noise_shape(1), len(times[key]))
            start = time.perf_counter()
            policy.predict_chunk(observation, noise=noise)
            times[key].append(1e3 * (time.perf_counter() - start))
    return {key: tuple(np.percentile(each[2:], (50, 95))) for key, each in times.items()}  # type: ignore[misc]


def rows_of(title: str, policies: Mapping[tuple[str, str], Any], threads: int, seconds: float) -> list[dict[str, Any]]:
    evaluations = len(policies[TORCH].sampler.rows)
    millions = sum(weight.numel() for weight in policies[TORCH].parameters()) / 1e6
    measured = measure(policies, seconds)
    return [
        {
            "policy": f"{title}, {millions:.1f} M",
            "evaluations": evaluations,
            "engine": engine,
            "precision": precision,
            "threads": threads,
            "p50 ms": round(p50, 1),
            "p95 ms": round(p95, 1),
        }
        for (engine, precision), (p50, p95) in measured.items()
    ]


def keypoints() -> DiffusionPolicy:
    config = find_config("pusht_keypoints").build().model
    features = {key: each for key, each in SPEC.features.items() if each.kind == "vector"}
    return config.make_policy(features, SPEC.fps).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of measuring, for each policy and number of steps")
    parser.add_argument("--threads", type=int, default=cores(), help="for the image policy")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on a GPU torch alone computes")
    parser.add_argument("--keypoints_only", action="store_true", help="leave the image policy out; nothing is kept")
    parser.add_argument("--int8", action="store_true", help="in 8 bits, too; writing these takes minutes")
    options = parser.parse_args()
    rows = []
    if options.device == "cuda":
        rows += rows_of("keypoints", {TORCH: keypoints().to("cuda")}, 1, options.seconds / 3)
        policy = IMAGE.make_policy(FEATURES, 10.0).eval().to("cuda")
        for evaluations in (10, 3, 2):
            shortened(policy, evaluations)
            rows += rows_of("images", {TORCH: policy}, 1, options.seconds)
        keep("latency_gpu", rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        for threads in dict.fromkeys((1, options.threads)):
            torch.set_num_threads(threads)
            policies = candidates(keypoints(), Path(folder) / f"keypoints-{threads}", threads, options.int8)
            rows += rows_of("keypoints", policies, threads, options.seconds / 3)
        if not options.keypoints_only:
            policy = IMAGE.make_policy(FEATURES, 10.0).eval()
            policies = candidates(policy, Path(folder) / "image", threads, int8=options.int8)
            for evaluations in (10, 3, 2):
                for policy in policies.values():
                    shortened(policy, evaluations)
                rows += rows_of("images", policies, threads, options.seconds)
    if options.keypoints_only:
        from benchmarks.common import markdown

        print(markdown(rows))
    else:
        keep("latency", rows)


if __name__ == "__main__":
    main()
