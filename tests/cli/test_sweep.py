"""``robodiff eval --sweep``: each combination measured once, one table, the best made the policy's own."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Tags, use_env
from tests.policies.test_diffusion import FLOW

from robodiff.cli.sweep import joined
from robodiff.deploy.export import write_exported
from robodiff.envs.pusht.env import PushTEnv
from robodiff.envs.pusht.spec import SPEC
from robodiff.evaluation import chunks
from robodiff.evaluation.conditions import Sampling
from robodiff.evaluation.results import EnvResult, SweepResult, read_result
from robodiff.policies.checkpoint import load_policy, policy_hash, save_policy
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]
FIRST_VERSION = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"
SIZE = ("--env", "pusht", "--episodes", 2, "--num_envs", 2)


@pytest.fixture
def saved(small_policy: Callable[..., DiffusionPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_policy(small_policy(**{**FLOW, "num_inference_steps": 12}), tmp_path / "a")
    monkeypatch.setattr(chunks, "SECONDS_OF_CHUNKS", 0)  # few will do
    return tmp_path / "a"


def test_the_words_of_a_sweep_are_one_value() -> None:
    assert joined(["run", "--sweep", "steps=1,2", "best_of=1", "--env", "x=1"]) == [
        "run", "--sweep", "steps=1,2 best_of=1", "--env", "x=1"
    ]  # fmt: skip
    assert joined(["--sweep=steps=1", "best_of=2", "run", "a=b"]) == ["--sweep=steps=1 best_of=2", "run", "a=b"]
    assert joined(["run", "a=b"]) == ["run", "a=b"]


@pytest.mark.usefixtures("quick")
def test_every_combination_is_measured_once(robodiff: Run, saved: Path) -> None:
    code, out, err = robodiff("eval", saved, *SIZE, "--sweep", "steps=1,2", "n_action_steps=4", "best_of=1,3")
    assert (code, err) == (0, "")
    folder = saved.parent / "eval" / "a-pusht-seed300000-n2-sweep"
    result = read_result(folder, SweepResult)
    own = Sampling(sampler="Flow", steps=12, n_action_steps=8)
    grid = [(steps, best) for steps in (1, 2) for best in (1, 3)]
    others = [Sampling(sampler="Flow", steps=steps, n_action_steps=4, best_of=best) for steps, best in grid]
    assert [each.way for each in result.cells] == [own, *others]
    assert (result.cells[0].holm_p, result.evaluated.own) == (1, own)
    for each in result.cells:
        measured = read_result(folder / f"Flow-{each.way.steps}-act{each.way.n_action_steps}-best{each.way.best_of}",
                               EnvResult)  # fmt: skip
        assert measured.evaluated.sampling == each.way
        assert [episode.seed for episode in measured.episodes] == [300_000, 300_001]
        assert (measured.success_rate, measured.mean_max_reward) == (each.success_rate, each.mean_max_reward)
        assert each.action_ms == each.latency_ms.p50 / (each.way.n_action_steps or 0)
    assert result.conclusion in out
    assert "corrected by Holm for 4 comparisons" in out

    # a cell is what the same options measure by themselves
    alone = ("--steps", 2, "--n_action_steps", 4, "--best_of", 3, "--seed", 300_000, "--videos", 0)
    assert robodiff("eval", saved, *SIZE, *alone)[0] == 0
    by_itself = read_result(saved.parent / "eval" / "a-pusht-seed300000-n2-2-act4-best3", EnvResult)
    in_sweep = read_result(folder / "Flow-2-act4-best3", EnvResult)
    assert (by_itself.episodes, by_itself.evaluated) == (in_sweep.episodes, in_sweep.evaluated)

    # what was measured is not measured again, and what was not is
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert len(written) == 5
    code, _, err = robodiff("eval", saved, *SIZE, "--sweep", "steps=1,2,3", "n_action_steps=4")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len([*folder.glob("*/metrics.json")]) == 6
    assert len(read_result(folder, SweepResult).cells) == 4


class Lenient(PushTEnv):
    """Push-T of ten steps, each of which is a success."""

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        return *rest, info | {"is_success": True}  # type: ignore[return-value]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of ``pusht`` in which every policy succeeds."""
    use_env(monkeypatch, replace(SPEC, make=lambda keys: Lenient(keys, max_steps=10)))


@pytest.mark.usefixtures("lenient")
def test_what_comes_off_best_becomes_the_policys_own(robodiff: Run, saved: Path) -> None:
    before, hashed = load_policy(saved), policy_hash(saved)
    code, out, err = robodiff("eval", saved, *SIZE, "--sweep", "steps=1", "best_of=1", "--write")
    assert (code, err) == (0, "")  # all succeed, so the cheapest is as good as any
    assert f"written to {saved}: Flow, 1 step, 8 actions; before Flow, 12 steps, 8 actions" in out
    after = load_policy(saved)
    assert (after.config.inference_steps, before.config.inference_steps) == (1, 12)
    assert all((after.state_dict()[name] == weight).all() for name, weight in before.state_dict().items())
    assert policy_hash(saved) != hashed

    assert robodiff("eval", saved, *SIZE, "--videos", 0)[0] == 0
    evaluated = read_result(saved.parent / "eval" / "a-pusht-seed100000-n2", EnvResult).evaluated
    assert (evaluated.steps, evaluated.is_own, evaluated.what_if()) == (1, True, [])
    code, out, err = robodiff("eval", saved, *SIZE, "--sweep", "steps=1", "--write")
    assert (code, "nothing was written" in out) == (0, True), err


@pytest.mark.usefixtures("quick")
def test_refused_before_anything_is_measured(robodiff: Run, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "export.json").touch()
    for policy, words, message in (
        (saved, ("--sweep", "step=1"), "n_action_steps, best_of; found 'step=1'. Did you mean 'steps'?"),
        (saved, ("--sweep", "steps"), "n_action_steps, best_of; found 'steps'."),
        (saved, ("--sweep", "steps=0"), "--sweep steps: "),
        (saved, ("--sweep", "steps="), "--sweep steps: expected list of int >= 1 and"),
        (saved, ("--sweep", "steps=1", "steps=2"), "--sweep: steps is there twice"),
        (saved, ("--sweep", "n_action_steps=4,16"), "--sweep n_action_steps=16: n_action_steps: the policy exec"),
        (saved, ("--sweep", "n_action_steps=15", "best_of=2"), "--sweep n_action_steps=15 best_of=2: best_of 2 comp"),
        (saved, ("--sweep", "sampler=flow,runge"), "--sweep sampler=runge: "),
        (saved, ("--sweep", "steps=1", "--steps", 3), "--sweep measures many ways of acting, without --steps"),
        (saved, ("--sweep", "steps=1", "--against", saved), "without --against"),
        (saved, ("--sweep",), "--sweep needs a value"),
        (saved, ("--write",), "--write is for a sweep"),
        (tmp_path / "exported", ("--sweep", "best_of=1,2", "--write"), "exported is no policy in a folder here that "),
    ):  # fmt: skip
        code, _, err = robodiff("eval", policy, *SIZE, *words)
        assert (code, "Traceback" in err) == (2, False), err
        assert message in err
        assert not (tmp_path / "eval").exists()
    code, _, err = robodiff("eval", saved, "--sweep", "steps=1", "--data", "builtin:pusht")
    assert (code, "--sweep is for episodes in an environment; give --env" in err) == (2, True)


@pytest.mark.usefixtures("quick")
def test_in_a_run(robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "SECONDS_OF_CHUNKS", 0)
    run = tmp_path / "run"
    shutil.copytree(FIRST_VERSION, run, ignore=shutil.ignore_patterns("eval", "*.npz", "resumed*", "demos.zarr"))
    shutil.copytree(run / "policy-last", run / "policies" / "epoch-0001")
    code, _, err = robodiff("eval", run, *SIZE, "--videos", 0, "--best_of", 2, "--contrast", "epoch-0001")
    assert code == 0, err
    evaluated = read_result(run / "eval" / "pusht-seed100000-n2-best2-epoch-0001", EnvResult).evaluated
    assert evaluated.what_if() == [
        "Flow, 10 steps, best of 2, unlike epoch-0001 in place of its own Flow, 10 steps, best of 1"
    ]
    assert evaluated.contrast_policy == policy_hash(run / "policies" / "epoch-0001")
    code, _, err = robodiff("eval", run, *SIZE, "--sweep", "steps=1")
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert Tags(page).open == []
    assert "Flow, 1 step, 8 actions" in page
    assert "unlike epoch-0001 in place of its own" in page
    for words, message in (
        (("--contrast", "epoch-0001"), "--contrast chooses among several chunks; give --best_of, too"),
        (("--contrast", "epoch-9", "--best_of", 2), "epoch-9: no such policy in "),
    ):
        code, _, err = robodiff("eval", run, *SIZE, *words)
        assert (code, message in err) == (2, True), err


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_an_exported_policy_acts_in_other_ways(robodiff: Run, saved: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    write_exported(load_policy(saved), exported, "onnx", "fp32", ())
    for policy in (saved, exported):
        code, _, err = robodiff("eval", policy, *SIZE, "--n_action_steps", 4, "--best_of", 3, "--videos", 0)
        assert (code, err) == (0, "")
    code, _, err = robodiff("eval", exported, *SIZE, "--sweep", "steps=1")
    assert (code, "--sweep steps=1: the policy was exported with Flow, 12 steps" in err) == (2, True)
    ours, theirs = (
        read_result(tmp_path / "eval" / f"{name}-pusht-seed100000-n2-act4-best3", EnvResult)
        for name in ("a", "exported")
    )
    for one, other in zip(ours.episodes, theirs.episodes, strict=True):
        assert one.max_reward == pytest.approx(other.max_reward, abs=1e-3)
    assert json.loads((exported / "export.json").read_text())["config"]["best_of"] == 1
