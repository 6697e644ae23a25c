"""Configurations that cannot work are refused when they are made, without torch."""

import json
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest

from robodiff import registry
from robodiff.documents import field_docs, plain, typed
from robodiff.errors import UsageError
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig, DiffusionTransformerConfig

KINDS = (DiffusionConfig, DiffusionTransformerConfig, DiffusionMlpConfig)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 15}, "horizon must be divisible by 4 .* found 15, nearest 16"),
        ({"horizon": "16"}, "horizon: expected int .*'16'"),
        ({"horizon": True}, "horizon: expected int .*true"),
        ({"horizon": None}, "horizon: expected int .*null"),
        ({"horizon": 5000}, "horizon: .*4096.*5000"),
        ({"n_action_steps": 16}, r"2 \+ n_action_steps 16 - 1 exceeds horizon 16"),
        ({"n_action_steps": 6, "pred_action_steps_only": True}, "n_action_steps must be divisible by 4"),
        ({"down_dims": (30, 64)}, "divisible by n_groups 8"),
        ({"down_dims": ()}, "down_dims: .* found"),
        ({"down_dims": (8, "16")}, "down_dims: .*int.*'16'"),
        ({"diffusion_step_embed_dim": 5}, "diffusion_step_embed_dim: .*multiple of 2; found 5"),
        ({"num_inference_steps": 101}, "1 to 100 steps"),
        ({"num_inference_steps": 0}, "num_inference_steps: .*>= 1"),
        ({"num_inference_steps": []}, "num_inference_steps: .*int.*null"),
        ({"noise_scheduler_type": "Flow"}, "does not go with"),
        ({"noise_scheduler_type": "DDMP"}, "not known"),
        ({"prediction_type": "velocity"}, "(?s)does not go with.*These go together"),
        ({"beta_schedule": "flow", "noise_scheduler_type": "Flow", "prediction_type": "epsilon"}, "does not go with"),
        ({"normalization": {"action": "mean_std"}}, "clip_sample would cut"),
        ({"normalization": {"action": {"0:1": "limits", "1:2": "mean_std"}}}, "clip_sample would cut"),
        ({"normalization": {"action": 3}}, "normalization"),
        ({"conditioning": "local"}, "conditioning: expected one of global, inpaint; found 'local'"),
        ({"conditioning": "inpaint", "pred_action_steps_only": True}, "denoises the whole window"),
        ({"ddim_eta": 1.5}, "ddim_eta"),
        ({"beta_start": 0.5}, "betas must rise"),
        ({"clip_sample": 1}, "clip_sample: expected bool"),
        ({"learning_rate": 0.0}, "learning_rate: .*> 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate: .*finite"),
        ({"learning_rate": "1e-4"}, "learning_rate: expected float"),
        ({"optimizer_betas": (0.9, 1.0)}, "optimizer_betas"),
        ({"optimizer_betas": (0.9, 0.99, 0.999)}, "optimizer_betas: expected list of two"),
        ({"ema_min_value": 0.9, "ema_max_value": 0.5}, "ema_min_value"),
        ({"vision_backbone": "vgg16"}, "resnet18, resnet34, resnet50 or timm:NAME; found 'vgg16'"),
        (
            {"pretrained_backbone_weights": "IMAGENET1K_V1"},
            "trained with batch normalisation; set use_group_norm: false",
        ),
        ({"freeze_backbone": True}, "would keep random weights"),
        ({"crop_shape": (84, 0)}, "crop_shape: .*>= 1; found 0"),
        ({"resize_shape": (96,)}, "resize_shape: expected list of two"),
        ({"resize_shape": (60, 90), "crop_shape": (84, 84)}, r"\[84, 84\] is larger than resize_shape \[60, 90\]"),
        ({"color_jitter": 1.5}, "color_jitter: .*<= 1; found 1.5"),
        ({"spatial_softmax_num_keypoints": 0}, "spatial_softmax_num_keypoints"),
    ],
)
def test_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DiffusionConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": "inpaint", "pred_action_steps_only": True}, "denoises the whole window"),
        ({"time_as_cond": False}, "time_as_cond false .* set conditioning: inpaint$"),
        ({"time_as_cond": False, "conditioning": "inpaint", "n_cond_layers": 2}, "time_as_cond false has no condition"),
        ({"mask_first_step": 16}, "mask_first_step must be within horizon 16, from 0 on; found 16$"),
        ({"mask_first_step": 0, "causal_attn": False}, "causal_attn false masks nothing; leave mask_first_step out"),
        ({"n_emb": 30}, "divisible by n_head 4; found 30"),
        ({"n_layer": 0}, "n_layer: .*>= 1"),
        ({"n_cond_layers": -1}, "n_cond_layers: .*>= 0"),
        ({"p_drop_attn": 1.0}, "p_drop_attn: .*< 1"),
        ({"transformer_weight_decay": -1.0}, "transformer_weight_decay: .*>= 0"),
    ],
)
def test_refused_of_a_transformer(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DiffusionTransformerConfig(**changes)


@pytest.mark.parametrize("changes", [{}, {"residual": False, "p_drop": 0.1}])
def test_layers_that_are_each_told_the_timestep_are_plain(changes: dict) -> None:
    with pytest.raises(UsageError, match="set residual: false and p_drop: 0"):
        DiffusionMlpConfig(time_in_each_layer=True, **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (DiffusionTransformerConfig, {"horizon": 10, "mask_first_step": 9}),
        (DiffusionTransformerConfig, {"pred_action_steps_only": True, "n_action_steps": 7}),
        (DiffusionTransformerConfig, {"conditioning": "inpaint"}),
        (DiffusionTransformerConfig, {"conditioning": "inpaint", "time_as_cond": False}),
        (DiffusionMlpConfig, {"n_obs_steps": 1, "horizon": 1, "n_action_steps": 1, "residual": False}),
        (DiffusionConfig, {"observation_keys": ["observation.a"], "down_dims": (8, 16), "learning_rate": 1}),
        (DiffusionConfig, {"normalization": {"action": {"0:1": "limits", "1:2": "identity"}}, "clip_sample": False}),
        (DiffusionConfig, {"resize_shape": (96, 128), "crop_shape": [84, 112], "spatial_softmax_num_keypoints": None}),
    ],
)
def test_round_trip_through_json(kind: type[PolicyConfig], changes: dict) -> None:
    config = kind(**changes)
    again = typed(kind, json.loads(json.dumps(plain(config))))
    assert again == config
    assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(config).values()]


def test_samplers_are_written_as_their_table_has_them() -> None:
    assert DiffusionConfig(noise_scheduler_type="dpm-solver++").noise_scheduler_type == "DPMSolver++"


def test_unknown_fields_are_named() -> None:
    with pytest.raises(UsageError, match=r"unknown option horizn\. Did you mean 'horizon'"):
        typed(DiffusionConfig, {**plain(DiffusionConfig()), "horizn": 3})


def test_a_class_has_its_own_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Grandchild(DiffusionConfig):
        """A U-Net of another kind."""

    assert (Grandchild.registry_kind, Grandchild.registry_name) == ("models", "Grandchild")
    names = ["DiffusionConfig", "DiffusionTransformerConfig", "DiffusionMlpConfig"]
    assert [kind.registry_name for kind in KINDS] == names
    assert all(registry.find("models", kind.registry_name) is kind for kind in KINDS)


def test_every_option_is_documented() -> None:
    for kind in KINDS:
        assert field_docs(kind).keys() >= {field.name for field in fields(kind)}


def test_no_torch() -> None:
    modules = "robodiff.policies.config, robodiff.policies.runner, robodiff.training.config"
    code = f"import {modules}, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
