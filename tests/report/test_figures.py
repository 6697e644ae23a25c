"""The figures: nothing is cut, ticks say what they mean, rewards are read against success."""

import re

import numpy as np
import pytest

from robodiff.evaluation.results import EpisodeResult
from robodiff.report.figures import CHARACTER, FewestDigits, curves, errors_by_step, panel, scores
from robodiff.report.recording_figures import curve, histogram

PAGES = pytest.mark.kind("a page that hides, cuts or misnames what it shows")


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0, 0.25, 0.5], ["0.00", "0.25", "0.50"]),
        ([-1.0, 0.0, 1.0], ["−1", "0", "1"]),
        ([100000, 100015], ["100000", "100015"]),
        ([1e6, 1.5e6], ["1.0e6", "1.5e6"]),
        ([1000000, 1000001], ["1000000", "1000001"]),
        ([-2e-6, 0, 2e-6], ["−2e−6", "0", "2e−6"]),
        ([1.0001, 1.0002], ["1.0001", "1.0002"]),
        ([0.1, 0.30000000000000004], ["0.1", "0.3"]),
        ([-1e-17, 0.2], ["0.0", "0.2"]),
        ([1e300, 2e300], ["1e300", "2e300"]),
        ([5.0], ["5"]),
        ([0.0], ["0"]),
        ([], []),
    ],
)
def test_ticks(ticks: list[float], texts: list[str]) -> None:
    assert FewestDigits().format_ticks(ticks) == texts


def labels(svg: str) -> list[tuple[float, str, str]]:
    """Return of every text of a figure its place across, how it is anchored, and what it says."""
    found = re.findall(r'<text style="([^"]*)" x="([-\d.]+)" y="[-\d.]+"[^>]*>([^<]*)<', svg)
    return [(float(x), (re.findall(r"text-anchor: (\w+)", style) or ["start"])[0], text) for style, x, text in found]


@PAGES
@pytest.mark.parametrize("offset", [0, 1e6, 1e-6, -3.0, 1e30])
@pytest.mark.parametrize("span", [1e-9, 0.3, 1e3, 1e35])
def test_no_label_is_cut(offset: float, span: float) -> None:
    values = offset + span * np.linspace(0, 1, 30)
    for svg in (curve(values, "title", "index"), histogram(values, "title", "value")):
        _, _, width, _ = map(float, re.findall(r'viewBox="([^"]+)"', svg)[0].split())
        for x, anchor, text in labels(svg):
            room = 72 * CHARACTER * len(text) * 0.9
            left = x - {"start": 0, "middle": room / 2, "end": room}[anchor]
            assert -1 <= left < left + room <= width + 1, (text, left, width)


@PAGES
@pytest.mark.parametrize("title", ["a title " * 40, "n" * 300, "$x_1$ <b>&", "two\nlines"])
def test_a_title_is_text_that_the_page_wraps(title: str) -> None:
    svg = panel(lambda axes: axes.plot([0, 1]), title)
    assert svg.count("</svg>") == 1
    drawn, _, below = svg.partition("</svg>")
    assert title not in [text for _, _, text in labels(drawn)]
    assert below.strip().startswith('<p class="title"')


def result(seed: int, reward: float) -> EpisodeResult:
    return EpisodeResult(seed=seed, success=reward >= 1, max_reward=reward, length=3)


def ticks(svg: str) -> list[float]:
    """Return the numbers beside the axis that goes up."""
    return [float(text.replace("−", "-")) for _, anchor, text in labels(svg) if anchor == "end"]


@PAGES
@pytest.mark.parametrize("rewards", [[0.0], [0.01, 0.02], [0.5, 1.0], [0.0] * 100])
def test_rewards_are_drawn_from_0_to_1(rewards: list[float]) -> None:
    for success in (1.0, None):
        drawn = scores([result(seed, reward) for seed, reward in enumerate(rewards)], success)
        logged = {"rollout/mean_max_reward": ([*map(float, range(len(rewards)))], rewards)}
        for svg in (drawn, curves({"run": logged}, success)[0]):
            assert (min(ticks(svg)), max(ticks(svg))) == (0, 1)
            assert ("reward of a success: 1" in svg) is (success is not None)


@PAGES
@pytest.mark.parametrize("values", [[0.0121, 0.0139], [0.11, 0.12], [1.0, 1.0], [0.3, 0.4], [3.0], [0.101, 0.1010001],
                                    [1e-9, 1e9], [1e-30, 1e30], [0.0, 0.3], [0.01, 0.3, 0.02]])  # fmt: skip
def test_a_logarithmic_axis_has_two_ticks(values: list[float]) -> None:
    svg = curves({"run": {"train/loss": ([*map(float, range(len(values)))], values)}})[0]
    assert 2 <= len(set(ticks(svg))) == len(ticks(svg)) <= 8


@PAGES
def test_rewards_beyond_0_to_1_are_not_cut() -> None:
    assert min(ticks(scores([result(0, -300.0), result(1, 250.0)]))) <= -200
    assert max(ticks(scores([result(0, 0.5)], success=200.0))) == 200


@PAGES
@pytest.mark.parametrize("name", ["_hidden", "n" * 300, "$x", "<b>"])
def test_every_line_is_in_the_legend(name: str) -> None:
    svg = errors_by_step({name: [0.1, 0.2], "other": [0.2, 0.3]}, [1.0, 1.0], 1)
    texts = [text.strip("\u2060") for _, _, text in labels(svg)]
    assert "other" in texts
    assert any(text.startswith(("_hidden", "nnn", "$x", "&lt;b")) and len(text) <= 28 for text in texts)
    logged = {each: {"train/loss": ([1.0, 2.0], [0.5, 0.4])} for each in (name, "second")}
    assert sum("\u2060" in text for _, _, text in labels(curves(logged)[0])) == 2
