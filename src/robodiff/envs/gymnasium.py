"""Environments that Gymnasium knows, under the names of the data: ``gymnasium:ID?option=value&option=value``.

Options are ``fps``, keys of the observation with what they are called here (``joints=observation.state``), and
arguments of the environment itself, such as ``obs_type=pixels_agent_pos``. A package that adds environments
to Gymnasium is named with ``--plugin``: an id never imports anything.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from typing import Annotated, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from robodiff import registry
from robodiff.data.arrays import CHANNELS
from robodiff.data.episodes import ACTION, Feature
from robodiff.documents import Above, AtLeast, parse
from robodiff.envs.spec import AnyEnv, EnvSpec, box, raise_for_env, select_keys
from robodiff.errors import UsageError, nearest

STATES = ("", "agent_pos", "state")
"""Vectors that are ``observation.state``; the first is an observation that is no dict."""
IMAGES = ("", "pixels", "image")
"""Images that are ``observation.image``."""

OPTIONS: Mapping[str, Any] = {"fps": Annotated[float, Above(0)], "max_episode_steps": Annotated[int, AtLeast(1)]}
"""Options of every environment."""


@lru_cache
def read_spec(text: str) -> EnvSpec:
    """Return the environment of ``ID?option=value&option=value``.

    Raises:
        UsageError: an unknown id or option, or an environment whose actions are no vectors.
        RobodiffError: the environment cannot be made.
    """
    environment_id, _, query = text.partition("?")
    key_map, arguments = {}, {}
    for option in filter(None, query.split("&")):
        key, _, value = option.partition("=")
        if not re.fullmatch(r"-?[\w.][\w.-]*", value):
            raise UsageError(f"gymnasium:{text}: expected option=value, a number or a word; found {option!r}")
        if value.startswith(("observation.", "agents.")):
            key_map[key] = value
        else:
            try:
                arguments[key] = parse(value, OPTIONS.get(key, bool | int | float | str))
            except ValueError as error:
                raise UsageError(f"gymnasium:{text}: {key}: {error}") from None
    return gymnasium_spec(environment_id, f"gymnasium:{text}", key_map, **arguments)


def gymnasium_spec(
    environment_id: str, name: str, key_map: Mapping[str, str] | None = None, fps: float | None = None, **arguments: Any
) -> EnvSpec:
    """Return an environment that Gymnasium knows; its actions are taken as they are, its images drawn by itself.

    Args:
        environment_id: as Gymnasium has it.
        name: what it is called here.
        key_map: key of the observation, those of nested dicts joined by dots -> name here, in place of the usual one.
        fps: actions per second; what the environment says when None.
        arguments: of ``gymnasium.make`` and of the environment.

    Raises:
        UsageError: an unknown id or key, actions that are no vectors, or too little said of rate and length.
        RobodiffError: the environment cannot be made.
    """
    if environment_id not in gymnasium.registry:
        advice = f"{nearest(environment_id, gymnasium.registry)} Name the package that adds it with --plugin MODULE"
        raise UsageError(f"gymnasium has no environment {environment_id!r}.{advice}")

    def make(**mode: str) -> AnyEnv:
        return gymnasium.make(environment_id, disable_env_checker=True, **mode, **arguments)

    with raise_for_env(f"the environment {name} cannot be made"):
        environment = make()
        environment.close()
    action, spec = environment.action_space, environment.spec
    if not isinstance(action, spaces.Box):
        raise UsageError(f"{name}: its actions are {action}; a policy gives vectors (Box)")
    sources, features = _named(name, environment.observation_space, key_map or {})
    features[ACTION] = Feature("vector", (int(np.prod(action.shape)),), "float32")
    step = getattr(environment.unwrapped, "dt", None)
    fps = fps or environment.metadata.get("render_fps") or (step and 1 / step)
    limit, threshold = (spec.max_episode_steps, spec.reward_threshold) if spec else (None, None)
    if missing := [option for option, value in (("fps", fps), ("max_episode_steps", limit)) if not value]:
        raise UsageError(f"{name} does not say its {' and '.join(missing)}; add {missing[0]}=N to its options")
    drawn = "rgb_array" in environment.metadata.get("render_modes", ())
    mode = {"render_mode": "rgb_array"} if drawn else {}
    package = type(environment.unwrapped).__module__.partition(".")[0]
    rewards = "" if threshold is None else f", or rewards of an episode that sum to {threshold:g}"
    return EnvSpec(
        name=name,
        make=lambda keys: NamedEnv(
            make(**mode), {key: sources[key] for key in select_keys(name, keys, sources)}, features, threshold
        ),
        features=features,
        fps=round(float(fps), 6),  # pyright: ignore[reportArgumentType]
        success=f"What the environment itself calls a success{rewards}.",
        version=lambda: _version(package),
        max_steps=limit,
        renders=drawn,
        local=package != "gymnasium" and not registry.plugins(),  # else a plugin registers it there, too
    )


class NamedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A Gymnasium environment whose observations are float32 vectors and CHW images under the names of the data.

    Args:
        env: the environment.
        sources: name here -> key of its observation.
        features: of the names.
        threshold: sum of the rewards at the end of an episode that is a success, where ``info`` tells none.
    """

    def __init__(
        self, env: AnyEnv, sources: Mapping[str, str], features: Mapping[str, Feature], threshold: float | None
    ) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({name: box(features[name]) for name in sources})
        self._sources, self._features = sources, features
        self._threshold = np.inf if threshold is None else threshold
        self._rewards = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._rewards = 0.0
        return self._observe(observation), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action, a flat vector."""
        space = self.env.action_space
        flat = np.asarray(action).astype(space.dtype).reshape(space.shape)  # pyright: ignore[reportArgumentType]
        observation, reward, terminated, truncated, info = self.env.step(flat)
        self._rewards += float(reward)
        reached = (terminated or truncated) and self._rewards >= self._threshold
        success = bool(info.get("is_success", info.get("success", reached)))
        return self._observe(observation), float(reward), terminated, truncated, {**info, "is_success": success}

    def _observe(self, observation: Any) -> dict[str, np.ndarray]:
        leaves = _leaves(observation)
        return {name: _convert(leaves[key], self._features[name]) for name, key in self._sources.items()}


def _named(
    name: str, space: spaces.Space[Any], key_map: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Feature]]:
    """Return by name here the key of the observation, and what it holds."""
    boxes = {key: feature for key, leaf in _leaves(space).items() if (feature := _feature(leaf)) is not None}
    if unknown := sorted(key_map.keys() - boxes.keys()):
        known = f"it has {', '.join(filter(None, boxes)) or 'no keys'}.{nearest(unknown[0], boxes)}"
        raise UsageError(f"{name}: {unknown[0]!r} is neither an image nor a vector of its observation; {known}")
    sources = {key_map.get(key) or _usual(key, feature): key for key, feature in boxes.items()}
    if len(sources) < len(boxes) or not boxes:
        raise UsageError(f"{name}: give {', '.join(boxes) or space} each its own name, such as KEY=observation.state")
    return sources, {target: boxes[key] for target, key in sources.items()}


def _usual(key: str, feature: Feature) -> str:
    if key.startswith(("observation.", "agents.")):
        return key
    if feature.kind == "image":
        camera = key.removeprefix("pixels.").removeprefix("images.")
        return "observation.image" if key in IMAGES else f"observation.images.{camera}"
    return "observation.state" if key in STATES else f"observation.{key}"


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return what nested dicts, or their spaces, hold, by keys joined with dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    dot = "." if prefix else ""
    return {key: leaf for name, each in value.items() for key, leaf in _leaves(each, f"{prefix}{dot}{name}").items()}


def _feature(space: spaces.Space[Any]) -> Feature | None:
    """Return what a space holds; None for what is neither an image nor a vector."""
    if not isinstance(space, spaces.Box):
        return None
    if len(space.shape) < 2:
        return Feature("vector", space.shape or (1,), "float32")
    shape = space.shape if space.shape[-1] not in CHANNELS else (space.shape[-1], *space.shape[:-1])  # HWC -> CHW
    is_image = len(shape) == 3 and shape[0] in CHANNELS and space.dtype == np.uint8
    return Feature("image", shape, "uint8") if is_image else None


def _convert(value: Any, feature: Feature) -> np.ndarray:
    array = np.asarray(value)
    if feature.kind == "vector":
        return array.astype(np.float32).reshape(-1)
    return np.ascontiguousarray(array if array.shape == feature.shape else array.transpose(2, 0, 1))  # HWC -> CHW


def _version(package: str) -> str:
    versions = {}
    for each in ("gymnasium", package):
        with suppress(metadata.PackageNotFoundError, ValueError):  # a plugin, or a distribution of another name
            versions[each] = metadata.version(each)
    return ", ".join(f"{each} {version}" for each, version in versions.items())
