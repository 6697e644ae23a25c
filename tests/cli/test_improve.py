"""``robodiff improve``: rounds of real commands with a tiny budget, and that it goes on where it was stopped."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
import zarr
from rich.console import Console
from tests.conftest import write_recording

from robodiff.cli import fit, improve
from robodiff.cli.configuration import read_run_config
from robodiff.data.mixture import MixtureConfig
from robodiff.evaluation.chunks import sampling_of
from robodiff.evaluation.runs import AGENT_FOLDER
from robodiff.policies.checkpoint import change_acting, load_policy, policy_hash, save_policy
from robodiff.training import improve as improvement

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--model.down_dims", "[8,16]", "--model.n_groups", 4, "--model.diffusion_step_embed_dim", 8)


@pytest.fixture
def first(robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two steps."""
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)  # figures take longer
    monkeypatch.setattr(improve, "report_evaluation", lambda out: out)
    data, run = write_recording(tmp_path / "demos.zarr"), tmp_path / "first"
    command = ("fit", "--config", "pusht_keypoints", "--data", data, "--run", run, *SMALL)
    code, _, err = robodiff(*command, "--rollout.env", "null", "--trainer.max_steps", 2)
    assert code == 0, err
    return run


@pytest.mark.kind("policies compared that act in different ways")
def test_a_round_acts_as_the_first_policy_does(first: Path, tmp_path: Path) -> None:
    trained, console = tmp_path / "round-1", Console()
    shutil.copytree(first, trained)
    improve._act_alike(first, trained, console)
    assert policy_hash(trained / "policy") == policy_hash(first / "policy")
    swept = load_policy(first)
    change_acting(swept, sampler="flowheun", steps=3, n_action_steps=4, best_of=2)
    save_policy(swept, first / "policy")
    improve._act_alike(first, trained, console)
    assert sampling_of(load_policy(trained)) == sampling_of(swept)
    assert read_run_config(trained).model.n_action_steps == 8  # by which it was trained


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_rounds_go_on_where_they_were_stopped(robodiff: Run, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = first.parent / "better"
    swept = load_policy(first)
    change_acting(swept, n_action_steps=4)  # as a sweep with --write does
    save_policy(swept, first / "policy")
    command = ("improve", first, "--env", "pusht", "--minutes", 0.02, "--episodes", 2, "--num_envs", 2,
               "--measure", 4, "--weight", 2, "--out", out)  # fmt: skip
    stopped: list[list[str]] = []

    def stop(words: list[str]) -> None:
        stopped.append(words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "run", stop)
        assert robodiff(*command, "--rounds", 1)[0] == 130
    assert stopped[0][stopped[0].index("--initial_weights") + 1] == str(first)
    code, text, err = robodiff(*command, "--rounds", 1)
    assert code == 0, err
    assert "has 2 episodes already; going on" in text
    assert "6 + 2 taken over" in text
    trained = policy_hash(out / "round-1" / "policy")
    assert trained != policy_hash(first / "policy")
    assert load_policy(out / "round-1").timing == swept.timing
    code, text, err = robodiff(*command, "--rounds", 2)
    assert code == 0, err
    assert policy_hash(out / "round-1" / "policy") == trained  # what was done is not done again
    assert text.count("robodiff fit") == 1
    rounds = json.loads((out / "improve.json").read_text())["rounds"]
    assert [each["taken_over"] for each in rounds] == [0, 2, 4]
    assert [each["demonstrations"] for each in rounds] == [6, 6, 6]
    assert rounds[0]["minutes"] < rounds[1]["minutes"] < rounds[2]["minutes"]
    assert (rounds[0]["difference"], rounds[0]["p"]) == (0, 1)
    config = read_run_config(out / "round-2")
    assert config.initial_weights == str(out / "round-1")
    assert config.model.learning_rate == read_run_config(first).model.learning_rate / 2
    assert config.data.source.split(", ") == [
        str(first.parent / "demos.zarr"), str(out / "takeovers-1.zarr"), str(out / "takeovers-2.zarr")
    ]  # fmt: skip
    code, _, err = robodiff(*command, "--episodes", 3)
    assert (code, "--episodes was 2 in the rounds there" in err) == (2, True), err


def test_refused(robodiff: Run, first: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path / "none", "--env", "pusht"), "is not the folder of a run"),
        ((first, "--env", "push"), "Did you mean 'pusht'?"),
        ((first, "--env", "biped"), "the expert of biped cannot take over"),
        ((first, "--env", "pusht", "--rounds", 0), "--rounds: expected int >= 1"),
    ):
        code, _, err = robodiff("improve", *arguments)
        assert (code, message in err, "Traceback" in err) == (2, True, False), err
    team = tmp_path / "team"
    (team / f"{AGENT_FOLDER}0").mkdir(parents=True)
    (team / f"{AGENT_FOLDER}0" / "config.yaml").write_text("{}")
    code, _, err = robodiff("improve", team, "--env", "pusht")
    assert (code, "is the folder of a team's runs" in err) == (2, True), err


def test_options_of_the_runs_recording_are_kept(first: Path) -> None:
    data = read_run_config(first).data
    assert improve._word(data) == data.source
    chosen = replace(data, episodes=[0, 2], symmetries="pusht", val_episodes=[2])
    assert json.loads(improve._word(chosen)) == {"path": data.source, "episodes": [0, 2]}
    assert improve._data(chosen, [], 1.0)[2:] == ["--data.symmetries", "pusht"]
    several = MixtureConfig(recordings=[{"path": data.source, "episodes": [1]}], fps=10.0, key_map={"state": "a"})
    assert json.loads(improve._data(several, [], 1.0)[1]) == {
        "path": data.source, "episodes": [1], "fps": 10, "key_map": {"state": "a"}
    }  # fmt: skip


def test_what_was_held_out_stays_held_out(first: Path) -> None:
    data = read_run_config(first).data
    (held_out,) = data.split(data.read([]))[1].tolist()
    assert improve._divided(data, 9) == ["--data.val_episodes", f"[{held_out}]"]
    chosen = replace(data, episodes=[1, 3, 5], val_episodes=[5])
    assert improve._divided(chosen, 9) == ["--data.val_episodes", "[2]"]  # of three
    several = MixtureConfig(recordings=[data.source], episodes=[1, 3, 5], val_episodes=[5])
    assert improve._divided(several, 2) == ["--data.episodes", "[1, 3, 5, 6, 7]", "--data.val_episodes", "[5]"]


def test_what_an_earlier_policy_did_is_no_demonstration(first: Path) -> None:
    data = read_run_config(first).data
    group = zarr.open_group(data.source, mode="a")
    ends, acted = group["meta/episode_ends"][:], np.ones((group["data/action"].shape[0], 1), np.float32)
    acted[: ends[0] - 5] = 0
    group["data"].create_array("intervention", data=acted)
    result = SimpleNamespace(success_rate=0.0, success_rate_ci95=(0.0, 0.1))
    with patch.object(improvement, "compare", lambda *_: MagicMock()):
        first_round = improvement.round_of(first, replace(data, episodes=[0, 1]), [], 1.0, [result])
    assert (first_round.demonstrations, first_round.taken_over) == (1, 1)
    assert first_round.frames == 5 + ends[1] - ends[0]


def test_taken_over_episodes_may_come_more_often(first: Path) -> None:
    data, more = read_run_config(first).data, [Path("a.zarr"), Path("b.zarr")]
    assert improve._data(data, more, 1.0) == ["--data", data.source, "--data", "a.zarr", "--data", "b.zarr"]
    assert improve._data(data, more, 3.0)[-2:] == ["--data.weights", "[1.0, 3.0, 3.0]"]
    other = str(write_recording(first.parent / "c.zarr"))
    several = MixtureConfig(recordings=[data.source, other], weights=[2.0, 1.0])
    assert improve._data(several, more[:1], 1.0) == [
        "--data", data.source, "--data", other, "--data", "a.zarr", "--data.weights", "[2.0, 1.0, 1.0]"
    ]  # fmt: skip
