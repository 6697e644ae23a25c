"""A task demonstrated by mouse and keys on the page of ``robodiff play``, a policy trained on that, and its success.

Beside it a policy of as many episodes of the scripted expert, of ``robodiff collect``. Chromium is driven by
playwright; a script says where the pointer goes and which keys are pressed. Push-T's sees what the page shows, that of
the cube is told where it lies at first. Also how many pictures a second the page draws while a policy acts on Push-T.

    pip install playwright; apt install chromium
    python -m benchmarks.play [--task pusht]       may run beside other work
    python -m benchmarks.play --speed              pictures a second, on a quiet machine
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import keep
from robodiff.envs.mujoco.expert import grasp
from robodiff.envs.mujoco.touch import NOTCH, STROKE
from robodiff.envs.pusht.env import SUCCESS_COVERAGE, TABLE
from robodiff.envs.pusht.expert import PushTController
from robodiff.envs.spec import get_env_spec

ROBODIFF = (sys.executable, "-m", "robodiff")
COUNT_PICTURES = """
window.pictures = 0;
const fill = CanvasRenderingContext2D.prototype.fillRect;
CanvasRenderingContext2D.prototype.fillRect = function (...box) { window.pictures += 1; fill.apply(this, box); };
"""
"""Each begins with one rectangle."""
OVER, MISS = 0.01, 0.03
"""Of the picture: so near to the pointer the tool is over what it points to; by how much a first try misses."""
CLEAR = 8
"""Notches above the cube, down to which the tool may be before it is over it."""


class Hand:
    """A mouse and a keyboard at the page of ``robodiff play``, whose time stands still between two steps."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.box = page.locator("#scene").bounding_box()

    @property
    def state(self) -> dict[str, Any]:
        """What the page knows."""
        return self.page.evaluate("state")

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place in the picture."""
        self.page.mouse.move(self.box["x"] + x * self.box["width"], self.box["y"] + y * self.box["height"])

    def step(self, keys: str = "") -> bool:
        """Press keys, then that for one step; tell whether the episode goes on."""
        before = self.state["step"]
        for key in [*keys, "."]:
            self.page.keyboard.press(key)
        return self.until(f"state.step > {before} || state.phase === 'ended'")["phase"] != "ended"

    def press(self, key: str, until: str) -> dict[str, Any]:
        """Press a key, and wait until something is so."""
        self.page.keyboard.press(key)
        return self.until(until)

    def until(self, what: str) -> dict[str, Any]:
        """Return the state once something is so."""
        while not self.page.evaluate(what):
            self.page.wait_for_timeout(2)
        return self.state


def push(hand: Hand) -> None:
    """Demonstrate Push-T as the expert does."""
    controller = PushTController()
    for _ in range(400):
        state = hand.state
        (x, y, angle), agent = state["bodies"][1], state["bodies"][2][:2]
        pose = np.array([TABLE * agent[0], TABLE * agent[1], TABLE * x, TABLE * y, angle, 0.0, 0.0])
        target = controller.act(pose, SUCCESS_COVERAGE * state["reward"])
        if target is None:
            return
        hand.point(*target / TABLE)
        if not hand.step():
            return


def lift(hand: Hand) -> None:
    """Lift the cube: point at it, turn, go down, close, go up; at first it misses, as a person does."""
    seed = hand.state["seed"]
    spec = get_env_spec("lift_cube?action_space=eef")  # whose actions are places, which `trace` finds in the picture
    env: Any = spec.make(())
    env.reset(seed=seed)
    (arm,), cube, random = env.world.arms, env.world.pose("cube"), np.random.default_rng(seed)
    home, wanted = arm.home_tool.matrix[:2, 1], grasp(arm, cube).matrix[:2, 1]
    turns = round(float(np.arctan2(home[0] * wanted[1] - home[1] * wanted[0], home @ wanted)) / STROKE)
    highest = round((arm.tool_pos[2] - cube.pos[2]) / NOTCH)
    heights = [0.0, *(cube.pos[2] + NOTCH * np.arange(highest + 1))]
    assert spec.touch is not None
    assert spec.touch.trace is not None
    over, *above = spec.touch.trace(env, 0, np.array([[*cube.pos[:2], height, *np.zeros(4)] for height in heights]))
    env.close()
    hand.point(*over + random.normal(0.0, MISS, 2))
    early = int(random.integers(0, max(1, (highest - CLEAR) // 2)))
    for step in range(max(abs(turns), early)):
        hand.step(("" if step >= abs(turns) else "q" if turns > 0 else "e") + ("ss" if step < early else ""))
    hand.point(*over)
    while np.linalg.norm(np.subtract(hand.state["plumb"][1], over)) > OVER and hand.step():
        pass
    hand.step()
    notches = int(np.linalg.norm(np.subtract(above, hand.state["plumb"][0]), axis=1).argmin())
    strokes = ["ss"] * (notches // 2) + ["s"] * (notches % 2)
    goes_on = all(hand.step(keys) for keys in (*strokes, "g", *[""] * 6))
    while goes_on and hand.state["step"] < spec.max_steps:
        goes_on = hand.step("ww")


@dataclass(frozen=True)
class Task:
    """What is demonstrated, and how a policy learns from it."""

    demonstrate: Callable[[Hand], None]
    preset: str


TASKS = {
    "lift_cube": Task(lift, "tabletop_state"),
    "pusht": Task(push, "pusht_keypoints"),
}


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """Run ``robodiff play`` as a user does; yield the link."""
    with subprocess.Popen([*ROBODIFF, "play", *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGINT)
            print(process.stdout.read())


def robodiff(*arguments: object) -> None:
    """Run a command."""
    subprocess.run([*ROBODIFF, *map(str, arguments)], check=True)


def demonstrated(hand: Hand, task: Task) -> bool:
    """Demonstrate one episode, and tell its success."""
    task.demonstrate(hand)
    if hand.state["phase"] == "running":
        hand.press("Enter", "state.phase === 'ended'")
    return hand.state["success"]


def demonstrate(browser: Any, name: str, episodes: int, out: Path) -> int:
    """Demonstrate episodes, of which those that succeed are kept; return how many there were."""
    tried = 0
    with served(name, "--out", str(out)) as link:
        page = browser.new_page()
        page.goto(link)
        hand = Hand(page)
        state = hand.until("state !== null")
        hand = Hand(page)  # a picture has its own shape
        while state["kept"] < episodes:
            tried += 1
            key = "k" if demonstrated(hand, TASKS[name]) else "n"
            state = hand.press(key, f"state.seed > {state['seed']}")
        page.close()
    return tried


def skill(name: str, data: Path, steps: int, episodes: int, run: Path) -> dict[str, str]:
    """Train a policy, let it act on unseen seeds."""
    task = TASKS[name]
    fit = ("fit", "--config", task.preset, "--data", data, "--data.val_split", 0, "--rollout.env", "null")
    robodiff(*fit, "--trainer.max_time", "null", "--trainer.max_steps", steps, "--run", run)
    robodiff("eval", run, "--env", name, "--episodes", episodes, "--videos", 0, "--out", run / "measured")
    metrics = json.loads((run / "measured" / "metrics.json").read_text())
    low, high = metrics["success_rate_ci95"]
    return {"success": f"**{metrics['success_rate']:.2f}** ({low:.2f} to {high:.2f})", "unseen seeds": str(episodes)}


def frames_of(data: Path) -> int:
    """Return how many frames a recording has."""
    from robodiff.data.recordings import open_path

    return int(open_path(str(data)).read().episode_ends[-1])


def pictures_a_second(browser: Any, folder: Path) -> int:
    """Return how many pictures the page of Push-T draws while a policy acts; of how well it acts it does not depend."""
    run = folder / "speed"
    robodiff("fit", "--config", "pusht_keypoints", "--run", run, "--trainer.max_steps", 5, "--rollout.env", "null")
    with served("pusht", "--policy", str(run)) as link:
        page = browser.new_page()
        page.add_init_script(COUNT_PICTURES)
        page.goto(link)
        page.wait_for_timeout(1000)
        page.keyboard.press(" ")
        page.wait_for_timeout(2000)
        before, begun = page.evaluate("pictures"), time.monotonic()
        page.wait_for_timeout(5000)
        return round((page.evaluate("pictures") - before) / (time.monotonic() - begun))


def main() -> None:
    """Demonstrate, train, evaluate, watch."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS], default="lift_cube")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000, help="of training, of each policy")
    parser.add_argument("--eval_episodes", type=int, default=100)
    parser.add_argument("--speed", action="store_true", help="measure pictures a second, and nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        mouse, expert = folder / "mouse.zarr", folder / "expert.zarr"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        if options.speed:
            speed = pictures_a_second(browser, folder)
            keep("play_speed", [{"page": "`play pusht --policy RUN`", "pictures a second while it acts": speed}])
            return
        tried = demonstrate(browser, options.task, options.episodes, mouse)
        browser.close()
        robodiff("collect", options.task, "--episodes", options.episodes, "--out", expert)
        rows = [
            {
                "demonstrated by": by,
                "episodes": options.episodes,
                "frames": frames_of(data),
                "steps of training": f"{options.steps:,}",
                **skill(options.task, data, options.steps, options.eval_episodes, folder / data.stem),
            }
            for by, data in (("mouse and keys in `play`", mouse), ("the scripted expert, `collect`", expert))
        ]
    print(f"{tried} episodes were begun")
    keep("play", [{"task": f"`{options.task}`", **row} for row in rows])


if __name__ == "__main__":
    main()
