"""``robodiff collect``: record demonstrations of a scripted expert."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from robodiff.cli.options import Options, name_with, read_options, split
from robodiff.documents import AtLeast, Document, FilePath, hints, plain
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.text import counted


@dataclass(frozen=True, kw_only=True)
class CollectOptions(Options):
    """Record successful demonstrations of the scripted expert of an environment, as a zarr recording or in another
    format.

    Every episode is on disk as soon as it is done. The same command goes on where an earlier one was stopped. An
    environment and its expert may have options of their own: robodiff collect ENV --help lists them.

    Examples:
      robodiff collect pusht --episodes 50 --out demos.zarr
      robodiff collect pusht --episodes 200 --out demos.zarr.zip --workers 2 --images
      robodiff collect lift_barrier --episodes 100 --out team.zarr --cameras head
      robodiff collect my_env --plugin my_env.py --episodes 50 --out demos.zarr
    """

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str
    """The environment, such as pusht."""
    episodes: Annotated[int, AtLeast(1)]
    """Successful demonstrations to record."""
    out: FilePath
    """A folder (.zarr); or a .zip or an .hdf5 file, or another format, which is made at the end."""
    format: str | None = None
    """The format where the name does not say it, such as lerobot or mycobot; zarr when not given."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of the first; the others follow."""
    workers: Annotated[int, AtLeast(1)] = 1
    """Processes; the demonstrations do not depend on it."""
    images: bool = False
    """Record the images of all cameras, too."""
    cameras: str | None = None
    """Record the images of these cameras alone, by the last parts of their names, such as agentview,wrist."""


def run(arguments: list[str]) -> None:
    """Parse, collect, print."""
    env, parts = next((word for option, word in split(arguments) if option is None), None), {}
    if env is not None:
        from robodiff.envs.spec import get_env_spec  # needs gymnasium

        spec = get_env_spec(env)
        parts = {part: None for part in (spec.options, spec.expert_options) if part is not Document}
    kind = type("CollectOptions", (CollectOptions, *parts), {"__doc__": CollectOptions.__doc__})
    options = read_options(dataclass(frozen=True, kw_only=True)(kind), "collect", arguments)
    record(options, Path(options.out))


def record(options: CollectOptions, out: Path) -> None:
    """Collect episode by episode into a folder; make of it what else is asked for."""
    from rich.console import Console

    from robodiff.data.formats.convert import convert, format_of
    from robodiff.data.formats.zarr_writer import ZarrWriter, building, pack_zip
    from robodiff.data.naming import AGENT_FILES
    from robodiff.data.recordings import open_path
    from robodiff.envs.collect import NO_SUCCESS, collect, recorded_features
    from robodiff.files import locked, naming
    from robodiff.progress import bar, say

    spec, expert_options = configured_spec(options)
    images = options.cameras.split(",") if options.cameras else options.images
    if AGENT_FILES in options.out:
        raise UsageError(f"{out}: collect all agents in one recording; robodiff data convert makes a file for each")
    form = format_of(out, options.format, "zarr")
    features = recorded_features(spec, images or form.keys is not None)
    if form.keys is not None:  # among them of a camera, where no other is asked for
        images = images or [key.rpartition(".")[2] for key in form.keys(features) if features[key].kind == "image"]
        features = recorded_features(spec, images)

    def demonstrations(episodes: int, seed: int) -> Any:
        return collect(spec.name, episodes, seed, options.workers, images=images, **expert_options)

    is_zip = form.short_name == "zarr" and out.suffix == ".zip"
    is_folder = form.short_name == "zarr" and not is_zip
    if not is_folder and out.exists():
        raise UsageError(f"{out}: exists already; choose another --out")
    demonstrations(1, 0)  # refuses what cannot be collected, before anything is made on disk; nothing is started
    recipe = {"env": spec.name, "seed": options.seed, "images": images, **expert_options}
    folder, console, lost = out if is_folder else building(out), Console(), list[str]()
    with locked(folder), naming(folder):
        writer = ZarrWriter(folder, spec.fps, recipe=recipe, features=features)
        if writer.episodes > options.episodes:
            raise UsageError(
                f"{folder}: has {counted(writer.episodes, 'episode')} already, more than {options.episodes}"
            )
        if writer.episodes:
            say(console, f"{folder}: has {counted(writer.episodes, 'episode')} already; going on")
        seed = int(writer.table()["seed"][-1]) + 1 if writer.episodes else options.seed
        missing = options.episodes - writer.episodes
        with bar(console, "demonstrations", options.episodes) as advance:
            for episode in demonstrations(missing, seed) if missing else ():
                named = {reason: count for reason, count in episode.failures.items() if reason != NO_SUCCESS}
                writer.append(episode.arrays, seed=episode.seed, success=True, **named)
                advance(writer.episodes)
        writer.close()
        seeds = seeds_in_words(writer.table(), options.seed)
        if is_zip:
            pack_zip(folder, out)
        elif not is_folder:
            try:
                lost = convert(open_path(str(folder)).read_chosen(), out, form=form.short_name)
            except RobodiffError as error:
                kept = f"the demonstrations are in {folder}, for robodiff data convert"
                raise RobodiffError(f"{error}\n{kept}") from error
            shutil.rmtree(folder)
    if lost:
        notice(f"{out} has no place for {', '.join(lost)}; left out")
    size = f"{counted(writer.episodes, 'demonstration')}, {counted(writer.frames, 'frame')}"
    say(console, f"{size}; the expert succeeded on {seeds}\nwritten: {out}")


def configured_spec(options: CollectOptions) -> tuple[Any, dict[str, Any]]:
    """Return the environment, whose name holds its options, and the options of the expert."""
    from robodiff.envs.spec import get_env_spec

    spec, values = get_env_spec(options.env), plain(options)
    own, expert_options = ({name: values[name] for name in hints(part)} for part in (spec.options, spec.expert_options))
    usual = plain(spec.options())
    name = name_with(options.env, {name: value for name, value in own.items() if value != usual[name]})
    return get_env_spec(name), expert_options


def seeds_in_words(table: Mapping[str, Any], first: int) -> str:
    """Return on how many seeds the expert succeeded, and why not on the others."""
    from robodiff.envs.collect import NO_SUCCESS, in_numbers

    episodes, tried = len(table["seed"]), int(table["seed"][-1]) + 1 - first
    failures = {name: int(column.sum()) for name, column in table.items() if name not in ("seed", "success")}
    if others := tried - episodes - sum(failures.values()):
        failures[NO_SUCCESS] = others
    reasons = f" ({in_numbers(failures)})" if failures else ""
    return f"{episodes} of {counted(tried, 'seed')}{reasons}"
