"""``robodiff collect``: record demonstrations of a scripted expert, or episodes that it takes over from a policy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from robodiff.cli.options import Options, name_with, read_options, split
from robodiff.documents import AtLeast, Between, Document, FilePath, hints, plain
from robodiff.errors import UsageError
from robodiff.evaluation.config import TAKE_OVER_SEED, note_measured_seeds
from robodiff.text import counted

if TYPE_CHECKING:
    from robodiff.data.episodes import Feature
    from robodiff.envs.collect import Demonstration
    from robodiff.envs.spec import EnvSpec

OF_TAKE_OVERS = ("random", "num_envs")
"""Options that have a meaning only with --policy."""


@dataclass(frozen=True, kw_only=True)
class CollectOptions(Options):
    """Record successful demonstrations of the scripted expert of an environment, as a zarr recording or in another
    format.

    With --policy the policy begins every episode, and the expert takes over where it gets nowhere, and on a share of
    the seeds at a random moment; episodes in which it does and that end in success are recorded, each frame with who
    acted. fit learns from them what the expert did.

    Every episode is on disk as soon as it is done. The same command goes on where an earlier one was stopped. An
    environment and its expert may have options of their own: robodiff collect ENV --help lists them.

    Examples:
      robodiff collect pusht --episodes 50 --out demos.zarr
      robodiff collect pusht --episodes 200 --out demos.zarr.zip --workers 2 --images
      robodiff collect lift_barrier --episodes 100 --out team.zarr --cameras head
      robodiff collect pusht --policy runs/first --episodes 30 --out takeovers.zarr
      robodiff collect my_env --plugin my_env.py --episodes 50 --out demos.zarr
    """

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str
    """The environment, such as pusht."""
    episodes: Annotated[int, AtLeast(1)]
    """Successful demonstrations, or taken over episodes, to record."""
    out: FilePath
    """A folder (.zarr); or a .zip or an .hdf5 file, or another format, which is made at the end."""
    format: str | None = None
    """The format where the name does not say it, such as lerobot or mycobot; zarr when not given."""
    policy: FilePath | None = None
    """A run, a policy's folder, or the folder of a team's runs: it acts until the expert takes over."""
    random: Annotated[float, Between(0, 1)] | None = None
    """With --policy: share of the seeds on which the expert takes over at a random moment in the first half of an
    episode, if nothing made it do so before; 0.3 when not given."""
    num_envs: Annotated[int, AtLeast(1)] | None = None
    """With --policy: episodes that begin together, with one call of the policy, and are on disk together; 16 when not
    given."""
    seed: Annotated[int, AtLeast(0)] | None = None
    """Seed of the first, the others follow; 0 or, with --policy, 1000000 when not given."""
    workers: Annotated[int, AtLeast(1)] = 1
    """Processes; the demonstrations do not depend on it."""
    images: bool = False
    """Record the images of all cameras, too."""
    cameras: str | None = None
    """Record the images of these cameras alone, by the last parts of their names, such as agentview,wrist. With
    --policy those of its cameras are always recorded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy is None and (given := [name for name in OF_TAKE_OVERS if getattr(self, name) is not None]):
            raise UsageError(f"--{given[0]} says how a policy and the expert share an episode; give --policy")

    @property
    def chosen_images(self) -> bool | list[str]:
        """Whether images are recorded, or of which cameras."""
        return self.cameras.split(",") if self.cameras else self.images


@dataclass(frozen=True)
class Collection:
    """What a recording is made of."""

    spec: "EnvSpec"
    features: "Mapping[str, Feature]"
    recipe: Mapping[str, Any]
    """What the episodes depend on; a recording goes on by the one that began it alone."""
    seed: int
    """Of the first."""
    episodes: "Callable[[int, int], Iterator[Demonstration]]"
    """From how many, and the seed of the first, to the episodes."""
    outcome: Callable[[Mapping[str, Any]], str]
    """From the recording's table to a sentence on who succeeded how often."""


def run(arguments: list[str]) -> None:
    """Parse, collect, print."""
    words, parts = [*split(arguments)], {}
    env = next((word for option, word in words if option is None), None)
    if env is not None:
        from robodiff.envs.spec import get_env_spec  # needs gymnasium

        spec = get_env_spec(env)
        kinds = (spec.options,) if "policy" in dict(words) else (spec.options, spec.expert_options)
        parts = {part: None for part in kinds if part is not Document}
    kind = type("CollectOptions", (CollectOptions, *parts), {"__doc__": CollectOptions.__doc__})
    options = read_options(dataclass(frozen=True, kw_only=True)(kind), "collect", arguments)
    record(options, Path(options.out))


def record(options: CollectOptions, out: Path) -> None:
    """Collect episode by episode into a folder; make of it what else is asked for."""
    from rich.console import Console

    from robodiff.data.formats.growing import format_to_grow, growing, images_to_grow
    from robodiff.envs.collect import NO_SUCCESS
    from robodiff.progress import bar, say

    form, console = format_to_grow(out, options.format), Console()
    make = _demonstrations if options.policy is None else _take_overs
    images = images_to_grow(form, options.chosen_images, lambda images: make(options, images).features)
    collection = make(options, images)
    with growing(out, form, collection.spec.fps, collection.recipe, collection.features) as writer:
        if writer.episodes > options.episodes:
            raise UsageError(f"{out}: has {counted(writer.episodes, 'episode')} already, more than {options.episodes}")
        if writer.episodes:
            say(console, f"{out}: has {counted(writer.episodes, 'episode')} already; going on")
        seed = int(writer.table()["seed"][-1]) + 1 if writer.episodes else collection.seed
        missing = options.episodes - writer.episodes
        note_measured_seeds(seed, missing)
        with bar(console, "demonstrations", options.episodes) as advance:
            for episode in collection.episodes(missing, seed) if missing else ():
                named = {reason: count for reason, count in episode.failures.items() if reason != NO_SUCCESS}
                named |= {episode.word: 1} if episode.word else {}
                writer.append(episode.arrays, seed=episode.seed, success=True, **named)
                advance(writer.episodes)
        outcome = collection.outcome(writer.table())
    size = f"{counted(writer.episodes, 'demonstration')}, {counted(writer.frames, 'frame')}"
    say(console, f"{size}; {outcome}\nwritten: {out}")


def _demonstrations(options: CollectOptions, images: bool | list[str]) -> Collection:
    """Return the demonstrations of an expert.

    Raises:
        UsageError: they cannot be collected.
    """
    from robodiff.envs.collect import collect, recorded_features

    spec, expert_options = configured_spec(options)

    def episodes(count: int, seed: int) -> "Iterator[Demonstration]":
        return collect(spec.name, count, seed, options.workers, images=images, **expert_options)

    first = options.seed or 0
    episodes(1, first)  # refuses what cannot be collected, before anything is made on disk; nothing is started
    recipe = {"env": spec.name, "seed": first, "images": images, **expert_options}
    features = recorded_features(spec, images)
    return Collection(spec, features, recipe, first, episodes, lambda table: seeds_in_words(table, first))


def _take_overs(options: CollectOptions, images: bool | list[str]) -> Collection:
    """Return the episodes that an expert takes over from a policy.

    Raises:
        UsageError: they cannot be collected.
    """
    from robodiff.evaluation import takeover  # needs torch
    from robodiff.evaluation.members import find_members

    spec, _ = configured_spec(options)
    given = {name: value for name in OF_TAKE_OVERS if (value := getattr(options, name)) is not None}
    made = takeover.TakeOvers(find_members([str(options.policy)]), spec.name, images, takeover.TakeOverConfig(**given))
    first = TAKE_OVER_SEED if options.seed is None else options.seed
    return Collection(
        made.spec,
        made.features,
        {**made.recipe, "seed": first},
        first,
        lambda count, seed: made.collect(count, seed, options.workers),
        lambda table: made.summary(table, first),
    )


def configured_spec(options: CollectOptions) -> tuple[Any, dict[str, Any]]:
    """Return the environment, whose name holds its options, and the options of the expert."""
    from robodiff.envs.spec import get_env_spec

    spec, values = get_env_spec(options.env), plain(options)
    parts = spec.options, spec.expert_options
    own, expert_options = ({name: values[name] for name in hints(part) if name in values} for part in parts)
    usual = plain(spec.options())
    name = name_with(options.env, {name: value for name, value in own.items() if value != usual[name]})
    return get_env_spec(name), expert_options


def seeds_in_words(table: Mapping[str, Any], first: int) -> str:
    """Return in a sentence on how many seeds the expert succeeded, and why not on the others."""
    from robodiff.envs.collect import NO_SUCCESS, in_numbers

    episodes, tried = len(table["seed"]), int(table["seed"][-1]) + 1 - first
    failures = {name: int(column.sum()) for name, column in table.items() if name not in ("seed", "success")}
    if others := tried - episodes - sum(failures.values()):
        failures[NO_SUCCESS] = others
    reasons = f" ({in_numbers(failures)})" if failures else ""
    return f"the expert succeeded on {episodes} of {counted(tried, 'seed')}{reasons}"
