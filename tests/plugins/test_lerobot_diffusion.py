"""LeRobot's own type diffusion: what we write acts there as it does here, and what LeRobot writes acts so here."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.environment import environment, install

from robodiff.cli.main import main
from robodiff.data.episodes import Feature
from robodiff.data.normalize import Statistics
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.lerobot_writer import write_lerobot

pytestmark = pytest.mark.slow

STATE, ENVIRONMENT, ACTION = "observation.state", "observation.environment_state", "action"
TOP, WRIST = "observation.images.top", "observation.images.wrist"
SMALL = {"down_dims": (8, 16), "kernel_size": 3, "diffusion_step_embed_dim": 8, "horizon": 8,
         "n_action_steps": 4, "num_train_timesteps": 10, "spatial_softmax_num_keypoints": 4}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(environment(), folder)
    return folder


def inside(site: Path, *words: object) -> None:
    own = {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "HF_HOME": str(site / "hf"), "OMP_NUM_THREADS": "1"}
    command = [environment() / "python", Path(__file__).with_name("inside.py"), *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr[-3000:]


def check_equal(site: Path, policy: DiffusionPolicy, checkpoint: Path, tmp_path: Path) -> None:
    """The same window and noise give the same executed actions, in recorded units."""
    torch.manual_seed(1)
    observed: dict[str, Any] = {}
    for key in policy.observation_keys:
        shape = (3, policy.timing.n_obs_steps, *policy.features[key].shape)
        is_image = policy.features[key].kind == "image"
        observed[key] = torch.randint(0, 256, shape, dtype=torch.uint8) if is_image else torch.rand(shape)
    noise = torch.randn(policy.noise_shape(3))
    given = {key: (value / 255 if value.dtype == torch.uint8 else value).numpy() for key, value in observed.items()}
    np.savez(tmp_path / "in.npz", noise=noise.numpy(), **given)
    inside(site, "own", checkpoint, tmp_path / "in.npz", tmp_path / "out.npz")
    expected = policy.predict_chunk(observed, noise=noise).executed(policy.timing).numpy()
    with np.load(tmp_path / "out.npz") as acted:
        np.testing.assert_allclose(acted["chunk"], expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("kind", ["cameras", "numbers"])
def test_what_lerobot_writes_acts_here(kind: str, site: Path, tmp_path: Path) -> None:
    inside(site, "make", kind, tmp_path / "there")
    main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "policy"), "--fps", "10"])
    check_equal(site, load_policy(tmp_path / "policy"), tmp_path / "there", tmp_path)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"noise_scheduler_type": "DDIM", "num_inference_steps": 3, "timestep_spacing": "leading"},
         [ENVIRONMENT, STATE]),
        ({"num_inference_steps": 5, "crop_shape": (36, 36), "use_separate_rgb_encoder_per_camera": True},
         [WRIST, STATE, TOP]),
        ({"resize_shape": (40, 40), "crop_shape": (36, 36), "use_group_norm": False, "prediction_type": "sample",
          "normalization": {TOP: "imagenet", STATE: "mean_std"}}, [TOP, ENVIRONMENT, STATE]),
    ],
)  # fmt: skip
def test_what_we_write_acts_there(options: dict[str, Any], keys: list[str], site: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = {key: Feature("image", (3, 48, 40), "uint8") if "image" in key else Feature("vector", (4,), "float32")
                for key in (*keys, ACTION)}  # fmt: skip
    policy = DiffusionConfig(**{**SMALL, **options}).make_policy(features, fps=10).eval()
    still = Statistics(*np.array([[0, 0.1, 0.2, 0.5], [1, 1.3, 1.1, 0.5], [0.5, 0.5, 0.6, 0.5], [0.3, 0.2, 0.2, 0]]))
    policy.normalizer.fit({key: still for key in (*keys, ACTION) if "image" not in key})
    write_lerobot(policy, tmp_path / "there")
    check_equal(site, policy, tmp_path / "there", tmp_path)
