"""What an environment is: how it is made, what it observes, how fast it acts, and who can demonstrate on it."""

import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from robodiff import registry
from robodiff.data.episodes import Feature
from robodiff.data.symmetry import Symmetry
from robodiff.documents import Document, FieldErrors, hints, parse, plain, typed
from robodiff.envs.touch import Touch
from robodiff.errors import RobodiffError, UsageError, in_one_line

AnyEnv = gymnasium.Env[Any, Any]


class Expert(Protocol):
    """Demonstrates on one environment; the same seed gives the same demonstration."""

    def demonstrate(self, seed: int, keys: Collection[str]) -> dict[str, NDArray[Any]] | str | None:
        """Return the observations of ``keys`` and ``action``, each (L, ...), of a demonstration.

        Of one that failed return why, in a word that is counted, such as ``collision``; or None.
        """
        ...


STALLED = "stalled"
"""The word of a policy that gets nowhere."""


class TakeOver(Protocol):
    """Watch one episode of a policy, and carry it on as the expert does; one is made for each episode.

    Both methods get the environment as ``make`` made it, and neither steps it.
    """

    def needs_help(self, env: Any) -> str | None:
        """Return why the expert should take over now, in a word such as ``stalled``; None while the policy may go on.

        It is asked after every action of the policy, and may remember what it saw.
        """
        ...

    def actions(self, env: Any) -> Generator[NDArray[Any], None, str | None]:
        """Yield the expert's next action for the state that the environment is in, until there is nothing left to do.

        Each action has been executed before the next is asked for, also beyond success and the last step of an episode:
        a demonstration that stops at the edge of success teaches to stop there. It ends in any case; its value is why
        it gave up, in a word that is counted, or None.
        """
        ...


@dataclass(frozen=True)
class Scene:
    """How recorded observations are drawn, and where actions lie in the picture, if they are places in it."""

    draw: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any] | None]
    """From one observation to (H, W, 3) uint8; None where the observation does not say enough."""
    extent: tuple[float, float, float, float] | None = None
    """The picture's left, right, bottom and top edges in the units of an action's first two dimensions; None where
    actions are no places in it: they are drawn beside it."""


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """One environment.

    What it makes is a Gymnasium environment whose observations are dicts of arrays under the names of ``features``, and
    whose ``info`` holds ``is_success``, and may hold ``extra``: further figures of the episode so far, by name; the
    last ones count. After ``reset(seed=s)``, everything depends on ``s`` and the actions alone.
    """

    name: str
    make: Callable[[Collection[str]], AnyEnv]
    """From the observation keys that are needed; nothing else is computed or drawn. Refuses unknown keys."""
    features: Mapping[str, Feature]
    """Everything that it can observe, and ``action``: one flat vector, of several agents end to end."""
    fps: float
    """Actions per second."""
    success: str
    """One sentence: what counts as success."""
    success_reward: float | None = None
    """The reward of a step that counts as success; None where success is not a matter of one reward."""
    version: Callable[[], str]
    """Which package, in which version, simulates it."""
    max_steps: int | None = None
    """Steps after which an episode ends in any case; None where the environment sees to it."""
    agents: Mapping[str, slice] = field(default_factory=dict)
    """Which slice of the action is whose, by id; empty for one agent. What one observes is
    ``agents.<id>.observation.*``."""
    options: type[Document] = Document
    """Options of the environment: of its name, ``NAME?option=value&option=value``, and of ``robodiff collect``."""
    configure: Callable[[Any], "EnvSpec"] | None = None
    """From these options to the environment that has them."""
    expert: Callable[..., Expert] | None = None
    """Make the expert, from the fields of ``expert_options`` as keywords; None where nobody demonstrates."""
    expert_options: type[Document] = Document
    """Options of the expert, which ``robodiff collect`` takes beside its own."""
    take_over: Callable[[], TakeOver] | None = None
    """Make what lets the expert take over an episode of a policy; None where it can only begin its own."""
    failures: tuple[str, ...] = ()
    """Words for why a demonstration failed that recordings count, also where none did."""
    snapshot: Callable[[Any], Any] | None = None
    """From an environment to all that its simulation remembers, as bytes or arrays; None where that cannot be had."""
    restore: Callable[[Any, Any], None] | None = None
    """Put an environment into the state of a snapshot."""
    renders: bool = True
    """Whether ``render`` draws (H, W, 3) uint8; there are no videos where it does not."""
    glance: Callable[[Any, int], NDArray[Any]] | None = None
    """Draw an environment small and quickly, (H, W, 3) uint8, the longer side at most so many pixels: while a policy is
    measured, as often as time allows; without it what ``render`` draws is shrunk."""
    local: bool = False
    """Whether other processes cannot make it although they load the same plugins."""
    symmetries: tuple[Symmetry, ...] = ()
    """Maps of the whole scene onto itself, which leave dynamics and success as they are; the identity is none of
    them."""
    scene: Scene | None = None
    """Draws observations, actions over them or beside; None where a recorded observation cannot be drawn."""
    touch: Touch | None = None
    """How a person acts and disturbs in ``robodiff play``; None where episodes can be watched alone."""

    registry_kind: ClassVar[str] = "envs"

    @property
    def registry_name(self) -> str:
        """The name by which a command line or a configuration names it."""
        return self.name

    @property
    def is_portable(self) -> bool:
        """Whether other processes can make it: not what was only registered in Python."""
        return not self.local and registry.origin("envs", self.name.partition("?")[0]) != registry.Origin()


def get_env_spec(name: str) -> EnvSpec:
    """Return the environment of a name, ``NAME?option=value`` or ``FAMILY:NAME``, such as ``gymnasium:CartPole-v1``.

    The names of RoboFactory's tasks, such as ``LiftBarrier-rf``, are understood, too.

    Raises:
        UsageError: an unknown name or option; the message lists the known ones.
    """
    family, colon, rest = name.partition(":")
    if colon:
        make = registry.find("envs", family)
        if isinstance(make, EnvSpec):
            raise UsageError(f"environment {name!r}: expected {family}")
        return make(rest)
    base, _, query = name.partition("?")
    known, snake = registry.names("envs"), re.sub(r"(?<!^)(?=[A-Z])", "_", base.removesuffix("-rf")).lower()
    spec = registry.find("envs", snake if snake in known and base not in known else base)
    if not isinstance(spec, EnvSpec):
        raise UsageError(f"environment {name!r}: expected {family}:NAME")
    return with_options(spec, query) if query else spec


def with_options(spec: EnvSpec, query: str) -> EnvSpec:
    """Return an environment with the options ``option=value&option=value``; its name then holds them.

    Raises:
        UsageError: an unknown option, or a value that does not fit.
    """
    annotations, given = hints(spec.options), {}
    for word in query.split("&"):
        option, sign, text = word.partition("=")
        if option not in annotations or not sign:
            has = f"it has {', '.join(annotations)}" if annotations else "it has no options"
            raise UsageError(f"environment {spec.name}: {word!r} is no option=value of it; {has}")
        if option in given:
            raise UsageError(f"environment {spec.name}: {option} is given twice; give it once")
        try:
            given[option] = parse(text, annotations[option])
        except ValueError as error:
            raise UsageError(f"environment {spec.name}: {option}: {error}") from None
    try:
        return configured(spec, typed(spec.options, given))
    except FieldErrors as error:
        raise UsageError(f"environment {spec.name}: {error}") from None


def configured(spec: EnvSpec, options: Any) -> EnvSpec:
    """Return an environment with its options, whose name holds those that are not the usual ones."""
    usual = plain(spec.options())
    query = "&".join(f"{name}={value}" for name, value in plain(options).items() if value != usual[name])
    if spec.configure is None or not query:
        return spec
    return replace(spec.configure(options), name=f"{spec.name}?{query}")


def select_keys(name: str, keys: Collection[str], observed: Collection[str]) -> list[str]:
    """Return the keys in the order of the environment: nothing may depend on how a caller's set happens to be ordered.

    Raises:
        UsageError: one that it does not observe.
    """
    if unknown := sorted(set(keys).difference(observed)):
        raise UsageError(f"{name} does not observe {unknown[0]}; it has {', '.join(observed)}")
    return [key for key in observed if key in keys]


def box(feature: Feature) -> gymnasium.spaces.Box:
    """Return the space of what a key holds."""
    low, high, dtype = (0, 255, np.uint8) if feature.kind == "image" else (-np.inf, np.inf, np.float32)
    return gymnasium.spaces.Box(low, high, feature.shape, dtype)


@contextmanager
def raise_for_env(failure: str) -> Iterator[None]:
    """Make one line of anything that an environment raises, which can be sent from one process to another.

    Raises:
        RobodiffError: it raised something; the message is ``failure``, what was raised, and where.
    """
    try:
        yield
    except (RobodiffError, ModuleNotFoundError):  # they say enough
        raise
    except Exception as error:
        raise RobodiffError(f"{failure}: {in_one_line(error)}") from error
