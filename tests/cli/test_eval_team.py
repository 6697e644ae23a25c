"""``robodiff eval`` and ``report`` of a team: a policy for each agent, from the folder of their runs or one by one."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tests.conftest import Tags, use_env

from robodiff.cli.main import main
from robodiff.data.episodes import Feature
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.provenance import FILE
from robodiff.documents import Document
from robodiff.envs.collect import collect
from robodiff.envs.spec import EnvSpec
from robodiff.evaluation.evaluate import write_non_finite
from robodiff.evaluation.members import find_members, folder_of
from robodiff.evaluation.results import EnvResult, read_result
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.evaluation.runs import read_run
from robodiff.policies.checkpoint import policy_hash
from robodiff.policies.runner import NonFiniteChunk
from robodiff.report.answers import answer, command

Run = Callable[..., tuple[int, str, str]]
EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "extending" / "two_agents.py"))
ENV = ("--env", "meet", "--episodes", 2, "--num_envs", 2)
SMALL = ("--model.down_dims=[8,16]", "--model.n_groups=4", "--model.diffusion_step_embed_dim=8",
         "--model.num_inference_steps=2", "--model.observation_keys=[observation.state]", "--trainer.max_steps=2",
         "--trainer.log_every_n_steps=1", "--trainer.tensorboard=false", "--trainer.accelerator=cpu")  # fmt: skip


class MeetEnv(EXAMPLE["MeetEnv"]):
    """For the test the first agent collides where it is on the right; and nothing can be drawn."""

    def step(self, action: Any) -> Any:
        *step, info = super().step(action)
        return *step, {**info, "extra": {**info["extra"], "collision": float(self.positions[0, 0] > 0)}}

    def render(self) -> Any:
        raise OSError("no display")


@dataclass(frozen=True, kw_only=True)
class MeetOptions(Document):
    """What actions are."""

    action_space: Literal["changes", "places"] = "changes"


def meet(options: Any = None) -> EnvSpec:
    """Two agents that are to meet, ten steps long."""
    names = ("x", "y") if options and options.action_space == "places" else ("dx", "dy")
    spec: EnvSpec = EXAMPLE["SPEC"]
    action = replace(spec.features["action"], names=tuple(f"{agent}.{name}" for agent in spec.agents for name in names))
    return replace(spec, name="meet", make=MeetEnv, max_steps=10, features={**spec.features, "action": action},
                   options=MeetOptions, configure=meet, renders=True)  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    use_env(monkeypatch, meet())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a team, and beside it what it was trained on."""
    folder = tmp_path_factory.mktemp("made")
    action = Feature("vector", (2,), "float32", ("dx", "dy"))
    with pytest.MonkeyPatch.context() as patch:
        use_env(patch, meet())
        patch.setattr("robodiff.cli.report.report", lambda run: run)  # whose figures take longer
        writer = ZarrWriter(folder / "meet.zarr", 10, features={f"agents.{agent}.action": action for agent in "01"})
        for number, episode in enumerate(collect("meet", 4)):
            writer.append(episode.arrays, seed=episode.seed, success=True, unreachable=number, collision=2)
        writer.close()
        main(["fit", "--config=tabletop_state", f"--data={folder / 'meet.zarr'}", "--all_agents", *SMALL,
              f"--run={folder / 'team'}"])  # fmt: skip
    return folder / "team"


@pytest.fixture
def team(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "team", ignore=shutil.ignore_patterns("eval")))


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the figures of pages, which take longer than all else."""
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)


@pytest.mark.usefixtures("drawn_figures")
def test_a_team_is_measured_and_reported(robodiff: Run, team: Path) -> None:
    for run in ("agent-0", "agent-1"):
        (team / run / "report.html").touch()
    code, out, err = robodiff("eval", team, *ENV)
    assert code == 0, err
    assert "note: there are no videos: meet cannot be drawn: OSError: no display" in err
    assert "of the demonstrations, motion planning failed for 14 of 18 seeds (unreachable 6, collision 8)" in out
    result = read_result(team / "eval" / "meet-seed100000-n2", EnvResult)
    hashes = {agent: policy_hash(team / f"agent-{agent}" / "policy") for agent in "01"}
    assert result.evaluated.policies == hashes
    collisions = np.mean([episode.extra["collision"] for episode in result.episodes])
    assert result.policy_collisions == collisions
    assert f"the policy collided in {collisions:.2f} of the episodes" in out

    page = (team / "report.html").read_text()
    assert Tags(page).open == []
    assert "0&#8239;% success" in page
    assert "Of the demonstrations, motion planning failed for 14 of 18 seeds" in page
    assert f"The policy collided in {100 * collisions:.0f}&#8239;% of the episodes" in page
    assert f"collision {collisions:.4g}" not in page  # said once
    for agent in "01":
        assert f"What the policy would do where the demonstrator was, agent {agent}" in page
        assert f'<a href="agent-{agent}/report.html">' in page
        assert f"agent {agent} train" in page  # a line of the curves

    # of a policy that was trained on since, the page says that it was not evaluated
    run = read_run(team)
    assert answer(run, run.evaluations) is not None
    shutil.rmtree(team / "agent-1" / "policy")
    shutil.copytree(team / "agent-0" / "policy", team / "agent-1" / "policy")
    assert answer(run, run.evaluations) is None
    shutil.rmtree(team / "agent-1" / "policy")
    assert command(run) == f"robodiff eval {team} --env meet, once robodiff fit --resume {team} has made its policy"


@pytest.mark.usefixtures("unreported")
def test_policies_one_by_one_and_those_that_were_kept(robodiff: Run, team: Path, tmp_path: Path) -> None:
    quick = (*ENV, "--videos", 0)
    one, other = team / "agent-0", team / "agent-1"
    assert robodiff("eval", team, *quick)[0] == 0
    whole = read_result(team / "eval" / "meet-seed100000-n2", EnvResult)
    assert robodiff("eval", other, one, *quick, "--out", tmp_path / "out")[0] == 0  # whose they are their runs say
    assert read_result(tmp_path / "out", EnvResult).episodes == whole.episodes
    for run in (one, other):
        shutil.copytree(run / "policy-last", run / "policies" / "epoch-0003")
    assert robodiff("eval", team, *quick, "--checkpoint", "epoch-0003", "--against", team)[0] == 0
    kept = team / "eval" / "epoch-0003-meet-seed100000-n2"
    assert {path.name for path in kept.iterdir()} >= {"metrics.json", "comparison.json"}
    assert json.loads((kept / "comparison.json").read_text())["evaluated_against"] == json.loads(
        (team / "eval" / "meet-seed100000-n2" / "metrics.json").read_text())["evaluated"]  # fmt: skip
    shutil.copytree(other, tmp_path / "elsewhere")
    assert robodiff("eval", one, tmp_path / "elsewhere", *quick)[0] == 0  # no folder is theirs
    (beside,) = team.glob(f"eval/agent-0+{tmp_path.name}-elsewhere-*")
    assert read_result(beside, EnvResult).episodes == whole.episodes


def test_each_team_has_a_folder_of_its_own(team: Path) -> None:
    for other in ("second", "third"):
        shutil.copytree(team, team.parent / other)
    shutil.copytree(team / "agent-1" / "policy", alone := team.parent / "alone")
    one, two = str(team / "agent-0"), str(team / "agent-1")
    names = [
        [one, two],
        [two, str(team.parent / "third" / ".." / "team" / "agent-0")],
        [f"{one}/policy-last", f"{two}/policy-last"],
        [f"{one}/policy-last", two],
        [one, f"{two}/policy-last"],
        [one, str(team.parent / "second" / "agent-1")],
        [one, str(team.parent / "third" / "agent-1")],
    ]
    found = [folder_of(find_members(words)) for words in names]
    assert {home for home, _ in found} == {team}
    assert [name for _, name in found] == [
        [], [], ["policy-last"], ["agent-0-policy-last+agent-1"], ["agent-0+agent-1-policy-last"],
        ["agent-0+second-agent-1"], ["agent-0+third-agent-1"],
    ]  # fmt: skip
    assert find_members([str(alone), two], agents="01") == {"0": str(alone), "1": two}
    assert find_members([two, str(alone)], agents="01") == {"0": str(alone), "1": two}  # not the policy of 1 for 0


@pytest.mark.usefixtures("unreported", "drawn_figures")
def test_two_teams_on_one_page(robodiff: Run, team: Path, tmp_path: Path) -> None:
    shutil.copytree(team, tmp_path / "second")
    for folder in (team, tmp_path / "second"):
        assert robodiff("eval", folder, *ENV, "--videos", 0)[0] == 0
    code, _, err = robodiff("report", team, tmp_path / "second", "--out", tmp_path / "page.html")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text()
    assert "No difference in success between second and team" in page
    assert all(f"{name} agent {agent} train" in page for name in ("team", "second") for agent in "01")


@pytest.mark.parametrize(
    ("policies", "options", "message"),
    [
        (["team"], (), "measured for each agent by itself\ngive --env ENV to measure the team, or one of its"),
        (["team"], ("--env", "pusht"), "pusht is for one policy alone; found policies for 0, 1"),
        (["team"], ("--env", "meet?action_space=places"), "agent 0: action is dx, dy for the policy and x, y in the"),
        (["team"], ("--env", "meet?action_space=places"), "\nit fits meet\n"),
        (["team"], (*ENV, "--checkpoint", "epoch-0300"), "agent-0; it has best, last"),
        (["team/agent-0"], ENV, "environment team:meet\ngive a policy of each agent (0, 1), or one that acts for all"),
        (["team/agent-0/policy"], (*ENV, "--checkpoint", "last"), "policy: is not the folder of a run"),
        (["team/agent-0"] * 2, ENV, "two policies of agent 0; give one of each agent"),
        (["team/agent-1", "team/agent-0", "team"], ENV, "meet has agents 0, 1; found policies for 0, 1, 2"),
    ],
)
def test_refused_before_anything_runs(
    robodiff: Run, made: Path, policies: list[str], options: tuple[object, ...], message: str
) -> None:
    code, _, err = robodiff("eval", *(made.parent / policy for policy in policies), *options)
    assert (code, "Traceback" in err, err.count("\n") <= 2) == (2, False, True), err
    assert message in err
    assert not (made / "eval").exists()


@pytest.mark.usefixtures("unreported")
def test_policies_of_unequal_rates_or_samplers(robodiff: Run, team: Path) -> None:
    file = team / "agent-1" / "policy" / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "fps": 20}))
    code, _, err = robodiff("eval", team, *ENV)
    assert (code, "agent 1: the policy acts at 20 Hz" in err) == (2, True), err
    content["config"]["num_inference_steps"] = 3
    file.write_text(json.dumps(content))
    code, _, err = robodiff("eval", team, *ENV)
    assert (code, "agent 1 by Flow, 3 steps\ngive --sampler, --steps and --best_of for both" in err) == (2, True), err
    assert robodiff("eval", team, *ENV, "--videos", 0, "--sampler", "flow", "--steps", 2)[0] == 0


@pytest.mark.usefixtures("unreported")
def test_a_team_whose_record_is_of_an_earlier_version(robodiff: Run, team: Path) -> None:
    for file in team.glob(f"*/{FILE}"):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "planning"}))
    code, out, err = robodiff("eval", team, *ENV, "--videos", 0)
    assert (code, "motion planning" in out) == (0, False), err


def test_what_an_agent_observed_is_named_by_it(tmp_path: Path) -> None:
    chunk = NonFiniteChunk({"observation.state": np.full((2, 4), np.nan)}, np.full((8, 2), np.nan), agent="1")
    write_non_finite([EpisodeRecord(5, non_finite=chunk)], tmp_path)
    assert {*np.load(tmp_path / "seed-5.npz")} == {"step", "agents.1.action", "agents.1.observation.state"}
