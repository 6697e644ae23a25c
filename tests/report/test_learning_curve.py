"""The page of a learning curve, made again: what ``learning_curve.json`` tells, with ways to the pages of its runs."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Tags

from robodiff.evaluation.learning_curve import Cell, LearningCurve, learning_curve
from robodiff.evaluation.results import write_result

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
