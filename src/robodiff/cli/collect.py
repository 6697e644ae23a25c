"""``robodiff collect``: record demonstrations of a scripted expert."""

from pathlib import Path
from typing import Any

from robodiff.cli.parser import Parser
from robodiff.errors import UsageError

DESCRIPTION = """Record successful demonstrations of the scripted expert of an environment as a zarr recording.

Every episode is on disk as soon as it is done. The same command goes on where an earlier one was stopped.

Examples:
  robodiff collect pusht --episodes 50 --out demos.zarr
  robodiff collect pusht --episodes 200 --out demos.zarr.zip --workers 2 --images true"""


def run(arguments: list[str]) -> None:
    """Parse, collect, print."""
    parser = Parser("collect", "ENV --episodes N --out PATH [options]", DESCRIPTION)
    parser.add_argument("env", type=str, help="The environment, such as pusht.")
    parser.add_argument("--episodes", type=int, required=True, help="Successful demonstrations to record.")
    parser.add_argument("--out", type=str, required=True, help="A folder (.zarr), or a .zip that is made at the end.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first; the others follow.")
    parser.add_argument("--workers", type=int, default=1, help="Processes; the demonstrations do not depend on it.")
    parser.add_argument("--images", type=bool, default=False, help="Render images from the recorded states, too.")
    parser.add_argument("--corrections", type=float, default=0.0, help="Share of demonstrations that start near the "
                        "goal and put right what almost fits.")  # fmt: skip
    options = parser.parse_args(arguments)
    record(options, Path(options.out))


def record(options: Any, out: Path) -> None:
    """Collect episode by episode."""
    from rich.console import Console

    from robodiff.data.formats.zarr_writer import ZarrWriter, building, pack_zip
    from robodiff.envs.collect import collect
    from robodiff.envs.spec import get_env_spec
    from robodiff.files import locked, naming
    from robodiff.progress import say

    spec = get_env_spec(options.env)
    if out.suffix == ".zip" and out.exists():
        raise UsageError(f"{out}: exists already; choose another --out")
    corrections, images = options.corrections, options.images
    # Refuses what cannot be collected, before anything is made on disk; the generator itself is not started.
    collect(spec.name, options.episodes, options.seed, options.workers, corrections=corrections, images=images)
    folder = building(out) if out.suffix == ".zip" else out
    console = Console()
    with locked(folder):
        with naming(folder):
            writer = ZarrWriter(folder, spec.fps, layout=options.env, recipe=_recipe(options))
            _append_missing(writer, options, folder, console)
        attempts = int(writer.column("seed")[-1]) + 1 - options.seed
        if folder != out:
            pack_zip(folder, out)
    say(
        console,
        f"{writer.episodes} demonstrations, {writer.frames:,} frames; the expert succeeded on "
        f"{writer.episodes} of {attempts} seeds\nwritten: {out}",
    )


def _append_missing(writer: Any, options: Any, folder: Path, console: Any) -> None:
    import numpy as np

    from robodiff.envs.collect import collect
    from robodiff.progress import bar, say

    if writer.episodes:
        say(console, f"{folder}: has {writer.episodes} episodes already; going on")
    seeds = writer.column("seed")
    first = options.seed if not len(seeds) else int(seeds[-1]) + 1
    missing = options.episodes - writer.episodes
    if missing < 0:
        raise UsageError(f"{folder}: has {writer.episodes} episodes already, more than --episodes {options.episodes}")
    demonstrations = (
        collect(options.env, missing, first, options.workers, corrections=options.corrections, images=options.images)
        if missing
        else ()
    )
    with bar(console, "demonstrations", options.episodes) as advance:
        for episode in demonstrations:
            arrays = {key: value for key, value in episode.items() if isinstance(value, np.ndarray)}
            writer.append(arrays, seed=episode["seed"], success=episode["success"])
            advance(writer.episodes)
    writer.close()


def _recipe(options: Any) -> dict[str, Any]:
    """What decides the demonstrations; a recording is only continued with the same."""
    return {"env": options.env, "seed": options.seed, "images": options.images, "corrections": options.corrections}
