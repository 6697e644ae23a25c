"""``robodiff collect``: what is on disk after it ends, is killed, or goes on; the demonstrations in the package."""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import use_env
from tests.faults.processes import Running

from robodiff import registry
from robodiff.data.episodes import Episodes
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.recordings import open_path
from robodiff.documents import Document
from robodiff.envs.collect import collect
from robodiff.envs.mujoco.actions import in_degrees
from robodiff.envs.pusht.expert import observations
from robodiff.envs.pusht.layout import DEMONSTRATIONS
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.spec import get_env_spec

Run = Callable[..., tuple[int, str, str]]
STATE = "observation.state"


def read(path: Path, **options: Any) -> Episodes:
    return open_path(str(path), **options).read()


def test_collects_goes_on_and_packs(robodiff: Run, tmp_path: Path) -> None:
    code, out, err = robodiff("collect", "pusht", "--episodes", 1, "--out", tmp_path / "d.zarr", "--seed", 3)
    assert (code, err) == (0, "")
    assert "1 demonstration, " in out
    code, out, _ = robodiff("collect", "pusht", "--episodes", 2, "--out", tmp_path / "d.zarr", "--seed", 3)
    assert code == 0
    assert "has 1 episode already; going on" in out
    code, out, _ = robodiff("collect", "pusht", "--episodes", 2, "--out", tmp_path / "whole.zarr.zip", "--seed", 3)
    assert code == 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["d.zarr", "whole.zarr.zip"]
    parts, whole = read(tmp_path / "d.zarr"), read(tmp_path / "whole.zarr.zip")
    for key, array in whole.arrays.items():
        np.testing.assert_array_equal(parts.arrays[key], array)
    assert whole.table["seed"] == parts.table["seed"]
    assert all(whole.table["success"])
    assert whole.fps == 10
    assert {key: SPEC.features[key] for key in whole.features} == whole.features  # names and units, too


def test_images_are_recorded_on_demand(robodiff: Run, tmp_path: Path) -> None:
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", tmp_path / "d.zarr", "--images", "true")[0] == 0
    recorded, (episode,) = read(tmp_path / "d.zarr"), collect("pusht", 1, images=True)
    assert recorded.arrays.keys() == SPEC.features.keys()
    for key, array in episode.arrays.items():
        np.testing.assert_array_equal(recorded.arrays[key], array)


def test_what_a_file_of_before_holds_is_what_is_collected_now(tmp_path: Path) -> None:
    """States and images under the names of diffusion_policy, as earlier versions wrote them."""
    writer = ZarrWriter(tmp_path / "old.zarr", 10, layout="pusht")
    states = np.random.default_rng(0).uniform(50, 450, (9, 5)).astype(np.float32)
    writer.append({"state": states, "action": states[:, :2] + 1}, seed=0, success=True)
    writer.close()
    old = read(tmp_path / "old.zarr")
    observed = observations(states, ["observation.state", "observation.environment_state"])
    for key, array in {**observed, "action": states[:, :2] + 1}.items():
        np.testing.assert_array_equal(old.arrays[key], array)
        assert old.features[key].unit == "px"


def test_an_environment_of_a_plugin_with_agents(robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    plugin = Path(__file__).parents[2] / "examples" / "extending" / "two_agents.py"
    out = tmp_path / "meet.zarr"
    command = ("collect", "two_agents", "--plugin", plugin, "--episodes", 3, "--workers", 2, "--out", out)
    code, _, err = robodiff(*command)
    assert (code, err) == (0, "")
    for agent, width in (("0", 2), ("1", 2), (None, 4)):
        data = open_path(str(out), agent=agent).read()
        assert {key: feature.shape[0] for key, feature in data.features.items()} == {
            "observation.state": 2 * width, "action": width
        }  # fmt: skip


def test_help_has_the_options_of_the_environment_and_of_its_expert(robodiff: Run) -> None:
    assert "--corrections" not in robodiff("collect", "--help")[1]
    assert "--corrections (float >= 0 and <= 1" in robodiff("collect", "pusht", "--help")[1]
    for option in ("--noise", "--action_space", "--size", "--cameras"):
        assert option in robodiff("collect", "lift_cube", "--help")[1]


def test_options_of_an_environment_and_cameras_of_agents(robodiff: Run, tmp_path: Path) -> None:
    out = tmp_path / "team.zarr"
    command = ("collect", "LiftBarrier-rf?size=24x32", "--out", out, "--action_space", "degrees", "--cameras", "head")
    assert robodiff(*command, "--episodes", 1)[0] == 0
    again = ("collect", "lift_barrier?size=24x32&action_space=degrees", "--out", out, "--cameras", "head")
    assert "has 1 episode already; going on" in robodiff(*again, "--episodes", 2)[1]
    assert robodiff(*again, "--episodes", 3, "--noise", 0.01)[0] == 1  # recorded otherwise
    team = open_path(str(out), agent="each").read()
    cameras = {key: feature.shape for key, feature in team.features.items() if feature.kind == "image"}
    assert cameras == {f"agents.{agent}.observation.images.head": (3, 24, 32) for agent in (0, 1)}
    assert (team.features["agents.1.action"].names or ())[::7] == ("joint1", "gripper")
    assert team.features["agents.1.action"].unit == ("deg",) * 7 + ("percent",)
    code, _, err = robodiff(*again[:-1], "agentvieww", "--episodes", 1)
    assert (code, "Did you mean 'agentview'?" in err) == (2, True), err


class ClumsyExpert:
    """Fails on all seeds but those that it knows, each time for another reason."""

    def demonstrate(self, seed: int, keys: Collection[str]) -> dict[str, np.ndarray] | str | None:
        arrays = {"observation.state": np.ones((3, 2), np.float32), "action": np.ones((3, 2), np.float32)}
        return {1: "unreachable", 2: "collision", 3: "unreachable", 5: None, 6: "unreachable"}.get(seed, arrays)


def test_failures_are_told_by_their_reasons_and_kept(
    robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_env(monkeypatch, replace(SPEC, name="clumsy", expert=ClumsyExpert, expert_options=Document))
    command = ("collect", "clumsy", "--out", tmp_path / "d.zarr", "--episodes")
    assert "the expert succeeded on 1 of 1 seed\n" in robodiff(*command, 1)[1]
    assert "succeeded on 2 of 5 seeds (collision 1, unreachable 2)\n" in robodiff(*command, 2)[1]
    out = robodiff(*command, 4)[1]
    assert "succeeded on 4 of 9 seeds (collision 1, no success 1, unreachable 3)\n" in out
    table = read(tmp_path / "d.zarr").table
    assert table == {
        "seed": [0, 4, 7, 8], "success": [True] * 4, "unreachable": [0, 2, 1, 0], "collision": [0, 1, 0, 0]
    }  # fmt: skip


def test_another_format_is_made_at_the_end(robodiff: Run, tmp_path: Path) -> None:
    command = ("collect", "stack_cube_mycobot?size=24x32", "--episodes", 2, "--format", "mycobot", "--out")
    for name in ("one", "two"):
        code, out, err = robodiff(*command, tmp_path / name)
        assert (code, "2 demonstrations" in out, "no place for observation.eef_pose, " in err) == (0, True, True), err
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one", "two"]
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert {str(path.parent) for path in files} >= {
        "episode_20000101_000000_000", "episode_20000101_000000_001/frame_dir"
    }  # fmt: skip
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    code, _, err = robodiff(*command, tmp_path / "one")
    assert (code, "exists already" in err) == (2, True)
    code, _, err = robodiff("collect", "lift_cube", *command[2:], tmp_path / "three")
    assert (code, "needs observation.state of six joint angles" in err) == (2, True), err


def test_a_policy_of_mycobots_files_acts_without_further_options(
    robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In degrees and per cent, at half the environment's rate; its expert's own actions were recorded."""
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)  # figures take longer
    monkeypatch.setattr("robodiff.cli.eval.report_evaluation", Path)
    env, data, run = "stack_cube_mycobot", tmp_path / "eps", tmp_path / "run"
    assert robodiff("collect", f"{env}?size=24x32", "--format", "mycobot", "--episodes", 1, "--out", data)[0] == 0
    found, expected = read(data), [*collect(env, 1)]
    action, state = (np.concatenate([each.arrays[key] for each in expected]) for key in ("action", STATE))
    for key, values in (("action", action), (STATE, state)):
        np.testing.assert_allclose(found.arrays[key], in_degrees(values), rtol=1e-6, atol=1e-6)
    for skip in (1, 2):  # what is read does the task again, each action held for as many steps as were skipped
        robot, actions = (
            get_env_spec(f"{env}?action_space=degrees").make(()),
            read(data, frame_skip=skip).arrays["action"],
        )
        robot.reset(seed=0)
        assert any(robot.step(action)[4]["is_success"] for action in np.repeat(actions, skip, axis=0))
    code, out, err = robodiff(
        "fit", "--config", "generic", "--data", data, "--run", run, "--model.observation_keys", f"[{STATE}]",
        "--model.down_dims", "[8, 16]", "--model.n_groups", 4, "--model.num_inference_steps", 1,
        "--data.frame_skip", 2, "--trainer.max_steps", 2,
    )  # fmt: skip
    assert code == 0, err
    code, out, err = robodiff("eval", run, "--env", env, "--episodes", 1, "--videos", 0)
    assert code == 0, err
    assert "in 1 episode of stack_cube_mycobot from" in out
    assert f"note: measured in {env}?action_space=degrees, as the policy needs it" in err
    assert "note: each action is held for 2 steps: the policy acts at 5 Hz" in err


def test_what_cannot_be_converted_is_kept(robodiff: Run, tmp_path: Path) -> None:
    command = ("collect", "stack_cube_mycobot?size=24x32", "--episodes", 1, "--cameras", "front", "--format", "lerobot")
    code, _, err = robodiff(*command, "--out", tmp_path / "d")
    kept = tmp_path / ".d.building"
    assert (code, f"the demonstrations are in {kept}, for robodiff data convert" in err) == (1, True), err
    code, _, err = robodiff("data", "convert", kept, tmp_path / "d", "--images", "png")
    assert code == 0, err
    assert len(read(tmp_path / "d")) == 1


def test_the_name_says_the_format(robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_env(monkeypatch, replace(SPEC, name="clumsy", expert=ClumsyExpert, expert_options=Document))
    command = ("collect", "clumsy", "--episodes", 1, "--out")
    assert robodiff(*command, tmp_path / "d.hdf5")[0] == 0
    assert (tmp_path / "d.hdf5").is_file()
    assert len(read(tmp_path / "d.hdf5")) == 1
    for arguments, message in (
        (("d.zarr", "--format", "robomimic"), "would be read as a zarr group"),
        (("d_{agent}.zarr",), "robodiff data convert makes a file for each"),
    ):
        code, _, err = robodiff(*command, tmp_path / arguments[0], *arguments[1:])
        assert (code, message in err) == (2, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["d.hdf5"]


@pytest.mark.parametrize("reason", ["joint/3", "seed", "../x", 5, ["a"]])
def test_reasons_that_are_no_columns_are_refused(
    robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: object
) -> None:
    class Odd:
        def demonstrate(self, seed: int, keys: Collection[str]) -> object:
            return reason

    use_env(monkeypatch, replace(SPEC, name="odd", expert=Odd, expert_options=Document))  # pyright: ignore
    code, _, err = robodiff("collect", "odd", "--episodes", 1, "--out", tmp_path / "d.zarr")
    assert (code, "expected a word such as collision; found" in err) == (1, True), err


def test_a_killed_collection_keeps_what_it_had(tmp_path: Path) -> None:
    collecting = Running("collect", "pusht", "--episodes", 500, "--out", tmp_path / "d.zarr")
    ends = tmp_path / "d.zarr" / "meta" / "episode_ends" / "zarr.json"  # the last may not be whole
    collecting.wait_for(lambda: ends.exists() and json.loads(ends.read_text())["shape"][0] > 2)
    collecting.kill().killed()
    kept = read(tmp_path / "d.zarr")
    assert len(kept) >= 2
    first = next(iter(collect("pusht", 1)))
    np.testing.assert_array_equal(kept.arrays["action"][: kept.episode_ends[0]], first.arrays["action"])


def test_refused(robodiff: Run, tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    for arguments, message in (
        (("pushy", "--episodes", 1, "--out", out), "Did you mean 'pusht'?"),
        (("pusht", "--episodes", 0, "--out", out), "--episodes: expected int >= 1; found 0"),
        (("pusht", "--out", out), "episodes"),
        (("pusht", "--episodes", 1), "out"),
        (("pusht", "--episodes", 1, "--out", out, "--worker", 2), "Did you mean '--workers'?"),
    ):
        code, _, err = robodiff("collect", *arguments)
        assert (code, "Traceback" in err) == (2, False), err
        assert message in err
        assert not out.exists()
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", out)[0] == 0
    code, _, err = robodiff("collect", "pusht", "--episodes", 2, "--out", out, "--corrections", 0.5)
    assert code == 1
    assert "holds another recording" in err


def test_what_others_wrote_is_not_touched(robodiff: Run, tmp_path: Path) -> None:
    others = tmp_path / "stuff"
    others.mkdir()
    (others / "notes.txt").write_text("mine")
    (others / "movie.partial").write_text("half")
    code, _, err = robodiff("collect", "pusht", "--episodes", 1, "--out", others)
    assert (code, "holds something that robodiff did not record" in err) == (1, True), err
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", tmp_path / "stuff.zip")[0] == 0
    assert sorted(path.name for path in others.iterdir()) == ["movie.partial", "notes.txt"]
    whole = tmp_path / "whole.zarr"
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", whole)[0] == 0
    before = (whole / "zarr.json").read_bytes()
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", whole, "--seed", 9)[0] == 1
    assert (whole / "zarr.json").read_bytes() == before


def test_the_demonstrations_in_the_package_can_be_made_again() -> None:
    path = DEMONSTRATIONS
    assert path.stat().st_size < 1_000_000
    built_in = read(path)
    assert 280 <= len(built_in) <= 350
    import zarr

    with zarr.storage.ZipStore(path, mode="r") as store:
        recipe = dict(zarr.open_group(store, mode="r").attrs["robodiff"]["recipe"])  # type: ignore[index, call-overload]
    seed = built_in.table["seed"][7]
    (again,) = collect(recipe["env"], 1, seed, corrections=recipe["corrections"])
    frames = built_in.slice(7)
    assert again.seed == seed
    assert len(again.arrays["action"]) == frames.stop - frames.start
    # exact with the wheels that made them; others may round a contact differently
    for key, array in again.arrays.items():
        np.testing.assert_allclose(built_in.arrays[key][frames], array, atol=1e-3)
