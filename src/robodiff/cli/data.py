"""``robodiff data``: look into a recording."""

from typing import Any

from robodiff.cli.parser import Parser
from robodiff.data.config import ZarrDataModule
from robodiff.data.episodes import Episodes
from robodiff.errors import UsageError, nearest

DESCRIPTION = """Tell what a recording holds: keys, shapes, units, episodes, lengths, rate and ranges.

Examples:
  robodiff data info builtin:pusht
  robodiff data info demos.zarr.zip --layout pusht"""
ACTIONS = ("info",)


def run(arguments: list[str]) -> None:
    """Parse, read, print."""
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in ACTIONS:
            raise UsageError(f"unknown action {arguments[0]!r}; there is {', '.join(ACTIONS)}."
                             f"{nearest(arguments[0], list(ACTIONS))}")  # fmt: skip
        arguments = arguments[1:]
    elif "-h" not in arguments and "--help" not in arguments:
        raise UsageError(f"say what to do: robodiff data {'|'.join(ACTIONS)} PATH")
    parser = Parser("data", "info PATH [options]", DESCRIPTION)
    parser.add_argument("path", type=str, help="A recording; builtin:pusht is the one inside the package.")
    parser.add_argument("--layout", type=str | None, help="What the file's keys are, if it does not say it itself.")
    parser.add_argument("--key_map", type=dict[str, str] | None, help="Key in the file -> name here, in its place.")
    parser.add_argument("--fps", type=float | None, help="Frames per second, if the file does not say it itself.")
    options = parser.parse_args(arguments)
    source = ZarrDataModule(path=options.path, layout=options.layout, key_map=options.key_map, fps=options.fps)
    print_info(source.read())


def print_info(episodes: Episodes) -> None:
    """Print a table with a row a key."""
    import numpy as np
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    lengths = episodes.lengths
    console.print(f"{episodes.source}", highlight=False, soft_wrap=True)
    console.print(
        f"{len(episodes)} episodes, {lengths.sum():,} frames at {episodes.fps:g} Hz "
        f"({lengths.sum() / episodes.fps / 60:.1f} minutes)\n"
        f"lengths: {lengths.min()} to {lengths.max()} frames, median {int(np.median(lengths))}",
        highlight=False,
    )
    for name, values in episodes.table.items():
        numbers = np.asarray(values)
        console.print(f"{name}: {numbers.min()} to {numbers.max()}" if numbers.dtype != bool else
                      f"{name}: {numbers.sum()} of {len(numbers)}", highlight=False)  # fmt: skip
    table = Table(Column("key", no_wrap=True), "shape", "type", "unit", "smallest", "largest", box=None, pad_edge=False)
    for key, array in episodes.arrays.items():
        feature = episodes.features[key]
        axes = 0 if feature.kind == "vector" else None
        low, high = np.min(array, axis=axes), np.max(array, axis=axes)
        table.add_row(key, str(tuple(feature.shape)), feature.dtype, feature.unit or "", _numbers(low), _numbers(high))
    console.print(table)


def _numbers(values: Any) -> str:
    flat = values.ravel()
    return ", ".join(f"{v:.4g}" for v in flat[:3]) + (", ..." if len(flat) > 3 else "")
