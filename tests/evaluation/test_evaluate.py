"""``robodiff eval``: the file it writes, the videos, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from tests.policies.test_diffusion import FLOW

from robodiff.data.formats.lerobot.video import encode_video
from robodiff.envs.spec import get_env_spec
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.evaluate import evaluate
from robodiff.evaluation.members import find_members
from robodiff.evaluation.results import EnvResult, read_result
from robodiff.evaluation.rollout import rollout
from robodiff.evaluation.runs import read_curves
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.diffusion import DiffusionPolicy

LIMIT = 390.0
Make = Callable[..., DiffusionPolicy]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def saved(small_policy: Make, tmp_path: Path) -> Path:
    save_policy(small_policy(**FLOW), tmp_path / "run" / "policy")
    return tmp_path / "run"


@pytest.mark.usefixtures("quick")
def test_metrics_and_videos(robodiff: Run, saved: Path, tmp_path: Path) -> None:
    command = ("eval", saved, "--env", "pusht", "--episodes", 2, "--num_envs", 2, "--seed", 7, "--videos", 1)
    code, out, err = robodiff(*command)
    assert (code, err) == (0, "")
    folder = saved / "eval" / "pusht-seed7-n2"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"success_rate", "success_rate_ci95", "mean_max_reward", "mean_episode_length", "episodes",
                            "non_finite_actions", "out_of_range", "policy_collisions", "latency_ms", "extra",
                            "evaluated", "demonstrations"}  # fmt: skip
    assert [e["seed"] for e in metrics["episodes"]] == [7, 8]
    assert metrics["success_rate"] == np.mean([e["success"] for e in metrics["episodes"]])
    assert metrics["mean_max_reward"] == pytest.approx(np.mean([e["max_reward"] for e in metrics["episodes"]]))
    assert set(metrics["latency_ms"]) == {"p50", "p95"}
    assert metrics["evaluated"]["sampler"] == "Flow"
    assert metrics["non_finite_actions"] == 0
    assert (metrics["out_of_range"], "range of training" in out) == (0, False)
    assert "not finite" not in out + (folder / "report.html").read_text()
    assert "95 % interval" in out
    assert str(folder / "metrics.json") in out

    videos = list((folder / "videos").iterdir())
    assert [v.name for v in videos] == ["failure-7.mp4"]  # an untrained policy
    with av.open(str(videos[0])) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        frames = sum(1 for _ in video.decode(video=0))
    assert frames == metrics["episodes"][0]["length"] + 1

    assert robodiff(*command, "--out", tmp_path / "again")[0] == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert {**again, "latency_ms": 0} == {**metrics, "latency_ms": 0}


@pytest.mark.kind("an observation far outside of the range of training")
@pytest.mark.usefixtures("quick")
def test_what_lies_far_outside_of_the_range_of_training_is_counted(
    robodiff: Run, small_policy: Make, tmp_path: Path
) -> None:
    policy = small_policy(**FLOW)
    policy.normalizer.maps["observation/state"].max[1] = LIMIT  # type: ignore[index]
    save_policy(policy, tmp_path / "policy")
    code, out, err = robodiff(
        "eval", tmp_path / "policy", "--env", "pusht", "--episodes", 4, "--num_envs", 2, "--seed", 7, "--videos", 0,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert (code, err) == (0, "")
    spec, farthest = get_env_spec("pusht"), []
    for record in (records := rollout(policy, spec, range(7, 11), 2)):
        environment = spec.make(["observation.state"])
        states = [environment.reset(seed=record.seed)[0]["observation.state"][1]]
        states += [environment.step(action)[0]["observation.state"][1] for action in record.actions[:-1]]
        farthest.append(max(0, max(states) - LIMIT) / LIMIT)
    assert [record.out_of_range for record in records] == pytest.approx(farthest)
    far = sum(share > 0.25 for share in farthest)
    assert 0 < far < 4, farthest
    assert read_result(tmp_path / "out", EnvResult).out_of_range == far
    assert f"\n{far} of 4 episodes observed what lies far out of range of training\n" in out


@pytest.mark.usefixtures("quick")
def test_actions_that_are_not_finite_are_told(robodiff: Run, saved: Path) -> None:
    command = ("eval", saved, "--env", "broken", "--num_envs", 2, "--videos", 1)
    code, out, err = robodiff(*command, "--episodes", 2, "--seed", 103)
    assert (code, err) == (0, "")
    folder = saved / "eval" / "broken-seed103-n2"
    told = f"1 of 2 episodes was stopped by an action that is not finite, before it was executed; what the policy \
observed there is in {folder / 'non_finite'}"
    assert told in out
    assert told in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["non_finite_actions"] == 1
    assert [e["length"] for e in metrics["episodes"]] == [8, 30]
    assert [e["non_finite"] for e in metrics["episodes"]] == [True, False]
    (file,) = (folder / "non_finite").iterdir()
    with np.load(file, allow_pickle=False) as kept:
        assert file.name == "seed-103.npz"
        assert kept["step"] == 8
        assert np.isnan(kept["observation.state"]).tolist() == [[False, False], [False, True]]
        assert kept["observation.environment_state"].shape == (2, 16)
        assert np.isnan(kept["action"]).any()

    # where no episode is stopped any more nothing says so
    (folder / "non_finite" / "notes.npz").touch()
    assert robodiff(*command, "--episodes", 2, "--seed", 104, "--out", folder)[0] == 0
    assert [path.name for path in (folder / "non_finite").iterdir()] == ["notes.npz"]
    assert "not finite" not in (folder / "report.html").read_text()


@pytest.mark.usefixtures("quick")
def test_training_goes_on_when_an_action_is_not_finite(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    code, out, err = robodiff("fit", "--config", "pusht_keypoints", "--data.path", recording, "--run", tmp_path / "run",
                              "--model.down_dims", "[8,16]", "--model.n_groups", 4, "--data.train_batch_size", 16,
                              "--trainer.max_epochs", 2, "--rollout.every_n_epochs", 1, "--rollout.env", "broken",
                              "--rollout.seed", 102, "--rollout.episodes", 2, "--rollout.num_envs", 2)  # fmt: skip
    assert code == 0, err
    curves = read_curves(tmp_path / "run" / "metrics.csv")
    assert curves["rollout/non_finite_actions"][1] == [1, 1]
    assert "1 stopped by an action that is not finite" in " ".join(out.split())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "An action that is not finite stopped 1 of their episodes." in page


@pytest.mark.usefixtures("quick")
def test_a_sampler_can_be_chosen(robodiff: Run, saved: Path, tmp_path: Path) -> None:
    code, out, _ = robodiff("eval", saved / "policy", "--env", "pusht", "--episodes", 1, "--num_envs", 1, "--sampler",
                            "heun", "--steps", 2, "--videos", 0, "--out", tmp_path / "o")  # fmt: skip
    assert code == 0
    assert "FlowHeun, 2 steps" in out
    assert "videos/ beside it" not in out


def test_episodes_are_those_of_the_first_version(tmp_path: Path) -> None:
    """Its run, evaluated again: the same rewards, but for how another machine rounds."""
    run = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"
    before = read_result(run / "eval" / "pusht-seed100000-n2", EnvResult)
    config = EvalConfig(env="pusht", episodes=1, seed=100_001, num_envs=2, videos=0)
    result = evaluate(find_members([str(run)]), tmp_path, config)
    assert result.evaluated.policy == before.evaluated.policy
    (episode,), expected = result.episodes, before.episodes[1]
    assert (episode.seed, episode.length, episode.success) == (expected.seed, expected.length, expected.success)
    assert episode.max_reward == pytest.approx(expected.max_reward, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "pushy"], ["unknown environment 'pushy'", "Did you mean 'pusht'?"]),
        (["--env", "pusht", "--episodes", "0"], ["--episodes: expected int >= 1 or null; found 0"]),
        (["--env", "pusht", "--sampler", "ddim"], ["does not go with"]),
        (["--episodes", "100"], ["--episodes is for episodes in an environment; give --env"]),
        (["--epsiodes", "100"], ["unknown option --epsiodes", "Did you mean '--episodes'?"]),
        ([], ["--env"]),
    ],
)
def test_refused(robodiff: Run, saved: Path, arguments: list[str], words: list[str]) -> None:
    code, _, err = robodiff("eval", saved, *arguments)
    assert (code, "Traceback" in err) == (2, False)
    assert all(word in err for word in words), err
    assert not (saved / "eval").exists()


def test_no_policy_there(robodiff: Run, tmp_path: Path) -> None:
    code, _, err = robodiff("eval", tmp_path / "absent", "--env", "pusht")
    assert code == 2
    assert "no such folder" in err
    code, _, err = robodiff("eval", tmp_path, "--env", "pusht")
    assert code == 1
    assert "no policy here" in err


def test_video_round_trip(tmp_path: Path) -> None:
    frames = [np.full((64, 48, 3), 20 * i, np.uint8) for i in range(10)]
    encode_video(tmp_path / "v.mp4", (frame.transpose(2, 0, 1) for frame in frames), 10, "h264", key_frames=250)
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert video.streams.video[0].average_rate == 10
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(decoded) == 10
    assert max(np.abs(d.astype(int) - f).max() for d, f in zip(decoded, frames, strict=True)) < 6
