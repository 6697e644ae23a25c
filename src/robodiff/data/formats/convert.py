"""A recording in another format: from whatever can be read to whatever can be written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robodiff.data.episodes import Episodes
from robodiff.data.recordings import Format, formats
from robodiff.errors import UsageError

_VERSION = re.compile(r"\.v?\d.*")
"""What looks like the suffix of a file in the name of a folder such as ``demos.v2``."""


def convert(
    episodes: Episodes,
    out: Path,
    on_episode: Callable[[int], None] | None = None,
    form: str | None = None,
    **options: Any,
) -> list[str]:
    """Write a recording to ``out``, whole or not at all.

    The arrays of ``episodes`` come back to the bit from zarr and HDF5, and from LeRobot's format with ``png``.

    Args:
        episodes: the recording.
        out: where nothing is yet.
        on_episode: called with the number of episodes done.
        form: the format; None where the name of ``out`` says it.
        options: of the format's writer, such as ``images``; None is not given.

    Returns:
        What of it the format has no place for.

    Raises:
        UsageError: something is at ``out``, or an option that the format's writer does not have.
    """
    into = format_of(out, form)
    assert into.write is not None
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another path")
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in given if name not in into.write_options]:
        raise UsageError(f"{out}: {into.title} has no option {unknown[0]}; leave it out")
    return into.write(episodes, out, on_episode, **given)


def format_of(out: Path, name: str | None = None, usual: str = "lerobot") -> Format:
    """Return the format of a name such as ``zarr``; without one what the suffix of the path says, else the usual one.

    Raises:
        UsageError: there is no such format, it is not written, or ``out`` would be taken for another, or for a file of
            a kind that is not written.
    """
    written = {form.short_name: form for form in formats() if form.write is not None}
    if name is not None and name not in written:
        raise UsageError(f"--format: no format {name!r} is written; there is {', '.join(written)}")
    named = [form for form in written.values() if out.suffix and out.suffix in form.suffixes]
    if not named and out.suffix and not _VERSION.fullmatch(out.suffix):
        suffixes = ", ".join(suffix for form in written.values() for suffix in form.suffixes)
        problem = f"no {out.suffix} file is written; choose a name that ends in one of {suffixes}, or has no suffix"
        raise UsageError(f"{out}: {problem}")
    if name is None:
        return next(iter(named), written[usual])
    if named and written[name] not in named:
        raise UsageError(f"{out}: would be read as {named[0].title}; choose a name that does not end in {out.suffix}")
    return written[name]
