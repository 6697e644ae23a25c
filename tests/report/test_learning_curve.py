"""The page of a learning curve, made again: what ``learning_curve.json`` tells, with ways to the pages of its runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.browser import Browse
from tests.conftest import Tags

from robodiff.evaluation.learning_curve import Cell, LearningCurve, learning_curve
from robodiff.evaluation.results import write_result
from robodiff.report.learning_curve import write_learning_curve_report

Run = Callable[..., tuple[int, str, str]]


def curve(folder: Path) -> LearningCurve:
    values = {25: (0.3, 0.4), 50: (0.5, 0.6), 100: (0.7, 0.7)}
    cells = [
        Cell(demonstrations=count, seed=seed, value=value)
        for count, each in values.items()
        for seed, value in enumerate(each, start=1)
    ]
    result = learning_curve(cells, "success", "pusht", 100)
    write_result(folder, result)
    return result


def test_the_page_is_made_again(robodiff: Run, tmp_path: Path) -> None:
    folder, own = tmp_path / "curve", tmp_path / "curve" / "episodes-50" / "seed-2" / "report.html"
    own.parent.mkdir(parents=True)
    own.touch()
    result = curve(folder)
    code, out, err = robodiff("report", folder)
    assert (code, out.strip()) == (0, f"written: {folder / 'report.html'}"), err
    code, _, err = robodiff("report", folder, "--out", tmp_path / "elsewhere.html")
    assert code == 0, err
    for page, link in ((folder / "report.html", ""), (tmp_path / "elsewhere.html", "curve/")):
        text = page.read_text()
        assert Tags(text).open == []
        assert result.conclusion in text
        assert text.count(f'<a href="{link}episodes-50/seed-2/report.html">') == 1


def test_a_broken_one_gets_a_line(robodiff: Run, tmp_path: Path) -> None:
    curve(tmp_path)
    (tmp_path / "learning_curve.json").write_text("{}")
    code, _, err = robodiff("report", tmp_path)
    assert (code, "Traceback" in err) == (1, False), err
    assert "learning_curve.json" in err
    assert "make it again with robodiff learning-curve" in err


def test_one_that_is_not_done_says_how_far_it_is(robodiff: Run, tmp_path: Path) -> None:
    for name, files in (
        ("episodes-25/seed-1", ("config.yaml", "run.json", "eval/offline-n8/offline.json")),
        ("episodes-25/seed-2", ("config.yaml", "run.json")),
        ("episodes-100/seed-1", ("config.yaml",)),
    ):
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("{}")
    code, _, err = robodiff("report", tmp_path)
    assert (code, err.count("\n")) == (2, 2), err
    assert f"{tmp_path}: is a learning curve that is not done: 3 runs begun, 2 trained, 1 measured\n" in err
    assert f"robodiff learning-curve --out {tmp_path}, with the options that it was begun with, goes on" in err
    for command in (("report", tmp_path, tmp_path / "episodes-25" / "seed-1"), ("export", tmp_path, "--to", "onnx")):
        code, _, err = robodiff(*command)
        runs = ", ".join(str(tmp_path / f"episodes-{run}") for run in ("25/seed-1", "25/seed-2", "100/seed-1"))
        assert (code, f"holds the runs of a learning curve; name one of them: {runs}" in err) == (2, True), err


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_values_of_the_curve_are_told(tmp_path: Path, browse: Browse) -> None:
    result = curve(tmp_path)
    page = browse(write_learning_curve_report(tmp_path))
    figure = page.locator(".told")
    reading = figure.locator(".reading")
    figure.focus()
    page.keyboard.press("Home")
    assert reading.inner_text().startswith("25 demonstrations: fitted 0.3")
    assert reading.inner_text().endswith(", one run 0.3 and 0.4, mean over seeds 0.35")
    page.keyboard.press("ArrowRight")  # where nothing was measured
    assert "run" not in reading.inner_text()
    page.keyboard.press("End")
    twice = result.predictions[2]
    values = f"{twice.value:.4g}, 95 % interval from {twice.ci95[0]:.4g}, to {twice.ci95[1]:.4g}"
    assert reading.inner_text() == f"200 demonstrations: fitted {values}"

    box = figure.locator("svg").bounding_box()
    assert box is not None
    ticks = [figure.locator("svg text", has_text=text).first.bounding_box() for text in ("50", "200")]
    few, twice_most = (tick["x"] + tick["width"] / 2 for tick in ticks if tick)
    page.mouse.move((few + twice_most) / 2, box["y"] + box["height"] / 2)  # 100, for the axis is logarithmic
    assert reading.inner_text().startswith("100 demonstrations: ")
    assert reading.inner_text().endswith(", one run 0.7 and 0.7, mean over seeds 0.7")
