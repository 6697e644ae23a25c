"""``robodiff data``: look into a recording, check it, and write it in another format."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from robodiff.cli.parser import Parser, add_recording, recording_of
from robodiff.data.check import examine, findings_in
from robodiff.data.episodes import Episodes, Finding
from robodiff.data.windows import WindowShape
from robodiff.errors import UsageError, nearest, notice
from robodiff.policies.config import DiffusionConfig

INFO = """Tell what a recording holds: keys, shapes, units, episodes, lengths, rate and ranges.

Examples:
  robodiff data info builtin:pusht
  robodiff data info demos.zarr.zip --layout pusht"""
CHECK = """Find what is wrong with a recording or unusual in it, where, and what to do. Exits with 1 when training
would fail or be harmed.

Examples:
  robodiff data check demos.zarr.zip --layout pusht
  robodiff data check builtin:pusht --horizon 32 --json"""

VIEW = """Make one page about a recording: lengths, what its cameras see, curves and histograms, and what is unusual.

Examples:
  robodiff data view builtin:pusht
  robodiff data view demos.zarr.zip --layout pusht --out demos.html"""

CONVERT = """Write a recording in another format: as a zarr group, as an HDF5 file of robomimic, or as a LeRobot v3.0
data set. The name of OUT tells which.

Examples:
  robodiff data convert demos.zarr demos_lerobot
  robodiff data convert demos_lerobot demos_again.zarr.zip
  robodiff data convert demos.hdf5 demos_from_robomimic.zarr"""


def run(arguments: list[str]) -> None:
    """Find the action and run it."""
    action = arguments[0] if arguments else ""
    if action in ("-h", "--help"):
        print(f"usage: robodiff data {'|'.join(ACTIONS)} PATH [options]\n\n{INFO}\n\n{CHECK}\n\n{VIEW}\n\n{CONVERT}\n\n"
              "robodiff data info --help, and so on, tells the options of each.")  # fmt: skip
    elif not action or action.startswith("-"):
        raise UsageError(f"say what to do: robodiff data {'|'.join(ACTIONS)} PATH")
    elif action not in ACTIONS:
        raise UsageError(f"unknown action {action!r}; there is {', '.join(ACTIONS)}.{nearest(action, [*ACTIONS])}")
    else:
        ACTIONS[action](arguments[1:])


def info(arguments: list[str]) -> None:
    """Parse, read, print."""
    options = _parser("info", INFO).parse_args(arguments)
    print_info(recording_of(options.path, options).read())


def check(arguments: list[str]) -> None:
    """Parse, examine, print; exits with 1 for anything fatal."""
    parser = _parser("check", CHECK)
    parser.add_argument("--n_obs_steps", type=int, default=DiffusionConfig.n_obs_steps, help="Of the policy to train.")
    parser.add_argument("--horizon", type=int, default=DiffusionConfig.horizon, help="Of the policy to train.")
    parser.add_argument("--n_action_steps", type=int, default=DiffusionConfig.n_action_steps, help="Likewise.")
    parser.add_argument("--json", action="store_true", help="Print what was found as JSON, and nothing else.")
    options = parser.parse_args(arguments)
    window = WindowShape(options.n_obs_steps, options.horizon, options.n_action_steps)
    findings = examine(recording_of(options.path, options), window)
    fatal = any(finding.severity == "fatal" for finding in findings)
    if options.json:
        found = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"source": options.path, "trainable": not fatal, "findings": found}, indent=2))
    else:
        print_findings(options.path, findings)
    if fatal:
        raise SystemExit(1)


def view(arguments: list[str]) -> None:
    """Parse, read, examine, write the page."""
    from robodiff.report.recording import write_view

    parser = _parser("view", VIEW)
    parser.add_argument("--out", type=str, default="data.html", help="The page.")
    options = parser.parse_args(arguments)
    episodes = recording_of(options.path, options).read()
    window = WindowShape(DiffusionConfig.n_obs_steps, DiffusionConfig.horizon, DiffusionConfig.n_action_steps)
    print(f"written: {write_view(episodes, findings_in(episodes, window), Path(options.out))}")


def convert(arguments: list[str]) -> None:
    """Parse, read, write in another format."""
    from rich.console import Console

    from robodiff.data.formats.convert import convert as write
    from robodiff.data.formats.convert import lost
    from robodiff.progress import bar, say

    parser = _parser("convert", CONVERT, "PATH OUT [options]")
    parser.add_argument(
        "out", type=str, help="A .zarr folder or .zip, an .hdf5 file, else a LeRobot v3.0 data set's folder."
    )
    parser.add_argument("--images", type=Literal["av1", "h264", "png"] | None,
                        help="How LeRobot's format stores images; av1 when not given. png loses nothing.")  # fmt: skip
    options = parser.parse_args(arguments)
    episodes, out, console = recording_of(options.path, options).read(), Path(options.out), Console()
    with bar(console, "episodes", len(episodes)) as advance:
        written = write(episodes, out, options.images, advance)
    if episodes.unread:
        notice(f"{episodes.source} also holds {', '.join(episodes.unread)}; not read, and left out")
    if names := lost(episodes, out):
        notice(f"{out} has no place for {', '.join(names)}; left out")
    done = "written" if written else "there already, whole"
    say(console, f"{len(episodes)} episodes, {episodes.lengths.sum():,} frames\n{done}: {out}")


ACTIONS: dict[str, Callable[[list[str]], None]] = {"info": info, "check": check, "view": view, "convert": convert}


def print_findings(path: str, findings: list[Finding]) -> None:
    """Print findings, worst first, those of one kind in a key together, and a verdict."""
    print(path)
    kinds: dict[tuple, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.check, finding.key), []).append(finding)
    for first, *others in kinds.values():
        print(f"{first.severity}: {first.message}\n    {first.advice}")
        if others:
            episodes = sorted({f.episode for f in others if f.episode is not None})
            where = f", episode {', '.join(map(str, episodes[:8]))}{', ...' if len(episodes) > 8 else ''}"
            print(f"    and {len(others)} more of this kind{where if episodes else ''}")
    severities = [finding.severity for finding in findings]
    if "fatal" in severities:
        print("Training would fail or be harmed: mend what is fatal, then check again (more may show then).")
    elif "warning" in severities:
        print("It can be trained on, but look at the warnings first.")
    else:
        print("Nothing found that speaks against training on it.")


def _parser(action: str, description: str, usage: str = "PATH [options]") -> Parser:
    parser = Parser(f"data {action}", usage, description)
    parser.add_argument("path", type=str, help="A recording, or a LeRobot data set of the Hugging Face hub, such as "
                        "lerobot/pusht; builtin:pusht is the one inside the package.")  # fmt: skip
    add_recording(parser)
    return parser


def print_info(episodes: Episodes) -> None:
    """Print a table with a row a key."""
    import numpy as np
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from robodiff.progress import say

    console = Console()
    lengths = episodes.lengths
    say(console, episodes.source)
    say(
        console,
        f"{len(episodes)} episodes, {lengths.sum():,} frames at {episodes.fps:g} Hz "
        f"({lengths.sum() / episodes.fps / 60:.1f} minutes)\n"
        f"lengths: {lengths.min()} to {lengths.max()} frames, median {int(np.median(lengths))}",
    )
    for name, values in episodes.table.items():
        say(console, f"{name}: {_summary(np.asarray(values))}")
    table = Table(Column("key", no_wrap=True), "shape", "type", "unit", "smallest", "largest", box=None, pad_edge=False)
    for key, array in episodes.arrays.items():
        feature = episodes.features[key]
        axes = 0 if feature.kind == "vector" else None
        low, high = np.min(array, axis=axes), np.max(array, axis=axes)
        cells = (key, str(feature.shape), feature.dtype, feature.unit or "", _numbers(low), _numbers(high))
        table.add_row(*map(Text, cells))  # not as markup, which names may look like
    console.print(table)


def _summary(column: Any) -> str:
    """Of a column of the table: how many are true, the range of numbers, or the first texts."""
    if column.dtype.kind == "b":
        return f"{column.sum()} of {len(column)}"
    if column.dtype.kind in "iuf":
        return f"{column.min()} to {column.max()}"
    texts = list(dict.fromkeys(map(str, column)))
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")


def _numbers(values: Any) -> str:
    flat = values.ravel()
    return ", ".join(f"{v:.4g}" for v in flat[:3]) + (", ..." if len(flat) > 3 else "")
