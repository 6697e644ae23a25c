"""``robodiff eval`` without an environment: errors against plain loops, what is left out, what is refused."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from rich.console import Console
from tests.conftest import PUSHT_FEATURES, SMALL_MODEL, Tags, write_recording
from tests.policies.test_diffusion import FLOW
from torch import Tensor

from robodiff.data.episodes import ACTION, PAST_ACTION, Episodes, Feature
from robodiff.data.formats import lerobot
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.provenance import TrainedOn, divide, write_trained_on
from robodiff.data.windows import Windows
from robodiff.documents import plain
from robodiff.envs.pusht.spec import SPEC
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.actor import seen_by
from robodiff.evaluation.chunks import check_features, sample_chunks, window_shape
from robodiff.evaluation.config import OfflineConfig
from robodiff.evaluation.offline import TRAINED_ON, evaluate_offline, mean_action, measure, relative
from robodiff.evaluation.results import DimensionErrors
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import Chunk
from robodiff.report.predictions import draw_predictions

Make = Callable[..., DiffusionPolicy]
Run = Callable[..., tuple[int, str, str]]
ENDS = np.array([30, 37, 60])  # the second is shorter than a window
QUIET = Console(quiet=True)


def recorded_at(frame: Tensor | np.ndarray) -> tuple:
    """The action (x, y, rx, ry, rz) that was recorded at a frame: two numbers, and a turn about z."""
    return 3 * frame, 100 - frame**2 / 8, 0 * frame, 0 * frame, 0.1 * frame


def counting(fps: float = 10.0) -> Episodes:
    """Episodes whose state is the number of the frame."""
    frame = np.arange(ENDS[-1])
    arrays = {"observation.state": frame[:, None].repeat(2, 1), ACTION: np.stack(recorded_at(frame), axis=1)}
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    return Episodes("counting", arrays, ENDS, fps, {key: Feature.of(array) for key, array in arrays.items()})


def oracle(**changes: object) -> DiffusionPolicy:
    """A policy that knows what was recorded, and errs at step k from now by k and 2k, and by k / 100 about x."""
    config = DiffusionConfig(**{**SMALL_MODEL, "action_rotations": ["2:5"], **changes})  # type: ignore[arg-type]
    policy = DiffusionPolicy(config, counting().features, fps=10.0).eval()

    def predict_chunk(observation: dict[str, np.ndarray], *, noise: np.ndarray, on_row: None = None) -> Chunk:
        now = config.n_obs_steps - 1
        step = np.arange(config.denoised_steps) + config.first_step - now
        frame = observation["observation.state"][:, now, :1].astype(np.float64) + step * config.frame_stride  # (B, n)
        x, y, _, _, angle = recorded_at(frame)
        turns = [0 * x, 0 * x, angle + step / 100]
        return Chunk(np.stack([x + step, y - 2 * step, *turns], axis=-1), config.first_step)

    policy.predict_chunk = predict_chunk  # type: ignore[method-assign]
    return policy


@pytest.mark.parametrize(
    "changes",
    [{}, {"pred_action_steps_only": True}, {"n_obs_steps": 1}, {"n_obs_steps": 3, "n_action_steps": 5},
     {"frame_stride": 2, "n_obs_steps": 2}],
)  # fmt: skip
def test_errors_are_those_of_a_plain_loop(changes: dict) -> None:
    policy, episodes = oracle(**changes), counting()
    config = policy.config
    windows = Windows(ENDS, window_shape(policy, episodes))
    mean = mean_action(policy, episodes, np.arange(30))
    found = plain(measure(policy, episodes, windows, np.arange(len(windows)), mean, 0, QUIET))

    names = ("mae", "hold", "mean")
    of_step: dict[int, list] = {}
    for now in windows.now:
        start, end = ((0, 30), (30, 37), (37, 60))[np.searchsorted(ENDS, now, side="right")]
        for step in range(config.first_step + config.denoised_steps - config.n_obs_steps + 1):
            frame, before = now + step * config.frame_stride, max(now - config.frame_stride, start)
            if frame >= end:
                continue  # padded
            x, y, _, _, angle = recorded_at(np.float64(frame))
            held, average = recorded_at(np.float64(before)), mean
            of_step.setdefault(step, []).append(
                [
                    (step, 2 * step, step / 100),
                    (abs(held[0] - x), abs(held[1] - y), abs(held[4] - angle)),
                    (abs(average[0] - x), abs(average[1] - y), _turn(average[4] - angle)),
                ]
            )
    assert [step["step"] for step in found["steps"]] == sorted(of_step)
    for step, errors in of_step.items():
        there = found["steps"][step]
        assert (there["windows"], there["executed"]) == (len(errors), step < config.n_action_steps)
        np.testing.assert_allclose([there[name] for name in names], np.mean(errors, axis=0), rtol=1e-4, atol=1e-4)
    executed = np.array([e for step, errors in of_step.items() if step < config.n_action_steps for e in errors])
    for place, dimension in enumerate(found["dimensions"]):
        np.testing.assert_allclose([dimension[name] for name in names], executed.mean(0)[:, place], rtol=1e-4)
        assert dimension["rmse"] == pytest.approx(math.sqrt(np.square(executed[:, 0, place]).mean()), rel=1e-4)
        assert dimension["spread"] == pytest.approx(0, abs=1e-6)  # it always does the same
    assert [d["name"] for d in found["dimensions"]] == ["action 0", "action 1", "rotation 2:5"]
    assert found["dimensions"][2]["unit"] == "rad"
    ours, holding, average = executed.mean(0)
    assert found["relative_to_mean"] == pytest.approx((ours / average).mean(), rel=1e-4)
    assert found["relative_to_hold"] == pytest.approx((ours / average).sum() / (holding / average).sum(), rel=1e-4)
    assert found["worst_dimension"] == (ours / holding).argmax()


@pytest.mark.parametrize(
    ("holding", "moves", "worst"),
    [
        ([0.2, 0.01], [True, True], 1),  # 0.5 and 5 times holding's error, 0.1 and 0.05 of the mean action's
        ([0.2, 0.0], [True, True], 0),  # 0.5 times holding's error, 0.05 of the mean action's
        ([0.2, 0.01], [True, False], 0),
        ([0.2, 0.01], [False, False], None),
    ],
)
def test_the_worst_dimension_has_the_largest_share_that_is_told(
    holding: list[float], moves: list[bool], worst: int | None
) -> None:
    dimensions = [
        DimensionErrors(name=name, unit=None, moves=move, mae=mae, rmse=mae, hold=hold, mean=1.0, spread=0.0)
        for name, move, mae, hold in zip("ab", moves, (0.1, 0.05), holding, strict=True)
    ]
    assert relative(dimensions, []).worst_dimension == worst


def _turn(angle: float) -> float:
    return abs((angle + math.pi) % (2 * math.pi) - math.pi)


def test_the_mean_of_rotations_is_a_rotation() -> None:
    policy, episodes = oracle(), counting()
    episodes.arrays[ACTION][:2, 2:] = [[0, 0, math.pi - 0.2], [0, 0, 0.1 - math.pi]]  # 0.3 apart, by way of pi
    found = mean_action(policy, episodes, np.array([0, 1]))
    np.testing.assert_allclose(found[:2], episodes.arrays[ACTION][:2, :2].mean(0))
    assert abs(found[4]) == pytest.approx(math.pi - 0.05, abs=1e-4)


def test_what_a_dimension_that_rests_says() -> None:
    policy, episodes = oracle(), counting()
    windows = Windows(ENDS, window_shape(policy, episodes))
    for dimensions, expected in ((slice(1, 5), [True, False, False]), (slice(0, 5), [False] * 3)):
        episodes.arrays[ACTION][:, dimensions] = 1.0
        found = plain(measure(policy, episodes, windows, np.arange(5), episodes.arrays[ACTION].mean(0), 0, QUIET))
        assert [d["moves"] for d in found["dimensions"]] == expected
        one = found["dimensions"][0]
        assert found["relative_to_mean"] == (pytest.approx(one["mae"] / one["mean"]) if expected[0] else None)
        assert found["worst_dimension"] == (0 if expected[0] else None)
        json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("changes", [{}, {"conditioning": "inpaint"}, {"pred_action_steps_only": True}])
def test_chunks_depend_neither_on_the_batch_nor_on_what_else_is_asked(small_policy: Make, changes: dict) -> None:
    policy, random = small_policy(**FLOW, **changes), np.random.default_rng(0)
    arrays = {k: random.uniform(0, 512, (60, *f.shape)).astype(np.float32) for k, f in PUSHT_FEATURES.items()}
    episodes = Episodes("noise", arrays, ENDS, 10.0, PUSHT_FEATURES)
    windows = Windows(ENDS, window_shape(policy, episodes))
    asked = np.array([(window, draw) for draw in (0, 1) for window in range(20)])
    together = sample_chunks(policy, episodes, windows, asked, 7)
    assert together.shape == (40, 8 if changes.get("pred_action_steps_only") else 15, 2)
    np.testing.assert_allclose(sample_chunks(policy, episodes, windows, asked, 7, 3), together, atol=1e-2)
    fewer = sample_chunks(policy, episodes, windows, asked[5:9], 7)
    np.testing.assert_allclose(fewer, together[5:9], atol=1e-2)
    assert np.abs(together[:20] - together[20:]).mean() > 1  # another draw
    assert np.abs(sample_chunks(policy, episodes, windows, asked, 8) - together).mean() > 1  # another seed
    for array in arrays.values():
        array[:] = 256
    alike = sample_chunks(policy, episodes, windows, asked[:20], 7)
    assert np.abs(alike[1:] - alike[:-1]).mean((1, 2)).min() > 1  # each window has noise of its own


def test_a_recording_of_another_rate() -> None:
    policy = oracle(frame_stride=2)  # it acts at 5 Hz
    assert window_shape(policy, counting(fps=30.0)).frame_stride == 6
    for fps in (4.0, 12.0):
        with pytest.raises(UsageError, match=f"acts at 5 Hz, and counting has {fps:g} frames a second"):
            window_shape(policy, counting(fps))


def test_actions_that_are_not_finite(small_policy: Make) -> None:
    policy = oracle()
    inner = policy.predict_chunk
    broken = lambda observation, **rest: Chunk(inner(observation, **rest).actions * np.nan, 0)  # noqa: E731
    policy.predict_chunk = broken  # type: ignore[method-assign]
    windows = Windows(ENDS, window_shape(policy, counting()))
    with pytest.raises(RobodiffError, match=r"not finite at frame 0 of episode 0 of counting; look at"):
        measure(policy, counting(), windows, np.arange(3), np.zeros(5), 0, QUIET)
    some = dataclasses.replace(counting(), table={"episode_index": [3, 5, 8]})
    with pytest.raises(RobodiffError, match="not finite at frame 0 of episode 3 of"):  # as its source counts it
        measure(policy, some, windows, np.arange(3), np.zeros(5), 0, QUIET)


@pytest.fixture
def run(small_policy: Make, recording: Path, tmp_path: Path) -> Path:
    """What of a run is needed: its configuration and its policies, beside the demonstrations."""
    data = {"class_path": "ZarrConfig", "init_args": {"path": str(recording), "val_split": 0.4}}
    config = {"model": {"class_path": "DiffusionConfig", "init_args": {}}, "data": data, "rollout": {"env": None}}
    for name, changes in (("policy", {}), ("policy-last", {"n_action_steps": 4})):
        save_policy(small_policy(**FLOW, **changes), tmp_path / "run" / name)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run"


def record(run: Path) -> TrainedOn:
    """Write what the run was trained on, as ``fit`` does."""
    source = ZarrConfig(path=str(run.parent / "demos.zarr"), val_split=0.4)
    write_trained_on(run, found := divide(source, source.read(), None).found)
    return found


def test_held_out_episodes_of_a_run(run: Path, robodiff: Run) -> None:
    record(run)
    code, out, err = robodiff("eval", run)
    assert (code, err) == (0, "")
    found = json.loads((run / "eval" / "offline-seed100000-n2000" / "offline.json").read_text())
    assert set(found) == {"relative_to_hold", "relative_to_mean", "worst_dimension", "dimensions", "steps", "evaluated",
                          "latency_ms"}  # fmt: skip
    evaluated = found["evaluated"]
    assert len(evaluated["episodes"]) == 2
    assert evaluated["windows"] == evaluated["of_windows"] == sum(20 + e - 7 for e in evaluated["episodes"])
    assert f"error of the executed actions: {100 * found['relative_to_hold']:.0f} % of that of holding" in out
    assert "2 episodes of" in out
    assert "held out from its training" in out
    page = (run / "report.html").read_text()
    assert Tags(page).open == []
    assert "Error of its actions on recorded episodes" in page
    assert f"{100 * found['relative_to_hold']:.0f}&#8239;% of the error" in page
    assert 'aria-label="Error by step, ' in page

    assert robodiff("eval", run, "--out", run.parent / "again")[0] == 0
    again = json.loads((run.parent / "again" / "offline.json").read_text())
    assert {**again, "latency_ms": 0} == {**found, "latency_ms": 0}
    assert (run.parent / "again" / "report.html").is_file()


def test_other_episodes(run: Path, robodiff: Run, tmp_path: Path) -> None:
    other = write_recording(tmp_path / "other.zarr", episodes=2)
    code, out, err = robodiff("eval", run / "policy-last", "--data", other, "--windows", 4, "--steps", 2)
    assert code == 0, err
    assert "measured at 4 of" in out
    assert f"2 episodes of {other}, of another recording than its run's" in out
    assert "Flow, 2 steps" in out
    assert (run / "eval" / "policy-last-offline-other.zarr-seed100000-n4-2" / "offline.json").is_file()
    assert "Of an earlier policy, or of another one of this run." in (run / "report.html").read_text()

    (tmp_path / "silent").mkdir()
    silent = write_recording(tmp_path / "silent" / "other.zarr", episodes=2)  # of the same name, and without attributes
    zarr.open_group(silent).attrs.clear()
    told = ("eval", run / "policy-last", "--data", silent, "--layout", "pusht", "--windows", 4, "--steps", 2)
    code, _, err = robodiff(*told)
    assert code == 2
    assert f"holds what was measured on {other}; give --out FOLDER for {silent}" in err
    assert robodiff(*told, "--out", tmp_path / "out")[0] == 0

    shutil.copytree(run / "policy", tmp_path / "alone" / "policy")
    code, out, err = robodiff("eval", tmp_path / "alone" / "policy", "--data", other, "--windows", 4)
    assert code == 0, err
    assert f"report: {tmp_path / 'alone' / 'eval'}" in out


def test_where_no_episode_was_held_out(run: Path) -> None:
    source = ZarrConfig(path=str(run.parent / "demos.zarr"), val_split=0, episodes=[1, 4])
    evaluated = evaluate_offline(run, source, run.parent / "out", OfflineConfig(windows=2), own=True).evaluated
    assert (evaluated.episodes, evaluated.which) == ([1, 4], TRAINED_ON)


def test_episodes_are_named_as_their_source_counts_them(run: Path, recording: Path, tmp_path: Path) -> None:
    assert lerobot.FORMAT.write is not None
    lerobot.FORMAT.write(ZarrConfig(path=str(recording)).read(), tmp_path / "set")  # only the chosen ones are read
    source = LeRobotConfig(root=str(tmp_path / "set"), episodes=[2, 5])
    config = OfflineConfig(windows=2)
    assert evaluate_offline(run / "policy", source, tmp_path / "out", config, own=False).evaluated.episodes == [2, 5]
    chunks = draw_predictions(run / "policy", source.read(), [0, 1], None, samples=1).chunks
    assert "of episode 2:" in chunks[0]
    assert "of episode 5:" in chunks[-1]


def test_past_actions_need_not_be_recorded(recording: Path, tmp_path: Path) -> None:
    config = DiffusionConfig(**SMALL_MODEL, observation_keys=["observation.state", PAST_ACTION])  # type: ignore[arg-type]
    policy = DiffusionPolicy(config, {**PUSHT_FEATURES, PAST_ACTION: PUSHT_FEATURES[ACTION]}, 10.0)
    save_policy(policy, tmp_path / "policy")
    how = OfflineConfig(windows=2, sampler="ddim", steps=2)
    result = evaluate_offline(tmp_path / "policy", ZarrConfig(path=str(recording)), tmp_path / "out", how, own=False)
    assert result.evaluated.windows == 2


def test_refused(run: Path, robodiff: Run, small_policy: Make, tmp_path: Path) -> None:
    lacking = dict(PUSHT_FEATURES)
    lacking["observation.joints"] = Feature("vector", (3,), "float32")
    config = DiffusionConfig(**SMALL_MODEL)  # type: ignore[arg-type]
    save_policy(DiffusionPolicy(config, lacking, 10.0), tmp_path / "joints")
    save_policy(small_policy(observation_keys=["observation.state"]), tmp_path / "state")
    data = tmp_path / "demos.zarr"
    for arguments, code, message in (
        ((run, "--episodes", 5), 2, "--episodes is for episodes in an environment; give --env, or leave it out"),
        ((run, "--against", run), 2, "is the evaluation that would be written; compare another one"),
        ((run, "--env", "pusht", "--windows", 5), 2, "--windows is for recorded episodes"),
        ((run, "--layout", "pusht"), 2, "--layout says more of the recording that --data names; give --data"),
        ((run, "--data.agent", "0"), 2, "--data.agent says more of the recording that --data names"),
        ((run, "--data", data, "--data.agents", "0"), 2, "Did you mean"),
        ((run, "--data", data, "--accept_changed_data"), 2, "--accept_changed_data is for the run's own recording"),
        ((run, "--env", "pusht", "--accept_changed_data"), 2, "--accept_changed_data is for the run's own recording"),
        ((run, "--windows", 0), 2, "--windows: expected int >= 1 or null; found 0"),
        ((run, "--data", tmp_path / "absent.zarr"), 1, "absent.zarr: no such file or folder"),
        ((tmp_path / "state",), 2, "give --data PATH to compare with recorded actions, or --env ENV"),
        ((tmp_path / "joints", "--data", data), 1, "has no 'observation.joints'"),
    ):
        got, _, err = robodiff("eval", *arguments)
        assert (got, "Traceback" in err) == (code, False), err
        assert message in err
    shutil.rmtree(data)
    code, _, err = robodiff("eval", run)
    assert code == 1
    assert "demos.zarr: no such file or folder\nif it was moved, give its new path in the run's config.yaml" in err
    assert not list(run.glob("eval/*"))


@pytest.mark.kind("units that differ where both sides say them")
@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ("rad", "deg", False),
        ("px", "m", False),
        ("deg", "degrees", True),
        ("rad", "Radians", True),
        ("px", None, True),
        (None, "px", True),
        ("mm", "mm ", True),
        ("m", "mm", False),
    ],
)
@pytest.mark.parametrize("key", ["observation.state", ACTION])
def test_units(small_policy: Make, key: str, ours: str | None, theirs: str | None, fits: bool) -> None:
    """Of a recording and of an environment, observations and actions."""
    policy = small_policy()
    policy.features = {**policy.features, key: dataclasses.replace(policy.features[key], unit=ours)}
    features = {**PUSHT_FEATURES, key: dataclasses.replace(PUSHT_FEATURES[key], unit=theirs)}
    checks = (
        lambda: check_features(policy, features, "demos.zarr"),
        lambda: seen_by(policy, dataclasses.replace(SPEC, features=features)),
    )
    for check in checks:
        if fits:
            check()
            continue
        with pytest.raises(UsageError, match=rf"{key} is in {ours} for the policy and in {theirs} in ") as told:
            check()
        assert str(told.value).count("\n") == 1


@pytest.mark.kind("policies compared on recordings as if measured alike")
def test_episodes_of_a_recording_have_a_folder_of_their_own(
    run: Path, robodiff: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a run's own recording is not called another one where --data names it."""
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)  # whose figures take longer
    data = run.parent / "demos.zarr"
    for more, folder in (([], ""), (["--data.episodes", "[0, 3]"], "-episodes0-3")):
        code, out, err = robodiff("eval", run, "--data", data, "--windows", 4, *more)
        assert code == 0, err
        evaluated = json.loads((run / "eval" / f"offline-demos.zarr{folder}-seed100000-n4/offline.json").read_text())
        assert evaluated["evaluated"]["episodes"] == ([0, 3] if more else [0, 1, 2, 3, 4, 5])
        assert "of its run's own recording, on some of which it may have been trained" in out


def measured(run: Path, robodiff: Run, *options: object) -> tuple[int, list[int], str]:
    """The exit code, the episodes that were measured, and all that was printed."""
    out = run.parent / "measured"
    shutil.rmtree(out, ignore_errors=True)
    code, printed, err = robodiff("eval", run, "--windows", 2, "--steps", 1, "--out", out, *options)
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2, err
    found = json.loads((out / "offline.json").read_text())["evaluated"]["episodes"] if code == 0 else []
    return code, found, printed + err


@pytest.mark.kind("trained episodes called held out")
@pytest.mark.parametrize("episodes", [7, 12, 5])
def test_a_recording_that_grew_holds_out_what_it_held_out(run: Path, robodiff: Run, episodes: int) -> None:
    trained = {*map(int, record(run).training)}
    shutil.rmtree(run.parent / "demos.zarr")
    write_recording(run.parent / "demos.zarr", episodes=episodes)
    code, _, text = measured(run, robodiff)
    assert (code, f"{episodes} episodes in place of 6" in text, "--accept_changed_data" in text) == (1, True, True), (
        text
    )
    code, found, text = measured(run, robodiff, "--accept_changed_data")
    assert (code, found) == (0, sorted({*range(episodes)} - trained)), text
    assert "which it was never trained on; its recording has changed since" in text


@pytest.mark.kind("trained episodes called held out")
def test_another_configuration_of_the_split_changes_nothing(run: Path, robodiff: Run) -> None:
    held_out = sorted(map(int, record(run).held_out))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("val_split: 0.4", "val_split: 0.4\n    val_split_seed: 1"))
    assert measured(run, robodiff)[:2] == (0, held_out)


@pytest.mark.kind("trained episodes called held out")
def test_training_data_given_as_another_recording_is_known(run: Path, robodiff: Run, tmp_path: Path) -> None:
    trained = len(record(run).training)
    copy, half = tmp_path / "copy", write_recording(tmp_path / "half.zarr", episodes=2)
    assert robodiff("data", "convert", run.parent / "demos.zarr", copy)[0] == 0
    code, found, text = measured(run, robodiff, "--data", copy)
    assert (code, len(found), f"{trained} of which it was trained on" in text) == (0, 6, True), text
    seen = len({"0", "1"} & {*record(run).training})
    assert f"{seen} of which it was trained on" in measured(run, robodiff, "--data", half)[2]
    random = np.random.default_rng(5)
    np.savez(tmp_path / "new.npz", fps=10.0, episode_ends=[30], **{
        "observation.state": random.normal(size=(30, 2)), "action": random.normal(size=(30, 2)),
        "observation.environment_state": random.normal(size=(30, 16))})  # fmt: skip
    assert "of another recording than its run's" in measured(run, robodiff, "--data", tmp_path / "new.npz")[2]


def test_a_run_of_an_earlier_version_is_measured_with_a_note(run: Path, robodiff: Run) -> None:
    code, found, text = measured(run, robodiff)
    assert (code, len(found), "does not say which episodes it was trained on" in text) == (0, 2, True), text
