"""A policy in an environment: whether it fits, what must be observed for it, and who acts.

One policy acts for one agent or for a whole team; or each agent of a team has its own.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import get_args

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature
from robodiff.data.naming import in_order
from robodiff.documents import hints
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.envs.team import team_spec
from robodiff.errors import UsageError
from robodiff.evaluation.chunks import check_features, open_policy
from robodiff.evaluation.conditions import Sampled
from robodiff.evaluation.config import SamplingConfig
from robodiff.evaluation.members import ALONE, Members
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner, Team
from robodiff.text import listed

Policies = DiffusionPolicy | Mapping[str, DiffusionPolicy]
"""One policy, or one of each agent by its id."""


def open_policies(members: Members, config: SamplingConfig) -> tuple[Policies, Sampled]:
    """Return the policies to measure, and what a result says of them.

    Raises:
        UsageError: the agents' policies sample in different ways.
    """
    opened = {agent: open_policy(path, config) for agent, path in members.items()}
    if ALONE in opened:
        return opened[ALONE]
    (first, one), *others = [(agent, sampled) for agent, (_, sampled) in opened.items()]
    for agent, other in others:
        if other.sampling != one.sampling:
            unlike = f"agent {first} samples by {one.sampling}, agent {agent} by {other.sampling}"
            raise UsageError(f"{unlike}\ngive --sampler and --steps for both")
    own = one.own if all(other.own == one.own for _, other in others) else None
    hashes = {agent: sampled.policy for agent, (_, sampled) in opened.items()}
    policies = {agent: policy for agent, (policy, _) in opened.items()}
    return policies, replace(one, own=own, policy=hash_of(hashes), policies=hashes)


def hash_of(hashes: Mapping[str, str]) -> str:
    """Return one hash for those of a team's policies."""
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()[:16]


def seen_by(policy: Policies, spec: EnvSpec) -> EnvSpec:
    """Return an environment as a policy sees it: one for a whole team observes all of its agents, joined."""
    return team_spec(spec.name) if spec.agents and not isinstance(policy, Mapping) else spec


def check_agents(policies: Mapping[str, object], spec: EnvSpec) -> None:
    """Raise ``UsageError`` unless there is a policy for each agent of an environment, by its id."""
    if policies.keys() != spec.agents.keys():
        has = f"has agents {', '.join(spec.agents)}" if spec.agents else "is for one policy alone"
        raise UsageError(f"{spec.name} {has}; found policies for {', '.join(in_order(policies))}")


def check_fit(policy: Policies, spec: EnvSpec) -> None:
    """Check that a policy, or each agent's one, observes and does what an environment says; past actions are known to
    the runner.

    Raises:
        UsageError: it does not; the message names the agent, and options of the environment with which it does.
    """
    if not isinstance(policy, Mapping):
        _check_one(policy, spec, lambda other: seen_by(policy, other))
        return
    check_agents(policy, spec)
    for agent, each in policy.items():
        try:
            _check_one(each, spec, lambda other, agent=agent: _of_agent(other, agent))
        except UsageError as error:
            raise UsageError(f"agent {agent}: {error}") from None


def needed_keys(policy: Policies, spec: EnvSpec) -> list[str]:
    """Return what an environment observes for a policy: all but what the runner knows itself."""
    policies = policy if isinstance(policy, Mapping) else {"": policy}
    keys = [
        name for id, each in policies.items() for key in each.observation_keys for name in (f"agents.{id}.{key}", key)
    ]
    return [key for key in dict.fromkeys(keys) if key in spec.features]


def make_runner(policy: Policies, spec: EnvSpec, rows: int | None = None) -> PolicyRunner | Team:
    """Return what acts in several rows at once; in one environment if None.

    Raises:
        UsageError: the environment lacks something that the policy observes, or an agent has no policy.
    """
    check_fit(policy, spec)
    if not isinstance(policy, Mapping):
        return PolicyRunner(policy, rows=rows)
    return Team({agent: PolicyRunner(each, rows=rows) for agent, each in policy.items()}, spec.agents)


def _of_agent(spec: EnvSpec, agent: str) -> EnvSpec:
    """Return an environment as one agent sees it: what it observes and does under the names of its own policy."""
    prefix, action, part = f"agents.{agent}.", spec.features[ACTION], spec.agents[agent]
    shared = {key: feature for key, feature in spec.features.items() if not key.startswith("agents.")}
    own = {key.removeprefix(prefix): each for key, each in spec.features.items() if key.startswith(prefix)}
    names = action.names and action.names[part]
    size = len(range(action.shape[0])[part])
    return replace(spec, features={**shared, **own, ACTION: replace(action, shape=(size,), names=names)}, agents={})


def _check_one(policy: DiffusionPolicy, spec: EnvSpec, view: Callable[[EnvSpec], EnvSpec]) -> None:
    """Check a policy against what it sees of an environment, ``view`` of it.

    Of an environment with options it is also refused where its numbers have other names: those of another action space,
    or of another task's objects.
    """
    seen = view(spec)
    if (problem := _problem(policy, seen)) is None:
        return
    for other in map(view, _other_options(policy, spec)):
        if _problem(policy, other) is None:
            raise UsageError(f"{problem.splitlines()[0]}\nit fits {other.name.removeprefix('team:')}")
    if spec.agents and seen.name != spec.name:
        ids = ", ".join(spec.agents)
        raise UsageError(f"{problem.splitlines()[0]}\ngive a policy of each agent ({ids}), or one that acts for all")
    raise UsageError(problem)


def _problem(policy: DiffusionPolicy, spec: EnvSpec) -> str | None:
    """Return in words what does not fit; None where all does."""
    features = dict(spec.features)
    features.setdefault(PAST_ACTION, features[ACTION])
    try:
        check_features(policy, features, f"the environment {spec.name}")
    except UsageError as error:
        return str(error)
    rate = 1 / policy.timing.spacing
    if abs(rate - spec.fps) <= 1e-6:
        return _other_names(policy, spec)
    return f"the policy acts at {rate:g} Hz (its recording's), the environment {spec.name} at {spec.fps:g}"


def _other_names(policy: DiffusionPolicy, spec: EnvSpec) -> str | None:
    """Return in words where the numbers of a key have other names on both sides; None where they have the same.

    Only of an environment with options: what others call theirs is no matter of what they are.
    """
    if spec.configure is None:
        return None
    for key, feature in policy.features.items():
        own, other = (_names(key, each) for each in (feature, spec.features.get(key, feature)))
        if own and other and own != other:
            return f"{key} is {listed(own, 4)} for the policy and {listed(other, 4)} in the environment {spec.name}"
    return None


def _names(key: str, feature: Feature) -> list[str]:
    """Return the names of a key's numbers; those of an action without the agent's id, which not all recordings have."""
    return [name.rpartition(".")[2] if key == ACTION else name for name in feature.names or ()]


def _other_options(policy: DiffusionPolicy, spec: EnvSpec) -> Iterator[EnvSpec]:
    """Yield an environment with other options: each action space, with images of its own size and of the policy's."""
    annotations, (base, _, query) = hints(spec.options), spec.name.partition("?")
    given = dict(word.split("=") for word in query.split("&") if word)
    images = (each for each in policy.features.values() if each.kind == "image") if "size" in annotations else ()
    sizes = [given, *({**given, "size": f"{each.shape[1]}x{each.shape[2]}"} for each in images)]
    for space, size in itertools.product(get_args(annotations.get("action_space")), sizes):
        options = {**size, "action_space": space}
        yield get_env_spec(f"{base}?" + "&".join(f"{option}={value}" for option, value in options.items()))
