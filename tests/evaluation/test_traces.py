"""What an evaluation keeps of its episodes to look at: whole, small, and without a trace in what is measured."""

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import use_env
from tests.policies.test_diffusion import FLOW

from robodiff.envs.pool import Rows
from robodiff.envs.pusht.env import PushTEnv
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.pusht.touch import TOUCH
from robodiff.envs.spec import get_env_spec
from robodiff.envs.touch import Body
from robodiff.errors import RobodiffError
from robodiff.evaluation import evaluate as evaluate_module
from robodiff.evaluation import trace_recorder
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.evaluate import evaluate
from robodiff.evaluation.fans import LEAST_MOMENTS, MOST_MOMENTS, SAMPLES, moments_of_each
from robodiff.evaluation.members import find_members
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.evaluation.trace_recorder import MOST_PICTURES, TraceRecorder
from robodiff.evaluation.traces import TRACE_FOLDER, has_traces, read_traces
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]
CONFIG = EvalConfig(env="pusht", episodes=3, seed=7, num_envs=3, videos=1)


@pytest.fixture
def saved(small_policy: Make, tmp_path: Path) -> str:
    save_policy(small_policy(**FLOW), tmp_path / "policy")
    return str(tmp_path / "policy")


def measured(policy: str, out: Path, **changes: object) -> dict:
    """Evaluate; return what was measured, but for how long a chunk takes."""
    evaluate(find_members([policy]), out, dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    return {**json.loads((out / "metrics.json").read_text()), "latency_ms": 0}


def use_pusht(monkeypatch: pytest.MonkeyPatch, kind: type[PushTEnv], max_steps: int, **changes: object) -> None:
    """Let Push-T be short; without a sketch it is drawn by ``render``."""
    make = lambda keys: kind(keys, max_steps=max_steps)  # noqa: E731
    use_env(monkeypatch, dataclasses.replace(SPEC, make=make, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("sketched", [True, False])
def test_every_episode_is_kept_and_nothing_that_is_measured_changes(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sketched: bool
) -> None:
    use_pusht(monkeypatch, PushTEnv, 30, touch=SPEC.touch if sketched else None)
    with_traces = measured(saved, tmp_path / "with")
    assert measured(saved, tmp_path / "without", clips=0, videos=0) == with_traces
    assert not [*(tmp_path / "without" / TRACE_FOLDER).glob("seed-*")]

    info, traces = read_traces(tmp_path / "with", [7, 8, 9, 10])
    assert [*traces] == [7, 8, 9]
    assert (info.fps, info.extent) == (10, (0, 512, 512, 0))
    assert info.dimensions["action"] == [("x", "px"), ("y", "px")]
    for episode in with_traces["episodes"]:
        trace, environment = traces[episode["seed"]], PushTEnv(max_steps=30)
        state = environment.reset(seed=episode["seed"])[0]["observation.state"]
        assert trace.poses.shape == (episode["length"] + 1, 3 if sketched else 0, 3)
        for step, action in enumerate(trace.action):
            assert np.array_equal(trace.observations["observation.state"][step], state)
            if sketched:
                assert trace.poses[step, 1:, :2] == pytest.approx(environment.state[[[2, 3], [0, 1]]] / 512)
            observation, reward, *_ = environment.step(action)
            state = observation["observation.state"]
            assert trace.reward[step] == pytest.approx(reward)
        assert len(trace.action) == episode["length"]
        assert trace.chunk_at.tolist() == [0, 8, 16, 24]
        for at, chunk in zip(trace.chunk_at, trace.chunks, strict=True):
            assert np.array_equal(chunk[:8][: len(trace.action[at:])], trace.action[at : at + 8])  # executed
            assert len(chunk) == 15
        if sketched:
            assert [shape.radius > 0 for shape in info.bodies] == [False, False, True]
            assert (trace.sheet, len(trace.drawn_at)) == (b"", 0)
            continue
        assert not info.bodies
        assert trace.drawn_at[[0, -1]].tolist() == [0, episode["length"]]
        spacing = np.diff(trace.drawn_at)[:-1]
        assert len(set(spacing.tolist())) <= 1
        height, width = trace.picture
        assert (height, width) == (128, 128)
        with Image.open(io.BytesIO(trace.sheet)) as sheet:
            assert sheet.format == "WEBP"
            assert sheet.size == (6 * width, -(-len(trace.drawn_at) // 6) * height)
    assert [len(trace.fan_at) for trace in traces.values()] == [LEAST_MOMENTS, 0, 0]  # of the first failure alone
    fan = traces[7].fans
    assert fan.shape[1:3] == (SAMPLES, 15)
    assert fan.std(axis=1).min() > 0  # samples differ
    executed = traces[7].action[:8]
    assert not any(np.array_equal(chunk[:8], executed) for chunk in fan[0])  # and none is the one that was executed

    measured(saved, tmp_path / "again")
    again = read_traces(tmp_path / "again", [7])[1][7]
    assert np.array_equal(again.fans, fan)
    assert np.array_equal(again.action, traces[7].action)


@pytest.mark.parametrize("fails", ["render", "renders", "bodies", "outline"])
def test_an_environment_that_cannot_draw(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    class Blind(PushTEnv):
        def render(self) -> np.ndarray:
            raise OSError("there is no screen")

    def sketch(env: PushTEnv) -> list[Body]:
        """Lose a body after some steps, or know no outline."""
        assert TOUCH.sketch is not None
        bodies = TOUCH.sketch(env)
        if fails == "bodies":
            return bodies[: 2 if env.snapshot()[7] > 5 else 3]
        return [dataclasses.replace(body, radius=float("nan")) for body in bodies]

    kind, touch = Blind if fails == "render" else PushTEnv, dataclasses.replace(TOUCH, sketch=sketch)
    is_sketched = fails in ("bodies", "outline")
    use_pusht(monkeypatch, kind, 9, renders=fails == "render", touch=touch if is_sketched else None)
    measured(saved, tmp_path / "out")
    told = capsys.readouterr()
    assert (told.out + told.err).count("there are no pictures of the episodes") == (fails != "renders")
    traces = read_traces(tmp_path / "out", [7])[1]
    assert (traces[7].sheet, len(traces[7].drawn_at), traces[7].poses.shape[1]) == (b"", 0, 0)
    assert len(traces[7].fan_at) > 0
    assert len(traces[7].reward) == 9


@pytest.mark.usefixtures("quick")
def test_traces_that_are_broken_are_told(saved: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measured(saved, out, episodes=1, num_envs=1)
    file = out / TRACE_FOLDER / "seed-7.npz"
    whole = dict(np.load(file))
    assert has_traces(out)
    for broken in (
        b"no archive",
        {**whole, "action": whole["action"][:-1]},
        {**whole, "reward": whole["reward"].astype(object)},  # would be unpickled
        {**whole, "seen/observation.state": whole["seen/observation.state"][:, :1]},
        {key: value for key, value in whole.items() if key != "reward"},
        {**whole, "action": np.full_like(whole["action"], np.nan)},
        {**whole, "fans": np.full_like(whole["fans"], np.inf)},
        {**whole, "fans": whole["fans"][:, :0]},
        {**whole, "drawn_at": np.zeros(2, np.int64)},
        {**whole, "poses": whole["poses"][:, :2]},
        {**whole, "poses": whole["poses"][1:]},
        {**whole, "fan_at": whole["fan_at"] + 10**6},
        {**whole, "chunks": whole["chunks"][:, :0]},
        {**whole, "chunks": np.full_like(whole["chunks"], np.nan)},
        {**whole, "chunk_at": whole["chunk_at"][::-1]},
    ):
        if isinstance(broken, bytes):
            file.write_bytes(broken)
        else:
            np.savez(file, **broken)
        with pytest.raises(RobodiffError, match=r"seed-7\.npz: is not the trace of an episode") as told:
            read_traces(out, [7])
        assert "\n" not in str(told.value)


@pytest.mark.usefixtures("quick")
def test_traces_that_do_not_fit_each_other_or_draw_nothing(saved: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measured(saved, out, episodes=2, num_envs=2)
    file = out / TRACE_FOLDER / "seed-7.npz"
    whole = dict(np.load(file))
    np.savez(file, **{**whole, "first/observation.image": np.zeros((3, 9999, 2), np.uint8)})
    with pytest.raises(RobodiffError, match=r"seed-7\.npz: is not the trace of an episode"):
        read_traces(out, [7, 8])
    np.savez(file, **{**whole, "picture": np.full(3, 9)})
    with pytest.raises(RobodiffError, match=r"seed-7\.npz: is not the trace of an episode"):
        read_traces(out, [7, 8])
    np.savez(file, **{key: value for key, value in whole.items() if not key.startswith("seen/")})
    with pytest.raises(RobodiffError, match="not the same was observed"):
        read_traces(out, [7, 8])


@pytest.mark.usefixtures("quick")
def test_an_evaluation_that_is_killed_leaves_no_traces_of_an_earlier_one(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    measured(saved, tmp_path / "out", episodes=1, num_envs=1)
    assert has_traces(tmp_path / "out")
    monkeypatch.setattr(evaluate_module, "replay_some", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(saved, tmp_path / "out", episodes=1, num_envs=1)
    assert not has_traces(tmp_path / "out")


def test_chunks_of_a_slower_policy_reach_as_far_as_they_hold(
    small_policy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pusht(monkeypatch, PushTEnv, 20)
    save_policy(small_policy(**FLOW, frame_stride=2), tmp_path / "slow")  # every action for two steps
    measured(str(tmp_path / "slow"), tmp_path / "out", episodes=1, num_envs=1)
    trace = read_traces(tmp_path / "out", [7])[1][7]
    assert trace.chunk_at.tolist() == [0, 16]
    assert trace.fans.shape[2] == trace.chunks.shape[1] == 30
    assert np.array_equal(trace.chunks[0, :16], trace.action[:16])
    assert np.array_equal(trace.fans[:, :, ::2], trace.fans[:, :, 1::2])


def test_fans_are_a_small_part_of_all_chunks() -> None:
    for episodes, chunk in ((100, 8), (1000, 8), (20, 8), (1, 1)):
        records = [EpisodeRecord(seed, actions=[np.zeros(2)] * 300) for seed in range(episodes)]
        moments = moments_of_each(records, 6, chunk)
        assert LEAST_MOMENTS <= moments <= MOST_MOMENTS
        if episodes >= 100:
            assert 6 * moments * SAMPLES <= episodes * 38 / 10
    assert MOST_PICTURES < 50


@pytest.mark.parametrize(
    ("drawing", "step", "drawn_at"),
    [(30, 0.1, [0, 20]), (0.05, 0.1, [0, 5, 10, 15, 20]), (0, 0.1, [0, 4, 8, 12, 16, 20])],
)
def test_pictures_are_as_many_as_a_small_share_of_the_time_allows(
    monkeypatch: pytest.MonkeyPatch, drawing: float, step: float, drawn_at: list[int]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(trace_recorder, "MOST_PICTURES", 6)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Drawn:
        made = False

        def draw(self, sizes: dict[int, int]) -> dict[int, np.ndarray]:
            clock[0] += drawing if self.made else 40
            self.made = True
            return {row: np.zeros((4, 4, 3), np.uint8) for row in sizes}

    recorder = TraceRecorder(dataclasses.replace(SPEC, touch=None), [5], chunk=2)
    record = EpisodeRecord(5)
    drawn = Drawn()
    for taken in range(21):
        record.actions = [np.zeros(2)] * taken
        clock[0] += step
        recorder.watch(drawn, {3: record}, {"observation.state": np.zeros((4, 2))}, [3] if taken == 20 else ())  # type: ignore[arg-type]
    assert recorder.episodes[5].drawn_at == drawn_at
    assert len(recorder.episodes[5].observations["observation.state"]) == 21
    assert recorder.of_seconds == pytest.approx(recorder.seconds + 20 * step)
    clock[0] += 1000  # in which another policy acts
    recorder.watch(Drawn(), {3: EpisodeRecord(9)}, {})  # type: ignore[arg-type]
    assert recorder.of_seconds < 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lift_barrier", "biped"])
def test_drawing_between_steps_changes_nothing(name: str) -> None:
    pytest.importorskip("mujoco")
    spec, seen = get_env_spec(name), []
    keys = [key for key, feature in spec.features.items() if feature.kind == "vector" and key != "action"]
    for draws in (False, True):
        rows, random, steps = Rows(spec, keys, [0]), np.random.default_rng(0), []
        rows.reset({0: 5})
        for _ in range(9):
            if draws:
                assert max(rows.draw({0: 128})[0].shape) == 128
            action = 0.1 * random.normal(size=spec.features["action"].shape)
            step = rows.step({0: action.astype(np.float32)})[0]
            steps.append(np.concatenate([*(step.observation[key].ravel() for key in keys), [step.reward]]))
        rows.close()
        seen.append(np.array(steps))
    assert np.array_equal(*seen)
