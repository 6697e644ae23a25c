"""An environment of several agents as one policy for the whole team sees it: ``team:NAME``."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.wrappers import TransformAction, TransformObservation

from robodiff.data.episodes import ACTION, Feature, joined_unit
from robodiff.data.naming import AGENTS, of_agent
from robodiff.envs.spec import AnyEnv, EnvSpec, get_env_spec, select_keys


def team_spec(name: str) -> EnvSpec:
    """Return an environment in which agents observe and act as one, as in recordings read with ``agent: null``.

    Raises:
        UsageError: an unknown environment.
    """
    spec = get_env_spec(name)
    parts: Any = of_agent(name, {key: (key,) for key in spec.features if key != ACTION}, None)  # pyright: ignore
    action, order = spec.features[ACTION], _order(spec)
    places = np.argsort(order)  # of each dimension of the environment's action in the team's

    def make(keys: Collection[str]) -> AnyEnv:
        chosen = {key: parts[key] for key in select_keys(f"team:{name}", keys, parts)}
        environment = spec.make([part for each in chosen.values() for part in each])
        environment = TransformAction(environment, lambda joined: np.asarray(joined)[places], None)
        return TransformObservation(environment, lambda observation: _join(observation, chosen), None)

    features = {key: _joined([spec.features[part] for part in parts[key]]) for key in parts}
    return replace(
        spec,
        name=f"team:{name}",
        make=make,
        features={**features, ACTION: action.part(order)},
        agents={},
        expert=None,
        local=not spec.is_portable,
    )


def _order(spec: EnvSpec) -> np.ndarray:
    """Return which dimension of the environment's action each of the joined action is, where ids order the agents."""
    dimensions = np.arange(spec.features[ACTION].shape[0])
    parts: Any = {f"{AGENTS}{agent}.{ACTION}": (dimensions[share],) for agent, share in spec.agents.items()}
    return np.concatenate(of_agent(spec.name, parts, None)[ACTION]) if parts else dimensions  # pyright: ignore


def _join(observation: Mapping[str, np.ndarray], parts: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return vectors of one name end to end; what has one part stays as it is."""
    return {key: np.concatenate([observation[part] for part in names]) for key, names in parts.items()}


def _joined(features: list[Feature]) -> Feature:
    if len(features) == 1:
        return features[0]
    unit = joined_unit([(feature.unit, feature.shape[0]) for feature in features])
    return Feature("vector", (sum(feature.shape[0] for feature in features),), "float32", unit=unit)
