"""Policies as LeRobot's folders: read again they act the same, and what LeRobot cannot say is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.test_diffusion import batch_of, seeing_batch

from robodiff.errors import UsageError
from robodiff.policies.denoisers import DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.lerobot import lerobot_policy
from robodiff.policies.lerobot_writer import write_lerobot

Make = Callable[..., DiffusionPolicy]
EIGHT = {"n_groups": 8, "down_dims": (8, 16), "num_train_timesteps": 10}
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def check(policy: DiffusionPolicy, batch: dict[str, Any], folder: Path) -> None:
    write_lerobot(policy, folder)
    back = lerobot_policy(folder, policy.fps)
    noise = torch.randn(policy.noise_shape(2), generator=torch.manual_seed(0))
    expected = policy.predict_chunk(batch, noise=noise).actions
    torch.testing.assert_close(back.predict_chunk(batch, noise=noise).actions, expected, rtol=1e-6, atol=1e-3)  # of 512
    assert back.timing == policy.timing


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise_scheduler_type": "DDIM", "num_inference_steps": 3, "timestep_spacing": "leading"},
        {"clip_sample": False, "normalization": {"action": "mean_std", "observation.state": "identity"}},
    ],
)
def test_read_again_it_acts_the_same(small_policy: Make, options: dict[str, Any], tmp_path: Path) -> None:
    check(small_policy(**EIGHT, **options), batch_of(2), tmp_path / "there")


def test_of_several_chunks_lerobot_draws_one(
    small_policy: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = small_policy(**EIGHT, best_of=7)
    write_lerobot(policy, tmp_path / "there")
    assert lerobot_policy(tmp_path / "there", policy.fps).timing == replace(policy.timing, best_of=1)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "LeRobot draws one chunk where this policy chooses among 7 (best_of)" in told


def test_with_what_is_still(small_policy: Make, tmp_path: Path) -> None:
    policy, batch = small_policy(**EIGHT), batch_of(2)
    for key in ("action", "observation.environment_state"):
        ends = policy.normalizer.range(key)
        ends[1, 1] = ends[0, 1]
        affine = {"scale": torch.ones(ends.shape[1]) / 256, "offset": -torch.ones(ends.shape[1])}
        policy.normalizer.set(key, **affine, min=ends[0], max=ends[1])
    check(policy, batch, tmp_path / "there")


@pytest.mark.slow
def test_from_images_in_another_order(seeing_policy: Make, tmp_path: Path) -> None:
    """Two cameras around the state, which comes first in LeRobot: the weights of the condition change places."""
    options = {"use_separate_rgb_encoder_per_camera": True, "normalization": {TOP: "imagenet"}}
    policy = seeing_policy(**EIGHT, **options)
    with pytest.raises(UsageError, match=r"cameras of shapes \(3, 48, 40\), \(3, 40, 48\), for all have one"):
        write_lerobot(policy, tmp_path / "there")
    features = {**policy.features, WRIST: policy.features[TOP]}
    same = policy.config.make_policy(features, 10.0).eval()
    assert same.observation_keys == [TOP, "observation.state", WRIST]
    check(same, {**seeing_batch(2), WRIST: seeing_batch(2)[TOP].flip(-1)}, tmp_path / "there")


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (
            {"conditioning": "inpaint", "prediction_type": "v_prediction", "frame_stride": 2},
            ["prediction_type 'v_prediction'; frame_stride 2; conditioning 'inpaint'"],
        ),
        (
            {"beta_schedule": "flow", "prediction_type": "velocity", "noise_scheduler_type": "Flow"},
            ["noise_scheduler_type 'Flow'", "prediction_type 'velocity'", "beta_schedule 'flow'"],
        ),
        ({"kind": DiffusionTransformerConfig}, ["a policy of DiffusionTransformerConfig; it has the U-Net alone"]),
        ({"num_inference_steps": 3}, ["3 of 10 steps with timestep_spacing null, for its is leading"]),
        ({"horizon": 10}, ["horizon 10 with down_dims [8, 16], for it needs a multiple of 4"]),
        (
            {"n_groups": 4, "action_relative_to": {"0:2": "observation.state"}},
            ["n_groups 4", "action_relative_to {'0:2': 'observation.state'}"],
        ),
        ({"canonicalize": "pusht"}, ["canonicalize pusht, without which --model.canonicalize null trains one; train"]),
        ({"observation_keys": ["observation.state"]}, ["to observe observation.state, for it observes observation.st"]),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_named(
    small_policy: Make, options: dict[str, Any], problems: list[str], tmp_path: Path
) -> None:
    sizes = {} if "kind" in options else EIGHT
    policy = small_policy(**{**sizes, **options})
    with pytest.raises(UsageError) as refused:
        write_lerobot(policy, tmp_path / "there")
    assert str(refused.value).startswith("LeRobot's diffusion policies cannot say ")
    assert all(problem in str(refused.value) for problem in problems), str(refused.value)
    assert not (tmp_path / "there").exists()
