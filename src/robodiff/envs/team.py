"""An environment of several agents as one policy for the whole team sees it: ``team:NAME``."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.wrappers import TransformObservation

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.naming import of_agent
from robodiff.envs.spec import AnyEnv, EnvSpec, get_env_spec, select_keys


def team_spec(name: str) -> EnvSpec:
    """Return an environment in which the agents' observations are joined, as recordings read with ``agent: null`` are.

    Raises:
        UsageError: an unknown environment.
    """
    spec = get_env_spec(name)
    parts: Any = of_agent(name, {key: (key,) for key in spec.features if key != ACTION}, None)  # pyright: ignore

    def make(keys: Collection[str]) -> AnyEnv:
        chosen = {key: parts[key] for key in select_keys(f"team:{name}", keys, parts)}
        environment = spec.make([part for each in chosen.values() for part in each])
        return TransformObservation(environment, lambda observation: _join(observation, chosen), None)

    features = {key: _joined([spec.features[part] for part in parts[key]]) for key in parts}
    return replace(
        spec,
        name=f"team:{name}",
        make=make,
        features={**features, ACTION: spec.features[ACTION]},
        agents={},
        expert=None,
        local=not spec.is_portable,
    )


def _join(observation: Mapping[str, np.ndarray], parts: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return vectors of one name end to end; what has one part stays as it is."""
    return {key: np.concatenate([observation[part] for part in names]) for key, names in parts.items()}


def _joined(features: list[Feature]) -> Feature:
    if len(features) == 1:
        return features[0]
    return Feature("vector", (sum(feature.shape[0] for feature in features),), "float32", unit=features[0].unit)
