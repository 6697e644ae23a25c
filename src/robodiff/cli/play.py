"""``robodiff play``: a person at an environment, in the browser."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from robodiff.cli.options import Options, read_options
from robodiff.cli.serve import tell
from robodiff.documents import AtLeast, Between, FilePath
from robodiff.errors import UsageError
from robodiff.evaluation.config import SamplingConfig, note_measured_seeds
from robodiff.text import counted

if TYPE_CHECKING:
    from robodiff.play.stage import Stage

OF_POLICIES = ("sampler", "steps")
"""Options that have a meaning only with --policy."""


@dataclass(frozen=True, kw_only=True)
class PlayOptions(Options):
    """Act in an environment with the mouse, on a page of this machine.

    Without --policy you demonstrate: an episode starts with a click, and is kept or discarded when it ends. With
    --policy you watch a policy act, with other chunks that it might have drawn; you can move things, take over and
    hand back. What you keep is appended to --out; of a policy's episodes each frame with who acted, and fit learns
    from them what you did.

    The page is for this machine alone: open the link that is printed. Ctrl-C ends it; what was kept stays.

    Examples:
      robodiff play pusht --out mine.zarr
      robodiff play lift_cube --out cubes.zarr --images
      robodiff play pusht --policy runs/first
      robodiff play pusht --policy runs/first --out corrections.zarr
    """

    positional: ClassVar[tuple[str, ...]] = ("env",)

    env: str
    """The environment, such as pusht, with its options: NAME?option=value."""
    policy: FilePath | None = None
    """A run, a policy's folder, or the folder of a team's runs."""
    out: FilePath | None = None
    """A folder (.zarr) to which kept episodes are appended; or a .zip or an .hdf5 file, or another format, made at the
    end. When not given, none is kept."""
    format: str | None = None
    """The format of --out where the name does not say it, such as lerobot; zarr when not given."""
    seed: Annotated[int, AtLeast(0)] | None = None
    """Of the first episode; when not given 0, and with --out the one after the last that was kept."""
    images: bool = False
    """Record the images of all cameras, too."""
    cameras: str | None = None
    """Record the images of these cameras alone, by the last parts of their names, such as agentview,wrist."""
    sampler: str | None = None
    """With --policy: ddpm, ddim, dpmsolver++, flow, flowheun, in place of the policy's own."""
    steps: Annotated[int, Between(1, 1000)] | None = None
    """With --policy: denoising steps, in place of the policy's own number."""
    device: str = "cpu"
    """Device that computes the policy: cpu, cuda, ..."""
    port: Annotated[int, Between(0, 65535)] = 0
    """Port of the page; 0 picks a free one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy is None and (given := [name for name in OF_POLICIES if getattr(self, name) is not None]):
            raise UsageError(f"--{given[0]} says how a policy samples; give --policy")
        if self.out is None and (self.images or self.cameras or self.format):
            raise UsageError("--images, --cameras and --format say what is recorded; give --out")


def run(arguments: list[str]) -> None:
    """Parse, serve the page until stopped, say what was kept."""
    options = read_options(PlayOptions, "play", arguments)
    from robodiff.envs.spec import get_env_spec
    from robodiff.play.server import PlayServer
    from robodiff.play.stage import check_playable

    check_playable(get_env_spec(options.env), options.policy is not None)
    kept: list[int] = []

    @contextmanager
    def open_stage() -> "Iterator[Stage]":
        with _stage(options) as stage:
            yield stage
            if stage.recorder is not None:
                kept.append(stage.recorder.kept)

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # on Windows, where Ctrl-C raises KeyboardInterrupt
                loop.add_signal_handler(number, stop.set)
        server = PlayServer(open_stage, f"robodiff play {options.env}")
        await server.run(options.port, stop, lambda link: tell(f"open {link}\nCtrl-C ends it"))

    try:
        asyncio.run(serve())
    except OSError as error:
        if error.filename is not None:  # of the recording
            raise
        raise UsageError(f"cannot listen on 127.0.0.1:{options.port}: {error.strerror or error}") from None
    nothing = "stopped" if options.out is None else "stopped; no episode was kept"
    tell(f"{options.out}: {counted(kept[0], 'episode')}" if any(kept) else nothing)


@contextmanager
def _stage(options: PlayOptions) -> "Iterator[Stage]":
    """Open what was asked for."""
    from robodiff.data.episodes import ACTION
    from robodiff.envs.spec import get_env_spec
    from robodiff.play.recorder import recording
    from robodiff.play.stage import Stage

    actor, spec, seed = None, get_env_spec(options.env), options.seed or 0
    if options.policy is not None:
        from robodiff.evaluation.members import find_members
        from robodiff.play.actor import Actor

        config = SamplingConfig(sampler=options.sampler, steps=options.steps, device=options.device)
        actor = Actor(find_members([options.policy]), options.env, config)
        spec = actor.spec
    keys, recorder = set(actor.keys if actor else ()), None
    with ExitStack() as stack:
        if options.out is not None:
            images = options.cameras.split(",") if options.cameras else options.images
            policy = None if actor is None else actor.sampled.policy
            if images is not True and (seen := {key for key in keys if spec.features[key].kind == "image"}):
                images = sorted({*(images or ()), *(key.rpartition(".")[2] for key in seen)})
            opened = recording(Path(options.out), options.format, spec, images, policy)
            recorder, recorded = stack.enter_context(opened)
            keys |= {*recorded}
            seed = recorder.next_seed(seed) if options.seed is None else seed
            note_measured_seeds(seed, 1)
        ordered = [key for key in spec.features if key in keys and key != ACTION]
        stage = Stage(spec, ordered, actor, recorder, seed, options.policy or "")
        stack.callback(stage.close)
        yield stage
