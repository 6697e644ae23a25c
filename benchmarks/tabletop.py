"""The table: how often its experts succeed, and how fast it is; and the pictures of docs/tabletop.md.

python -m benchmarks.tabletop                   (rates are per CPU second of one thread)
python -m benchmarks.tabletop --pictures
"""

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gym_pusht  # noqa: F401 - adds its environments to Gymnasium
import gymnasium
import numpy as np
from PIL import Image

from benchmarks.common import keep
from robodiff.data.episodes import ACTION
from robodiff.envs.mujoco.env import TableEnv
from robodiff.envs.mujoco.scene import PICTURE
from robodiff.envs.pusht.spec import SPEC as PUSHT
from robodiff.envs.spec import EnvSpec, get_env_spec

SEEDS = range(1000, 1050)
SHARES = {
    "lift_cube": (5, 1.0),
    "stack_cube": (4, 0.7),
    "stack_cube_mycobot": (4, 0.7),
    "pick_meat": (0, 1.0),
    "strike_cube": (2, 1.0),
    "lift_barrier": (0, 1.0),
    "two_robots_stack_cube": (0, 1.0),
    "pass_shoe": (0, 0.6),
    "place_food": (0, 0.75),
    "three_robots_stack_cube": (0, 1.0),
    "camera_alignment": (0, 1.0),
    "take_photo": (0, 1.0),
    "long_pipeline_delivery": (0, 0.55),
}
"""By task: the seed of the demonstration, and the share of it, after which its picture is taken."""
PICTURES = Path(__file__).parents[1] / "docs" / "pictures" / "tabletop"
CAMERAS = {"84x84": (84, 84), "240x320": (240, 320)}


def main() -> None:
    if "--pictures" in sys.argv:
        take_pictures()
        return
    demonstrations, speeds = [], [speed_of_pusht()]
    for name in SHARES:
        demonstrations.append(succeed(name))
        speeds.append(speed(name, speeds[0]))
    keep("tabletop", demonstrations)
    keep("tabletop_speed", [{key: words(value) for key, value in row.items()} for row in speeds])


def succeed(name: str) -> dict[str, Any]:
    """How the expert of a task does, without noise and with as much as demonstrations have."""
    spec, noise = get_env_spec(name), usual_noise(name)
    begin = time.process_time()
    clean = [demonstrate(spec, seed, 0.0) for seed in SEEDS]
    seconds = (time.process_time() - begin) / len(SEEDS)
    lengths = [len(each[ACTION]) for each in clean if each is not None]
    noisy = [demonstrate(spec, seed, noise) for seed in SEEDS]
    return {
        "task": f"`{name}`",
        "arms": max(1, len(spec.agents)),
        "successes": f"{len(lengths)}/{len(SEEDS)}",
        "noise, rad": noise,
        "successes with it": f"{sum(each is not None for each in noisy)}/{len(SEEDS)}",
        "steps": f"{np.mean(lengths):.0f}",
        "CPU s a demonstration": f"{seconds:.3f}",
    }


def usual_noise(name: str) -> float:
    return vars(get_env_spec(name).expert_options())["noise"]


def demonstrate(spec: EnvSpec, seed: int, noise: float, *keys: str) -> dict[str, np.ndarray] | None:
    """All vectors, or ``keys``, of a demonstration; None where it failed."""
    assert spec.expert is not None
    vectors = [key for key, feature in spec.features.items() if feature.kind == "vector" and key != ACTION]
    found = spec.expert(noise=noise).demonstrate(seed, keys or vectors)
    return found if isinstance(found, dict) else None


def speed(name: str, pusht: dict[str, Any]) -> dict[str, Any]:
    """Steps a second with observations of the state, and observations a second of one, two and three cameras."""
    spec = get_env_spec(name)
    keys = [key for key in spec.features if key.endswith(("observation.state", "environment_state"))]
    episode = demonstrate(spec, SEEDS[0], 0.0)
    assert episode is not None
    env = spec.make(keys)

    def play() -> int:
        env.reset(seed=SEEDS[0])
        for action in episode[ACTION]:
            env.step(action)
        return len(episode[ACTION])

    row = {
        "environment": f"`{name}`",
        "simulated by": spec.version(),
        "steps": (steps := rate(play)),
        "to gym-pusht's": f"{steps / pusht['steps']:.2f}",
    }
    for size in CAMERAS:
        rates = []
        for count in (1, 2, 3):
            env = spec_env(f"{name}?size={size}", count)
            env.reset(seed=SEEDS[0])
            rates.append(rate(lambda env=env: len([env.observe() for _ in range(5)]) or 1))
        row[f"images of {size}"] = rates
    return row


def spec_env(name: str, cameras: int) -> TableEnv:
    """The environment that sees with the first camera, the first arm's wrist and its head, or fewer of these."""
    spec = get_env_spec(name)
    images = [key for key, feature in spec.features.items() if feature.kind == "image"]
    env: Any = spec.make(images[:cameras])
    return env


def speed_of_pusht() -> dict[str, Any]:
    """The same of gym-pusht itself, as its package is; its images have 96 x 96 pixels."""
    envs = [gymnasium.make("gym_pusht/PushT-v0", obs_type=kind).unwrapped for kind in ("state", "pixels")]
    actions = np.random.default_rng(0).uniform(100, 400, (100, 2))

    def play() -> int:
        envs[0].reset(seed=0)
        return len([envs[0].step(action) for action in actions])

    envs[1].reset(seed=0)
    draw: Any = getattr(envs[1], "get_obs")  # noqa: B009 - which only PushT has
    row = {"environment": "gym-pusht", "simulated by": PUSHT.version(), "steps": rate(play), "to gym-pusht's": "1.00"}
    images = rate(lambda: len([draw()]))
    return row | {f"images of {size}": [images] for size in CAMERAS}


def rate(run: Callable[[], int], seconds: float = 0.15) -> float:
    """Return how many times a CPU second something is done that ``run`` does as often as it says; the best of three."""
    run()
    rates = []
    for _ in range(3):
        begin, count = time.process_time(), 0
        while (taken := time.process_time() - begin) < seconds:
            count += run()
        rates.append(count / taken)
    return max(rates)


def words(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(map(words, value))
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def take_pictures() -> None:
    """Every task in the middle of a demonstration, and what one of two agents sees."""
    PICTURES.mkdir(exist_ok=True)
    for name, (seed, share) in SHARES.items():
        spec = get_env_spec(name)
        env: Any = spec.make(())
        episode = demonstrate(spec, seed, 0.0)
        assert episode is not None
        env.reset(seed=seed)
        for action in itertools.islice(episode[ACTION], round(share * len(episode[ACTION]))):
            env.step(action)
        picture = Image.fromarray(env.world.draw("view", PICTURE, shadows=True))
        save(picture.resize((320, 240), Image.Resampling.LANCZOS), name)
    keys = ["observation.images.agentview", *(f"agents.0.observation.images.{each}" for each in ("wrist", "head"))]
    episode = demonstrate(get_env_spec("lift_barrier?size=180x240"), 0, 0.0, *keys)
    assert episode is not None
    save(Image.fromarray(np.concatenate([episode[key][20].transpose(1, 2, 0) for key in keys], axis=1)), "cameras")


def save(picture: Image.Image, name: str) -> None:
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
