"""The pictures of README.md and the docs: what Chromium shows of runs, of a recording and of ``robodiff play``.

pip install playwright; apt install chromium
python -m benchmarks.pictures RUN [OTHER_RUN]    both evaluated on the same seeds; without the other no comparison
"""

import argparse
import io
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from benchmarks.play import ROBODIFF, served
from robodiff.documents import read_json
from robodiff.evaluation.results import EnvResult

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 1100
SECTIONS = {
    "failing": "Which episodes fail",
    "training": "Training",
    "chunks": "What the policy would do where the demonstrator was",
}
"""Of the report, by their headings."""
DENOISING = "From noise to a chunk"
ROW = "body{padding:0;max-width:none}.grid{display:flex;gap:8px;margin:8px}figure{flex:1}"
"""The panels of the denoising in one row."""
MARGIN = 12
LARGEST_CLIP = 300_000
"""Bytes."""
FRAMES = 48
"""Of a clip, at most."""
LEAST = 60
"""Steps of the episode that is filmed."""
SECONDS, SLOW, LONGEST = 12.0, 0.25, 0.6
"""Of a policy's acting that are filmed; its speed meanwhile, for a picture takes its time; seconds of that at most."""


def main() -> None:
    """Take all of them."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    options = parser.parse_args()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def opened(target: Path | str, height: int = 900, width: int = WIDTH) -> Any:
            page = chromium.new_context(viewport={"width": width, "height": height}, bypass_csp=True).new_page()
            page.goto(target.resolve().as_uri() if isinstance(target, Path) else target)
            page.wait_for_timeout(1500)  # until clips are decoded
            return page

        take_report(opened(options.run / "report.html"))
        take_strip(opened(options.run / "report.html", width=1600))
        recording, comparison = Path(folder) / "recording.html", Path(folder) / "comparison.html"
        robodiff("data", "view", "builtin:pusht", "--out", recording)
        save(opened(recording).screenshot(), "recording")
        if options.other:
            robodiff("report", options.run, options.other, "--out", comparison)
            take_comparison(opened(comparison))
        with served("pusht", "--policy", str(options.run), "--seed", str(seed_to_film(options.run))) as link:
            take_play(opened(link, height=720))
        chromium.close()


def robodiff(*arguments: object) -> None:
    """Run a command."""
    subprocess.run([*ROBODIFF, *map(str, arguments)], check=True)


def take_report(page: Any) -> None:
    """Take the top of a report with its wall, its sections, and an episode in its player."""
    wall = page.locator("#wall").bounding_box()
    top = {"x": 0, "y": 0, "width": WIDTH, "height": wall["y"] + wall["height"]}
    save(page.screenshot(full_page=True, clip=top), "wall")
    for name, heading in SECTIONS.items():
        save(page.screenshot(full_page=True, clip=section(page, heading)), name)
    filmed = {f"Seed {video.get_attribute('data-seed')}" for video in page.locator("video[data-seed]").all()}
    labels = [card.get_attribute("aria-label") for card in page.locator(".clip").all()]
    shown = [label for label in labels if label.split(",")[0] in filmed]  # with chunks that it might have drawn
    label = next((label for label in shown if ", succeeded" in label), shown[-1])
    page.get_by_role("button", name=label, exact=True).click()
    page.wait_for_timeout(1500)
    moments = page.locator("dialog .moments button")
    moments.nth(moments.count() // 2).click()
    page.wait_for_timeout(300)
    save(page.locator("dialog").screenshot(), "player")
    steps = int(page.locator("dialog .time input").get_attribute("max"))
    every = -(-steps // FRAMES)
    page.locator("dialog .stage").focus()
    page.keyboard.press("Home")
    frames = []
    for _ in range(0, steps + 1, every):
        frames.append(page.locator("dialog .player").screenshot())
        for _ in range(every):
            page.keyboard.press("ArrowRight")
    film(frames, [50 * every] * len(frames), "player", 700)


def take_strip(page: Any) -> None:
    """Take the panels of the denoising in a row."""
    page.add_style_tag(content=ROW)
    grid = page.get_by_role("heading", name=DENOISING).locator("xpath=following-sibling::div[1]")
    save(grid.screenshot(), "strip")


def take_comparison(page: Any) -> None:
    """Take the pairs of which one policy alone succeeds, the one that does so more often."""
    alone = page.get_by_role("button", name="alone succeeds")
    counts = [int(text.split()[-1]) for text in alone.all_inner_texts()]
    alone.nth(counts.index(max(counts))).click()
    page.wait_for_timeout(1500)
    save(page.screenshot(full_page=True, clip=section(page, "The same seeds side by side")), "comparison")


def seed_to_film(run: Path) -> int:
    """Return the seed of an evaluation on which a policy succeeded soonest after some steps; else its first."""
    episodes = read_json(min(run.glob("eval/*/metrics.json")), EnvResult, "").episodes
    return min(episodes, key=lambda each: (not each.success, each.length < LEAST, each.length)).seed


def take_play(page: Any) -> None:
    """Take a policy that acts, and film it."""
    page.locator("#speed").select_option(str(SLOW))
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    while page.evaluate("state.phase") == "ready":
        page.wait_for_timeout(20)
    shot, frames, times = None, [], []
    while page.evaluate("state.phase") == "running" and (not times or times[-1] < times[0] + SECONDS / SLOW):
        frames.append(page.locator("#scene").screenshot())
        times.append(time.monotonic())
        if shot is None and page.evaluate("state.step > 20 && state.age >= 7"):
            shot = page.screenshot()
    save(shot or page.screenshot(), "play")
    every = -(-len(frames) // FRAMES)
    lasting = [round(1000 * SLOW * min(each, LONGEST)) for each in np.diff([*times, times[-1] + LONGEST])]
    film(frames[::every], [sum(lasting[first : first + every]) for first in range(0, len(frames), every)], "play", 400)


def section(page: Any, heading: str) -> dict[str, float]:
    """Return where what follows a heading is on a page, up to the next heading."""
    found = page.get_by_role("heading", level=2).filter(has_text=heading).first
    top, bottom = found.evaluate("""(heading) => {
        let next = heading.nextElementSibling;
        let bottom = heading.getBoundingClientRect().bottom;
        for (; next && !["H2", "H3", "SCRIPT"].includes(next.tagName); next = next.nextElementSibling)
            bottom = Math.max(bottom, next.getBoundingClientRect().bottom);
        return [heading.getBoundingClientRect().top + scrollY, bottom + scrollY];
    }""")
    return {"x": 0, "y": top, "width": WIDTH, "height": bottom - top + MARGIN}


def save(shot: bytes, name: str) -> None:
    """Save a screenshot without what is empty at its edges."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    left, top, right, bottom = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox() or (
        0,
        0,
        1,
        1,
    )
    box = (max(left - MARGIN, 0), max(top - MARGIN, 0), right + MARGIN, bottom + MARGIN)
    image.crop((*box[:2], min(box[2], image.width), min(box[3], image.height))).quantize(128).save(
        PICTURES / f"{name}.png", optimize=True
    )


def film(shots: Sequence[bytes], milliseconds: Sequence[int], name: str, width: int) -> None:
    """Save screenshots as a clip whose last picture stays, as well as it fits into ``LARGEST_CLIP``."""
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    height = round(width * images[0].height / images[0].width)
    first, *rest = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    target, lasting = PICTURES / f"{name}.webp", [*milliseconds[:-1], 1500]
    for quality in range(70, 0, -10):
        first.save(target, save_all=True, append_images=rest, duration=lasting, loop=0, quality=quality, method=4)
        if target.stat().st_size < LARGEST_CLIP:
            return
    raise SystemExit(f"{target}: does not fit into {LARGEST_CLIP} bytes")


if __name__ == "__main__":
    main()
