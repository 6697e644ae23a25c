"""The stage: what a person can do when, and what of it is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SMALL_MODEL, use_env
from tests.play.playing import opened
from tests.policies.test_diffusion import FLOW

from robodiff.data.episodes import Feature
from robodiff.data.recordings import open_path
from robodiff.envs.pusht.expert import PushTController
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.spec import EnvSpec, get_env_spec
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.actor import open_policies
from robodiff.evaluation.config import SamplingConfig
from robodiff.evaluation.rollout import rollout
from robodiff.play.actor import Actor, Watched
from robodiff.play.messages import Message
from robodiff.play.stage import Stage, check_playable
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import Chunk, Timing


@pytest.fixture
def policy(small_policy: Callable, tmp_path: Path) -> Path:
    save_policy(small_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def step(stage: Stage, x: float, y: float) -> None:
    stage.handle(Message(do="step", x=x, y=y))


def demonstrate(stage: Stage, most: int = 400) -> None:
    """Act as the expert does."""
    controller = PushTController()
    for _ in range(most):
        target = controller.act(stage.env.state, stage.env.coverage)
        if stage.phase == "ended" or target is None:
            break
        step(stage, *(target / 512).tolist())
    if stage.phase == "running":
        stage.handle(Message(do="end"))


def test_a_demonstration_is_recorded_as_collect_does(tmp_path: Path) -> None:
    out = tmp_path / "mine.zarr"
    with opened(env="pusht", out=out, seed=3)() as stage:
        assert (stage.phase, stage.state()["can_keep"]) == ("ready", False)
        demonstrate(stage)
        assert (stage.phase, stage.success) == ("ended", True)
        assert stage.env.coverage > 0.95
        actions = np.stack(stage._frames.actions)
        stage.handle(Message(do="keep"))
        assert (stage.phase, stage.seed, stage.state()["kept"]) == ("ready", 4, 1)
        step(stage, 0.5, 0.5)
        stage.handle(Message(do="discard"))
        assert (stage.phase, stage.seed) == ("ready", 4)
    recorded = open_path(str(out)).read()
    np.testing.assert_array_equal(recorded.arrays["action"], actions)
    assert {key: SPEC.features[key] for key in recorded.features} == recorded.features
    assert recorded.arrays.keys() == {"observation.state", "observation.environment_state", "action"}
    assert [*recorded.table["seed"], *recorded.table["success"]] == [3, True]
    env = SPEC.make([*recorded.arrays.keys() - {"action"}])
    observation, _ = env.reset(seed=3)
    for frame, action in enumerate(actions):
        for key, value in observation.items():
            np.testing.assert_array_equal(recorded.arrays[key][frame], value)
        observation, *_ = env.step(action)
    with opened(env="pusht", out=out)() as stage:
        assert stage.seed == 4  # after the last that was kept
    with pytest.raises(Exception, match="holds another recording"), opened(env="pusht", out=out, images=True)():
        pass


def test_a_seed_of_evaluations_is_told_of_once_in_a_recording(tmp_path: Path) -> None:
    def told(do: str, **values: Any) -> bool:
        stage.handle(Message(do=do, **values))  # type: ignore[arg-type]
        return "seeds from 100000 to 999999 are those of evaluations" in stage.state()["note"]

    for choosing in (lambda: told("reset", seed=100_003), lambda: told("keep")):
        with opened(env="pusht", out=tmp_path / "d.zarr", seed=99_999)() as stage:
            assert not told("reset", seed=99_999)
            assert not told("step", x=0.5, y=0.5)
            assert not told("end")
            assert choosing()
            assert told("hand", x=0.4, y=0.4)  # there is time to read it
            assert not told("step", x=0.5, y=0.5)
            assert not told("end")
            assert not told("reset", seed=100_007)
    with opened(env="pusht")() as stage:
        assert not told("reset", seed=100_003)  # nothing is recorded


def test_success_ends_an_episode_after_a_second_and_a_failure_can_be_kept(tmp_path: Path) -> None:
    with opened(env="pusht", out=tmp_path / "d.zarr")() as stage:
        stage.env.set_state(np.array([50, 50, 256, 256, np.pi / 4]))
        for _ in range(9):
            step(stage, 0.1, 0.1)
        assert (stage.success, stage.phase) == (True, "running")
        step(stage, 0.1, 0.1)
        assert stage.phase == "ended"
        with pytest.raises(UsageError, match="begin another"):
            step(stage, 0.1, 0.1)
        stage.handle(Message(do="discard"))
        for _ in range(310):  # a person may take longer than a policy
            step(stage, 0.1, 0.1)
        stage.handle(Message(do="end"))
        stage.handle(Message(do="keep"))
    assert [*open_path(str(tmp_path / "d.zarr")).read().table["success"]] == [False]


def test_taking_over_and_handing_back_is_recorded_frame_by_frame(policy: Path, tmp_path: Path) -> None:
    with opened(env="pusht", policy=policy, out=tmp_path / "d.zarr")() as stage:
        stage.handle(Message(do="start"))
        stage.tick()
        (first,) = stage.state()["fans"]
        for _ in range(4):
            stage.tick()
        (fan,) = stage.state()["fans"]
        assert np.shape(fan["paths"]) == (13, 15, 2)
        assert (fan["number"], fan["stages"]) == (first["number"], [])
        assert np.shape(first["stages"]) == (5, 13, 15, 2)
        assert np.abs(np.subtract(first["stages"][0], 0.5)).max() > 0.75  # noise
        assert np.abs(np.subtract(fan["paths"], 0.5)).max() <= 0.5
        assert np.allclose(fan["paths"][fan["chosen"]][4], stage._frames.actions[4] / 512, atol=1e-4)
        stage.handle(Message(do="take"))
        np.testing.assert_allclose([stage.hand.x, stage.hand.y], stage.env.state[:2] / 512)
        stage.handle(Message(do="hand", x=0.25, y=0.75))
        stage.tick()
        assert stage.state()["fans"] == []
        stage.handle(Message(do="give"))
        stage.tick()
        assert stage.actor is not None
        assert stage.actor.age == 1  # it planned anew
        assert stage.state()["fans"][0]["number"] == fan["number"] + 1
        stage.handle(Message(do="end"))
        stage.handle(Message(do="keep"))
        stage.handle(Message(do="start"))
        stage.tick()
        stage.handle(Message(do="end"))
        with pytest.raises(UsageError, match="nobody took over"):
            stage.handle(Message(do="keep"))
    recorded = open_path(str(tmp_path / "d.zarr")).read()
    assert recorded.expert is not None
    assert recorded.expert.tolist() == [False] * 5 + [True, False]
    np.testing.assert_array_equal(recorded.arrays["action"][5], [128, 384])


PAST = "observation.past_action"


def told(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return a list that gets, of each chunk, the last actions that the policy is told."""
    said, predict = list[np.ndarray](), DiffusionPolicy.predict_chunk

    def spy(self: DiffusionPolicy, observation: dict[str, np.ndarray], **options: Any) -> Chunk:
        said.append(observation[PAST][0])
        return predict(self, observation, **options)

    monkeypatch.setattr(DiffusionPolicy, "predict_chunk", spy)
    return said


def save_with_past_action(folder: Path, state: int, fps: float) -> None:
    """Save a policy that observes so many numbers, and its last action."""
    dims = {"observation.state": state, PAST: 2, "action": 2}
    features = {key: Feature("vector", (d,), "float32") for key, d in dims.items()}
    options = {**SMALL_MODEL, **FLOW, "observation_keys": ["observation.state", PAST]}
    save_policy(DiffusionConfig(**options).make_policy(features, fps).eval(), folder)


@pytest.mark.kind("the wrong frame, dimension or unit")
@pytest.mark.parametrize("fps", [10, 5])
def test_who_is_handed_back_to_is_told_the_last_action(
    fps: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_with_past_action(tmp_path / "policy", 2, fps)
    said = told(monkeypatch)
    with opened(env="pusht", policy=tmp_path / "policy")() as stage:
        stage.handle(Message(do="start"))
        stage.tick()
        assert not said[-1].any()
        stage.handle(Message(do="take"))
        for x in (0.25, 0.5, 0.75):
            stage.handle(Message(do="hand", x=x, y=0.5))
            stage.tick()
        stage.handle(Message(do="give"))
        stage.tick()
        before = {10: 0.75, 5: 0.5}[fps]  # as in training: a step of the policy's before
        np.testing.assert_allclose(said[-1], [[512 * before, 256]] * len(said[-1]))
        executed = stage._frames.actions[-1]
        stage.handle(Message(do="take"))
        stage.handle(Message(do="give"))  # nobody has acted meanwhile
        stage.tick()
        np.testing.assert_allclose(said[-1][-1], {10: executed, 5: [512 * 0.75, 256]}[fps], rtol=1e-6)


def test_each_agent_is_told_its_own_last_action(meet: EnvSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for agent in meet.agents:
        save_with_past_action(tmp_path / agent, 4, 10)
    said = told(monkeypatch)
    actor = Actor({agent: str(tmp_path / agent) for agent in meet.agents}, "meet", SamplingConfig(), 1)
    env = actor.spec.make(actor.keys)
    seen, _ = env.reset(seed=0)
    actor.reset(0, [np.array([1, 2, 3, 4], np.float32)])
    actor.act(seen)
    expected = [np.array([1, 2, 3, 4])[part] for part in meet.agents.values()]
    np.testing.assert_array_equal([each[-1] for each in said], expected)


def test_a_policy_that_does_not_let_itself_be_watched_shows_its_chunks_alone() -> None:
    class Plain:
        timing = Timing(n_obs_steps=2, n_action_steps=4, spacing=0.1)

        def predict_chunk(self, observation: object, *, noise: np.ndarray, known: object = None) -> Chunk:
            return Chunk(noise[0], 0)

    watched = Watched(Plain(), 3)  # type: ignore[arg-type]
    chunk = watched.predict_chunk({}, noise=np.ones((1, 1, 8, 2), np.float32))
    assert chunk.actions.shape == (1, 8, 2)
    assert watched.drawn is not None
    assert watched.drawn.shape == (1, 4, 7, 2)


@pytest.mark.parametrize(("name", "form"), [("d.hdf5", None), ("d.zarr.zip", None), ("d", "lerobot")])
def test_out_is_any_format_that_collect_writes(name: str, form: str | None, tmp_path: Path) -> None:
    out = tmp_path / name
    with opened(env="pusht", out=out, format=form)():
        pass
    assert [*tmp_path.iterdir()] == []  # nothing was kept
    with opened(env="pusht", out=out, format=form)() as stage:
        for _ in range(3):
            step(stage, 0.25, 0.75)
        stage.handle(Message(do="end"))
        stage.handle(Message(do="keep"))
    recorded = open_path(str(out)).read()
    assert len(recorded) == 1
    np.testing.assert_array_equal(recorded.arrays["action"], [[128, 384]] * 3)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(UsageError, match="exists already"), opened(env="pusht", out=out, format=form)():
        pass


def test_a_recording_of_which_nothing_was_kept_is_not_made_and_an_earlier_one_stays(tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    with opened(env="pusht", out=out)():
        pass
    assert [*tmp_path.iterdir()] == []
    for keeps in (True, False):
        with opened(env="pusht", out=out)() as stage:
            step(stage, 0.25, 0.75)
            stage.handle(Message(do="end"))
            stage.handle(Message(do="keep" if keeps else "discard"))
        assert len(open_path(str(out)).read()) == 1


def test_what_was_kept_before_a_failure_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "d.hdf5"

    def interrupted() -> None:
        with opened(env="pusht", out=out)() as stage:
            step(stage, 0.25, 0.75)
            stage.handle(Message(do="end"))
            stage.handle(Message(do="keep"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not out.exists()
    with opened(env="pusht", out=out)() as stage:
        assert (stage.seed, stage.state()["kept"]) == (1, 1)
    assert len(open_path(str(out)).read()) == 1


def test_an_episode_is_kept_once_also_where_the_next_cannot_begin(tmp_path: Path) -> None:
    with opened(env="pusht", out=tmp_path / "d.zarr")() as stage:
        step(stage, 0.5, 0.5)
        stage.handle(Message(do="end"))
        reset = stage.env.reset
        stage.env.reset = lambda **options: 1 / 0
        with pytest.raises(RobodiffError, match="cannot begin the episode of seed 1"):
            stage.handle(Message(do="keep"))
        with pytest.raises(UsageError, match="has not ended"):
            stage.handle(Message(do="keep"))
        stage.env.reset = reset
        stage.handle(Message(do="reset", seed=1))
        assert stage.phase == "ready"
    assert len(open_path(str(tmp_path / "d.zarr")).read()) == 1


def test_the_fan_of_an_agent_that_executes_more_of_its_chunk_stays(meet: EnvSpec, tmp_path: Path) -> None:
    features = {key: Feature("vector", (d,), "float32") for key, d in (("observation.state", 4), ("action", 2))}
    for agent, executed in (("0", 2), ("1", 4)):
        options = {**SMALL_MODEL, **FLOW, "n_action_steps": executed, "observation_keys": ["observation.state"]}
        save_policy(DiffusionConfig(**options).make_policy(features, 10).eval(), tmp_path / agent)
    actor = Actor({agent: str(tmp_path / agent) for agent in meet.agents}, "meet", SamplingConfig(), 1)
    env = actor.spec.make(actor.keys)
    seen, _ = env.reset(seed=0)
    for step in range(5):
        action = actor.act(seen)
        fans = {fan.agent: fan.actions[fan.chosen] for fan in actor.fans}
        for agent, part in enumerate(meet.agents.values()):
            np.testing.assert_allclose(fans[agent][actor.age - 1], action[part], atol=1e-5)
        assert len(fans[0]) - len(fans[1]) == (2 if step in (2, 3) else 0)
        seen, *_ = env.step(action)


def test_what_is_moved_is_seen_at_once_and_marked(policy: Path, tmp_path: Path) -> None:
    with opened(env="pusht", policy=policy, out=tmp_path / "d.zarr")() as stage:
        x, y = (stage.env.state[2:4] / 512).tolist()
        stage.handle(Message(do="grab", x=x, y=y))
        stage.handle(Message(do="drag", x=0.25, y=0.75, turn=1.0))
        stage.handle(Message(do="drop"))
        np.testing.assert_allclose(stage.env.state[2:4], [128, 384], atol=0.01)
        stage.handle(Message(do="start"))
        stage.handle(Message(do="take"))
        stage.tick()
        stage.handle(Message(do="end"))
        stage.handle(Message(do="keep"))
    recorded = open_path(str(tmp_path / "d.zarr")).read()
    assert [*recorded.table["disturbed"]] == [1]
    corners = recorded.arrays["observation.environment_state"][0].reshape(8, 2)
    np.testing.assert_allclose(corners[:2].mean(0), [128, 384], atol=0.01)


@pytest.mark.slow
def test_a_policy_acts_as_in_an_evaluation_and_samples_otherwise_when_asked(policy: Path) -> None:
    def states(samples: int) -> np.ndarray:
        actor = Actor({"": str(policy)}, "pusht", SamplingConfig(), samples)
        stage = Stage(actor.spec, actor.keys, actor, None, 5)
        stage.handle(Message(do="start"))
        for _ in range(20):
            stage.tick()
        state = stage.env.state
        stage.handle(Message(do="sampling", sampler="ddim", steps=3))
        stage.handle(Message(do="samples", samples=2))
        while actor.age != 8:
            stage.tick()
        stage.tick()
        assert np.shape(actor.fans[0].stages) == (4, 3, 15, 2)  # noise, and what each of the steps makes of it
        assert (stage.state()["sampler"], stage.state()["steps"]) == ("DDIM", 3)
        with pytest.raises(UsageError, match="DDIM takes 1 to 20 steps"):
            stage.handle(Message(do="sampling", steps=500))
        assert stage.state()["steps"] == 3
        return state

    np.testing.assert_allclose(states(0), states(6), atol=0.05)  # but for rounding in another batch
    spec, seen = get_env_spec("pusht"), []

    class Spy(type(spec.make(()))):
        def step(self, action):
            result = super().step(action)
            seen.append(self.state)
            return result

    policies, _ = open_policies({"": str(policy)}, SamplingConfig())
    rollout(policies, replace(spec, make=lambda keys: Spy(keys, max_steps=20)), [5], 1)
    np.testing.assert_allclose(seen[19], states(0), atol=0.05)


def test_the_episode_of_a_policy_ends_with_its_time_that_of_a_person_does_not(
    policy: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(env="pusht", policy=policy)() as stage:
        stage.handle(Message(do="start"))
        for _ in range(30):
            assert stage.phase == "running"
            stage.tick()
        assert stage.phase == "ended"
        stage.handle(Message(do="reset", seed=9))
        stage.handle(Message(do="start"))
        stage.handle(Message(do="take"))
        for _ in range(40):
            stage.tick()
        stage.handle(Message(do="give"))
        stage.tick()
        assert (stage.phase, stage.seed) == ("running", 9)


def test_agents_have_a_hand_each(tmp_path: Path) -> None:
    out = tmp_path / "team.zarr"
    with opened(env="lift_barrier", out=out)() as stage:
        before = stage.state()["hand"]
        step(stage, 0.5, 0.6)
        stage.handle(Message(do="agent", agent=1))
        assert stage.state()["hand"] != before
        step(stage, 0.5, 0.6)
        with pytest.raises(UsageError, match="has 2 agents"):
            stage.handle(Message(do="agent", agent=2))
        stage.handle(Message(do="end"))
        stage.handle(Message(do="keep"))
    team = open_path(str(out), agent="each").read()
    actions = [team.arrays[f"agents.{agent}.action"] for agent in (0, 1)]
    assert np.abs(actions[0][1] - actions[0][0]).max() < 1e-6  # agent 0 stays while the other's hand moves
    assert np.abs(actions[1][1] - actions[1][0]).max() > 1e-3


def test_what_cannot_be_played_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = replace(SPEC, name="watched", touch=None)
    use_env(monkeypatch, watched)
    with pytest.raises(UsageError, match="watched with --policy, not demonstrated on"):
        check_playable(watched, has_policy=False)
    check_playable(watched, has_policy=True)
    with pytest.raises(UsageError, match="draws no picture"):
        check_playable(replace(watched, renders=False), has_policy=True)


def test_an_environment_without_a_pointer_is_watched(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_env(monkeypatch, replace(SPEC, name="watched", touch=None))
    with opened(env="watched", policy=policy)() as stage:
        stage.handle(Message(do="start"))
        stage.tick()
        assert (stage.picture() or b"")[:2] == b"\xff\xd8"
        assert not stage.about()["can_act"]
        for message in (Message(do="take"), Message(do="grab", x=0.5, y=0.5)):
            with pytest.raises(UsageError, match="watched"):
                stage.handle(message)
