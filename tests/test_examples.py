"""Each file of ``examples/extending/`` is short, stands outside of the package, and trains through ``--plugin``."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robodiff import registry
from robodiff.diffusion import samplers

EXAMPLES = Path(__file__).parents[1] / "examples" / "extending"
Run = Callable[..., tuple[int, str, str]]
SMALL = (
    *("--model.down_dims", "[8,16]", "--model.n_groups", "4", "--model.diffusion_step_embed_dim", "8"),
    *("--data.train_batch_size", "8", "--trainer.tensorboard", "false", "--trainer.log_every_n_steps", "1"),
)


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", registry._Table())


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(registry, "_TABLE", registry._Table())


def plugin(name: str) -> tuple[str, str]:
    return "--plugin", str(EXAMPLES / name)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_they_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 60


@pytest.mark.slow
def test_a_denoiser(robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", *plugin("mlp_denoiser.py"), "--model", "MlpConfig",
                            "--model.width", 16, "--data.path", recording, "--run", run, "--trainer.max_steps", 2,
                            "--data.train_batch_size", 8, "--rollout.env", "null")  # fmt: skip
    assert code == 0, err
    assert json.loads((run / "policy" / "config.json").read_text())["config"]["class"] == "MlpConfig"
    forget_plugins(monkeypatch)
    for command in (("fit", "--resume", run, "--trainer.max_steps", 4), ("eval", run, "--windows", 4)):
        code, _, err = robodiff(*command)
        assert code != 0
        assert "--plugin" in err
        assert "mlp_denoiser.py" in err
        assert len(err.splitlines()) <= 2
    for command in (("fit", "--resume", run, "--trainer.max_steps", 4), ("eval", run, "--windows", 4), ("report", run)):
        forget_plugins(monkeypatch)
        code, _, err = robodiff(*command, *plugin("mlp_denoiser.py"))
        assert code == 0, err


@pytest.mark.slow
def test_a_sampler(robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", *plugin("midpoint_sampler.py"), *SMALL, "--run", run,
                            "--model.noise_scheduler_type", "Midpoint", "--model.num_inference_steps", 2,
                            "--data.path", recording, "--trainer.max_steps", 2, "--rollout.env", "null")  # fmt: skip
    assert code == 0, err
    code, out, err = robodiff("eval", run, "--windows", 4, "--steps", 3, *plugin("midpoint_sampler.py"))
    assert code == 0, err
    assert "Midpoint, 3 steps" in out
    forget_plugins(monkeypatch)
    monkeypatch.delitem(samplers.SAMPLERS, "Midpoint")
    for command in (("eval", run, "--windows", 4), ("eval", run / "policy", "--env", "pusht"), ("report", run)):
        code, _, err = robodiff(*command)
        assert (code != 0, "midpoint_sampler.py" in err) == (True, True), err


def test_a_format(robodiff: Run, tmp_path: Path) -> None:
    folder, random = tmp_path / "episodes", np.random.default_rng(0)
    folder.mkdir()
    for episode in range(4):
        walk = random.normal(size=(20, 3)).cumsum(0)
        lines = [
            json.dumps({"state": row.tolist(), "action": (row + 1).tolist(), "force": [0.5 * row[0]]}) for row in walk
        ]
        (folder / f"episode-{episode}.jsonl").write_text("\n".join(lines))
    code, out, err = robodiff("data", "info", folder, *plugin("json_lines.py"))
    assert code == 0, err
    assert "4 episodes, 80 frames" in out
    key_map = '{"state": "observation.joints", "force": "observation.force", "action": "action"}'
    code, out, err = robodiff("fit", "--config", "generic", *plugin("json_lines.py"), "--data", folder, *SMALL, "--run",
                              tmp_path / "run", "--trainer.max_steps", 2, "--data.key_map", key_map)  # fmt: skip
    assert code == 0, err
    assert "observes observation.joints, observation.force" in out


@pytest.mark.slow
def test_an_environment_with_two_agents(robodiff: Run, tmp_path: Path) -> None:
    demos = tmp_path / "meeting.zarr"
    code, _, err = robodiff("collect", "two_agents", "--episodes", 4, "--out", demos, *plugin("two_agents.py"))
    assert code == 0, err
    common = ("--config", "generic", *plugin("two_agents.py"), "--data", demos, *SMALL, "--trainer.max_steps", 2)
    code, _, err = robodiff("fit", *common, "--run", tmp_path / "team", "--rollout.env", "two_agents",
                              "--rollout.episodes", 2, "--rollout.num_envs", 2)  # fmt: skip
    assert code == 0, err
    code, _, err = robodiff("eval", tmp_path / "team", "--env", "two_agents", "--episodes", 3, "--videos", 1,
                              *plugin("two_agents.py"))  # fmt: skip
    assert code == 0, err
    code, _, err = robodiff("fit", *common, "--run", tmp_path / "one", "--data.agent", "0")
    assert code == 0, err


@pytest.mark.slow
def test_a_policy_with_two_stages(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", *plugin("two_stages.py"), *SMALL, "--model",
                            "BottleneckConfig", "--model.first_share", 0.5, "--data.path", recording, "--run", run,
                            "--trainer.max_steps", 4, "--rollout.env", "null")  # fmt: skip
    assert code == 0, err
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert [bool(row["train/lost_share"]) for row in rows] == [True, True, False, False]
    assert "lost share" in (run / "report.html").read_text()
