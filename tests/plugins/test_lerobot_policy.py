"""LeRobot trains the policy type hybrid_diffusion through its own commands; its policies and ours are the same."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.plugins.environment import environment, install

from robodiff.cli.main import main
from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot.writer import write_lerobot
from robodiff.data.recordings import open_path
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.hybrid import HybridDiffusionConfig

pytestmark = pytest.mark.slow

STATE, ACTION = "observation.state", "action"
JOINTS, FLAGS = 21, 2
VAE_STEPS, STEPS, EVERY = 8, 16, 4
SMALL = ["--policy.down_dims=[8,16]", "--policy.n_groups=4", "--policy.kernel_size=3", "--policy.horizon=8",
         "--policy.n_action_steps=4", "--policy.num_train_timesteps=5", "--policy.scheduler_warmup_steps=1",
         f"--policy.n_vae_training_steps={VAE_STEPS}", f"--policy.continuous_action_dim={JOINTS}",
         f"--policy.discrete_action_dim={FLAGS}"]  # fmt: skip
QUIET = ["--policy.push_to_hub=false", "--policy.device=cpu", "--num_workers=0", "--batch_size=4"]

LeRobot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demonstrations of the humanoid that walks."""
    folder = tmp_path_factory.mktemp("demonstrations") / "walk"
    main(["collect", "biped", "--episodes", "4", "--workers", "1", "--format", "lerobot", "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    """A function that runs a program of LeRobot's environment."""
    programs, site = environment(), tmp_path_factory.mktemp("site")
    install(programs, site)
    own = {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "HF_HOME": str(site / "hf"), "OMP_NUM_THREADS": "1"}

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(programs / program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **own})

    return run


@pytest.fixture(scope="module")
def trained(lerobot: LeRobot, walk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of both stages with validation, and what it printed."""
    folder = tmp_path_factory.mktemp("lerobot")
    data = ["--dataset.repo_id=me/walk", f"--dataset.root={walk}", "--dataset.eval_split=0.25"]
    length = [f"--steps={STEPS}", f"--save_freq={EVERY}", f"--log_freq={EVERY}", "--eval_steps=3"]
    words = ["--policy.type=hybrid_diffusion", *data, *SMALL, *QUIET, *length, f"--output_dir={folder / 'run'}"]
    done = lerobot("lerobot-train", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout + done.stderr


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:06d}" / "pretrained_model"


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint(run, step) / "model.safetensors")


def test_only_the_stage_that_runs_learns(trained: tuple[Path, str]) -> None:
    run, text = trained
    saved = {step: weights(run, step) for step in range(EVERY, STEPS + 1, EVERY)}
    learnt = {"policy.codec.vae.": (EVERY, VAE_STEPS), "policy.denoiser.": (VAE_STEPS, STEPS)}
    for step, values in saved.items():
        assert int(values["step"]) == step  # validation in between does not count
        for start, (first, last) in learnt.items():
            before = saved.get(step - EVERY, values)
            moved = any(not values[key].equal(before[key]) for key in values if key.startswith(start))
            assert moved == (first < step <= last), (step, start)
    assert text.count("the VAE is trained and rests, the diffusion model is trained from here on") == 1
    first, second = (next(line for line in text.splitlines() if f"step:{n} " in line) for n in (EVERY, STEPS))
    assert all(f"{name}:" in first for name in ("stage:1.000 vae_loss", "reconstruction", "kl", "accuracy"))
    assert "stage:2.000" in second
    assert "diffusion_loss:" in second


def test_the_latent_is_scaled_by_what_was_seen(trained: tuple[Path, str]) -> None:
    """Of the four patterns of two flags one never occurs."""
    run, text = trained
    assert "of 3 patterns of discrete actions" in text
    values = weights(run, STEPS)
    assert values["_extra_state"].shape == (0, 1, 2)
    assert {tuple(row) for row in weights(run, EVERY)["_extra_state"].flatten(1).tolist()} == {(0, 1), (1, 0), (1, 1)}
    main(["import", str(run / "checkpoints" / "last"), "--out", str(run / "imported-latent")])
    policy = load_policy(run / "imported-latent")
    seen = torch.tensor([[[0.0, 1]], [[1, 0]], [[1, 1]]])
    code = policy.codec.encode(seen)  # type: ignore[union-attr]
    torch.testing.assert_close(code.amax((0, 1)), torch.ones(16))
    torch.testing.assert_close(code.amin((0, 1)), -torch.ones(16))


def test_a_configuration_with_its_own_optimizer_and_schedule(
    lerobot: LeRobot, trained: tuple[Path, str], tmp_path: Path
) -> None:
    """All parameters are one group then, and the scheduler's names are document 000's."""
    run, _ = trained
    values = json.loads((checkpoint(run, STEPS) / "train_config.json").read_text())
    values |= {"use_policy_training_preset": False, "output_dir": str(tmp_path / "run"), "steps": 12, "eval_steps": 0}
    values["policy"]["optimizer_type"] = "adam"
    values["optimizer"] = {"type": "adam", "lr": 1.0}
    values["scheduler"] = {
        "type": "hybrid_diffusion",
        "num_vae_training_steps": VAE_STEPS,
        "warmup_steps": 0,
        "lr": 1e-4,
    }
    (tmp_path / "train_config.json").write_text(json.dumps(values))
    done = lerobot("lerobot-train", f"--config_path={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, last = (weights(tmp_path / "run", step) for step in (EVERY, VAE_STEPS, 12))
    for start, before, after, other in (
        ("policy.codec.vae.", first, second, last),
        ("policy.denoiser.", second, last, first),
    ):
        keys = [key for key in last if key.startswith(start)]
        assert 0 < max(float((after[key] - before[key]).abs().max()) for key in keys) < 1e-3
        assert all(second[key].equal(other[key]) for key in keys)


@pytest.mark.parametrize("step", [EVERY, VAE_STEPS, VAE_STEPS + EVERY])
def test_resumed_it_ends_in_the_same_weights(step: int, lerobot: LeRobot, trained: tuple[Path, str]) -> None:
    """Within the first pass over the data: later LeRobot's own order of samples differs from an unbroken run's."""
    run, _ = trained
    out = run.with_name(f"resumed-{step}")
    words = [f"--config_path={checkpoint(run, step) / 'train_config.json'}", "--resume=true", f"--output_dir={out}"]
    done = lerobot("lerobot-train", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("the VAE is trained and rests") == (1 if step < VAE_STEPS else 0)
    expected, found = weights(run, STEPS), weights(out, STEPS)
    assert expected.keys() == found.keys()
    assert all(expected[key].equal(found[key]) for key in expected)


def test_another_run_goes_on_from_it(lerobot: LeRobot, walk: Path, trained: tuple[Path, str]) -> None:
    """What is left of the first stage is trained first; where nothing is left the second begins at once."""
    run, _ = trained
    data = ["--dataset.repo_id=me/walk", f"--dataset.root={walk}"]
    for step, left in ((EVERY, VAE_STEPS - EVERY), (STEPS, 0)):
        out = run.with_name(f"more-{step}")
        words = [f"--policy.path={checkpoint(run, step)}", *data, *QUIET, "--steps=6", f"--output_dir={out}"]
        done = lerobot("lerobot-train", *words)
        assert done.returncode == 0, done.stderr[-3000:]
        config = json.loads((checkpoint(out, 6) / "train_config.json").read_text())
        assert config["scheduler"]["num_vae_training_steps"] == left
        values, before = weights(out, 6), weights(run, step)
        assert int(values["step"]) == step + 6
        assert any(not values[key].equal(before[key]) for key in values if key.startswith("policy.denoiser."))


def test_its_checkpoint_acts_here_as_it_does_there(lerobot: LeRobot, trained: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = trained
    main(["import", str(run / "checkpoints" / "last"), "--out", str(tmp_path / "policy")])
    policy = load_policy(tmp_path / "policy")
    names = policy.features[ACTION].names
    assert names
    assert (names[0], names[-1], policy.features[ACTION].units[0]) == ("left_hip_z", "right_contact", "rad")
    assert policy.fps == 50
    check_equal(lerobot, tmp_path / "policy", checkpoint(run, STEPS), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"denoiser": "mlp", "hidden_dim": 32, "num_mlp_layers": 1, "vae_per": "chunk", "action_rotations": ["0:3"]},
        {"denoiser": "transformer", "n_layer": 1, "n_emb": 16, "n_head": 2, "discrete_codec": "analog_bits"},
    ],
)
def test_a_policy_of_ours_acts_there_as_it_does_here(options: Any, lerobot: LeRobot, tmp_path: Path) -> None:
    camera = {"observation.images.top": Feature("image", (3, 24, 32), "uint8")}
    features = {STATE: Feature("vector", (5,), "float32"), **camera, ACTION: Feature("vector", (6,), "float32")}
    sizes = {"continuous_action_dim": 4, "discrete_action_dim": 2, "spatial_softmax_num_keypoints": None}
    torch.manual_seed(0)
    config = HybridDiffusionConfig(**sizes, num_inference_steps=5, noise_scheduler_type="DDIM", **options)  # type: ignore[arg-type]
    save_policy(config.make_policy(features, fps=30), tmp_path / "policy")
    done = lerobot("python", "-m", "lerobot_policy_robodiff.export", tmp_path / "policy", tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    check_equal(lerobot, tmp_path / "policy", tmp_path / "exported", tmp_path)
    main(["import", str(tmp_path / "exported"), "--out", str(tmp_path / "back")])
    back, there = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("back", "policy"))
    assert {**back, "weights_sha256": ""} == {**there, "weights_sha256": ""}
    done = lerobot("python", "-m", "lerobot_policy_robodiff.export", tmp_path / "policy", tmp_path / "exported")
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {tmp_path / 'exported'}: exists already; choose another folder"


def check_equal(lerobot: LeRobot, folder: Path, there: Path, tmp_path: Path) -> None:
    """The same observations and noise give the same chunk and the same single actions, up to how each torch rounds."""
    torch.manual_seed(1)
    policy = load_policy(folder)
    steps = policy.timing.n_obs_steps
    images = torch.randint(0, 256, (3, steps, 3, 24, 32), dtype=torch.uint8)
    observed = {
        key: torch.rand(3, steps, *feature.shape) if feature.kind == "vector" else images
        for key, feature in policy.features.items()
        if key != ACTION
    }
    noise = torch.randn(policy.noise_shape(3))
    scaled = {key: (value / 255 if value.dtype == torch.uint8 else value).numpy() for key, value in observed.items()}
    np.savez(tmp_path / "in.npz", noise=noise.numpy(), **scaled)
    words = ("acting", there, folder, tmp_path / "in.npz", tmp_path / "out.npz")
    done = lerobot("python", Path(__file__).with_name("inside.py"), *words)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = policy.predict_chunk(observed, noise=noise).executed(policy.timing).numpy()
    with np.load(tmp_path / "out.npz") as acted:
        np.testing.assert_allclose(acted["chunk"], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(acted["steps"], expected[0], rtol=0, atol=1e-5)
    flags = expected[..., -2:]
    assert ((flags == 0) | (flags == 1)).all()


def test_learning_rates(lerobot: LeRobot, tmp_path: Path) -> None:
    done = lerobot("python", Path(__file__).with_name("inside.py"), "schedule", tmp_path / "rates.json")
    assert done.returncode == 0, done.stderr[-3000:]
    rates = json.loads((tmp_path / "rates.json").read_text())
    diffusion, vae = np.array(rates["named"]).T
    assert vae[0] == 0.5
    assert (np.diff(vae[:11]) < 0).all()
    assert not vae[10:].any()
    assert not diffusion[:10].any()
    np.testing.assert_allclose(diffusion[10:14], [0.25 / 3, 0.5 / 3, 0.25, 0.25])  # warm-up of the stage, then its peak
    assert (np.diff(diffusion[13:]) < 0).all()
    assert diffusion[40] == 0
    np.testing.assert_allclose(np.array(rates["unnamed"])[:, 0], vae / 2 + diffusion)


CLASSES = "the last 2 numbers of an action: expected class values, such as 0, 1; found 0.5"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["--policy.discrete_action_dim=3"],
            "continuous_action_dim 21 + discrete_action_dim 3 = 24 numbers of an action",
        ),
        (["--policy.options={hidden_dims: 3}"], "unknown option hidden_dims. Did you mean 'hidden_dim'?"),
        (["--policy.vae_per=frame"], "vae_per: "),
        (["--policy.optimizer_type=muon"], "optimizer_type: expected adam or adamw, found muon"),
        (["--policy.discrete_codec=none"], CLASSES),
        ([], CLASSES),
    ],
)
def test_mistakes(words: list[str], problem: str, lerobot: LeRobot, walk: Path, tmp_path: Path) -> None:
    root = halved(walk, tmp_path / "halved") if problem == CLASSES else walk
    data = ["--dataset.repo_id=me/walk", f"--dataset.root={root}"]
    run = ["--policy.type=hybrid_diffusion", *data, *SMALL, *QUIET, "--steps=2", f"--output_dir={tmp_path / 'run'}"]
    done = lerobot("lerobot-train", *run, *words)
    assert done.returncode != 0
    assert f"ValueError: {problem}" in done.stderr, done.stderr[-2000:]


def halved(walk: Path, out: Path) -> Path:
    """The same recording with flags of 0 and 0.5."""
    data = open_path(str(walk)).read()
    scale = np.repeat(np.array([1, 0.5], np.float32), [JOINTS, FLAGS])
    write_lerobot(replace(data, arrays={**data.arrays, ACTION: data.arrays[ACTION] * scale}), out)
    return out
