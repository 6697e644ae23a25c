"""What serving costs: chunks of a policy in this process, and of the same one behind ``robodiff serve`` on this
machine, for one client and for several at once.
"""

import argparse
import re
import subprocess
import sys
import threading
import time

import numpy as np

from benchmarks.common import keep
from robodiff import load_policy
from robodiff.data.episodes import ACTION
from robodiff.deploy.client import RemotePolicy
from robodiff.policies.runtime import Runtime, draw_noise

WARM_UP = 5


def seconds(policy: Runtime, window: dict[str, np.ndarray], chunks: int) -> list[float]:
    """Return how long each of some chunks takes."""
    took = []
    for number in range(chunks + WARM_UP):
        noise = draw_noise(policy.noise_shape(1), number)
        start = time.perf_counter()
        policy.predict_chunk(window, noise=noise)
        took.append(time.perf_counter() - start)
    return took[WARM_UP:]


def together(url: str, clients: int, window: dict[str, np.ndarray], chunks: int) -> tuple[list[float], float]:
    """Return how long each chunk takes of clients that ask at once, and chunks a second of all."""
    policies = [RemotePolicy(url) for _ in range(clients)]
    took: list[float] = []
    threads = [threading.Thread(target=lambda policy=each: took.extend(seconds(policy, window, chunks)))
               for each in policies]  # fmt: skip
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = clients * (chunks + WARM_UP) / (time.perf_counter() - start)
    for policy in policies:
        policy.close()
    return took, rate


def row(way: str, took: list[float], rate: float) -> dict[str, str]:
    p50, p95 = np.percentile(1e3 * np.array(took), (50, 95))
    return {"way": way, "p50 ms": f"{p50:.1f}", "p95 ms": f"{p95:.1f}", "chunks/s": f"{rate:.1f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", help="a run or a policy's folder")
    parser.add_argument(
        "--chunks", type=int, default=200, help="that are timed of each way, 10 at least of each client"
    )
    options = parser.parse_args()
    policy = load_policy(options.policy)
    random = np.random.default_rng(0)
    window = {key: random.integers(0, 255, (1, policy.timing.n_obs_steps, *feature.shape)).astype(feature.dtype)
              for key, feature in policy.features.items() if key != ACTION}  # fmt: skip
    own = seconds(policy, window, options.chunks)
    rows = [row("in this process", own, 1 / np.mean(own))]
    command = [sys.executable, "-u", "-m", "robodiff", "serve", options.policy, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"ws://\S+:\d+", process.stdout.readline())
        assert address is not None
        for clients in (1, 4, 16):
            took, rate = together(address[0], clients, window, max(10, options.chunks // clients))
            rows.append(row(f"served, {clients} at once", took, rate))
        process.terminate()
    keep("serving", rows)


if __name__ == "__main__":
    main()
