"""Two stages of a hybrid policy: which learns when, what is logged, and that resuming anywhere ends the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.training.test_stages import Watch, resumed, silent

from robodiff.data.episodes import Feature
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.errors import UsageError
from robodiff.files import read_rows
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.hybrid import HybridDiffusionConfig
from robodiff.training.config import FitConfig, TrainerConfig
from robodiff.training.fit import fit

Run = Callable[..., tuple[int, str, str]]
SMALL = {"hidden_dim": 16, "num_mlp_layers": 1, "diffusion_step_embed_dim": 8, "horizon": 8, "n_action_steps": 4}


def write_gait(path: Path, joints: int = 12, episodes: int = 6, contacts: Callable[..., Any] | None = None) -> Path:
    """A made-up gait: joints swing, and a foot is on the ground for three quarters of its period."""
    names = (*(f"joint_{number}" for number in range(joints)), "left_contact", "right_contact")
    features = {"observation.state": Feature("vector", (joints,), "float32", names[:-2], "rad"),
                "action": Feature("vector", (joints + 2,), "float32", names)}  # fmt: skip
    writer = ZarrWriter(path, fps=50.0, features=features)
    for episode in range(episodes):
        phase = np.arange(40 + episode)[:, None] / 10 + 0.3 * episode
        angles = np.sin(2 * np.pi * (phase + np.arange(joints) / joints)).astype(np.float32)
        flags = (np.concatenate([phase, phase + 0.5], 1) % 1 < 0.75).astype(np.float32)
        if contacts is not None:
            flags = contacts(flags)
        writer.append({"observation.state": angles, "action": np.concatenate([angles + 0.1, flags], 1)}, seed=episode)
    writer.close()
    return path


@pytest.fixture
def gait(tmp_path: Path) -> Path:
    return write_gait(tmp_path / "gait.zarr")


@pytest.fixture
def configured(gait: Path) -> Callable[..., FitConfig]:
    def make(model: dict[str, Any] | None = None, **trainer: Any) -> FitConfig:
        options = {"denoiser": "mlp", "continuous_action_dim": 12, "n_vae_training_steps": 6, "num_inference_steps": 2,
                   "scheduler_warmup_steps": 2, "learning_rate": 2e-3, **(model or {})}  # fmt: skip
        return FitConfig(
            model=HybridDiffusionConfig(**SMALL, **options),
            data=ZarrConfig(path=str(gait), train_batch_size=16, val_split=0.2),
            trainer=TrainerConfig(**{"max_steps": 16, "log_every_n_steps": 1, "accelerator": "cpu",
                                     "tensorboard": False, **trainer}),
        )  # fmt: skip

    return make


def test_each_stage_learns_its_own_at_its_own_rate(
    configured: Callable[..., FitConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, run = Watch(monkeypatch), tmp_path / "run"
    console = Console(record=True)
    fit(configured({"optimizer_type": "adam"}), run, "", console=console)
    assert "step 6: stage diffusion begins; the VAE gives back" in console.export_text()
    assert watch.trained == 6 * ["c"] + 10 * ["d"]  # the codec, then the denoiser
    assert watch.averaged == watch.trained
    assert watch.rates[0] == pytest.approx(3e-4)  # of the VAE, without warm-up
    assert watch.rates[6:8] == pytest.approx([2e-3, 2e-3])  # a tenth of ten steps is the warm-up
    logged = read_rows(run / "metrics.csv", "global_step")
    steps = {int(row["global_step"]): row for row in logged if row["train/stage"]}
    assert [int(row["train/stage"]) for row in steps.values()] == 6 * [1] + 10 * [2]
    assert [bool(row["train/vae_loss"]) for row in steps.values()] == 6 * [True] + 10 * [False]
    assert [bool(row["train/loss"]) for row in steps.values()] == 6 * [False] + 10 * [True]
    for name in ("reconstruction", "kl", "accuracy", "latent_range"):
        assert [bool(row[f"train/{name}"]) for row in steps.values()] == 6 * [True] + 10 * [False]
    measured = [row for row in logged if row["val/action_mse"]]
    assert all(int(row["global_step"]) > 6 for row in measured)  # no policy is judged before it can act
    optimizer = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    policy = load_policy(run)
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == len([*policy.parameters()])
    flags = torch.tensor([[0.0, 1], [1, 0], [1, 1]])  # all that there are
    torch.testing.assert_close(policy.codec.encode(flags[None])[0].amax(0), torch.ones(16))  # the limits are saved


@pytest.mark.parametrize("batch", [3, 6, 11])
@pytest.mark.parametrize("model", [{"self_conditioning": True, "vae_target": "sample"}, {"vae_per": "chunk"}])
def test_resuming_in_either_stage_changes_nothing(
    configured: Callable[..., FitConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, model: Any
) -> None:
    config = configured(model)
    fit(config, tmp_path / "whole", "", console=silent())
    again = resumed(config, tmp_path / "run", batch, monkeypatch)
    weights = load_file(tmp_path / "whole" / "policy-last" / "model.safetensors")
    assert all(value.equal(again[name]) for name, value in weights.items())
    csv = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "run")]
    assert csv[0] == csv[1]


def test_early_stopping_looks_at_the_last_stage_alone(configured: Callable[..., FitConfig], tmp_path: Path) -> None:
    config = configured({"n_vae_training_steps": 60, "learning_rate": 1e-12}, max_steps=200, early_stopping_patience=2)
    fit(config, tmp_path / "run", "", console=silent())
    last = int(read_rows(tmp_path / "run" / "metrics.csv", "global_step")[-1]["global_step"])
    assert 60 < last < 200
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["robodiff"]["lengths"] == [
        60,
        last - 60,
    ]


def test_the_vae_of_another_run_is_taken(configured: Callable[..., FitConfig], tmp_path: Path, gait: Path) -> None:
    fit(configured(), tmp_path / "first", "", console=silent())
    config = configured({"vae_weights": str(tmp_path / "first"), "learning_rate": 1e-3}, max_steps=5)
    fit(config, tmp_path / "second", "", console=silent())
    first, second = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("first", "second"))
    taken = [name for name in first if name.startswith("codec.")]
    assert len(taken) == 14
    assert all(first[name].equal(second[name]) for name in taken)
    fit(config, tmp_path / "second", "", resume=True, new_length=True, console=silent())
    with pytest.raises(UsageError, match=r"the VAE of .*first does not fit: low should be \(3,\), is \(16,\)"):
        fit(replace(config, model=replace(config.model, vae_latent_dim=3)), tmp_path / "third", "", console=silent())


def test_a_vae_whose_latent_was_never_scaled_is_taken(
    configured: Callable[..., FitConfig], tmp_path: Path, gait: Path
) -> None:
    fit(configured(max_steps=6), tmp_path / "first", "", console=silent())  # its limits are fitted in the second stage
    config = configured({"vae_weights": str(tmp_path / "first")}, max_steps=1)
    fit(config, tmp_path / "second", "", console=silent())
    flags = torch.tensor([[0.0, 1], [1, 0], [1, 1]])  # all that there are
    code = load_policy(tmp_path / "second").codec.encode(flags[None])[0]
    torch.testing.assert_close(code.amin(0), -torch.ones(16))
    torch.testing.assert_close(code.amax(0), torch.ones(16))


def test_a_run_that_is_made_longer_goes_on_with_its_vae(configured: Callable[..., FitConfig], tmp_path: Path) -> None:
    fit(configured(max_steps=4, keep_every_n_epochs=1), tmp_path / "run", "", console=silent())  # of the six
    assert not (tmp_path / "run" / "policies").exists()  # none of them could act
    fit(configured(), tmp_path / "run", "", resume=True, new_length=True, console=silent())
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["robodiff"]["lengths"] == [6, 10]


@pytest.mark.parametrize("denoiser", ["unet", "transformer", "mlp"])
def test_a_recording_of_another_robot_trains(robodiff: Run, tmp_path: Path, denoiser: str) -> None:
    """12 joints and 2 contacts, as a LeRobot data set, with each of the denoisers."""
    write_gait(tmp_path / "gait.zarr")
    code, _, err = robodiff("data", "convert", tmp_path / "gait.zarr", tmp_path / "set", "--format", "lerobot")
    assert code == 0, err
    network = {"unet": ["--model.down_dims", "[8,16]", "--model.n_groups", 4],
               "transformer": ["--model.n_emb", 8, "--model.n_layer", 1],
               "mlp": ["--model.hidden_dim", 16]}  # fmt: skip
    options = ["--config", "hybrid_locomotion", "--model.continuous_action_dim", 12, "--model.denoiser", denoiser]
    code, out, err = robodiff("fit", *options, *network[denoiser], "--data", tmp_path / "set", "--run",
                              tmp_path / "run", "--trainer.fast_dev_run", "true")  # fmt: skip
    assert code == 0, err
    assert "stage diffusion begins" in out
    policy = load_policy(tmp_path / "run")
    assert policy.features["action"].names[-2:] == ("left_contact", "right_contact")


def test_contacts_that_never_change(robodiff: Run, tmp_path: Path) -> None:
    recording = write_gait(tmp_path / "gait.zarr", contacts=np.ones_like)
    code, _, err = robodiff("fit", "--config", "biped_hybrid", "--model.continuous_action_dim", 12, "--data", recording,
                            "--run", tmp_path / "run", "--trainer.fast_dev_run", "true")  # fmt: skip
    assert code == 0, err
    state = {"observation.state": np.zeros((1, 2, 12), np.float32)}
    assert (load_policy(tmp_path / "run").predict_chunk(state).actions[..., 12:] == 1).all()


def test_contacts_that_are_no_classes(robodiff: Run, tmp_path: Path) -> None:
    recording = write_gait(tmp_path / "gait.zarr", contacts=lambda flags: flags * 0.9)
    code, _, err = robodiff("fit", "--config", "biped_hybrid", "--model.continuous_action_dim", 12, "--data", recording,
                            "--run", tmp_path / "run", "--trainer.max_steps", "2")  # fmt: skip
    assert code == 2
    assert "action 12 (left_contact): frame 0 of episode 0: expected 0 or 1; found 0.9, and in" in err
