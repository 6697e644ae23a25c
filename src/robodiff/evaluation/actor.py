"""A policy in an environment: whether it fits, what must be observed for it, and who acts.

One policy acts for one agent or for a whole team; or each agent of a team has its own.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature
from robodiff.data.naming import in_order
from robodiff.documents import hints
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.envs.team import team_spec
from robodiff.errors import UsageError
from robodiff.evaluation.chunks import Policy, check_features, open_policy
from robodiff.evaluation.conditions import Sampled, Sampling
from robodiff.evaluation.config import SamplingConfig
from robodiff.evaluation.members import ALONE, Members
from robodiff.policies.runner import PolicyRunner, Team
from robodiff.text import listed

Policies = Policy | Mapping[str, Policy]
"""One policy, or one of each agent by its id."""


def open_policies(members: Members, config: SamplingConfig) -> tuple[Policies, Sampled]:
    """Return the policies to measure, and what a result says of them.

    Raises:
        UsageError: the agents' policies sample in different ways.
    """
    return together({agent: open_policy(path, config) for agent, path in members.items()})


def together(opened: Mapping[str, tuple[Policy, Sampled]]) -> tuple[Policies, Sampled]:
    """Return policies that were opened one by one, and what a result says of them together.

    Raises:
        UsageError: the agents' policies sample in different ways.
    """
    if ALONE in opened:
        return opened[ALONE]
    sampled = {agent: each for agent, (_, each) in opened.items()}
    (first, one), *others = sampled.items()
    if (joint := _joint([each.sampling for each in sampled.values()])) is None:
        agent, other = next((agent, each) for agent, each in others if _joint([one.sampling, each.sampling]) is None)
        unlike = f"agent {first} samples by {one.sampling.beside(other.sampling)}, "
        unlike += f"agent {agent} by {other.sampling.beside(one.sampling)}"
        raise UsageError(f"{unlike}\ngive --sampler, --steps and --best_of for both")
    own = _joint([each.own for each in sampled.values() if each.own is not None])
    if own is not None and own.n_action_steps is None and joint.n_action_steps is not None:
        own = None  # each executes another number by itself: this one was asked for
    hashes = {agent: each.policy for agent, each in sampled.items()}
    policies = {agent: policy for agent, (policy, _) in opened.items()}
    weaker = {agent: each.contrast_policy for agent, each in sampled.items() if each.contrast_policy is not None}
    one = replace(one, policy=hash_of(hashes), policies=hashes, contrast_policy=hash_of(weaker) if weaker else None)
    return policies, replace(one, **vars(joint), own=own)


def _joint(ways: Sequence[Sampling]) -> Sampling | None:
    """Return how a team acts, whose agents may execute different numbers of actions; None where more differs."""
    numbers = {each.n_action_steps for each in ways}
    joint = replace(ways[0], n_action_steps=None if len(numbers) > 1 else ways[0].n_action_steps)
    return joint if not any(joint.differing(each) for each in ways) else None


def hash_of(hashes: Mapping[str, str]) -> str:
    """Return one hash for those of a team's policies."""
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()[:16]


def check_agents(policies: Mapping[str, object], spec: EnvSpec) -> None:
    """Raise ``UsageError`` unless there is a policy for each agent of an environment, by its id."""
    if policies.keys() != spec.agents.keys():
        has = f"has agents {', '.join(spec.agents)}" if spec.agents else "is for one policy alone"
        raise UsageError(f"{spec.name} {has}; found policies for {', '.join(in_order(policies))}")


def seen_by(policies: Policies, spec: EnvSpec) -> EnvSpec:
    """Return an environment as policies see it: one for a whole team observes all of its agents, joined.

    What the environment's name leaves open, its action space and the size of its images, is as they need it. Past
    actions are known to the runner.

    Raises:
        UsageError: it does not fit them; the message names the agent, and options with which it does.
    """
    if isinstance(policies, Mapping):
        check_agents(policies, spec)
    if (problem := _problem(policies, spec)) is None:
        return _joined(policies, spec)
    given, one_line = _options(spec).items(), problem.splitlines()[0]
    for other in _other_options(policies, spec):
        if _problem(policies, other) is None:
            shows_same = _shows_same(spec, other)
            if shows_same and given <= _options(other).items():
                return _joined(policies, other)
            differs = "" if shows_same else ", whose images show another part of the scene than resized ones do"
            raise UsageError(f"{one_line}\nit fits {other.name}{differs}")
    if spec.agents and not isinstance(policies, Mapping):
        ids = ", ".join(spec.agents)
        raise UsageError(f"{one_line}\ngive a policy of each agent ({ids}), or one that acts for all")
    raise UsageError(problem)


def steps_held(policies: Policies, spec: EnvSpec) -> int:
    """Return for how many steps of an environment each action is held: policies may act at a part of its rate."""
    first = next(iter(policies.values())) if isinstance(policies, Mapping) else policies
    return round(spec.fps * first.timing.spacing)


def needed_keys(policy: Policies, spec: EnvSpec) -> list[str]:
    """Return what an environment observes for a policy: all but what the runner knows itself."""
    policies = policy if isinstance(policy, Mapping) else {"": policy}
    observed = [(id, key) for id, each in policies.items() for key in each.features if key != ACTION]
    keys = [name for id, key in observed for name in (f"agents.{id}.{key}", key)]
    return [key for key in dict.fromkeys(keys) if key in spec.features]


def make_runner(policy: Policies, spec: EnvSpec, rows: int | None = None) -> PolicyRunner | Team:
    """Return what acts in several rows at once, or in one environment if None, which fits."""
    if not isinstance(policy, Mapping):
        return PolicyRunner(policy, rows=rows)
    return Team({agent: PolicyRunner(each, rows=rows) for agent, each in policy.items()}, spec.agents)


def _joined(policies: Policies, spec: EnvSpec) -> EnvSpec:
    return team_spec(spec.name) if spec.agents and not isinstance(policies, Mapping) else spec


def _of_agent(spec: EnvSpec, agent: str) -> EnvSpec:
    """Return an environment as one agent sees it: what it observes and does under the names of its own policy."""
    prefix, action, part = f"agents.{agent}.", spec.features[ACTION], spec.agents[agent]
    shared = {key: feature for key, feature in spec.features.items() if not key.startswith("agents.")}
    own = {key.removeprefix(prefix): each for key, each in spec.features.items() if key.startswith(prefix)}
    own[ACTION] = action.part(range(action.shape[0])[part])
    return replace(spec, features={**shared, **own}, agents={})


def _problem(policies: Policies, spec: EnvSpec) -> str | None:
    """Return in words what does not fit; None where all does."""
    if not isinstance(policies, Mapping):
        return _problem_of_one(policies, _joined(policies, spec))
    for agent, policy in policies.items():
        if problem := _problem_of_one(policy, _of_agent(spec, agent)):
            return f"agent {agent}: {problem}"
    rates = {agent: 1 / policy.timing.spacing for agent, policy in policies.items()}
    if max(rates.values()) - min(rates.values()) > 1e-6:
        return f"agents act at one rate; found {', '.join(f'{agent}: {rate:g} Hz' for agent, rate in rates.items())}"
    return None


def _problem_of_one(policy: Policy, spec: EnvSpec) -> str | None:
    """Return in words what of a policy does not fit what it sees of an environment.

    Of an environment with options it is also refused where its numbers have other names: those of another action space,
    or of another task's objects.
    """
    features = dict(spec.features)
    features.setdefault(PAST_ACTION, features[ACTION])
    try:
        check_features(policy, features, f"the environment {spec.name}")
    except UsageError as error:
        return str(error)
    steps = spec.fps * policy.timing.spacing
    if steps > 0.5 and abs(steps - round(steps)) <= 1e-6:
        return _other_names(policy, spec)
    rate, remedy = 1 / policy.timing.spacing, "expected the environment's rate, or a whole part of it"
    return f"the policy acts at {rate:g} Hz (its recording's), the environment {spec.name} at {spec.fps:g}\n{remedy}"


def _other_names(policy: Policy, spec: EnvSpec) -> str | None:
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


def _options(spec: EnvSpec) -> dict[str, str]:
    """Return the options that an environment's name holds."""
    return dict(word.split("=", 1) for word in spec.name.partition("?")[2].split("&") if word)


def _other_options(policies: Policies, spec: EnvSpec) -> Iterator[EnvSpec]:
    """Yield an environment with other options: each action space, with images of its own size and of a policy's."""
    annotations, given, base = hints(spec.options), _options(spec), spec.name.partition("?")[0]
    every = policies.values() if isinstance(policies, Mapping) else [policies]
    sizes = {f"{height}x{width}" for each in every for height, width in _image_sizes(each.features)}
    sized = [given, *({**given, "size": size} for size in sorted(sizes) if "size" in annotations)]
    for space, options in itertools.product(get_args(annotations.get("action_space")), sized):
        options = {**options, "action_space": space}
        yield get_env_spec(f"{base}?" + "&".join(f"{option}={value}" for option, value in options.items()))


def _shows_same(spec: EnvSpec, other: EnvSpec) -> bool:
    """Tell whether images have one aspect ratio, to a pixel: of another, more or less of the scene is drawn."""
    pairs = zip(_image_sizes(spec.features), _image_sizes(other.features), strict=False)
    return all(
        abs(height * other_width - width * other_height) <= width + height
        for (height, width), (other_height, other_width) in pairs
    )


def _image_sizes(features: Mapping[str, Feature]) -> list[tuple[int, int]]:
    return [(each.shape[1], each.shape[2]) for each in features.values() if each.kind == "image"]
