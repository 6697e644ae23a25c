"""What an environment is: how it is made, what it observes, how fast it acts, and who can demonstrate on it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from robodiff import registry
from robodiff.data.episodes import Feature
from robodiff.documents import Document
from robodiff.errors import RobodiffError, UsageError, in_one_line

AnyEnv = gymnasium.Env[Any, Any]


class Expert(Protocol):
    """Demonstrates on one environment; the same seed gives the same demonstration."""

    def demonstrate(self, seed: int, keys: Collection[str]) -> dict[str, NDArray[Any]] | None:
        """Return the observations of ``keys`` and ``action``, each (L, ...), of a demonstration; None if it failed."""
        ...


@dataclass(frozen=True)
class Scene:
    """How recorded observations are drawn, and where actions lie in the picture."""

    draw: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any] | None]
    """From one observation to (H, W, 3) uint8; None where the observation does not say enough."""
    extent: tuple[float, float, float, float]
    """The picture's left, right, bottom and top edges in the units of an action's first two dimensions."""


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
    expert: Callable[..., Expert] | None = None
    """Make the expert, from the fields of ``expert_options`` as keywords; None where nobody demonstrates."""
    expert_options: type[Document] = Document
    """Options of the expert, which ``robodiff collect`` takes beside its own."""
    snapshot: Callable[[Any], Any] | None = None
    """From an environment to all that its simulation remembers, as bytes or arrays; None where that cannot be had."""
    restore: Callable[[Any, Any], None] | None = None
    """Put an environment into the state of a snapshot."""
    renders: bool = True
    """Whether ``render`` draws (H, W, 3) uint8; there are no videos where it does not."""
    local: bool = False
    """Whether other processes cannot make it although they load the same plugins."""
    scene: Scene | None = None
    """Draws observations with actions over them; None where actions are no places in a picture."""

    registry_kind: ClassVar[str] = "envs"

    @property
    def registry_name(self) -> str:
        """The name by which a command line or a configuration names it."""
        return self.name

    @property
    def is_portable(self) -> bool:
        """Whether other processes can make it: not what was only registered in Python."""
        return not self.local and registry.origin("envs", self.name) != registry.Origin()


def get_env_spec(name: str) -> EnvSpec:
    """Return the environment of a name, ``<name>`` or ``<family>:<name>``, such as ``gymnasium:CartPole-v1``.

    Raises:
        UsageError: an unknown name; the message lists the known ones.
    """
    family, colon, rest = name.partition(":")
    spec = registry.find("envs", family)  # of a family a function that makes it
    if isinstance(spec, EnvSpec) == bool(colon):
        raise UsageError(f"environment {name!r}: expected {family}" + ("" if colon else ":NAME"))
    return spec(rest) if colon else spec


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
