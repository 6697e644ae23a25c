"""``robodiff fit --all_agents``: a whole run for each agent, as exact as one alone, whenever it is stopped."""

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from safetensors.torch import load_file
from tests.faults.processes import run
from tests.recordings import episode

from robodiff import registry
from robodiff.cli.configuration import read_run_config
from robodiff.evaluation.runs import agent_runs
from robodiff.files import read_rows
from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--model.down_dims", "[8,16]", "--model.n_groups", "4", "--model.diffusion_step_embed_dim", "8",
         "--data.train_batch_size", "8", "--trainer.log_every_n_steps", "1", "--trainer.checkpoint_every_minutes", "0",
         "--trainer.tensorboard", "false", "--trainer.accelerator", "cpu")  # fmt: skip
STEPS = 4
PLUGIN = Path(__file__).parents[2] / "examples" / "extending" / "two_agents.py"


def write_zarr(path: Path, arrays: dict[str, np.ndarray], frames: int = 20) -> Path:
    """Three episodes."""
    group = zarr.open_group(path, mode="w")
    for key, values in {**arrays, "meta/episode_ends": np.arange(1, 4) * frames}.items():
        group.create_array(key if "/" in key else f"data/{key}", data=values)
    group.attrs["robodiff"] = {"fps": 10.0}
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of agents 2 and 10, the second of which moves ten times as far; both know of one block."""
    random, arrays = np.random.default_rng(0), {}
    for agent, far in (("2", 1), ("10", 10)):
        walk = far * random.normal(size=(60, 3)).cumsum(0).astype(np.float32)
        arrays |= {f"agents.{agent}.observation.state": walk, f"agents.{agent}.action": walk + 1}
        arrays[f"agents.{agent}.observation.objects_from_tool"] = walk[:, :2]
    arrays["observation.environment_state"] = random.normal(size=(60, 2)).astype(np.float32)
    return write_zarr(tmp_path_factory.mktemp("table") / "table.zarr", arrays)


def fit_team(data: Path, folder: Path, *more: object, trouble: Callable[[], None] | None = None) -> Any:
    how = ("--all_agents", "--trainer.max_steps", STEPS, *SMALL, *more)
    return run("fit", "--config", "tabletop_state", "--data", data, "--run", folder, *how, trouble=trouble)


@pytest.fixture(scope="module")
def team(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a team that was trained without a stop."""
    folder = tmp_path_factory.mktemp("team") / "team"
    seen = fit_team(table, folder).done()
    assert f"robodiff eval {folder} --env ENV" in seen.out
    narrow = "note: model.down_dims [8, 16] is narrow for actions of 3 dimensions"
    assert seen.err.count(narrow) == 1  # not for each agent
    assert "begin it with 12 or more" in seen.err
    return folder


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "policy-last" / "model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.equal(second[name]), name
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def test_each_agent_has_a_whole_run(robodiff: Run, table: Path, team: Path) -> None:
    runs = agent_runs(team)
    assert [*runs] == ["2", "10"]
    assert sorted(path.name for path in team.iterdir()) == ["agent-10", "agent-2"]
    for agent, far in (("2", 1), ("10", 10)):
        config = read_run_config(runs[agent])
        assert (config.data.agent, config.data.source, config.trainer.max_steps) == (agent, str(table), STEPS)
        policy = load_policy(runs[agent])
        assert policy.observation_keys == [
            f"observation.{key}" for key in ("state", "objects_from_tool", "environment_state")
        ]
        assert 10 < (policy.normalizer.maps["action"].max.max() - policy.normalizer.maps["action"].min.min()) / far < 30
        assert (runs[agent] / "report.html").is_file()
    code, _, err = robodiff("fit", "--resume", team)
    assert code == 2
    assert err.count(f"has finished its {STEPS} steps") == 2


@pytest.mark.slow
def test_a_team_is_made_longer(robodiff: Run, team: Path, tmp_path: Path) -> None:
    shutil.copytree(team, longer := tmp_path / "longer")
    for folder, steps in ((longer / "agent-10", 5), (longer, 6)):
        code, _, err = robodiff("fit", "--resume", folder, "--trainer.max_steps", steps)
        assert code == 0, err
    for folder in agent_runs(longer).values():
        assert read_rows(folder / "metrics.csv", "global_step")[-1]["global_step"] == "6"


def stop_in(agent: str, number: int) -> None:
    """Send this process a signal once an agent has done half of its steps."""
    from robodiff.training.callbacks import Checkpoints

    hook = Checkpoints.on_train_batch_start

    def stopped(self: Checkpoints, trainer: Any, module: Any, *rest: Any) -> None:
        if self.run.name == f"agent-{agent}" and trainer.global_step == STEPS // 2:
            os.kill(os.getpid(), number)
        hook(self, trainer, module, *rest)

    Checkpoints.on_train_batch_start = stopped


def stop_after(agent: str, number: int) -> None:
    """Send this process a signal when the report of an agent is to be written."""
    from robodiff.cli import report

    def stopped(folder: Path) -> None:
        if folder.name == f"agent-{agent}":
            os.kill(os.getpid(), number)

    report.report = stopped  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("trouble", "number"),
    [
        (partial(stop_in, "10"), signal.SIGKILL),
        pytest.param(partial(stop_in, "2"), signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(partial(stop_in, "2"), signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(partial(stop_after, "2"), signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(partial(stop_after, "2"), signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=["killed in the second", "Ctrl-C in the first", "killed in the first", "killed between", "Ctrl-C between"],
)
def test_stopped_and_resumed_is_the_same(
    table: Path, team: Path, tmp_path: Path, trouble: partial[None], number: int
) -> None:
    folder = tmp_path / "team"
    seen = fit_team(table, folder, trouble=partial(trouble, number))
    if number == signal.SIGINT:
        assert seen.code == 130, seen
        assert f"go on with: robodiff fit --resume {folder}" in seen.out
    else:
        seen.killed()
    assert not (folder / "agent-10" / "report.html").exists()
    (folder / "agent-2" / "report.html").unlink(missing_ok=True)  # as if it was stopped while it wrote that
    run("fit", "--resume", folder).done()
    for agent, whole in agent_runs(team).items():
        assert_same(whole, folder / f"agent-{agent}")
        assert (folder / f"agent-{agent}" / "report.html").is_file()


@pytest.mark.slow
def test_a_file_of_each_agent_as_robofactory_has_them(robodiff: Run, tmp_path: Path) -> None:
    for agent, camera in ((0, "head_camera"), (1, "img")):  # its scripts' and its description's name
        values = [episode(number, 8) for number in range(3)]
        arrays = {key: np.concatenate([each[key][:30] for each in values]) for key in values[0]}
        images = arrays.pop("images").transpose(0, 3, 1, 2)
        arrays |= {camera: images, **({"tcp_action": arrays["action"]} if agent == 0 else {})}
        write_zarr(tmp_path / f"LiftBarrier-rf_Agent{agent}_150.zarr", arrays, frames=30)
    write_zarr(
        tmp_path / "LiftBarrier-rf_Agent0_50.zarr", {"state": np.zeros((60, 2))}
    )  # of another number of episodes
    small = ("--config", "robofactory", "--trainer.fast_dev_run", "true", "--model.pretrained_backbone_weights", "null",
             "--model.use_group_norm", "true", "--model.down_dims", "[8,16,32]", "--data.train_batch_size", 4,
             "--all_agents", "--run", tmp_path / "team")  # fmt: skip
    code, _, err = robodiff("fit", *small, "--data", tmp_path / "LiftBarrier-rf_Agent{agent}_150.zarr")
    assert code == 0, err
    runs = agent_runs(tmp_path / "team")
    seen = [load_policy(run).observation_keys for run in runs.values()]
    assert seen == [["observation.images.head_camera", "observation.state"], ["observation.image", "observation.state"]]
    assert [read_run_config(run).data.agent for run in runs.values()] == ["0", "1"]
    code, _, err = robodiff("fit", *small, "--data", tmp_path / "LiftBarrier-rf_Agent0_150.zarr")
    assert code == 2
    assert "give --data 'LiftBarrier-rf_Agent{agent}_150.zarr'" in err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--data", "TABLE", "--all_agents", "--run", "TEAM"), 2, "exists already; choose another --run, or go on"),
        (("--data", "TABLE", "--all_agents", "--data.agent", "2"), 2, "leave out one of them"),
        (("--data", "builtin:pusht", "--all_agents"), 2, "its keys name no agents"),
        (("--data", "x{agent}.zarr", "--all_agents"), 1, "x{agent}.zarr: no such files; {agent} stands for an"),
        (("--data", "TABLE", "--all_agents", "--model.observation_keys", "[observation.x]"), 1, "has no 'obs"),
        (("--resume", "TEAM", "--all_agents"), 2, "only --trainer.max_* may change, found --all_agents"),
        (("--data", "TABLE", "--data.agent", "2", "--rollout.env", "two_agents"), 2,
         "rollout.env two_agents is for 2 agents; leave out rollout.env or data.agent, or train every agent with"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes(
    robodiff: Run, table: Path, team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...],
    code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(registry, "_TABLE", registry._Table())  # without the plugin afterwards
    places = {"TABLE": table, "TEAM": team}
    given = [] if "--resume" in options else ["--config", "tabletop_state", "--trainer.max_steps", 2, *SMALL]
    if "--run" not in options and given:
        given += ["--run", tmp_path / "run"]
    got, _, err = robodiff("fit", *given, *(places.get(word, word) for word in options), "--plugin", PLUGIN)
    assert (got, "Traceback" in err) == (code, False), err
    assert message in err
    assert len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "run").exists()  # nothing is begun


def test_rollouts_are_left_out_for_agents_alone(robodiff: Run, table: Path, tmp_path: Path) -> None:
    common = ("--config", "tabletop_state", "--data", table, "--all_agents", "--run", tmp_path / "team")
    code, printed, err = robodiff("fit", *common, "--rollout.env", "lift_barrier", "--print_config")
    assert (code, yaml.safe_load(printed)["rollout"]["env"]) == (0, None)
    assert f"once all are trained: robodiff eval {tmp_path / 'team'} --env lift_barrier" in err
