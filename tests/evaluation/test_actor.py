"""Which environment a policy is measured in: the one that is named, with what its name leaves open as it needs it."""

from types import SimpleNamespace
from typing import Any

import pytest

from robodiff.data.episodes import ACTION, Feature
from robodiff.envs.spec import get_env_spec
from robodiff.errors import UsageError
from robodiff.evaluation.actor import seen_by, steps_held, together
from robodiff.evaluation.conditions import Sampled, Sampling
from robodiff.policies.runtime import Timing

MYCOBOT, STATE, CAMERA = "stack_cube_mycobot", "observation.state", "observation.images.front"


def policy(env: str, *keys: str, fps: float = 10.0, **features: Feature) -> Any:
    """Return what is known of a policy that was trained on what an environment with these options gave."""
    pytest.importorskip("mujoco")
    given = get_env_spec(env).features
    chosen = {key.removeprefix("agents.0."): given[key] for key in (*keys, ACTION)}
    return SimpleNamespace(features=chosen | features, timing=Timing(1, 1, 1 / fps))


@pytest.mark.parametrize(
    ("trained_in", "asked", "taken"),
    [
        (MYCOBOT, MYCOBOT, MYCOBOT),
        (f"{MYCOBOT}?action_space=degrees", MYCOBOT, f"{MYCOBOT}?action_space=degrees"),
        (f"{MYCOBOT}?action_space=eef", MYCOBOT, f"{MYCOBOT}?action_space=eef"),
        (f"{MYCOBOT}?size=96x170", MYCOBOT, f"{MYCOBOT}?size=96x170"),
        (f"{MYCOBOT}?size=96x170", f"{MYCOBOT}?size=96x170", f"{MYCOBOT}?size=96x170"),
        (f"{MYCOBOT}?size=60x106&action_space=degrees", MYCOBOT, f"{MYCOBOT}?action_space=degrees&size=60x106"),
    ],
)
def test_what_a_name_leaves_open_is_as_the_policy_needs_it(trained_in: str, asked: str, taken: str) -> None:
    assert seen_by(policy(trained_in, STATE, CAMERA), get_env_spec(asked)).name == taken


@pytest.mark.parametrize(
    ("trained_in", "asked", "message"),
    [
        (f"{MYCOBOT}?action_space=degrees", f"{MYCOBOT}?action_space=eef",
         r"^observation.state is in deg, percent for the policy and in rad, share in .*\n"
         r"it fits stack_cube_mycobot\?action_space=degrees$"),
        (f"{MYCOBOT}?size=96x170", f"{MYCOBOT}?size=84x84", r"\nit fits stack_cube_mycobot\?size=96x170, whose images"),
        (f"{MYCOBOT}?size=224x224", MYCOBOT, r"\(3, 224, 224\) for .*\nit fits .*\?size=224x224, whose images show an"),
        (MYCOBOT, "lift_cube", r"^observation.state is \(7,\) for the policy and \(8,\) in the environment lift_cube$"),
    ],
)  # fmt: skip
def test_what_a_name_says_is_not_changed(trained_in: str, asked: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        seen_by(policy(trained_in, STATE, CAMERA), get_env_spec(asked))
    assert str(told.value).count("\n") < 2


def test_one_unit_for_all_is_that_of_the_joints() -> None:
    """As recordings and policies had it before grippers had a unit of their own."""
    names = get_env_spec(MYCOBOT).features[STATE].names
    old = {key: Feature("vector", (7,), "float32", names, "deg") for key in (STATE, ACTION)}
    seen = seen_by(policy(MYCOBOT, STATE, **old), get_env_spec(MYCOBOT))
    assert seen.name == f"{MYCOBOT}?action_space=degrees"


@pytest.mark.parametrize(("fps", "held"), [(10.0, 1), (5.0, 2), (10 / 3, 3)])
def test_an_action_is_held_until_the_next(fps: float, held: int) -> None:
    slow, spec = policy(MYCOBOT, STATE, fps=fps), get_env_spec(MYCOBOT)
    assert steps_held(slow, seen_by(slow, spec)) == held


@pytest.mark.parametrize("fps", [20.0, 7.5])
def test_another_rate_is_refused(fps: float) -> None:
    with pytest.raises(UsageError, match=rf"the policy acts at {fps:g} Hz .* stack_cube_mycobot at 10\nexpected"):
        seen_by(policy(MYCOBOT, STATE, fps=fps), get_env_spec(MYCOBOT))


def test_a_team_acts_at_one_rate() -> None:
    key, spec = "agents.0.observation.state", get_env_spec("lift_barrier?action_space=degrees")
    parts = {"action": spec.features[ACTION].part(range(8))}
    team = {agent: policy(spec.name, key, fps=fps, **parts) for agent, fps in (("0", 20.0), ("1", 20.0))}
    assert seen_by(team, get_env_spec("lift_barrier")).name == spec.name
    team["1"].timing = Timing(1, 1, 0.1)
    with pytest.raises(UsageError, match="agents act at one rate; found 0: 20 Hz, 1: 10 Hz"):
        seen_by(team, spec)


@pytest.mark.parametrize(("asked", "own", "is_own"), [(None, (8, 4), True), (4, (8, 4), False), (4, (8, 8), False)])
def test_a_team_that_executes_what_it_is_asked_for_is_not_on_its_own(
    asked: int | None, own: tuple[int, int], is_own: bool
) -> None:
    ways = [Sampling(sampler="Flow", steps=3, n_action_steps=number) for number in own]
    opened: Any = {
        str(agent): (None, Sampled(policy="", sampler="Flow", steps=3, device="cpu", own=way,
                                   n_action_steps=asked or way.n_action_steps))
        for agent, way in enumerate(ways)
    }  # fmt: skip
    assert together(opened)[1].is_own == is_own


def test_a_team_keeps_the_hashes_of_its_weaker_policies() -> None:
    def weaker(of_each: str | None) -> str | None:
        way: dict[str, Any] = {"sampler": "Flow", "steps": 3, "best_of": 2}
        sampled = Sampled(policy="", **way, device="cpu", own=Sampling(**way), contrast_policy=of_each)
        opened: Any = dict.fromkeys("01", (None, sampled))
        return together(opened)[1].contrast_policy

    assert weaker(None) is None
    assert weaker("abc") == weaker("abc") != weaker("def")
