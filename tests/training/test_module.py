"""Optimizer steps of several batches, shortened epochs, what validation measures, and training that diverges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SMALL_MODEL
from tests.faults.catalogue import SMALL
from torch import Tensor

from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.evaluation.runs import read_curves
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.config import Stage
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import Chunk, DiffusionPolicy
from robodiff.training import module
from robodiff.training.module import PolicyTraining
from robodiff.training.optim import learning_rate

Run = Callable[..., tuple[int, str, str]]


def test_rate_and_average_step_with_the_optimizer(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    decay = module.ema_decay
    monkeypatch.setattr(module, "ema_decay", lambda update, config: updates.append(update) or decay(update, config))
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 2,
                            "--trainer.accumulate_grad_batches", 4)  # fmt: skip
    assert code == 0, err
    assert updates == [1, 2, 3, 4, 5, 6]  # an epoch has 10 batches: two steps of four, one of two
    steps, rates = read_curves(run / "metrics.csv")["train/learning_rate"]
    assert steps == updates
    config = DiffusionConfig(learning_rate=2e-3, scheduler_warmup_steps=100)
    assert rates == pytest.approx([learning_rate(step, 6, config, Stage("training")) for step in range(6)])


class Validation:
    """What is measured of guessed actions: two joints in radians, a gripper from 0 to 1 or to 255, and one at rest.

    ``recorded`` (40, 4) are the actions of all training episodes; five windows execute each of them once.
    """

    def __init__(self, unit: float, steps_only: bool) -> None:
        scale = torch.tensor([0.5, 0.1, unit, 0.0])
        self.recorded = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) * scale
        features = {
            "observation.state": Feature("vector", (2,), "float32"),
            "action": Feature("vector", (4,), "float32"),
        }
        config = DiffusionConfig(**SMALL_MODEL, pred_action_steps_only=steps_only)  # type: ignore[arg-type]
        policy = DiffusionPolicy(config, features, fps=10.0)
        variance = policy.representation.variance(self.recorded.double())
        self.module = PolicyTraining(policy, 0, None, 5, variance)
        self.steps, self.first = (8, 1) if steps_only else (16, 0)  # of a chunk

    def __call__(self, guess: torch.Tensor, padded: int = 0) -> dict[str, float]:
        """What is logged where ``guess`` (40, 4) is what the policy says, and the last steps are padding."""
        found: dict[str, float] = {}
        actions, is_pad = torch.zeros(5, 16, 4), torch.zeros(5, 16, dtype=torch.bool)
        actions[:, 1:9], is_pad[:, 9 - padded :] = self.recorded.reshape(5, 8, 4), padded > 0
        chunk = torch.full((5, self.steps, 4), 1e6)  # before and after what is executed never to be looked at
        chunk[:, 1 - self.first : 9 - self.first] = guess.reshape(5, 8, 4)
        self.module.average.predict_chunk = lambda *_, **__: Chunk(chunk, self.first)  # type: ignore
        self.module.log = lambda name, value, **_: found.update({name: float(value)})  # type: ignore
        self.module.validation_step(
            {"observation.state": torch.zeros(5, 2, 2), "action": actions, "action_is_pad": is_pad}, 0
        )
        return found


@pytest.mark.parametrize("steps_only", [False, True])
@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_the_unit_of_an_action_does_not_matter(unit: float, steps_only: bool) -> None:
    validate = Validation(unit, steps_only)
    recorded = validate.recorded
    mean, deviation = recorded.mean(0), recorded.std(0, correction=0)
    assert validate(mean.expand(40, -1))["val/action_mse"] == pytest.approx(1)
    assert validate(recorded + deviation / 2)["val/action_mse"] == pytest.approx(1 / 4, rel=1e-4)
    for moving in range(3):
        wrong = recorded + deviation * (torch.arange(4) == moving)
        assert validate(wrong)["val/action_mse"] == pytest.approx(1 / 3, rel=1e-4)
    at_rest = recorded + torch.tensor([0, 0, 0, 9.0])
    assert validate(at_rest)["val/action_mse"] == 0
    wrong_at_the_end = recorded.reshape(5, 8, 4).clone()
    wrong_at_the_end[:, -2:] += deviation
    assert validate(wrong_at_the_end)["val/action_mse"] == pytest.approx(1 / 4, rel=1e-4)
    assert validate(wrong_at_the_end, padded=1)["val/action_mse"] == pytest.approx(1 / 7, rel=1e-4)
    assert validate(wrong_at_the_end, padded=2)["val/action_mse"] == 0


def test_actions_that_rest_are_not_judged() -> None:
    validate = Validation(0.0, False)
    validate.module = PolicyTraining(validate.module.policy, 0, None, 5, torch.zeros(4).double())
    assert validate(validate.recorded).keys() == {"val/loss"}


def test_epochs_and_validations_are_as_long_as_asked_and_some_sample_chunks(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[int] = []
    step = PolicyTraining.validation_step

    def counted(self: PolicyTraining, batch: dict[str, Tensor], batch_idx: int) -> Any:
        validated.append(len(batch["action"]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PolicyTraining, "validation_step", counted)
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 3,
                            "--trainer.limit_train_batches", 2, "--data.val_batch_size", 4,
                            "--trainer.limit_val_batches", 3, "--trainer.sample_every_n_epochs", 2)  # fmt: skip
    assert code == 0, err
    assert validated == [4] * 9  # the held-out episode would make more
    curves = read_curves(run / "metrics.csv")
    assert curves["val/loss"][0] == [2, 4, 6]
    assert curves["val/action_mse"][0] == [4, 6]  # in the second epoch, and in the last of all


def test_what_is_not_finite_is_not_saved_before_anybody_looks(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, which is not waited for at every step, the first look may be the one before saving."""
    monkeypatch.setattr(PolicyTraining, "on_train_batch_end", lambda *_: None)
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_steps", 8,
                            "--model.learning_rate", 1e9)  # fmt: skip
    assert code == 1
    assert "training diverged: loss or gradient is not finite at step 2 (epoch 0, batch 2 of 10)" in err
    assert not list(run.rglob("*.ckpt"))
    assert not list(run.rglob("*.safetensors"))


def test_diverging_names_what_checks_the_data(robodiff: Run, tmp_path: Path) -> None:
    random, root = np.random.default_rng(0), tmp_path / "a set"
    writer = LeRobotWriter(root, fps=10)
    for _ in range(3):
        walk = random.normal(size=(30, 2)).cumsum(axis=0)
        writer.append({"observation.state": walk, "action": walk}, task="walk")
    writer.close()
    code, _, err = robodiff("fit", *SMALL, "--data", "LeRobotDataModule", "--data.root", root, "--data.val_split", 0,
                            "--data.train_batch_size", 8, "--model.observation_keys", "[observation.state]",
                            "--trainer.max_steps", 8, "--model.learning_rate", 1e9,
                            "--run", tmp_path / "run")  # fmt: skip
    assert (code, "training diverged" in err) == (1, True), err
    assert err.endswith(f"look for outliers with: robodiff data check '{root}'\n")


@pytest.mark.kind("an epoch's rest that batch normalisation cannot learn from")
def test_batch_normalisation_never_sees_one_window_alone(
    robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    random, root, run = np.random.default_rng(0), tmp_path / "set", tmp_path / "run"
    writer = LeRobotWriter(root, fps=10, images="png")
    walk = random.normal(size=(5, 2)).cumsum(axis=0)
    writer.append({"observation.image": random.integers(0, 255, (5, 3, 32, 32), np.uint8), "action": walk}, task="walk")
    writer.close()
    sizes: list[int] = []
    step = PolicyTraining.training_step
    monkeypatch.setattr(
        PolicyTraining, "training_step", lambda *args: sizes.append(len(args[1]["action"])) or step(*args)
    )
    # The last map of the backbone is one pixel, so that one window alone would be one number a channel.
    command = ["fit", *SMALL, "--data", root, "--data.val_split", 0, "--model.observation_keys", "[observation.image]",
               "--model.use_group_norm", "false", "--model.spatial_softmax_num_keypoints", "null",
               "--model.n_obs_steps", 1, "--model.horizon", 2,
               "--model.n_action_steps", 2, "--trainer.max_epochs", 2, "--data.train_batch_size"]  # fmt: skip
    code, _, err = robodiff(*command, 2, "--run", run)
    assert code == 0, err
    assert sizes == [2, 3] * 2
    code, _, err = robodiff(*command, 1, "--run", tmp_path / "another")
    assert (code, "set data.train_batch_size 2 or more" in err) == (2, True), err


@pytest.mark.kind("a batch that is larger than the recording")
def test_a_batch_may_be_larger_than_the_recording(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)
    weights = []
    for number, size in enumerate((97, 10**6)):  # all of its windows, and far more
        run = tmp_path / str(number)
        code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_steps", 2,
                                "--data.train_batch_size", size, "--data.val_batch_size", size)  # fmt: skip
        assert code == 0, err
        weights.append(load_policy(run / "policy-last").state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.kind("a share that is less than one batch")
@pytest.mark.parametrize(("share", "validations"), [(0.001, 2), (1.0, 2), (0.0, 0), (0, 0)])
def test_a_share_of_the_batches_is_at_least_one(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, validations: int
) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 2,
                            "--trainer.limit_train_batches", 0.001, "--trainer.limit_val_batches", share)  # fmt: skip
    assert code == 0, err
    curves = read_curves(run / "metrics.csv")
    assert curves["train/loss"][0] == [1, 2]
    assert len(curves.get("val/loss", ([], []))[0]) == validations
