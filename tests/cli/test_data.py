"""``robodiff data info`` and ``robodiff data check``."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot.writer import LeRobotWriter

Run = Callable[..., tuple[int, str, str]]


def test_info(robodiff: Run, recording: Path) -> None:
    code, out, err = robodiff("data", "info", recording)
    assert (code, err) == (0, "")
    assert "6 episodes, 135 frames at 10 Hz" in out
    assert "lengths: 20 to 25 frames, median 22" in out
    assert "seed: 0 to 5" in out
    assert "success: 6 of 6" in out
    for key in ("observation.state", "observation.environment_state", "action"):
        assert key in out
    assert "px" in out


def test_names_that_look_like_markup_are_printed_as_they_are(robodiff: Run, tmp_path: Path) -> None:
    task, key = "put the [blue] :red_circle: on the [/b] plate", "observation.[bold]state"
    described = {key: Feature("vector", (2,), "float32", unit="[/m]")}
    writer = LeRobotWriter(tmp_path / "set[a]", 10, features=described)
    writer.append({key: np.zeros((5, 2)), "action": np.zeros((5, 2))}, task=task)
    writer.close()
    code, out, err = robodiff("data", "info", tmp_path / "set[a]")
    assert (code, err) == (0, "")
    for text in (str(tmp_path / "set[a]"), f"task: {task}", key, "[/m]"):
        assert text in out
    code, out, _ = robodiff("data", "convert", tmp_path / "set[a]", tmp_path / "out[old] [/b].zarr")
    assert code == 0
    assert f"written: {tmp_path}/out[old] [/b].zarr" in out


@pytest.mark.kind("a name that acts instead of being shown")
@pytest.mark.parametrize("acting", ["\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\u202e"])
def test_names_do_not_act_on_the_terminal(robodiff: Run, tmp_path: Path, acting: str) -> None:
    key, folder = f"observation.{acting}x", tmp_path / f"set{acting}"
    features = {key: Feature("vector", (2,), "float32", unit=acting, names=(acting, "b"))}
    writer = LeRobotWriter(folder, 10, features=features)
    writer.append({key: np.zeros((5, 2)), "action": np.arange(10.0).reshape(5, 2)}, task=f"{acting}task")
    writer.close()
    for command in ("info", "check", "view", "nonsense"):
        *_, out, err = robodiff("data", command, folder, *(["--out", tmp_path / "page"] if command == "view" else []))
        assert acting[0] not in out + err
    for arguments in (("data", "info", tmp_path / acting), ("data", "info", folder, f"--{acting}", 1), (acting,)):
        assert acting[0] not in "".join(map(str, robodiff(*arguments)[1:]))
    assert acting[0] not in (tmp_path / "page").read_text()


@pytest.mark.kind("a count that does not agree with its noun")
def test_one_episode_of_one_frame(robodiff: Run, tmp_path: Path) -> None:
    writer = LeRobotWriter(tmp_path / "set", 10)
    writer.append({"observation.state": np.zeros((1, 2)), "action": np.zeros((1, 2))}, task="wait")
    writer.close()
    out = "".join(robodiff("data", command, tmp_path / "set")[1] for command in ("info", "check"))
    out += robodiff("data", "convert", tmp_path / "set", tmp_path / "out.zarr")[1]
    assert "1 episode, 1 frame at 10 Hz (0.1 seconds)" in out
    assert "episode 0 has 1 frame, fewer than the 8" in out
    assert "1 episode, 1 frame\nwritten" in out
    assert not re.search(r"(?<![.\d])1 (episodes|frames|minutes|seconds)\b", out)


def test_info_of_the_human_demonstrations(robodiff: Run, recorded_data: Path) -> None:
    code, out, _ = robodiff("data", "info", recorded_data / "pusht" / "pusht_human.zarr.zip", "--layout", "pusht")
    assert code == 0
    assert "206 episodes, 25,650 frames at 10 Hz (42.8 minutes)" in out
    assert "observation.image" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "robodiff data info|check|view|convert PATH"),
        (["inf", "x"], 2, "Did you mean 'info'?"),
        (["info"], 2, "PATH is missing"),
        (["info", "nowhere.zarr"], 1, "nowhere.zarr: no such file"),
        (["info", "nowhere.zarr", "--layout", "pushd"], 1, "nowhere.zarr: no such file"),
        (["check", "builtin:push"], 2, "Did you mean 'pusht'?"),
        (["check", "builtin:pusht", "--horizon", "8"], 2, "n_obs_steps 2 + n_action_steps 8 - 1 exceeds horizon 8"),
        (["check", "builtin:pusht", "--horizn", "8"], 2, "Did you mean '--horizon'?"),
        (["info", "builtin:pusht", "--revision", "main"], 2, "unknown option --revision (a zarr group)"),
        (["view", "builtin:pusht", "--out", "."], 2, ".: is a folder; name the page to write, such as view.html"),
    ],
)
def test_refused(robodiff: Run, arguments: list[str], code: int, message: str) -> None:
    got, _, err = robodiff("data", *arguments)
    assert got == code
    assert message in err


def damage(recording: Path, key: str, frames: list[int], value: float) -> None:
    zarr.open_group(recording, mode="a")[f"data/{key}"][frames, 0] = value  # type: ignore[index]


def test_check_of_the_builtin_recording(robodiff: Run) -> None:
    assert robodiff("data", "check", "builtin:pusht") == (
        0, "builtin:pusht\nNothing found that speaks against training on it.\n", "")  # fmt: skip
    code, out, err = robodiff("data", "check", "builtin:pusht", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"source": "builtin:pusht", "trainable": True, "findings": []}


def test_check_lists_the_worst_first_and_one_kind_once(robodiff: Run, recording: Path) -> None:
    code, out, err = robodiff("data", "check", recording)  # its made-up robot is where the action says a frame later
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "It can be trained on, but look at the warnings first."
    damage(recording, "action", [30, 31, 50, 70, 100], np.nan)
    damage(recording, "state", [60], np.inf)
    code, out, err = robodiff("data", "check", recording)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        str(recording),
        "fatal: data/state is not finite at frame 19 of episode 2",
        "    mend or drop it",
        "fatal: data/action is not finite at frame 10 of episode 1",
        "    mend or drop it",
        "    and 3 more of this kind, episodes 2, 3, 4",
        "Training would fail or be harmed: mend what is fatal, then check again (more may show then).",
    ]


def test_check_as_json(robodiff: Run, recording: Path) -> None:
    damage(recording, "action", [50], 1e7)
    code, out, err = robodiff("data", "check", recording, "--json", "--n_action_steps", "15", "--horizon", "32")
    assert (code, err) == (1, "")
    report = json.loads(out)
    assert report["trainable"] is False
    assert [f["severity"] for f in report["findings"]] == sorted(
        (f["severity"] for f in report["findings"]), key=["fatal", "warning", "note"].index)  # fmt: skip
    assert {k: report["findings"][0][k] for k in ("severity", "check", "key", "episode", "frame")} == {
        "severity": "fatal", "check": "spike", "key": "action", "episode": 2, "frame": 50}  # fmt: skip
    assert {f["episode"] for f in report["findings"] if f["check"] == "window"} == set(range(6))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "not finite at frame 9 of episode 2"), (1e7, "is 1e+07 at frame 9 of episode 2")]
)
def test_fit_refuses_what_is_fatal_and_says_how_to_see_all(
    robodiff: Run, recording: Path, tmp_path: Path, value: float, message: str
) -> None:
    damage(recording, "action", [50], value)
    run = tmp_path / "run"
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data.path", recording, "--run", run)
    assert code == 1
    assert message in err
    assert err.splitlines()[-1] == f"all that is wrong with it: robodiff data check {recording}"
    assert not run.exists()


def test_lerobot_sets_are_told_from_zarr_by_what_is_there(robodiff: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    writer = LeRobotWriter(tmp_path / "set", fps=10)
    for episode in range(4):
        walk = random.normal(size=(30, 2)).cumsum(axis=0)
        writer.append({"observation.state": walk, "action": walk}, task=f"task {episode}", success=episode > 0)
    writer.close()
    code, out, err = robodiff("data", "info", tmp_path / "set")
    assert code == 0, err
    for line in ("4 episodes, 120 frames at 10 Hz", "task: task 0, task 1, task 2, ...", "success: 3 of 4"):
        assert line in out
    assert robodiff("data", "check", tmp_path / "set")[0] == 0
    (tmp_path / "set/data/chunk-000/file-000.parquet").unlink()
    code, out, _ = robodiff("data", "check", tmp_path / "set")
    assert code == 1
    assert "file-000.parquet: is missing; copy or download it again" in out


def test_data_sets_of_the_hub(robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random, fetched = np.random.default_rng(0), tmp_path / "fetched"
    writer = LeRobotWriter(tmp_path / "hub", fps=10)
    for _ in range(3):
        walk = random.normal(size=(30, 2)).cumsum(axis=0)
        writer.append({"observation.state": walk, "action": walk}, task="walk")
    writer.close()

    def fetch(repo_id: str, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo_id, repo_type, revision) == ("someone/set", "dataset", "v3.0")
        return str(shutil.copytree(tmp_path / "hub", fetched, dirs_exist_ok=True))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    code, out, err = robodiff("data", "info", "someone/set", "--revision", "v3.0")
    assert (code, out.splitlines()[0]) == (0, "someone/set"), err
    assert "3 episodes, 90 frames at 10 Hz" in out
    assert robodiff("data", "check", "someone/set", "--revision", "v3.0")[0] == 0
    page = tmp_path / "data.html"
    assert robodiff("data", "view", "someone/set", "--revision", "v3.0", "--out", page)[0] == 0
    assert page.is_file()

    shutil.rmtree(tmp_path / "hub")
    writer = LeRobotWriter(tmp_path / "hub", fps=10)
    walk[10] = 1e9
    writer.append({"observation.state": walk, "action": walk}, task="walk")
    writer.close()
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data", "LeRobotConfig", "--data.repo_id",
                            "someone/set", "--data.revision", "v3.0", "--rollout.env", "null", "--run",
                            tmp_path / "run", "--model.observation_keys", "[observation.state]",
                            "--trainer.max_steps", 1)  # fmt: skip
    assert (code, err.splitlines()[-1]) == (
        1, "all that is wrong with it: robodiff data check someone/set --revision v3.0")  # fmt: skip


@pytest.mark.parametrize("action", ["info", "check", "view"])
def test_without_a_network(robodiff: Run, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    code, out, err = robodiff("data", action, "someone/set")
    assert (code, out) == (1, "")
    assert "data: error: someone/set: cannot be fetched from the hub: ConnectError" in err.splitlines()[-1]
    code, _, err = robodiff("data", action, "someone/demos.zarr")
    assert "hub" not in err  # what looks like a file is not looked for there
