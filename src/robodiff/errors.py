"""The errors that a user can cause: one or two lines that say what was expected, what was found, and what to do."""

import functools
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from robodiff.text import for_terminal


class RobodiffError(Exception):
    """Work could not be done with what was found (a file, a value, an environment). The command line exits with 1."""


class NotFetched(RobodiffError):
    """The Hugging Face hub does not give what was asked for: no network, no such repository, no access to it."""


class UsageError(RobodiffError):
    """What was asked for is not possible: an option, a name, a combination. The command line exits with 2."""


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``" Did you mean 'x'?"`` for the known name that is closest to ``name``, or nothing."""
    from difflib import get_close_matches

    matches = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {prefix + matches[0]!r}?" if matches else ""


def in_one_line(error: BaseException) -> str:
    """Return what an error says in a line; of foreign code its class, its text, and where it was raised."""
    if isinstance(error, RobodiffError):
        return " ".join(str(error).split())
    text = " ".join(str(error).split())[:200]
    if isinstance(error, SyntaxError):  # says itself where it is
        return f"{type(error).__name__}: {text}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


@functools.cache
def notice(message: str) -> None:
    """Tell on standard error what a user should know and need not act upon, each message once.

    Of processes that train together only the first tells it.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(for_terminal(f"robodiff: note: {message}"), file=sys.stderr)
