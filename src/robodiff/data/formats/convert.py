"""A recording in another format: from whatever can be read to whatever can be written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from robodiff import registry
from robodiff.data.episodes import Episodes
from robodiff.data.recordings import Format, formats
from robodiff.errors import UsageError


def convert(
    episodes: Episodes, out: Path, on_episode: Callable[[int], None] | None = None, **options: Any
) -> list[str]:
    """Write a recording to ``out``, whole or not at all.

    The arrays of ``episodes`` come back to the bit from zarr and HDF5, and from LeRobot's format with ``png``.

    Args:
        episodes: the recording.
        out: where nothing is yet; what its name ends in says the format, and without a suffix it is the folder of a
            LeRobot data set.
        on_episode: called with the number of episodes done.
        options: of the format's writer, such as ``images``; None is not given.

    Returns:
        What of it the format has no place for.

    Raises:
        UsageError: something is at ``out``, or an option that the format's writer does not have.
    """
    form = format_of(out)
    assert form.write is not None
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another path")
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in given if name not in form.write_options]:
        raise UsageError(f"{out}: {form.title} has no option {unknown[0]}; leave it out")
    return form.write(episodes, out, on_episode, **given)


def format_of(out: Path) -> Format:
    """Return the format in which a path of this name is written."""
    for form in formats():
        if form.write is not None and out.suffix and out.suffix in form.suffixes:
            return form
    return registry.find("data", "LeRobotConfig")
