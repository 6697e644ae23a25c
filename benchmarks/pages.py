"""How large pages are, how long they take to be made, and when Chromium first paints them.

pip install playwright; apt install chromium
python -m benchmarks.pages [RUN ...]
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import keep
from robodiff.data.check import findings_in
from robodiff.data.episodes import Episodes, Feature
from robodiff.data.recordings import open_path
from robodiff.data.windows import WindowShape
from robodiff.documents import read_json
from robodiff.evaluation.results import EnvResult
from robodiff.report.recording import write_view

PAINT = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
SCROLL = """async () => {
    const list = document.querySelector(".list"), start = performance.now();
    for (let n = 0; n < 50; n += 1) {
        list.scrollTop = (list.scrollHeight * n) / 50;
        await new Promise(requestAnimationFrame);
    }
    return (performance.now() - start) / 50;
}"""
ROUNDS = 5


def many(count: int) -> Episodes:
    """Episodes of 20 random steps."""
    walk = np.random.default_rng(0).normal(size=(20 * count, 2)).cumsum(axis=0).astype(np.float32)
    arrays = {"observation.state": walk, "action": walk}
    features = {key: Feature.of(array) for key, array in arrays.items()}
    return Episodes("made up", arrays, np.arange(20, 20 * count + 1, 20), 10.0, features)


def row(browser: Any, name: str, page: Path, seconds: float | None) -> dict[str, str]:
    """Open a page some times."""
    paints, scrolls = [], []
    for _ in range(ROUNDS):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        opened = context.new_page()
        opened.goto(page.resolve().as_uri())
        while not (paint := opened.evaluate(PAINT)):
            opened.wait_for_timeout(20)
        paints.append(paint[0])
        if opened.locator(".list").count():
            scrolls.append(opened.evaluate(SCROLL))
        context.close()
    return {
        "page": name,
        "MB": f"{page.stat().st_size / 1e6:.1f}",
        "seconds to make": "" if seconds is None else f"{seconds:.1f}",
        "first paint, ms": f"{statistics.median(paints):.0f}",
        "a step of scrolling the list, ms": f"{statistics.median(scrolls):.0f}" if scrolls else "",
    }


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="whose report.html is measured, too")
    runs = parser.parse_args().runs
    recordings = {"data view builtin:pusht": lambda: open_path("builtin:pusht").read_chosen()}
    recordings |= {f"data view, {count:,} episodes": lambda count=count: many(count) for count in (100, 10_000)}
    rows = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, read in recordings.items():
            start = time.perf_counter()
            episodes = read()
            page = write_view(episodes, findings_in(episodes, WindowShape(2, 16, 8)), Path(folder) / "page.html")
            rows.append(row(browser, name, page, time.perf_counter() - start))
        for run in runs:
            measured = read_json(min(run.glob("eval/*/metrics.json")), EnvResult, "")
            name = f"report, {len(measured.episodes)} episodes of {measured.evaluated.environment}"
            rows.append(row(browser, name, run / "report.html", None))
        browser.close()
    keep("pages", rows)


if __name__ == "__main__":
    main()
