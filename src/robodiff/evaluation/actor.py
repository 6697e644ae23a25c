"""A policy in an environment: what the environment must observe for it, and what it does there.

One policy acts for one agent or for a whole team; or each agent of a team has its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature
from robodiff.data.recordings import of_agent
from robodiff.envs.pool import Observation
from robodiff.envs.spec import EnvSpec
from robodiff.errors import UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner, Team

Policies = DiffusionPolicy | Mapping[str, DiffusionPolicy]
"""One policy, or one of each agent by its id."""


class Actor:
    """Rows of robots in an environment that act as a policy, or a team of policies, says.

    Args:
        policy: on any device, in evaluation mode.
        spec: the environment.
        rows: how many robots, or teams, act together.

    Raises:
        UsageError: the environment lacks something that the policy observes, or an agent has no policy.
    """

    def __init__(self, policy: Policies, spec: EnvSpec, rows: int) -> None:
        check_fit(policy, spec)
        self.rows = rows
        policies = policy if isinstance(policy, Mapping) else {None: policy}
        self._sources = {
            agent: {key: keys for key, keys in _sources(spec, agent).items() if key in each.observation_keys}
            for agent, each in policies.items()
        }
        self.keys = list(
            dict.fromkeys(key for each in self._sources.values() for keys in each.values() for key in keys)
        )
        """What the environment observes for it: all but what the runner knows itself."""
        runners: dict[Any, PolicyRunner] = {agent: PolicyRunner(each, rows=rows) for agent, each in policies.items()}
        self._runner = Team(runners, spec.agents) if isinstance(policy, Mapping) else runners[None]

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin an episode in each row, with a seed of its own."""
        self._runner.reset(seeds=seeds)

    def act(self, observation: Observation) -> np.ndarray:
        """Return the actions (rows, Da) to execute now, from what each row observes, per key (rows, ...).

        Raises:
            NonFiniteActions: some rows' chunks are not finite; the others have acted.
        """
        return self._runner.act(self.renamed(observation))

    def renamed(self, observation: Observation) -> Observation:
        """Return an observation under the policy's own names; a team picks for itself what is whose."""
        sources = self._sources.get(None, {})
        if all(keys == (key,) for key, keys in sources.items()):
            return observation
        return {key: np.concatenate([observation[part] for part in keys], axis=-1) for key, keys in sources.items()}


def check_fit(policy: Policies, spec: EnvSpec, agent: str | None = None) -> None:
    """Raise ``UsageError`` unless a policy's features are the environment's; past actions are known to the runner.

    Args:
        policy: of one agent, of the whole team, or one of each agent.
        spec: the environment.
        agent: whose policy it is; None for the whole team's, or where there is one agent.
    """
    if isinstance(policy, Mapping):
        for each in policy:
            check_fit(policy[each], spec, each)
        return
    features = _features(spec, agent)
    for key, feature in policy.features.items():
        offered = features.get(ACTION if key == PAST_ACTION and key not in features else key)
        if offered is None:
            names = ", ".join(name for name in features if name != ACTION)
            raise UsageError(f"the policy observes {key!r}, which the environment {spec.name} lacks; it has {names}")
        if offered.shape != feature.shape:
            raise UsageError(
                f"{key} is {feature.shape} for the policy and {offered.shape} in {spec.name}; a policy must be trained "
                "on what the environment gives"
            )
    rate = 1 / policy.timing.spacing
    if abs(rate - spec.fps) > 1e-6:
        raise UsageError(
            f"the policy acts at {rate:g} Hz (its recording's), the environment {spec.name} at {spec.fps:g}"
        )


def _sources(spec: EnvSpec, agent: str | None) -> Mapping[str, tuple[Any, ...]]:
    """Return of which keys of an environment each key of a policy is made, as where a recording is read."""
    own: Any = {key: (key,) for key in spec.features if key != ACTION}
    return of_agent(spec.name, own, agent) if spec.agents else own


def _features(spec: EnvSpec, agent: str | None) -> dict[str, Feature]:
    """Return what a policy can observe, and does, under its own names."""
    features = {}
    for name, keys in _sources(spec, agent).items():
        parts = [spec.features[key] for key in keys]
        size = sum(part.shape[0] for part in parts)
        features[name] = parts[0] if len(parts) == 1 else replace(parts[0], shape=(size,), names=None)
    action = spec.features[ACTION]
    if agent is not None:
        action = replace(action, shape=(len(range(action.shape[0])[spec.agents[agent]]),), names=None)
    return {**features, ACTION: action}
