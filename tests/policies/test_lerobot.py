"""Checkpoints of LeRobot's type hybrid_diffusion without LeRobot: read, and refused in a line where they are broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from robodiff.data.episodes import Feature
from robodiff.documents import plain
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.lerobot import lerobot_policy
from robodiff.policies.hybrid import HybridDiffusionConfig

STATE, ACTION, CAMERA = "observation.state", "action", "observation.images.top"
FEATURES = {
    STATE: Feature("vector", (4,), "float32"),
    CAMERA: Feature("image", (3, 24, 32), "uint8"),
    ACTION: Feature("vector", (5,), "float32", tuple("abcde"), ("rad", "rad", "rad", "", "")),
}
OPTIONS = {"denoiser": "mlp", "hidden_dim": 32, "num_mlp_layers": 1, "diffusion_step_embed_dim": 8,
           "continuous_action_dim": 3, "discrete_action_dim": 2, "n_vae_training_steps": 10, "horizon": 4,
           "n_action_steps": 2, "vae_per": "chunk", "num_train_timesteps": 5, "learning_rate": 0.003,
           "spatial_softmax_num_keypoints": None}  # fmt: skip

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    torch.manual_seed(0)
    made = HybridDiffusionConfig(**OPTIONS).make_policy(FEATURES, fps=50)  # type: ignore[arg-type]
    return made.eval()


@pytest.fixture
def checkpoint(policy: DiffusionPolicy, tmp_path: Path) -> Path:
    """A checkpoint's folder as the plugin writes it."""
    folder = tmp_path / "000020" / "pretrained_model"
    folder.mkdir(parents=True)
    values = {
        name: value for name, value in plain(policy.config).items() if name not in ("learning_rate", "hidden_dim")
    }
    values |= {"type": "hybrid_diffusion", "optimizer_lr": 0.003, "options": {"hidden_dim": 32}, "device": "cuda"}
    values["input_features"] = {
        STATE: {"type": "STATE", "shape": [4]},
        CAMERA: {"type": "VISUAL", "shape": [3, 24, 32]},
    }
    values["output_features"] = {ACTION: {"type": "ACTION", "shape": [5]}}
    values |= {"fps": 50.0, "feature_names": {ACTION: [*"abcde"]}, "feature_units": {ACTION: ["rad"] * 3 + [""] * 2}}
    (folder / "config.json").write_text(json.dumps(values))
    weights = {f"policy.{key}": value.contiguous() for key, value in policy.state_dict().items()}
    save_file({**weights, "step": torch.tensor(20), "_extra_state": torch.zeros(0, 4, 2)}, folder / "model.safetensors")
    return folder.parent


def change(checkpoint: Path, **values: Any) -> None:
    path = checkpoint / "pretrained_model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_is_the_same_policy(policy: DiffusionPolicy, checkpoint: Path) -> None:
    for folder in (checkpoint, checkpoint / "pretrained_model"):
        read = lerobot_policy(folder)
        assert (read.config, read.features, read.fps) == (policy.config, policy.features, policy.fps)
        for key, value in policy.state_dict().items():
            torch.testing.assert_close(read.state_dict()[key], value, rtol=0, atol=0)


def test_import_writes_it_down(robodiff: Run, policy: DiffusionPolicy, checkpoint: Path, tmp_path: Path) -> None:
    code, text, err = robodiff("import", checkpoint, "--out", tmp_path / "walk")
    assert code == 0, err
    assert "samples with DDPM in all 5 steps" in text
    read = load_policy(tmp_path / "walk")
    observed = {STATE: torch.rand(2, 2, 4), CAMERA: torch.randint(0, 256, (2, 2, 3, 24, 32), dtype=torch.uint8)}
    noise = torch.randn(read.noise_shape(2))
    expected = policy.predict_chunk(observed, noise=noise).actions
    torch.testing.assert_close(read.predict_chunk(observed, noise=noise).actions, expected, rtol=0, atol=0)


def test_tells_that_it_has_not_come_to_its_second_stage(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint / "pretrained_model/model.safetensors"
    save_file(load_file(path) | {"step": torch.tensor(9)}, path)
    lerobot_policy(checkpoint)
    assert "is of the stage vae, before anything was learnt of continuous actions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"type": "act"}, "expected a policy of type diffusion or hybrid_diffusion; found 'act'"),
        ({"options": {"hidden_dims": 3}}, "Did you mean 'hidden_dim'?"),
        ({"horizon": "long"}, "horizon: "),
        ({"fps": None}, "fps: "),
        ({"input_features": {STATE: {"type": "STATE", "shape": [5]}}}, "model.safetensors: its weights do not fit"),
        ({"input_features": 3}, "input_features: "),
        ({"discrete_action_dim": 3}, "6 numbers of an action"),
    ],
)
def test_mistakes(values: dict[str, Any], problem: str, robodiff: Run, checkpoint: Path, tmp_path: Path) -> None:
    change(checkpoint, **values)
    code, _, err = robodiff("import", checkpoint, "--out", tmp_path / "walk")
    assert (code > 0, problem in err, len(err.splitlines()) <= 2) == (True, True, True), err
    assert not (tmp_path / "walk").exists()


def test_broken_files(robodiff: Run, checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint / "pretrained_model/model.safetensors"
    whole = weights.read_bytes()
    tensors = load_file(weights)
    tensors["policy.codec.low"] = tensors["policy.codec.low"] * float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    for content, problem in (
        (whole[:1000], "model.safetensors"),
        ((tmp_path / "nan.safetensors").read_bytes(), "codec.low holds values that are not finite"),
        (None, "model.safetensors"),
    ):
        weights.unlink()
        if content is not None:
            weights.write_bytes(content)
        code, _, err = robodiff("import", checkpoint, "--out", tmp_path / "walk")
        assert (code, problem in err, len(err.splitlines()) <= 2) == (1, True, True), err
        weights.touch()
    code, _, err = robodiff("import", tmp_path, "--out", tmp_path / "walk")
    assert (code, "config.json" in err, len(err.splitlines()) <= 2) == (1, True, True), err
