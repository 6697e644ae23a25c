"""A policy in an environment: whether it fits, what must be observed for it, and who acts.

One policy acts for one agent or for a whole team; or each agent of a team has its own.
"""

from collections.abc import Mapping
from dataclasses import replace

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature
from robodiff.envs.spec import EnvSpec
from robodiff.envs.team import team_spec
from robodiff.errors import UsageError
from robodiff.evaluation.chunks import check_features
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner, Team

Policies = DiffusionPolicy | Mapping[str, DiffusionPolicy]
"""One policy, or one of each agent by its id."""


def seen_by(policy: Policies, spec: EnvSpec) -> EnvSpec:
    """Return an environment as a policy sees it: one for a whole team observes all of its agents, joined."""
    return team_spec(spec.name) if spec.agents and not isinstance(policy, Mapping) else spec


def check_fit(policy: Policies, spec: EnvSpec) -> None:
    """Raise ``UsageError`` unless a policy's features are the environment's; past actions are known to the runner."""
    if isinstance(policy, Mapping):
        for agent, each in policy.items():
            check_fit(each, replace(spec, features=_features(spec, agent), agents={}))
        return
    features = dict(seen_by(policy, spec).features)
    features.setdefault(PAST_ACTION, features[ACTION])
    check_features(policy, features, f"the environment {spec.name}")
    rate = 1 / policy.timing.spacing
    if abs(rate - spec.fps) > 1e-6:
        raise UsageError(
            f"the policy acts at {rate:g} Hz (its recording's), the environment {spec.name} at {spec.fps:g}"
        )


def needed_keys(policy: Policies, spec: EnvSpec) -> list[str]:
    """Return what an environment observes for a policy: all but what the runner knows itself."""
    policies = policy if isinstance(policy, Mapping) else {"": policy}
    keys = [
        name for id, each in policies.items() for key in each.observation_keys for name in (f"agents.{id}.{key}", key)
    ]
    return [key for key in dict.fromkeys(keys) if key in spec.features]


def make_runner(policy: Policies, spec: EnvSpec, rows: int) -> PolicyRunner | Team:
    """Return what acts in several rows at once.

    Raises:
        UsageError: the environment lacks something that the policy observes, or an agent has no policy.
    """
    if not isinstance(policy, Mapping):
        check_fit(policy, spec)
        return PolicyRunner(policy, rows=rows)
    team = Team({agent: PolicyRunner(each, rows=rows) for agent, each in policy.items()}, spec.agents)
    check_fit(policy, spec)
    return team


def _features(spec: EnvSpec, agent: str) -> dict[str, Feature]:
    """Return what one agent observes and does, under the names of its own policy."""
    prefix, action = f"agents.{agent}.", spec.features[ACTION]
    shared = {key: feature for key, feature in spec.features.items() if not key.startswith("agents.")}
    own = {key.removeprefix(prefix): each for key, each in spec.features.items() if key.startswith(prefix)}
    dims = range(action.shape[0])[spec.agents[agent]]
    return {**shared, **own, ACTION: replace(action, shape=(len(dims),), names=None)}
