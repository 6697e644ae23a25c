"""Text for people: numbers with their noun, and names from data that may not act on a terminal or a page."""

import re
from collections.abc import Iterable

LONGEST_LINE = 1000
_ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, changes colours or titles, turns the direction of writing, or cannot be encoded; lines and
tabulators stay."""


def printable(text: str) -> str:
    r"""Return text with every character that would act instead of being shown written as its escape, ``\x1b``."""
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def for_terminal(text: str) -> str:
    """Return printable text whose lines have an end: of one of more than ``LONGEST_LINE`` the rest is left out."""
    lines = printable(text).split("\n")
    return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..." for line in lines)


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return names one after another, the first of them where there are many."""
    every = [*names]
    more = f", and {len(every) - most} more" if len(every) > most else ""
    return f"{', '.join(map(str, every[:most]))}{more}"


def counted(number: float, noun: str) -> str:
    """Return how many there are, such as ``1 episode`` and ``2,000 episodes``."""
    text = f"{int(number):,}" if number % 1 == 0 else f"{number:,g}"
    return f"{text} {noun}{'' if number == 1 else 's'}"


def table(rows: Iterable[Iterable[str]]) -> str:
    """Return rows of as many columns as lines, each column as wide as its longest text."""
    lines = [[*row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Return how long it takes, such as ``12.0 seconds`` and ``1.5 minutes``."""
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"


def shortened(text: str, most: int) -> str:
    """Return text in at most so many characters, without its middle where it is longer: names differ at their ends."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def brief(value: object) -> str:
    """Return a value in at most 80 characters, as a document writes it."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
