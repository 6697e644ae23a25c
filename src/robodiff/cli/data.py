"""``robodiff data``: look into a recording, check it, and write it in another format."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from robodiff.cli.options import Options, read_options, read_value
from robodiff.data.check import examine, findings_in, in_kinds
from robodiff.data.episodes import Episodes, Feature, Finding, unit_in_words
from robodiff.data.formats.convert import convert as write
from robodiff.data.formats.convert import format_of
from robodiff.data.naming import AGENT_FILES, EACH
from robodiff.data.recordings import DataConfig, format_at, open_path
from robodiff.data.windows import WindowShape
from robodiff.documents import AtLeast, Between, FilePath, hints
from robodiff.errors import UsageError, nearest, notice
from robodiff.progress import bar, say
from robodiff.text import counted, duration, listed, printable

T = TypeVar("T", bound="InfoOptions")
VERDICTS = {
    "fatal": "Training would fail or be harmed: mend what is fatal, then check again (more may show then).",
    "warning": "It can be trained on, but look at the warnings first.",
    "note": "Nothing found that speaks against training on it.",
}
"""By the worst that was found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Tell what a recording holds: keys, shapes, units, episodes, lengths, rate and ranges; no image is decoded.

    Options of the recording's format may follow: --keys, --key_map, --fps, --agent, --episodes, --resize_shape; of zarr
    --layout, of the Hugging Face hub --revision, of robomimic --filter_key; robodiff fit --data.help CLASS lists all.

    Examples:
      robodiff data info builtin:pusht
      robodiff data info demos.zarr.zip --layout pusht
    """

    positional: ClassVar[tuple[str, ...]] = ("path",)

    path: FilePath
    """A recording, or a LeRobot data set of the Hugging Face hub, such as lerobot/pusht; builtin:pusht is the one
    inside the package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions(InfoOptions):
    """Find what is wrong with a recording or unusual in it, where, and what to do. Exits with 1 when training would
    fail or be harmed. Options of the recording's format may follow, as for robodiff data info.

    Examples:
      robodiff data check demos.zarr.zip --layout pusht
      robodiff data check builtin:pusht --horizon 32 --json
    """

    n_obs_steps: Annotated[int, AtLeast(1)] = 2
    """Of the policy to train."""
    horizon: Annotated[int, AtLeast(1)] = 16
    """Of the policy to train."""
    n_action_steps: Annotated[int, AtLeast(1)] = 8
    """Of the policy to train."""
    json: bool = False
    """Print what was found as JSON, and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions(InfoOptions):
    """Make one page about a recording: its episodes to watch, lengths, curves and histograms, and what is unusual.
    Of many episodes the page carries a sample; --serve shows all of them. Options of the recording's format may follow,
    as for robodiff data info.

    Examples:
      robodiff data view builtin:pusht
      robodiff data view demos.zarr.zip --layout pusht --out demos.html
      robodiff data view demos.zarr --serve
    """

    out: FilePath = "data.html"
    """The page; not written with --serve."""
    serve: bool = False
    """Show the page, with every episode at hand, to the browser on this machine that has the link; Ctrl-C ends it."""
    port: Annotated[int, Between(0, 65535)] = 0
    """Port of --serve; 0 picks a free one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(InfoOptions):
    """Write a recording in another format: as a zarr group, as an HDF5 file of robomimic, as a LeRobot v3.0 data set,
    or as myCobot's episode folders. The name of OUT tells which, or --format does. With {agent} in it, a file is
    written for each of several agents; with {agent} in PATH, such files are one recording. Options of the recording's
    format may follow, as for robodiff data info.

    Examples:
      robodiff data convert demos.zarr demos_lerobot
      robodiff data convert demos_lerobot demos_again.zarr.zip
      robodiff data convert demos.h5 'LiftBarrier-rf_Agent{agent}_150.zarr'
      robodiff data convert 'LiftBarrier-rf_Agent{agent}_150.zarr' team.zarr
    """

    positional: ClassVar[tuple[str, ...]] = ("path", "out")

    out: FilePath
    """A .zarr folder or .zip, an .hdf5 file, else a LeRobot v3.0 data set's folder. RoboFactory's keys are in a name
    that ends as theirs do, in _Agent0_150.zarr."""
    format: str | None = None
    """The format where the name of OUT does not say it, such as mycobot."""
    out_layout: Literal["robofactory", "img"] | None = None
    """What zarr's keys are called: as RoboFactory's head_camera, state, action, or as img, state, action."""
    images: Literal["av1", "h264", "png"] | None = None
    """How LeRobot's format stores images; av1 when not given. png loses nothing."""


def run(arguments: list[str]) -> None:
    """Find the action and run it."""
    action = arguments[0] if arguments else ""
    if action in ("-h", "--help"):
        print(_help())
    elif action not in ACTIONS:
        raise UsageError(f"usage: robodiff data {'|'.join(ACTIONS)} PATH; found {action!r}.{nearest(action, ACTIONS)}")
    else:
        kind, act = ACTIONS[action]
        act(*read_recording_options(kind, f"data {action}", arguments[1:]))


def _help() -> str:
    titles = {name: " ".join(str(kind.__doc__).split()).partition(". ")[0] for name, (kind, _) in ACTIONS.items()}
    actions = "\n".join(f"  {name:8} {title}." for name, title in titles.items())
    return (
        f"usage: robodiff data {'|'.join(ACTIONS)} PATH [options]\n\n{actions}\n\n"
        "robodiff data info --help, and so on, tells the options of each. Example: robodiff data info builtin:pusht."
    )


def read_recording_options(kind: type[T], command: str, arguments: list[str]) -> tuple[T, DataConfig]:
    """Read the options of a command, and those that its recording's format has beside them.

    Raises:
        UsageError: an option that neither has, or a value that does not fit.
        RobodiffError: no recording there.
    """
    extra: dict[str, Any] = {}
    options = read_options(kind, command, arguments, extra)
    form = format_at(options.path)
    annotations = hints(form.config)
    for option, text in extra.items():
        if option not in annotations:
            known = nearest(option, [*hints(kind), *annotations], prefix="--")
            raise UsageError(f"unknown option --{option} ({form.title}).{known}")
        extra[option] = read_value(option, text, annotations[option])
    return options, open_path(options.path, **extra)


def info(options: InfoOptions, source: DataConfig) -> None:
    """Read the numbers, print."""
    episodes, images = source.overview()
    print_info(format_at(options.path).title, episodes, images)


def check(options: CheckOptions, source: DataConfig) -> None:
    """Examine, print; exits with 1 for anything fatal."""
    window = WindowShape(options.n_obs_steps, options.horizon, options.n_action_steps)
    findings = examine(source, window)
    fatal = any(finding.severity == "fatal" for finding in findings)
    if options.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"source": options.path, "trainable": not fatal, "findings": rows}, indent=2))
    else:
        print_findings(options.path, findings)
    if fatal:
        raise SystemExit(1)


def view(options: ViewOptions, source: DataConfig) -> None:
    """Read, examine, write the page or serve it."""
    from robodiff.report.live import serve_recording
    from robodiff.report.recording import playable, write_view

    episodes = source.read_chosen()
    window = WindowShape(CheckOptions.n_obs_steps, CheckOptions.horizon, CheckOptions.n_action_steps)
    findings, console = findings_in(episodes, window), Console()
    if not options.serve:
        say(console, f"written: {write_view(episodes, findings, Path(options.out))}")
        return
    with serve_recording(playable(episodes, findings), options.port) as server:
        say(console, f"{options.path}: {server.link}\nCtrl-C ends it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    say(console, "stopped")


def convert(options: ConvertOptions, source: DataConfig) -> None:
    """Read, write in another format."""
    form = format_of(Path(options.out), options.format)
    agents = [source.agent or (EACH if form.keeps_agents else None)]
    if AGENT_FILES in options.out and source.agent in (None, EACH):
        agents = source.agents()
    if not agents:
        raise UsageError(f"{options.path}: its keys name no agents; leave {AGENT_FILES} out of {options.out}")
    outs = {agent: Path(options.out.replace(AGENT_FILES, agent or "")) for agent in agents}
    if taken := [out for out in outs.values() if out.exists()]:
        raise UsageError(f"{taken[0]}: exists already; choose another path")
    console, unread = Console(), list[set[str]]()
    for agent, out in outs.items():
        episodes = dataclasses.replace(source, agent=agent).read_chosen()
        with bar(console, "episodes", len(episodes)) as advance:
            options_given = {"images": options.images, "out_layout": options.out_layout}
            lost = write(episodes, out, advance, options.format, **options_given)
        unread.append({*episodes.unread})
        if lost:
            notice(f"{out} has no place for {', '.join(lost)}; left out")
        say(console, f"{_size(episodes)}\nwritten: {out}")
    if nowhere := set.intersection(*unread):
        notice(f"{options.path} also holds {listed(sorted(nowhere))}; not read, and left out")


ACTIONS: dict[str, tuple[type[InfoOptions], Callable[[Any, DataConfig], None]]] = {
    "info": (InfoOptions, info),
    "check": (CheckOptions, check),
    "view": (ViewOptions, view),
    "convert": (ConvertOptions, convert),
}


def print_findings(path: str, findings: list[Finding]) -> None:
    """Print findings, worst first, those of one kind in a key together, and a verdict."""
    console = Console()
    say(console, path)
    for finding, others in in_kinds(findings):
        say(console, "\n    ".join(filter(None, (f"{finding.severity}: {finding.message}", finding.advice, others))))
    say(console, VERDICTS[findings[0].severity if findings else "note"])


def print_info(title: str, episodes: Episodes, images: Mapping[str, Feature]) -> None:
    """Print what there is in words, and a table with a row a key."""
    console, lengths = Console(), episodes.lengths
    say(
        console,
        f"{episodes.source}\n"
        f"{title}: {_size(episodes)} at {episodes.fps:g} Hz ({duration(lengths.sum() / episodes.fps)})\n"
        f"lengths: {lengths.min()} to {counted(lengths.max().item(), 'frame')}, median {int(np.median(lengths))}",
    )
    for name, values in episodes.table.items():
        say(console, f"{name}: {_summary(np.asarray(values))}")
    table = Table(Column("key", no_wrap=True), "shape", "type", "unit", "smallest", "largest", box=None, pad_edge=False)
    for key, feature in {**images, **episodes.features}.items():
        array = episodes.arrays.get(key)
        ends = ("", "") if array is None else (_numbers(array.min(axis=0)), _numbers(array.max(axis=0)))
        cells = (key, str(feature.shape), feature.dtype, unit_in_words(feature.unit), *ends)
        table.add_row(*(Text(printable(cell)) for cell in cells))  # not as markup, which names may look like
    console.print(table)
    if episodes.unread:
        unread = listed((f"{key} ({what})" for key, what in episodes.unread.items()), most=40)
        say(console, f"not read: {unread}")
    for finding in {(each.severity, each.check, each.key): each for each in reversed(episodes.findings)}.values():
        say(console, f"{finding.severity}: {finding.message}")


def _size(episodes: Episodes) -> str:
    return f"{counted(len(episodes), 'episode')}, {counted(episodes.lengths.sum().item(), 'frame')}"


def _summary(column: np.ndarray) -> str:
    """Return of a column of the table how many are true, the range of numbers, or the first texts."""
    if column.dtype.kind == "b":
        return f"{column.sum()} of {len(column)}"
    if column.dtype.kind in "iuf":
        return f"{column.min()} to {column.max()}"
    return _some(list(dict.fromkeys(map(str, column))))


def _numbers(values: np.ndarray) -> str:
    return _some([f"{value:.4g}" for value in values.ravel()])


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
