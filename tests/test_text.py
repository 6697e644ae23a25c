"""Text for people: what would act is shown, counts agree with their nouns."""

import pytest

from robodiff.text import counted, duration, printable, shortened


@pytest.mark.kind("a name that acts instead of being shown")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m", r"\x9b31m"),  # the same in one byte
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten\b\x7f", r"over\rwritten\x08\x7f"),
        ("\u202eabc\u2066\u2028", r"\u202eabc\u2066\u2028"),
        ("\udcff", r"\udcff"),
        ("Größe 机器人 🤖\tand\na line", "Größe 机器人 🤖\tand\na line"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.kind("a count that does not agree with its noun")
@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 seeds"), (1, "1 seed"), (2, "2 seeds"), (1234567, "1,234,567 seeds"), (1.0, "1 seed"), (2.5, "2.5 seeds")],
)
def test_counted(number: float, expected: str) -> None:
    assert counted(number, "seed") == expected


def test_duration_and_shortened() -> None:
    assert [duration(seconds) for seconds in (0.06, 59, 90)] == ["0.1 seconds", "59.0 seconds", "1.5 minutes"]
    assert [shortened("left_hand_thumb", most) for most in (15, 14, 5)] == [
        "left_hand_thumb",
        "left_ha…_thumb",
        "le…mb",
    ]
