"""An environment of several agents as one policy for the whole team sees it: ``team:NAME``."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.wrappers import TransformAction, TransformObservation

from robodiff.data.episodes import ACTION, Feature, joined_unit
from robodiff.data.naming import AGENTS, of_agent
from robodiff.envs.spec import AnyEnv, EnvSpec, get_env_spec, select_keys


class TeamView:
    """How one policy for a whole team sees an environment, and acts in it.

    Args:
        spec: the environment, whose agents observe and act each for itself.
    """

    def __init__(self, spec: EnvSpec) -> None:
        parts: Any = of_agent(spec.name, {key: (key,) for key in spec.features if key != ACTION}, None)  # pyright: ignore
        self.parts: Mapping[str, tuple[str, ...]] = parts
        """By key of the team's the environment's keys that it is made of."""
        self.order = _order(spec)
        """Which dimension of the environment's action each of the team's is."""
        self._places = np.argsort(self.order)

    def observation(self, observation: Mapping[str, np.ndarray], keys: Collection[str]) -> dict[str, np.ndarray]:
        """Return some keys of the team's: vectors of one name end to end; what has one part stays as it is."""
        return {key: np.concatenate([observation[part] for part in self.parts[key]]) for key in keys}

    def action(self, joined: Any) -> np.ndarray:
        """Return the environment's action for one of the team's."""
        return np.asarray(joined)[self._places]


def team_spec(name: str) -> EnvSpec:
    """Return an environment in which agents observe and act as one, as in recordings read with ``agent: null``.

    Raises:
        UsageError: an unknown environment.
    """
    spec = get_env_spec(name)
    view, action, glance = TeamView(spec), spec.features[ACTION], spec.glance

    def make(keys: Collection[str]) -> AnyEnv:
        chosen = select_keys(f"team:{name}", keys, view.parts)
        environment = spec.make([part for key in chosen for part in view.parts[key]])
        environment = TransformAction(environment, view.action, None)
        return TransformObservation(environment, lambda observation: view.observation(observation, chosen), None)

    features = {key: _joined([spec.features[part] for part in parts]) for key, parts in view.parts.items()}
    return replace(
        spec,
        name=f"team:{name}",
        make=make,
        features={**features, ACTION: action.part(view.order)},
        agents={},
        glance=glance and (lambda environment, longest: glance(environment.unwrapped, longest)),
        expert=None,
        take_over=None,
        touch=None,
        local=not spec.is_portable,
    )


def _order(spec: EnvSpec) -> np.ndarray:
    """Return which dimension of the environment's action each of the joined action is, where ids order the agents."""
    dimensions = np.arange(spec.features[ACTION].shape[0])
    parts: Any = {f"{AGENTS}{agent}.{ACTION}": (dimensions[share],) for agent, share in spec.agents.items()}
    return np.concatenate(of_agent(spec.name, parts, None)[ACTION]) if parts else dimensions  # pyright: ignore


def _joined(features: list[Feature]) -> Feature:
    if len(features) == 1:
        return features[0]
    unit = joined_unit([(feature.unit, feature.shape[0]) for feature in features])
    return Feature("vector", (sum(feature.shape[0] for feature in features),), "float32", unit=unit)
