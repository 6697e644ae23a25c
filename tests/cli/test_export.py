"""``robodiff export``: what it writes, what it refuses, and ``eval`` of what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.policies.test_diffusion import FLOW

from robodiff.evaluation import verification
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.denoisers import DiffusionMlpConfig
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy(small_policy: Callable[..., DiffusionPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy that is not part of a run."""
    monkeypatch.setattr(verification, "WINDOWS", 4)
    save_policy(small_policy(DiffusionMlpConfig, **FLOW), tmp_path / "policy")
    return tmp_path / "policy"


@pytest.mark.usefixtures("quick")
def test_exports_verifies_and_measures(robodiff: Run, policy: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "robot" / "exported"
    options = "--data", recording, "--env", "pusht", "--episodes", 2
    code, told, err = robodiff("export", policy, "--to", "onnx", *options, "--steps", 2, "--out", out)
    assert code == 0, err
    assert "at 4 windows" in told
    described = json.loads((out / "export.json").read_text())
    assert described["config"]["num_inference_steps"] == 2
    verified = described["verified"]
    assert verified["max_error"] <= verified["tolerance"] == 1e-3
    assert verified["success"]["exported"] == verified["success"]["torch"]
    assert {path.name for path in out.parent.iterdir()} == {"exported"}

    small = "--env", "pusht", "--episodes", 2, "--num_envs", 2, "--videos", 0
    code, told, err = robodiff("eval", out, *small)
    assert code == 0, err
    assert "on ONNX Runtime fp32, 1 thread" in told
    assert (out.parent / "eval" / "exported-pusht-seed100000-n2" / "metrics.json").is_file()
    code, told, err = robodiff("eval", out, "--data", recording, "--windows", 4, "--against", policy)
    assert code == 0, err  # each samples in its own way
    assert f"against {policy}" in told
    code, told, err = robodiff("eval", out, "--data", recording, "--windows", 4)
    assert code == 0, err
    assert "error of the executed actions" in told
    for command, message in (
        (("eval", out, *small, "--steps", 3), "exported with Flow, 2 steps; export its run again"),
        (("eval", out, *small, "--device", "cuda"), "exported for a CPU"),
        (("run", out, "--robot", "nobody.py", "--device", "cuda"), "exported for a CPU"),
        (("run", "ws://127.0.0.1:9", "--robot", "nobody.py", "--device", "cuda"), "give --sampler, --steps"),
        (("export", out, "--to", "onnx", "--out", tmp_path / "twice"), "is exported already"),
    ):
        code, _, err = robodiff(*command)
        assert (code, message in err) == (2, True), err


@pytest.mark.slow
def test_what_does_not_act_as_it_should_is_not_left_behind(
    robodiff: Run, policy: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verification.TOLERANCES, "fp32", 0.0)
    command = "export", policy, "--to", "onnx", "--data", recording, "--out", tmp_path / "out" / "exported"
    code, _, err = robodiff(*command)
    assert code == 1
    assert "differ from torch's by" in err
    assert "--accept_errors" in err
    assert not [*(tmp_path / "out").iterdir()]
    assert robodiff(*command, "--accept_errors")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "tensorrt"), "expected one of openvino, onnx, lerobot"),
        (("--to", "onnx", "--precision", "bf16"), "export --to openvino, or --precision int8"),
        (("--to", "onnx", "--out", "{}/empty"), "give --data PATH, a recording on which to compare"),
        (("--to", "onnx", "--data", "{}/none.zarr"), "none.zarr"),
        (("--to", "onnx", "--data", "{}/demos.zarr", "--out", "{}/demos.zarr"), "exists already"),
        (("--to", "onnx", "--data", "{}/demos.zarr", "--env", "puscht"), "unknown environment 'puscht'"),
        (("--to", "lerobot", "--precision", "int8"), "--precision, --env and --data are for openvino and onnx"),
    ],
)
def test_mistakes_are_told(
    robodiff: Run, policy: Path, recording: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    given = [option.format(tmp_path) for option in options]
    out = () if "--out" in given else ("--out", tmp_path / "out")
    code, printed, err = robodiff("export", policy, *given, *out)
    assert code in (1, 2)
    assert "writing" not in printed  # it takes a minute
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_there_is_such_a_run(robodiff: Run, tmp_path: Path) -> None:
    code, _, err = robodiff("export", tmp_path / "run", "--to", "onnx", "--out", tmp_path / "out")
    assert code == 1
    assert "no such folder" in err
    code, _, err = robodiff("export", tmp_path / "run", "--to", "onnx")
    assert code == 2
    assert "is not part of a run; give --out FOLDER" in err
