"""The page of a recording in a browser: episodes are watched, scrubbed, sorted and found, by mouse and by keys."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import WIDTHS, Browse, wait_until
from tests.report.test_playable import filmed
from tests.report.test_recording import made, walk

from robodiff.data.episodes import Episodes, Feature, Finding
from robodiff.report import playable
from robodiff.report.live import serve_recording
from robodiff.report.recording import playable as playable_of
from robodiff.report.recording import write_view

HOSTILE = (
    "<img src=x onerror=document.title='hit'>",
    "</script><script>document.title='hit'</script>",
    "\x1b]0;\u202e",
    "n" * 10_000,
)
FRAME = "Number(document.querySelector('input[type=range]').value)"


@pytest.fixture(scope="module")
def usual_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of eight episodes of 30 frames, seen by three cameras; one jumps in the first."""
    finding = Finding("warning", "jump", "x jumps", "look at it", "action", 0, 21)
    return write_view(filmed(8, 240, 3), [finding], tmp_path_factory.mktemp("pages") / "data.html")


@pytest.fixture
def page_of(tmp_path: Path, browse: Browse) -> Callable[..., Any]:
    """Open the page of a recording."""

    def open_page(episodes: Episodes, findings: Sequence[Finding] = (), **how: Any) -> Any:
        return browse(write_view(episodes, findings, tmp_path / "data.html"), **how)

    return open_page


def test_an_episode_is_played_and_scrubbed(usual_page: Path, browse: Browse) -> None:
    page = browse(usual_page)
    assert page.evaluate(FRAME) == 0  # nothing plays by itself
    page.get_by_role("button", name="Play", exact=True).click()
    wait_until(page, f"{FRAME} > 3")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("slider", name="Frame").focus()
    page.keyboard.press("Home")
    for keys, frame in (
        ("ArrowRight", 1),
        ("Shift+ArrowRight", 11),
        ("ArrowLeft", 10),
        ("End", 29),
        ("ArrowRight", 29),
    ):
        page.keyboard.press(keys)
        assert page.evaluate(FRAME) == frame
    values = page.locator(".joint output").all_inner_texts()
    page.get_by_role("button", name="Frame 21").click()
    assert page.evaluate(FRAME) == 21
    assert page.get_by_role("slider", name="Frame").get_attribute("aria-valuetext") == "frame 21 of 29, 2.1 s"
    assert page.locator(".joint output").all_inner_texts() != values
    box = page.locator(".plot").first.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.up()
    assert 13 <= page.evaluate(FRAME) <= 16
    page.locator(".stage").focus()
    page.keyboard.press("Space")
    wait_until(page, f"{FRAME} > 18")
    page.keyboard.press("Space")
    assert page.locator(".camera canvas").first.evaluate("it => it.width >= 600")  # enlarged, so that lines are sharp


def test_each_frame_shows_its_picture(page_of: Callable[..., Any]) -> None:
    base, frames = made(walk(1, 40), walk(1, 40), 2), np.arange(40, dtype=np.uint8)
    image = np.broadcast_to((6 * frames)[:, None, None, None], (40, 3, 16, 16))
    arrays = {"observation.image": image, **base.arrays}
    features = {"observation.image": Feature.of(image), **base.features}
    page = page_of(replace(base, arrays=arrays, features=features))
    wait_until(page, "document.querySelector('.camera canvas').width > 300")
    colour = "document.querySelector('.camera canvas').getContext('2d').getImageData(99, 99, 1, 1).data[0]"
    page.locator(".stage").focus()
    for frame in range(3):
        assert abs(page.evaluate(colour) - 6 * frame) <= 3
        page.keyboard.press("ArrowRight")
    page.locator(".row").nth(1).click()
    page.locator(".stage").click()  # pauses what the click began
    page.keyboard.press("End")
    wait_until(page, f"Math.abs({colour} - {6 * 39}) <= 3")


def test_the_list_is_sorted_and_opened_by_keys(page_of: Callable[..., Any]) -> None:
    base = filmed(8, 240)
    ends = np.array([10, 60, 80, 110, 140, 170, 200, 240])
    page = page_of(replace(base, episode_ends=ends), [Finding("warning", "jump", "", "", None, 5)], reduced_motion=True)
    names = "[...document.querySelectorAll('.row')].map(row => Number(row.dataset.place))"
    listed = page.get_by_label("Episodes", exact=True).first
    listed.select_option("longest first")
    assert page.evaluate(names)[:2] == [1, 7]
    listed.select_option("unusual first")
    assert page.evaluate(names)[0] == 5
    listed.select_option("by number")
    box = page.get_by_role("listbox", name="Episodes")
    box.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#watched").inner_text() == "Episode 1"
    assert page.locator(".row[aria-selected=true]").get_attribute("data-place") == "1"
    page.wait_for_timeout(200)
    assert page.evaluate(FRAME) == 0  # motion is not wanted
    page.keyboard.press("End")
    assert box.get_attribute("aria-activedescendant") == "row-7"


def test_what_the_page_does_not_carry_is_said(page_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playable, "CARRIED", 3)
    page = page_of(filmed(8, 80, 1))
    assert "This page carries 3 of 8 episodes to watch" in page.locator(".notes").inner_text()
    page.locator(".row .absent").first.click()
    assert "not in this page" in page.get_by_role("status").inner_text()
    assert page.locator(".player").count() == 0
    page.locator(".row").first.click()
    assert page.locator(".player").count() == 1


@pytest.mark.slow
def test_ten_thousand_episodes(page_of: Callable[..., Any]) -> None:
    page = page_of(made(walk(1, 20_000), walk(1, 20_000), 10_000))
    assert page.locator(".row").count() < 40
    page.evaluate("document.querySelector('.list').scrollTop = 100_000")
    wait_until(page, "Number(document.querySelector('.row').getAttribute('aria-posinset')) > 1000")
    assert page.locator(".row").count() < 40
    page.get_by_role("listbox").focus()
    page.keyboard.press("End")
    assert page.locator(".row.active").get_attribute("aria-posinset") == "10000"


@pytest.mark.kind("a name that acts instead of being shown")
def test_hostile_names_do_nothing(page_of: Callable[..., Any]) -> None:
    described = {"names": (HOSTILE, HOSTILE), "units": (HOSTILE, HOSTILE), "table": {"task": [*HOSTILE]}}
    base = made(walk(4), walk(4), 4, source=HOSTILE[1], **described)
    image = np.zeros((40, 3, 8, 8), np.uint8)
    cameras = {f"observation.images.{name}": image for name in HOSTILE}
    features = {key: Feature.of(image) for key in cameras}
    findings = [Finding("warning", name, name, name, name, 0, 3) for name in HOSTILE]
    episodes = replace(base, arrays={**cameras, **base.arrays}, features={**features, **base.features})
    page = page_of(episodes, findings, width=400)
    page.locator(".row").nth(1).click()
    assert "hit" not in page.title().split("'")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 4 + 4  # the overview, three scripts, and an episode each
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('.watch').offsetHeight") < 4000


def test_nothing_is_cut_off(usual_page: Path, browse: Browse) -> None:
    for width in WIDTHS:
        page = browse(usual_page, width=width, scheme="dark" if width == 768 else "light")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".camera").count() == 3


def test_the_time_line_stays_in_view_and_a_phone_lists_episodes_first(page_of: Callable[..., Any]) -> None:
    top = "document.querySelector('{}').getBoundingClientRect().top"
    for width in WIDTHS:
        page = page_of(made(walk(20), walk(20)), width=width)
        is_first = page.evaluate(f"{top.format('.list')} < {top.format('.watched')}")
        assert is_first == (width < 800)
        page.evaluate("document.querySelector('.joints').scrollIntoView()")
        assert page.evaluate(top.format(".screen")) >= 0


def test_print(usual_page: Path, browse: Browse) -> None:
    page = browse(usual_page)
    page.locator(".stage").focus()
    page.keyboard.press("End")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(FRAME) == 0
    assert not page.locator(".controls").is_visible()
    assert not page.locator(".list").is_visible()
    assert page.locator(".camera canvas").first.is_visible()


@pytest.mark.slow
def test_a_served_page_shows_every_episode(browse: Browse) -> None:
    with serve_recording(playable_of(filmed(70, 140, 1), []), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = browse(server.link)
        page.get_by_role("listbox").focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        wait_until(page, "document.querySelector('#about').textContent.startsWith('2 frames')")
        assert page.locator("#watched").inner_text() == "Episode 69"
        wait_until(page, "document.querySelector('.row.active canvas').width > 10")
        server.shutdown()
        thread.join()
