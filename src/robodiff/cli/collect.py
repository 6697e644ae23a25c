"""``robodiff collect``: record demonstrations of a scripted expert."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from robodiff.cli.options import Options, read_options, split
from robodiff.documents import AtLeast, Document, FilePath, hints, plain
from robodiff.errors import UsageError
from robodiff.text import counted


@dataclass(frozen=True, kw_only=True)
class CollectOptions(Options):
    """Record successful demonstrations of the scripted expert of an environment as a zarr recording.

    Every episode is on disk as soon as it is done. The same command goes on where an earlier one was stopped. An
    environment's expert may have options of its own: robodiff collect ENV --help lists them.

    Examples:
      robodiff collect pusht --episodes 50 --out demos.zarr
      robodiff collect pusht --episodes 200 --out demos.zarr.zip --workers 2 --images
      robodiff collect my_env --plugin my_env.py --episodes 50 --out demos.zarr
    """

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str
    """The environment, such as pusht."""
    episodes: Annotated[int, AtLeast(1)]
    """Successful demonstrations to record."""
    out: FilePath
    """A folder (.zarr), or a .zip that is made at the end."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of the first; the others follow."""
    workers: Annotated[int, AtLeast(1)] = 1
    """Processes; the demonstrations do not depend on it."""
    images: bool = False
    """Record the environment's images, too."""


def run(arguments: list[str]) -> None:
    """Parse, collect, print."""
    env, expert_options = next((word for option, word in split(arguments) if option is None), None), Document
    if env is not None:
        from robodiff.envs.spec import get_env_spec  # needs gymnasium

        expert_options = get_env_spec(env).expert_options
    kind = type("CollectOptions", (CollectOptions, expert_options), {"__doc__": CollectOptions.__doc__})
    options = read_options(dataclass(frozen=True, kw_only=True)(kind), "collect", arguments)
    record(options, Path(options.out), {name: plain(options)[name] for name in hints(expert_options)})


def record(options: CollectOptions, out: Path, expert_options: dict[str, Any]) -> None:
    """Collect episode by episode."""
    from rich.console import Console

    from robodiff.data.formats.zarr_writer import ZarrWriter, building, pack_zip
    from robodiff.envs.collect import collect
    from robodiff.envs.spec import get_env_spec
    from robodiff.files import locked, naming
    from robodiff.progress import bar, say

    def demonstrations(episodes: int, seed: int) -> Any:
        return collect(options.env, episodes, seed, options.workers, images=options.images, **expert_options)

    if out.suffix == ".zip" and out.exists():
        raise UsageError(f"{out}: exists already; choose another --out")
    demonstrations(1, 0)  # refuses what cannot be collected, before anything is made on disk; nothing is started
    recipe = {"env": options.env, "seed": options.seed, "images": options.images, **expert_options}
    folder = building(out) if out.suffix == ".zip" else out
    console = Console()
    with locked(folder), naming(folder):
        spec = get_env_spec(options.env)
        writer = ZarrWriter(folder, spec.fps, recipe=recipe, features=spec.features)
        if writer.episodes > options.episodes:
            raise UsageError(
                f"{folder}: has {counted(writer.episodes, 'episode')} already, more than {options.episodes}"
            )
        if writer.episodes:
            say(console, f"{folder}: has {counted(writer.episodes, 'episode')} already; going on")
        seed = int(writer.column("seed")[-1]) + 1 if writer.episodes else options.seed
        missing = options.episodes - writer.episodes
        with bar(console, "demonstrations", options.episodes) as advance:
            for episode in demonstrations(missing, seed) if missing else ():
                writer.append(episode.arrays, seed=episode.seed, success=True)
                advance(writer.episodes)
        writer.close()
        attempts = int(writer.column("seed")[-1]) + 1 - options.seed
        if folder != out:
            pack_zip(folder, out)
    say(
        console,
        f"{counted(writer.episodes, 'demonstration')}, {counted(writer.frames, 'frame')}; the expert succeeded on "
        f"{writer.episodes} of {counted(attempts, 'seed')}\nwritten: {out}",
    )
