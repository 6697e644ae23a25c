"""Pages of runs in a browser: episodes are watched, found and compared, by mouse and by keys."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import WIDTHS, Browse
from tests.report.test_run import bare, made, run  # noqa: F401 (fixtures)

from robodiff.cli.report import report
from robodiff.data.images import encode_sheet
from robodiff.evaluation.traces import COLUMNS, TRACE_FOLDER
from robodiff.report.comparison import write_comparison

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=document.title='hit'></script><script>document.title='hit'</script>\x1b]0;" + "n" * 10_000
FRAME = "Number(document.querySelector('dialog input[type=range]').value)"
FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what an evaluation measured."""
    file = next(folder.glob("eval/*/metrics.json"))
    metrics = json.loads(file.read_text())
    change(metrics)
    file.write_text(json.dumps(metrics))


def without_bodies(folder: Path, pictures: int) -> None:
    """Leave of the scene of each episode so many pictures, as an environment without a sketch has them."""
    (about,) = folder.glob(f"eval/*/{TRACE_FOLDER}/traces.json")
    about.write_text(json.dumps({**json.loads(about.read_text()), "bodies": []}))
    for file in about.parent.glob("*.npz"):
        arrays = {key: value for key, value in np.load(file).items() if key != "poses"}
        if pictures:
            steps = np.linspace(0, len(arrays["reward"]), pictures).astype(int)
            arrays |= {"drawn_at": steps, "picture": np.array([128, 128])}
            shades = [np.full((128, 128, 3), 255 - step, np.uint8) for step in steps]
            file.with_suffix(".webp").write_bytes(encode_sheet(shades, COLUMNS, "WEBP"))
        np.savez(file, **arrays)


@pytest.fixture
def watched(bare: Path) -> Path:  # noqa: F811
    """A run with a success, seed 100000, and a failure."""

    def succeed(metrics: dict[str, Any]) -> None:
        metrics["episodes"][0] |= {"success": True, "max_reward": 1.0}
        metrics |= {"success_rate": 0.5, "success_rate_ci95": [0.1, 0.9]}

    changed(bare, succeed)
    return bare


def test_an_episode_is_found_and_watched(watched: Path, browse: Browse) -> None:
    page = browse(report(watched))
    clips = page.locator("#wall .clip")
    assert [clip.inner_text().split() for clip in clips.all()][1] == ["✓", "30", "steps"]
    assert clips.first.inner_text().startswith("✗")  # the worst first, told by a sign
    page.get_by_role("button", name="✓ Succeeded 1").click()
    assert [clip.is_visible() for clip in clips.all()] == [False, True]
    page.get_by_role("button", name="All 2").click()

    clips.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(FOCUSED).startswith("Seed 100000, succeeded")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert "Seed 100000: ✓ succeeded" in dialog.get_by_role("heading").first.inner_text()
    page.wait_for_function(f"() => {FRAME} > 2")  # it plays
    page.keyboard.press("Space")  # the focus is on its pictures
    assert dialog.get_by_role("button", name="Play", exact=True).is_visible()
    dialog.get_by_role("button", name="Close").focus()
    page.keyboard.press("End")  # keys work in all of the dialog
    assert page.evaluate(FRAME) == 30
    page.get_by_role("slider", name="Frame").focus()
    for keys, frame in (("Home", 0), ("ArrowRight", 1), ("Shift+ArrowRight", 11), ("End", 30)):
        page.keyboard.press(keys)
        assert page.evaluate(FRAME) == frame
    page.keyboard.press("Home")
    values = dialog.locator(".joint output").all_inner_texts()
    assert len(values) == 5  # reward; state and action of x and of y
    assert values[0] == "–"  # no reward before the first step
    page.keyboard.press("ArrowRight")
    assert dialog.locator(".joint output").all_inner_texts() != values
    moments = dialog.locator(".moments button")
    moments.nth(1).click()
    assert page.evaluate(FRAME) == int(moments.nth(1).inner_text())
    fan = dialog.locator("path.fan").first
    assert fan.get_attribute("d").count("M") == 1 + 8  # the chunk that it drew, and others
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert fan.get_attribute("d").count("M") == 1
    dialog.get_by_role("button", name="‹ Worse").click()
    assert "✗ failed" in dialog.get_by_role("heading").first.inner_text()
    assert dialog.get_by_role("button", name="‹ Worse").is_disabled()
    page.keyboard.press("Escape")
    assert page.evaluate(FOCUSED).startswith("Seed 100001, failed")


@pytest.mark.parametrize("pictures", [0, 5])
def test_pictures_show_the_chunks_over_them(watched: Path, browse: Browse, pictures: int) -> None:
    """Bodies do or, where there are none and no video, tiles; at the last frame the last picture, without chunks."""
    if pictures:
        shutil.rmtree(next(watched.glob("eval/*/videos")))
        without_bodies(watched, pictures)
    page = browse(report(watched), reduced_motion=True)
    page.locator("#wall .clip").first.click()
    blue = """() => {
      const canvas = document.querySelector("dialog .camera canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let at = 0; at < data.length; at += 4) count += data[at] < 80 && data[at + 1] < 130 && data[at + 2] > 220;
      return count;
    }"""
    page.wait_for_function("() => document.querySelector('dialog .camera canvas').width > 300")
    assert page.evaluate(FRAME) == 0  # nothing plays by itself
    page.locator("dialog .moments button").nth(1).click()
    with_fan = page.evaluate(blue)
    page.get_by_role("slider", name="Frame").focus()
    page.keyboard.press("End")
    assert with_fan > 2 * page.evaluate(blue)


@pytest.mark.parametrize("pictures", [0, 5])
def test_clips_rest_where_less_motion_is_asked_for(watched: Path, browse: Browse, pictures: int) -> None:
    if pictures:
        without_bodies(watched, pictures)
    picture = "document.querySelector('#wall canvas').toDataURL()"
    for still in (True, False):
        page = browse(report(watched), reduced_motion=still)
        page.locator("#wall").scroll_into_view_if_needed()
        assert page.get_by_role("button", name="Play clips" if still else "Pause clips").is_visible()
        page.wait_for_timeout(300)
        seen = set()
        for _ in range(30):
            seen.add(page.evaluate(picture))
            page.wait_for_timeout(80)
        assert (len(seen) == 1) is still


def test_values_of_training_curves_are_told(watched: Path, browse: Browse) -> None:
    (watched / "metrics.csv").write_text("epoch,global_step,train/loss,val/loss\n0,10,0.5,\n1,20,0.25,0.75\n")
    page = browse(report(watched))
    figure = page.locator("figure.told").first
    figure.focus()
    for key, told in (("ArrowRight", "step 10: train 0.5"), ("End", "step 20: train 0.25, val 0.75")):
        page.keyboard.press(key)
        assert figure.locator(".reading").inner_text() == told
    figure.locator("svg").hover(position={"x": 45, "y": 60})
    assert figure.locator(".reading").inner_text() == "step 10: train 0.5"


def test_two_runs_are_compared(watched: Path, tmp_path: Path, browse: Browse) -> None:
    second = tmp_path / "second"
    shutil.copytree(watched, second)

    def turned(metrics: dict[str, Any]) -> None:
        for episode in metrics["episodes"]:
            episode |= {"success": True, "max_reward": 1.0}

    changed(second, turned)
    out = write_comparison([watched, second], tmp_path / "page.html")
    page = browse(out)
    clips = page.locator("#pairs .clip")
    assert [clip.inner_text().split() for clip in clips.all()] == [["✗", "✓", "100001"], ["✓", "✓", "100000"]]
    page.get_by_role("button", name="second alone succeeds 1").click()
    assert [clip.is_visible() for clip in clips.all()] == [True, False]
    clips.first.click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator(".camera").all_inner_texts() == ["first: ✗ failed", "second: ✓ succeeded"]
    page.wait_for_function(f"() => {FRAME} > 2")
    assert dialog.locator(".joint").first.locator(".value").count() == 2
    for width in WIDTHS:
        narrow = browse(out, width=width)
        assert narrow.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tables = "[...document.querySelectorAll('.stack')].every((table) => table.scrollWidth <= table.clientWidth + 1)"
    assert narrow.evaluate(tables)  # nothing is cut at 400 px


def test_without_traces_the_page_says_how_to_make_them(watched: Path, tmp_path: Path, browse: Browse) -> None:
    shutil.rmtree(next(watched.glob(f"eval/*/{TRACE_FOLDER}")))
    page = browse(report(watched))
    assert page.locator("#wall").count() == 0
    assert "kept no clips" in page.locator("body").inner_text()
    assert f"robodiff eval {watched} --env pusht" in page.locator("body").inner_text()
    second = tmp_path / "second"
    shutil.copytree(watched, second)
    page = browse(write_comparison([watched, second], tmp_path / "page.html"))
    assert "each evaluation has to keep its episodes" in page.locator("body").inner_text()


def test_names_do_nothing(watched: Path, tmp_path: Path, browse: Browse) -> None:
    file = next(watched.glob(f"eval/*/{TRACE_FOLDER}/traces.json"))
    info = json.loads(file.read_text())
    info["dimensions"]["action"] = [[HOSTILE, HOSTILE], ["y", "px"]]
    file.write_text(json.dumps(info))
    (watched / "metrics.csv").write_text(f"epoch,global_step,train/{HOSTILE.replace(',', ';')}\n0,10,0.5\n1,20,0.25\n")
    second = tmp_path / "<script>document.title='hit'<"
    shutil.copytree(watched, second)
    for path in (report(watched), write_comparison([watched, second], tmp_path / "page.html")):
        page = browse(path, width=400)
        page.locator(".clip").first.click()
        page.wait_for_selector("dialog .joint")
        assert page.title() != "hit"
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "\x1b" not in path.read_text()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_what_is_not_finite_is_a_gap(value: float, watched: Path, browse: Browse) -> None:
    for file in watched.glob(f"eval/*/{TRACE_FOLDER}/*.npz"):
        arrays = dict(np.load(file))
        seen = arrays["seen/observation.state"].astype(np.float64)
        seen[1::2] = value
        np.savez(file, **{**arrays, "reward": np.full(len(arrays["reward"]), value), "seen/observation.state": seen})
    (watched / "metrics.csv").write_text("epoch,global_step,train/loss\n0,10,0.5\n1,20,0\n")
    page = browse(report(watched))
    page.locator("#wall .clip").first.click()
    page.get_by_role("slider", name="Frame").focus()
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
    assert page.locator("dialog .joint output").first.inner_text() == "–"
    page.keyboard.press("Escape")
    figure = page.locator("figure.told").first
    figure.focus()
    page.keyboard.press("End")
    assert figure.locator(".reading").inner_text() == "step 20: 0"


def test_a_pair_of_which_one_has_no_pictures(watched: Path, tmp_path: Path, browse: Browse) -> None:
    second = tmp_path / "second"
    shutil.copytree(watched, second)
    without_bodies(second, 0)
    page = browse(write_comparison([watched, second], tmp_path / "page.html"))
    page.locator("#pairs .clip").first.click()
    assert "Of one of them no pictures" in page.get_by_role("dialog").inner_text()
    assert page.locator("dialog .joint").count() == 3
