"""The humanoid: how often its expert walks, pushed and not, what wrong flags do to it, and how fast it is.

python -m benchmarks.walking                   (rates are per CPU second of one thread)
python -m benchmarks.walking --picture         (of docs/walking.md)
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import RESULTS, keep
from robodiff.envs.collect import collect
from robodiff.envs.mujoco.walker import STATE, WalkerEnv, WalkerOptions
from robodiff.envs.mujoco.walking import Walk
from robodiff.evaluation.statistics import wilson_interval

SEEDS = range(1_000_000, 1_000_100)
PICTURE = RESULTS.parents[1] / "docs" / "pictures" / "walking.png"
FEW = SEEDS[:50]
"""For wrong flags, which leave little doubt."""
DEMONSTRATIONS = 20
Flags = Callable[[np.ndarray, np.random.Generator], np.ndarray]
WRONG: dict[str, Flags] = {
    "always 1": lambda flags, _: np.ones(2),
    "always 0": lambda flags, _: np.zeros(2),
    "swapped": lambda flags, _: flags[::-1].copy(),
    "random at each step": lambda flags, rng: rng.integers(0, 2, 2),
}


def main() -> None:
    if "--picture" in sys.argv:
        take_picture()
        return
    rows = [row("as they should be", lambda flags, _: flags, push) for push in (0, 100, 150, 200)]
    rows += [row(name, flags, 0, FEW) for name, flags in WRONG.items()]
    keep("walking", rows)
    keep("walking_speed", [speed()])


def row(name: str, flags: Flags, push: int, seeds: range = SEEDS) -> dict[str, Any]:
    """How the expert walks on fresh seeds, with its flags changed and with pushes of up to so many newtons."""
    episodes = [last for seed in seeds for *_, last in [walk(seed, flags, push)]]
    successes = sum(info["is_success"] for info in episodes)
    low, high = wilson_interval(successes, len(seeds))
    figures = {name: np.mean([info["extra"][name] for info in episodes]) for name in episodes[0]["extra"]}
    return {
        "flags": name,
        "pushes, N": push,
        "successes": f"{successes}/{len(seeds)}",
        "95 % interval": f"{low:.2f} to {high:.2f}",
        "seconds upright": f"{figures['seconds_upright']:.2f}",
        "distance, m": f"{figures['distance']:.2f}",
        "speed error, m/s": f"{figures['speed_error']:.3f}",
        "largest": f"{max(info['extra']['speed_error'] for info in episodes):.3f}",
        "flags agree with touch": f"{figures['contact_agreement']:.3f}",
    }


def walk(seed: int, flags: Flags, push: float) -> Iterator[dict[str, Any]]:
    """What is told after each step of an episode."""
    env, rng = WalkerEnv([], WalkerOptions(push_newton=push)), np.random.default_rng(seed)
    env.reset(seed=seed)
    expert, over = Walk(env.biped, env.command, int(rng.integers(2))), False
    while not over:
        action = expert.act()
        action[21:] = flags(action[21:], rng)
        _, _, fell, ended, info = env.step(action)
        over = fell or ended
        yield info


def take_picture() -> None:
    """Six moments of a walk, a tenth of a second apart."""
    env = WalkerEnv([], WalkerOptions(command_low=0.7, command_high=0.7))
    env.reset(seed=SEEDS[0])
    expert, pictures = Walk(env.biped, env.command, 0), []
    for step in range(130):
        env.step(expert.act())
        if step >= 100 and step % 5 == 0:
            pictures.append(env.render()[58:378, 140:340])
    strip = Image.fromarray(np.concatenate(pictures, axis=1)).resize((900, 240), Image.Resampling.LANCZOS)
    strip.quantize(128, Image.Quantize.MAXCOVERAGE).save(PICTURE, optimize=True)


def speed() -> dict[str, Any]:
    """Steps a second with the state observed, with and without the expert, and demonstrations."""
    env = WalkerEnv([STATE], WalkerOptions())
    rates = []
    for expert in (False, True):
        count, begin = 0, time.process_time()
        for seed in SEEDS[:10]:
            env.reset(seed=seed)
            walk, over, action = Walk(env.biped, env.command, 0), False, np.ones(23)
            action[:21] = env.biped.joints
            while not over:
                _, _, fell, over, _ = env.step(walk.act() if expert else action)
                over |= fell
                count += 1
        rates.append(count / (time.process_time() - begin))
    begin = time.process_time()
    made = list(collect("biped", DEMONSTRATIONS, SEEDS[0]))
    seconds = (time.process_time() - begin) / DEMONSTRATIONS
    return {
        "steps/s": f"{rates[0]:,.0f}",
        "with the expert": f"{rates[1]:,.0f}",
        "CPU s a demonstration": f"{seconds:.3f}",
        "demonstrations of seeds": f"{DEMONSTRATIONS} of {made[-1].seed + 1 - SEEDS[0]}",
    }


if __name__ == "__main__":
    main()
