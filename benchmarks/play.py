"""Push-T demonstrated by mouse events on the page of ``robodiff play``, a policy trained on that, and its success.

Debian's Chromium is driven by playwright; the built-in expert says where the mouse goes, from the bodies that the page
shows. Also how many pictures a second the page draws while a policy acts.

    pip install playwright; apt install chromium
    python -m benchmarks.play --episodes 20 --minutes 5
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import keep
from robodiff.documents import read_json
from robodiff.envs.pusht.env import SUCCESS_COVERAGE, TABLE
from robodiff.envs.pusht.expert import PushTController
from robodiff.evaluation.results import EnvResult

ROBODIFF = (sys.executable, "-m", "robodiff")
COUNT_PICTURES = """
window.pictures = 0;
const fill = CanvasRenderingContext2D.prototype.fillRect;
CanvasRenderingContext2D.prototype.fillRect = function (...box) { window.pictures += 1; fill.apply(this, box); };
"""
"""Each begins with one rectangle."""


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


def demonstrate(page: Any, most: int = 400) -> bool:
    """Demonstrate one episode of Push-T by moving the mouse and pressing the key for one step; tell its success."""
    box, controller = page.locator("#scene").bounding_box(), PushTController()
    for _ in range(most):
        state = page.evaluate("state")
        (x, y, angle), agent = state["bodies"][1], state["bodies"][2][:2]
        pose = np.array([TABLE * agent[0], TABLE * agent[1], TABLE * x, TABLE * y, angle, 0.0, 0.0])
        target = controller.act(pose, SUCCESS_COVERAGE * state["reward"])
        if target is None or state["phase"] == "ended":
            break
        x, y = target / TABLE
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.keyboard.press(".")
        while page.evaluate("state.step") == state["step"]:
            page.wait_for_timeout(2)
    if page.evaluate("state.phase") == "running":
        page.keyboard.press("Enter")
    while page.evaluate("state.phase") != "ended":
        page.wait_for_timeout(2)
    return page.evaluate("state.success")


def main() -> None:
    """Demonstrate, train, evaluate, watch."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--eval_episodes", type=int, default=50)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    demos, run = str(folder / "demos.zarr"), folder / "run"
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        start, tried = time.monotonic(), 0
        with served("pusht", "--out", demos) as link:
            page = browser.new_page()
            page.goto(link)
            page.wait_for_timeout(1000)
            while page.evaluate("state.kept") < options.episodes:
                tried += 1
                seed = page.evaluate("state.seed")
                page.keyboard.press("k" if demonstrate(page) else "n")
                while page.evaluate("state.seed") == seed:
                    page.wait_for_timeout(2)
        seconds = time.monotonic() - start
        fit = ("--config", "pusht_keypoints", "--data", demos, "--run", run, "--minutes", options.minutes)
        subprocess.run([*ROBODIFF, "fit", *map(str, fit)], check=True)
        asked = ("eval", str(run), "--env", "pusht", "--episodes", options.eval_episodes)
        subprocess.run([*ROBODIFF, *map(str, asked)], check=True)
        with served("pusht", "--policy", str(run)) as link:
            page = browser.new_page()
            page.add_init_script(COUNT_PICTURES)
            page.goto(link)
            page.wait_for_timeout(1000)
            page.keyboard.press(" ")
            page.wait_for_timeout(2000)
            before, begun = page.evaluate("pictures"), time.monotonic()
            page.wait_for_timeout(5000)
            drawn = (page.evaluate("pictures") - before) / (time.monotonic() - begun)
    (metrics,) = run.glob("eval/*/metrics.json")
    result = read_json(metrics, EnvResult, "")
    row = {
        "demonstrations": options.episodes,
        "of starts": tried,
        "seconds to demonstrate": round(seconds),
        "minutes of training": options.minutes,
        "successes": f"{sum(each.success for each in result.episodes)} of {len(result.episodes)}",
        "pictures a second, policy acting": round(drawn),
    }
    keep("play", [row])


if __name__ == "__main__":
    main()
