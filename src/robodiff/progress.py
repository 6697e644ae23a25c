"""What is shown while work goes on: lines of text, and a bar or, without a terminal, a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robodiff.text import for_terminal

SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """What ``bar`` yields."""

    def __call__(self, done: int, doing: str = "") -> None:
        """Tell the number done so far and, where each takes long, how far those are that are being done."""


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is, paths in one line: names from data may look like markup or emoji codes, or hold what acts on
    a terminal."""
    console.print(for_terminal(text), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def per_second(number: float, unit: str) -> str:
    """Return a rate in words, such as ``1,234 samples/s``."""
    return f"{number:{',.0f' if number >= 10 else '.2g'}} {unit}/s"


@contextmanager
def bar(console: Console, unit: str, total: int, then: str = "") -> Iterator[Advance]:
    """Yield a function to call with the number done so far; what is not known before the first is not told.

    Args:
        console: where it is shown.
        unit: what is counted.
        total: how many there are.
        then: what comes when all are done, and is said at that moment.
    """
    start = last = time.monotonic()

    def rate(done: int) -> str:
        return per_second(done / max(time.monotonic() - start, 1e-9), unit) if done else ""

    def show(update: Callable[[int, str], None], done: int, doing: str = "") -> None:
        update(done, f"  {doing}" if doing and done < total else "")
        if done >= total and then:
            say(console, then)

    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(unit, total=total)

            def update(done: int, doing: str) -> None:
                progress.update(task, completed=done, description=f"{unit}  {rate(done)}{doing}")

            yield partial(show, update)
        return

    def line(done: int, doing: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = f"  {rate(done)}  {(now - start) / done * (total - done) / 60:.1f} min left" if done else ""
            say(console, f"{done}/{total} {unit}{doing}{left}")

    yield partial(show, line)
