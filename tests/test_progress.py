"""What is printed while work goes on."""

import io

import pytest
from rich.console import Console

from robodiff.progress import bar, say


@pytest.mark.parametrize("text", ["runs/r[/x]", "[red]a[/red] :smile:", "[/]", "\\[x] " + "long " * 60])
def test_text_is_printed_as_it_is(text: str) -> None:
    out = io.StringIO()
    say(Console(file=out, width=80), text, "bold red")
    assert out.getvalue() == f"{text}\n"


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodiff.progress.SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    with bar(Console(file=out), "episodes", 4) as show:
        show(2)
    assert out.getvalue().startswith("2/4 episodes  ")
    assert out.getvalue().endswith(" min left\n")


def test_what_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodiff.progress.SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    with bar(Console(file=out), "episodes", 4) as show:
        show(0, "step 120 of 300")
        show(4, "step 300 of 300")
    first, last = out.getvalue().splitlines()
    assert first == "0/4 episodes  step 120 of 300"
    assert "step" not in last


@pytest.mark.parametrize("terminal", [False, True])
def test_no_estimate_before_anything_is_known_and_no_silence_after_all(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("robodiff.progress.SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    with bar(Console(file=out, force_terminal=terminal, width=120), "episodes", 4, "drawing videos") as show:
        show(0)
        assert "left" not in out.getvalue()
        assert "0 episodes/s" not in out.getvalue()
        show(3)
        assert "drawing videos" not in out.getvalue()
        show(4)
    assert "drawing videos\n" in out.getvalue().replace("\r", "")
