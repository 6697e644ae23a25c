"""Configurations that cannot be meant are refused when they are made, without torch."""

import json
import subprocess
import sys

import pytest
from robodiff.policies.base import PolicyConfig

from robodiff.errors import UsageError
from robodiff.policies.config import DiffusionConfig, DiffusionTransformerConfig, config_from_dict, config_to_dict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 15}, "horizon must be divisible by 4 .* found 15, nearest 16"),
        ({"n_action_steps": 16}, r"2 \+ n_action_steps 16 - 1 = 17, horizon 16"),
        ({"down_dims": (30, 64)}, "divisible by n_groups 8"),
        ({"down_dims": ()}, "at least one level"),
        ({"diffusion_step_embed_dim": 3}, "even and at least 4"),
        ({"num_inference_steps": 101}, "1 to 100 steps"),
        ({"num_inference_steps": 0}, "at least 1 step"),
        ({"noise_scheduler_type": "DDMP"}, "'DDMP' is not known. Known: DDPM, .* Did you mean 'ddpm'?"),
        ({"noise_scheduler_type": "Flow"}, "does not go with"),
        ({"prediction_type": "velocity"}, "(?s)does not go with.*These go together"),
        ({"beta_schedule": "flow", "noise_scheduler_type": "Flow", "prediction_type": "epsilon"}, "does not go with"),
        ({"normalization": {"action": "mean_std"}}, "clip_sample would cut"),
        ({"normalization": {"action": {"0:1": "limits", "1:2": "mean_std"}}}, "clip_sample would cut"),
        ({"ddim_eta": 1.5}, "eta"),
        ({"beta_start": 0.5}, "beta"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"optimizer_betas": (0.9, 1.0)}, "optimizer_betas"),
        ({"ema_min_value": 0.9, "ema_max_value": 0.5}, "ema_min_value"),
        ({"vision_backbone": "vgg16"}, "must be one of resnet18, resnet34, resnet50; found 'vgg16'"),
        ({"pretrained_backbone_weights": "IMAGENET1K_V1"}, "trained with batch normalisation .* use_group_norm: false"),
        ({"freeze_backbone": True}, "would keep random weights"),
        ({"crop_shape": (84, 0)}, r"crop_shape must be a height and a width of at least 1; found \[84, 0\]"),
        ({"resize_shape": (96,)}, r"resize_shape must be a height and a width .* found \[96\]"),
        ({"resize_shape": (60, 90), "crop_shape": (84, 84)}, r"\[84, 84\] is larger than the image, .* \[60, 90\]"),
        ({"color_jitter": 1.5}, r"color_jitter must lie in \[0, 1\]; found 1.5"),
        ({"spatial_softmax_num_keypoints": 0}, "at least 1, or null; found 0"),
    ],
)
def test_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DiffusionConfig(**changes)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (DiffusionConfig, {"conditioning": "local"}, "conditioning must be global or inpaint; found 'local'"),
        (DiffusionConfig, {"conditioning": "inpaint", "pred_action_steps_only": True}, "leaves out .* there is"),
        (
            DiffusionConfig,
            {"n_action_steps": 6, "pred_action_steps_only": True},
            "n_action_steps must be divisible by 4",
        ),
        (DiffusionTransformerConfig, {"conditioning": "inpaint", "pred_action_steps_only": True}, "there is cond"),
        (DiffusionTransformerConfig, {"time_as_cond": False}, "time_as_cond false .* with inpaint$"),
        (
            DiffusionTransformerConfig,
            {"time_as_cond": False, "conditioning": "inpaint", "n_cond_layers": 2},
            "time_as_cond false has none",
        ),
        (DiffusionTransformerConfig, {"n_emb": 30}, "divisible by n_head 4; found 30"),
        (DiffusionTransformerConfig, {"n_layer": 0}, "n_layer must be at least 1"),
        (DiffusionTransformerConfig, {"n_cond_layers": -1}, "n_cond_layers must not be negative"),
        (DiffusionTransformerConfig, {"p_drop_attn": 1.0}, r"p_drop_attn must lie in \[0, 1\)"),
        (DiffusionTransformerConfig, {"transformer_weight_decay": -1.0}, "transformer_weight_decay must not be neg"),
    ],
)
def test_refused_of_one_denoiser(kind: type[PolicyConfig], changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**changes)


def test_what_a_transformer_may_be() -> None:
    for changes in ({"horizon": 10}, {"pred_action_steps_only": True, "n_action_steps": 7}, {"conditioning": "inpaint"},
                    {"conditioning": "inpaint", "time_as_cond": False}):  # fmt: skip
        config = DiffusionTransformerConfig(**changes)  # type: ignore[arg-type]
        assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_round_trip_through_plain_values() -> None:
    config = DiffusionConfig(
        down_dims=(8, 16),
        normalization={"action": "limits"},
        observation_keys=["observation.a"],
        resize_shape=(96, 128),
        crop_shape=(84, 112),
        spatial_softmax_num_keypoints=None,
    )
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_a_policy_from_before_there_were_cameras() -> None:
    values = config_to_dict(DiffusionConfig())
    vision = [key for key in values if key.startswith(("vision", "pretrained", "freeze", "use_g", "resize", "crop"))]
    assert config_from_dict({key: value for key, value in values.items() if key not in vision}) == DiffusionConfig()


def test_unknown_fields_and_classes_are_named() -> None:
    values = config_to_dict(DiffusionConfig())
    with pytest.raises(UsageError, match=r"no field 'horizn'\. Did you mean 'horizon'"):
        config_from_dict({**values, "horizn": 3})
    with pytest.raises(UsageError, match="class: expected str, found"):
        config_from_dict({**values, "class": ["DiffusionConfig"]})
    with pytest.raises(UsageError, match="unknown configuration class 'Other'"):
        config_from_dict({**values, "class": "Other"})


def test_every_option_is_documented() -> None:
    import dataclasses
    import inspect

    for kind in (DiffusionConfig, DiffusionTransformerConfig):
        source = inspect.getsource(kind) + inspect.getsource(PolicyConfig)
        for field in dataclasses.fields(kind):
            after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1].lstrip()
            assert after.startswith('"""'), f"{field.name} has no docstring"


def test_no_torch() -> None:
    modules = "robodiff.policies.config, robodiff.data.config, robodiff.training.config"
    code = f"import {modules}, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
