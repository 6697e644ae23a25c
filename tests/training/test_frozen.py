"""What a frozen backbone gives of a frame is worked out once, and training goes on as if it saw the images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.policies.test_diffusion import seeing_batch
from tests.recordings import write_npz
from torchvision import models

from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.training.module import PolicyTraining

Command = Callable[..., tuple[int, str, str]]
FROZEN = {"freeze_backbone": True, "use_group_norm": False, "pretrained_backbone_weights": "any.pth"}


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A run of six steps with a frozen ResNet on four episodes, one of them not used."""
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), tmp_path / "weights.pth")
    return [
        "--config", "generic", "--data", write_npz(tmp_path / "demos.npz"), "--data.episodes", "[0, 2, 3]",
        "--data.train_batch_size", 8, "--data.val_split", 0.3, "--model.down_dims", "[8, 16]", "--model.n_groups", 4,
        "--model.pretrained_backbone_weights", tmp_path / "weights.pth", "--model.freeze_backbone", "true",
        "--model.use_group_norm", "false", "--model.backbone_stride", 8, "--model.num_inference_steps", 2,
        "--trainer.max_steps", 6, "--trainer.log_every_n_steps", 1, "--trainer.tensorboard", "false",
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"conditioning": "inpaint"}, {"spatial_softmax_num_keypoints": None},
                                     {"backbone_stride": 8}])  # fmt: skip
def test_encoded_frames_stand_for_images(seeing_policy: Callable[..., DiffusionPolicy], changes: dict) -> None:
    policy = seeing_policy(**FROZEN, **changes, crop_is_random=False).train()
    batch = seeing_batch(3)
    if policy.inpaints:  # which looks at all steps
        batch |= {key: batch[key].repeat_interleave(8, 1) for key in policy.observation_keys}
    encoded = {
        key: policy.cameras.features(key, batch[key].flatten(0, 1)).half().unflatten(0, batch[key].shape[:2])
        for key in policy.cameras.feature_shapes
    }
    assert {key: tuple(value.shape[2:]) for key, value in encoded.items()} == policy.cameras.feature_shapes
    draws = policy.draw(3, torch.manual_seed(0))
    losses = [policy.loss({**batch, **changed}, **draws)[0] for changed in ({}, encoded)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # as precision bf16-mixed
        torch.testing.assert_close(policy.loss({**batch, **encoded}, **draws)[0], losses[0], rtol=0.1, atol=0.01)
    for loss in losses:
        policy.zero_grad()
        loss.backward()
        assert all(p.grad is None for p in policy.cameras.encoders["shared"].backbone.parameters())  # type: ignore[union-attr]
    noise = torch.zeros(policy.noise_shape(3))
    chunks = [policy.eval().predict_chunk({**batch, **changed}, noise=noise).actions for changed in ({}, encoded)]
    torch.testing.assert_close(chunks[1], chunks[0], rtol=1e-2, atol=2.0)  # px of 512


@pytest.mark.parametrize("changes", [{}, {"crop_is_random": False, "color_jitter": 0.1}])
def test_what_is_seen_differently_each_time_is_not_encoded_once(
    seeing_policy: Callable[..., DiffusionPolicy], changes: dict
) -> None:
    assert seeing_policy(**FROZEN, **changes).cameras.feature_shapes == {}


def test_a_run_encodes_once(robodiff: Command, arguments: list[object], tmp_path: Path) -> None:
    code, _, err = robodiff("fit", *arguments, "--run", tmp_path / "first")
    assert code == 0, err
    assert ": encoding once into" in err
    kept = [np.load(file) for file in (tmp_path / "cache").glob("*.npy")]
    (features,) = (array for array in kept if array.dtype == np.float16)  # the others are images
    assert features.shape == (126, 128, 6, 8)
    used = features.reshape(126, -1).any(1)
    assert used.tolist() == [True] * 30 + [False] * 31 + [True] * 65  # of the episode that is left out, nothing

    code, _, err = robodiff("fit", *arguments, "--run", tmp_path / "second")
    assert (code, "encoding" in err) == (0, False)
    first, second = (load_file(tmp_path / run / "policy" / "model.safetensors") for run in ("first", "second"))
    assert [key for key, value in first.items() if not second[key].equal(value)] == []
    backbone = {key: value for key, value in first.items() if key.endswith("backbone.bn1.running_mean")}
    assert not any(value.any() for value in backbone.values())  # as in the file: encoding changes nothing

    torch.manual_seed(1)
    torch.save(models.resnet18().state_dict(), tmp_path / "weights.pth")
    none_held_out = "--data.val_split", 0
    code, _, err = robodiff("fit", *arguments, *none_held_out, "--run", tmp_path / "third")
    assert (code, "encoding once into" in err) == (0, True), err
    code, _, err = robodiff("eval", tmp_path / "first")  # from images
    assert code == 0, err


def test_a_run_goes_on_with_what_was_encoded(robodiff: Command, arguments: list[object], tmp_path: Path) -> None:
    arguments[arguments.index("--trainer.max_steps") + 1] = 3
    constant = "--model.scheduler_name", "constant", "--model.scheduler_warmup_steps", 0
    robodiff("fit", *arguments, *constant, "--run", tmp_path / "parts")
    arguments[arguments.index("--trainer.max_steps") + 1] = 6
    robodiff("fit", *arguments, *constant, "--run", tmp_path / "whole")
    for file in (tmp_path / "cache").glob("*.npy"):
        file.unlink()
    (tmp_path / "weights.pth").unlink()  # those of the checkpoint are used
    code, _, err = robodiff("fit", "--resume", tmp_path / "parts", "--trainer.max_steps", 6)
    assert code == 0, err
    whole, parts = (load_file(tmp_path / run / "policy-last" / "model.safetensors") for run in ("whole", "parts"))
    assert [key for key, value in whole.items() if not parts[key].equal(value)] == []


def test_what_cannot_be_learnt_from_is_told(robodiff: Command, arguments: list[object], tmp_path: Path) -> None:
    weights = torch.load(tmp_path / "weights.pth")
    weights["layer2.1.bn2.bias"] += 1e5  # beyond float16
    torch.save(weights, tmp_path / "weights.pth")
    code, _, err = robodiff("fit", *arguments, "--run", tmp_path / "run")
    assert code == 2
    assert "demos.npz: observation.image: frame 0: resnet18, frozen, gives numbers that are not finite or too" in err
    assert [file for file in (tmp_path / "cache").glob("*.npy") if np.load(file).dtype == np.float16] == []


def test_stopped_while_encoding(
    robodiff: Command, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robodiff.training.frozen.encode", ctrl_c)
    code, out, _ = robodiff("fit", *arguments, "--run", tmp_path / "run")
    assert (code, out.count(f"go on with: robodiff fit --resume {tmp_path / 'run'}")) == (130, 1), out


def test_frozen_weights_are_kept_and_averaged_once(seeing_policy: Callable[..., DiffusionPolicy]) -> None:
    training = PolicyTraining(seeing_policy(**FROZEN, crop_is_random=False), 0, None, 2, torch.ones(2))
    policies = dict(training.policy.named_parameters()), dict(training.average.named_parameters())
    shared = {name for name, parameter in policies[0].items() if policies[1][name] is parameter}
    assert shared == {name for name in policies[0] if ".backbone." in name}
    with torch.no_grad():
        for parameter in policies[0].values():
            parameter += 1
    training.ema.update(0.5)
    assert all(torch.equal(policies[1][name], parameter) == (name in shared) for name, parameter in policies[0].items())


def test_one_step_to_try_encodes_no_recording(robodiff: Command, arguments: list[object], tmp_path: Path) -> None:
    code, _, err = robodiff("fit", *arguments, "--trainer.fast_dev_run", "--run", tmp_path / "run")
    assert (code, "encoding once" in err) == (0, False), err


def test_random_crops_say_what_they_cost(robodiff: Command, arguments: list[object], tmp_path: Path) -> None:
    code, _, err = robodiff("fit", *arguments, "--model.crop_shape", "[40, 60]", "--run", tmp_path / "run")
    assert code == 0, err
    assert "random crops and color_jitter make the frozen backbone encode every frame anew" in err
    assert "encoding once" not in err
