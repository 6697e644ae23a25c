"""``robodiff eval``: where it writes to, and two policies over the same seeds (``--against``)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.policies.test_diffusion import FLOW

from robodiff.cli.eval_options import EvalOptions, default_folder, read
from robodiff.evaluation.members import find_members
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]
SIZE = ("--env", "pusht", "--episodes", 2, "--num_envs", 2, "--videos", 0)


@pytest.fixture
def policies(small_policy: Callable[..., DiffusionPolicy], tmp_path: Path) -> tuple[Path, Path]:
    """Two policies that act differently: the second executes half of each chunk."""
    for name, changes in (("a", {}), ("b", {"n_action_steps": 4})):
        save_policy(small_policy(**FLOW, **changes), tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize(
    ("policy", "options", "folder"),
    [
        ("run", {}, "offline-seed100000-n2000"),
        ("run/policy", {"windows": 4, "sampler": "dpmsolver++", "steps": 3}, "offline-seed100000-n4-dpmsolver++-3"),
        ("run/policies/epoch-0001", {"data": "a/b c.zarr"}, "epoch-0001-offline-b-c.zarr-seed100000-n2000"),
        ("run", {"data": "a.zarr", "recording": {"episodes": [0, 12]}}, "offline-a.zarr-episodes0-12-seed100000-n2000"),
        (
            "run",
            {"data": "a.zarr", "recording": {"episodes": [0, 1], "fps": 5.0}},
            "offline-a.zarr-episodes0-1-fps5.0-seed100000-n2000",
        ),
        (
            "run",
            {"data": "a.zarr", "recording": {"key_map": {"a": "b"}}},
            "offline-a.zarr-key_map786cd97a-seed100000-n2000",
        ),
        ("run/policy-last", {"env": "pusht", "episodes": 7, "seed": 5}, "policy-last-pusht-seed5-n7"),
        ("run", {"env": "gymnasium:gym_aloha/Cube-v0"}, "gymnasium-gym_aloha-Cube-v0-seed100000-n100"),
    ],
)
def test_each_evaluation_has_a_folder_of_its_own(policy: str, options: dict, folder: str, tmp_path: Path) -> None:
    for name in ("policy", "policy-last", "policies/epoch-0001"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    recording = options.pop("recording", {})
    given = EvalOptions(policies=[str(tmp_path / policy)], **options)
    assert default_folder(find_members(given.policies), given, recording) == tmp_path / "run" / "eval" / folder


@pytest.mark.usefixtures("quick")
def test_against_another_policy(robodiff: Run, policies: tuple[Path, Path]) -> None:
    a, b = policies
    code, out, err = robodiff("eval", a, *SIZE, "--against", b)
    assert code == 0, err
    assert f"against {b}, over the same 2 seeds:" in out
    assert "McNemar's exact test: p = 1" in out
    ours, theirs = (next(p.parent.glob(f"eval/{p.name}-pusht*/metrics.json")) for p in policies)
    found = json.loads((ours.parent / "comparison.json").read_text())
    rewards = [[e["max_reward"] for e in json.loads(path.read_text())["episodes"]] for path in (ours, theirs)]
    difference = sum(first - second for first, second in zip(*rewards, strict=True)) / 2
    assert found["reward_difference"] == pytest.approx(difference)
    assert found["conclusion"] in out
    assert found["conclusion"].replace("'", "&#39;") in (ours.parent / "report.html").read_text()

    # what was measured already is not measured again, and what it compared with may be named itself
    written = theirs.stat().st_mtime_ns
    code, _, err = robodiff("eval", a, *SIZE, "--against", b)
    assert (code, theirs.stat().st_mtime_ns) == (0, written), err
    code, out, err = robodiff("eval", a, *SIZE, "--against", theirs.parent)
    assert code == 0, err
    assert f"against {theirs.parent}, over the same 2 seeds:" in out
    code, out, err = robodiff("eval", a, *SIZE)  # alone: the comparison would be with what is not there any more
    assert code == 0, err
    assert not (ours.parent / "comparison.json").exists()


def test_options_of_an_environment_stand_beside_its_name(robodiff: Run, policies: tuple[Path, Path]) -> None:
    for env, words in (
        ("biped", ["--env.push_newton", "100", "--env.command_low=0.3"]),
        ("biped?command_low=0.3", ["--env.push_newton=100"]),
    ):
        options, recording = read([str(policies[0]), "--env", env, *words])
        assert (options.env, recording) == ("biped?push_newton=100.0&command_low=0.3", {})
    for words, message in (
        (
            ("--env", "biped", "--env.push", 3),
            "environment biped: 'push=3' is no option=value of it; it has push_newton",
        ),
        (("--env", "biped", "--env.push_newton"), "--env.push_newton needs a value"),
        (("--env", "biped", "--env.push_newton", -3), "push_newton: expected float >= 0 and <= 5000; found -3"),
        (("--env", "pusht", "--env.push_newton", 3), "it has no options"),
        (("--env.push_newton", 3), "--env.push_newton is an option of the environment that --env names; give --env"),
        (("--env", "biped", "--environment.push", 3), "unknown option --environment.push"),
    ):
        code, _, err = robodiff("eval", policies[0], *words)
        assert (code, "Traceback" in err) == (2, False), err
        assert message in err


def test_an_option_of_the_recording_that_is_no_yaml(robodiff: Run, policies: tuple[Path, Path]) -> None:
    code, _, err = robodiff("eval", policies[0], "--data", "builtin:pusht", "--data.key_map", "{a: b")
    assert (code, "key_map" in err, "Traceback" in err) == (2, True, False), err


@pytest.mark.usefixtures("quick")
def test_refused_before_anything_is_measured(robodiff: Run, policies: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = policies
    assert robodiff("eval", b, *SIZE)[0] == 0
    measured = next(tmp_path.glob("eval/b-*"))
    shutil.copytree(measured, tmp_path / "elsewhere")
    for against, arguments, message in (
        (a, (), "is the evaluation that would be written"),
        (measured, ("--episodes", 0), "--episodes: expected int >= 1 or null; found 0"),
        (measured, ("--videos", -1), "--videos: expected int >= 0 or null; found -1"),
        (measured, ("--device", "gpu"), "device gpu: "),
        (tmp_path / "nowhere", (), "nowhere: no such folder"),
        (measured, ("--seed", 5), "share no seed: 5 to 6 and 100000 to 100001"),
        (measured, ("--out", a / "config.json"), "config.json: is a file, which stays as it is; name a folder"),
    ):
        code, _, err = robodiff("eval", a, *SIZE, "--against", against, *arguments)
        assert (code, "Traceback" in err) == (2, False), err
        assert message in err
        assert not list(tmp_path.glob("eval/a-*"))


@pytest.mark.usefixtures("quick")
@pytest.mark.kind("a what-if evaluation taken for the policy's own")
def test_both_get_the_sampler_or_neither(robodiff: Run, policies: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = policies
    assert robodiff("eval", b, *SIZE)[0] == 0
    own = next(tmp_path.glob("eval/b-*"))
    code, _, err = robodiff("eval", a, *SIZE, "--steps", 2, "--against", own)
    assert code == 2
    assert "sampled by Flow, 2 steps in place of its own Flow, 4 steps with one sampled by Flow, 4 steps\n" in err
    assert "name a policy after --against, not an evaluation" in err
    assert not list(tmp_path.glob("eval/a-*"))
    code, out, err = robodiff("eval", a, *SIZE, "--steps", 2, "--against", b)  # as the refusal says
    assert code == 0, err
    assert out.count("Flow, 2 steps") == 1
    found = json.loads(next(tmp_path.glob("eval/a-*-2/comparison.json")).read_text())
    assert [found[name]["steps"] for name in ("evaluated", "evaluated_against")] == [2, 2]
    code, out, err = robodiff("eval", b, *SIZE, "--steps", 2, "--against", own)  # one policy in two ways: said in words
    assert code == 0, err
    assert f"between {b} with Flow, 2 steps and {own} with Flow, 4 steps" in " ".join(out.split())
    code, _, err = robodiff("eval", a, "--data", "builtin:pusht", "--against", own)
    assert (code, "holds metrics.json and no offline.json; give the --env" in err) == (2, True), err
