"""Policies of LeRobot's type diffusion without LeRobot: they act as its network does, in both of its layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.policies.foreign.originals import RgbEncoder, Unet, sample
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, resize

from robodiff.errors import RobodiffError
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.foreign.lerobot import lerobot_policy

Run = Callable[..., tuple[int, str, str]]
STATE, ENVIRONMENT, ACTION, CAMERA = "observation.state", "observation.environment_state", "action", "observation.image"
NETWORK = {"down_dims": [16, 32], "kernel_size": 3, "n_groups": 8, "diffusion_step_embed_dim": 8,
           "use_film_scale_modulation": True}  # fmt: skip
CONFIG = {"type": "diffusion", "n_obs_steps": 2, "horizon": 8, "n_action_steps": 4, **NETWORK, "device": "cuda",
          "vision_backbone": "resnet18", "resize_shape": None, "crop_ratio": 1.0, "crop_shape": None,
          "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1", "use_group_norm": False,
          "spatial_softmax_num_keypoints": 4, "use_separate_rgb_encoder_per_camera": False, "use_peft": False,
          "noise_scheduler_type": "DDIM", "num_train_timesteps": 10, "num_inference_steps": 3, "prediction_type":
          "epsilon", "beta_schedule": "squaredcos_cap_v2", "optimizer_lr": 0.0002, "compile_model": False,
          "output_features": {ACTION: {"type": "ACTION", "shape": [3]}}}  # fmt: skip
NAMES = ("min", "q01", "q10", "mean", "std", "q90", "q99", "max")


class Original(nn.Module):
    """LeRobot's ``DiffusionModel``."""

    def __init__(self, keys: dict[str, int], cells: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.unet = Unet(3, 2 * sum(keys.values()), NETWORK, lerobot=True)
        if cells:
            self.rgb_encoder = RgbEncoder(4, cells, groups=False)


def statistics(keys: list[str]) -> dict[str, Tensor]:
    """Rising from the least to the largest, by LeRobot's names; of images by channel."""
    shapes = {key: (3, 1, 1) if key == CAMERA else (3,) for key in keys}
    return {f"{key}.{name}": 0.1 * (place + 1) + 0.05 * torch.rand(shape)
            for key, shape in shapes.items() for place, name in enumerate(NAMES)}  # fmt: skip


def write(
    folder: Path, config: dict[str, Any], modes: dict[str, str], model: Original, stats: dict[str, Tensor]
) -> Path:
    """A folder as LeRobot 0.6 writes it."""
    folder.mkdir(exist_ok=True)
    features = {**config["input_features"], **config["output_features"]}
    (folder / "config.json").write_text(json.dumps({**config, "normalization_mapping": modes}))
    for when, step in (("pre", "normalizer_processor"), ("post", "unnormalizer_processor")):
        rules = {"eps": 1e-8, "features": features, "norm_map": modes}
        steps = [{"registry_name": "to_batch_processor", "config": {}},
                 {"registry_name": step, "config": rules, "state_file": f"{when}.safetensors"}]  # fmt: skip
        (folder / f"policy_{when}processor.json").write_text(json.dumps({"name": when, "steps": steps}))
        save_file(stats, folder / f"{when}.safetensors")
    save_file({f"diffusion.{key}": value.contiguous() for key, value in model.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    return folder


def normalized(mode: str, key: str, value: Tensor, stats: dict[str, Tensor], inverse: bool = False) -> Tensor:
    """LeRobot's ``_apply_transform``."""
    if mode == "IDENTITY":
        return value
    if mode == "MEAN_STD":
        mean, std = stats[f"{key}.mean"], stats[f"{key}.std"]
        return value * std + mean if inverse else (value - mean) / (std + 1e-8)
    low, high = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}[mode]
    low, high = stats[f"{key}.{low}"], stats[f"{key}.{high}"]
    return (value + 1) / 2 * (high - low) + low if inverse else 2 * (value - low) / (high - low) - 1


def numbers(tmp_path: Path, **changes: Any) -> tuple[Path, Original, dict[str, Tensor]]:
    torch.manual_seed(0)
    model, stats = Original({STATE: 3, ENVIRONMENT: 3}).eval(), statistics([STATE, ENVIRONMENT, ACTION])
    inputs = {key: {"type": kind, "shape": [3]} for key, kind in ((ENVIRONMENT, "ENV"), (STATE, "STATE"))}
    modes = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}  # its default has no ENV
    config = {**CONFIG, "input_features": inputs, **changes}
    return write(tmp_path / "there", config, changes.get("normalization_mapping", modes), model, stats), model, stats


def check(folder: Path, model: Original, stats: dict[str, Tensor], modes: dict[str, str], clips: bool = True) -> None:
    policy = lerobot_policy(folder, 10)
    observed, noise = {key: torch.rand(2, 2, 3) for key in (STATE, ENVIRONMENT)}, torch.randn(policy.noise_shape(2))
    types = {STATE: "STATE", ENVIRONMENT: "ENV"}
    seen = torch.cat([normalized(modes.get(types[k], "IDENTITY"), k, v, stats) for k, v in observed.items()], -1)
    options = {"num_train_timesteps": 10, "beta_schedule": "squaredcos_cap_v2", "clip_sample": clips}
    chunk = sample(lambda x, t: model.unet(x, t, seen), noise, "DDIM", 3, **options)
    expected = normalized(modes["ACTION"], ACTION, chunk, stats, inverse=True)
    torch.testing.assert_close(policy.predict_chunk(observed, noise=noise).actions, expected, rtol=0, atol=1e-5)


@pytest.mark.kind("weights of another code base that act otherwise here")
@pytest.mark.parametrize(
    "modes",
    [
        {"STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
        {"STATE": "MEAN_STD", "ACTION": "QUANTILES", "ENV": "QUANTILE10"},
        {"STATE": "IDENTITY", "ACTION": "MEAN_STD", "ENV": "MEAN_STD"},
    ],
)
def test_normalisation_by_the_modes_of_each_type(modes: dict[str, str], tmp_path: Path) -> None:
    """An environment's state is left as it is where no mode is named for it."""
    folder, model, stats = numbers(tmp_path, normalization_mapping=modes)
    check(folder, model, stats, modes)


def test_older_policies_keep_statistics_with_the_weights(tmp_path: Path) -> None:
    folder, model, stats = numbers(tmp_path)
    for path in (*folder.glob("policy_*"), folder / "pre.safetensors", folder / "post.safetensors"):
        path.unlink()
    weights = load_file(folder / "model.safetensors")
    weights = {key.replace("unet.", "unet._orig_mod."): value for key, value in weights.items()}  # was compiled
    for key in (STATE, ACTION):
        for name in ("min", "max"):
            weights[f"normalize_inputs.buffer_{key.replace('.', '_')}.{name}"] = stats[f"{key}.{name}"]
    for name in ("min", "max"):
        weights[f"unnormalize_outputs.buffer_action.{name}"] = stats[f"action.{name}"].clone()
    save_file(weights, folder / "model.safetensors")
    check(folder, model, stats, {"STATE": "MIN_MAX", "ACTION": "MIN_MAX"})


def test_images(tmp_path: Path) -> None:
    """Resized, cropped by the ratio, normalised by each channel's statistics; the state comes first."""
    torch.manual_seed(0)
    model, stats = Original({STATE: 3, CAMERA: 8}, (2, 2)).eval(), statistics([CAMERA, STATE, ACTION])
    inputs = {CAMERA: {"type": "VISUAL", "shape": [3, 48, 56]}, STATE: {"type": "STATE", "shape": [3]}}
    config = {**CONFIG, "input_features": inputs, "resize_shape": [40, 44], "crop_ratio": 0.9, "crop_shape": [9, 9]}
    modes = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
    policy = lerobot_policy(write(tmp_path / "there", config, modes, model, stats), 10)
    assert policy.config.crop_shape == (36, 39)
    observed = {CAMERA: torch.randint(0, 256, (2, 2, 3, 48, 56), dtype=torch.uint8), STATE: torch.rand(2, 2, 3)}
    pixels = normalized("MEAN_STD", CAMERA, observed[CAMERA].flatten(0, 1) / 255, stats)
    with torch.no_grad():
        features = model.rgb_encoder(center_crop(resize(pixels, [40, 44], antialias=True), [36, 39]))
    seen = torch.cat([normalized("MIN_MAX", STATE, observed[STATE], stats), features.unflatten(0, (2, 2))], -1)
    torch.testing.assert_close(policy.embed(observed, 2), seen, rtol=0, atol=1e-5)


def test_what_is_still_is_held_and_what_hardly_moves_moves(tmp_path: Path) -> None:
    folder, *_, stats = numbers(tmp_path)
    for name in ("action", STATE):
        stats[f"{name}.max"] = stats[f"{name}.min"] + torch.tensor([0.0, 5e-5, 1.0])
    for when in ("pre", "post"):
        save_file(stats, folder / f"{when}.safetensors")
    policy, low = lerobot_policy(folder, 10), stats["action.min"]
    state, environment = stats[f"{STATE}.min"].expand(2, 2, 3), torch.rand(2, 2, 3)
    assert policy.normalizer.normalize(STATE, state + torch.tensor([9.0, 2.5e-5, 1])).allclose(
        torch.tensor([-1.0, 0, 1]), atol=0.01
    )
    actions = policy.predict_chunk({STATE: state, ENVIRONMENT: environment}).actions
    assert (actions[..., 0] == low[0]).all()
    assert 0 < (actions[..., 1] - low[1]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"type": "multi_task_dit"}, "expected a policy of type diffusion or hybrid_diffusion; found 'multi_task_dit'"),
        ({"use_peft": True}, "use_peft"),
        ({"n_groups": 4}, "n_groups 4: cannot be represented here"),
        ({"horizon": "long"}, "does not describe a policy"),
        ({"prediction_type": "score"}, "prediction_type: expected one of"),
        ({"input_features": {STATE: {"type": "STATE", "shape": [4]}}}, "its weights do not fit"),
        ({"input_features": {ENVIRONMENT: {"type": "ENV", "shape": [3]}}}, "has no observation.state"),
        ({"input_features": None}, "input_features: expected mapping"),
        ({"normalization_mapping": {"STATE": "ROBUST"}}, "does not say how keys are normalised: norm_map: STATE"),
    ],
)
def test_mistakes(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    inputs = changes.pop("input_features", ...)
    folder, *_ = numbers(tmp_path, **changes)
    if inputs is not ...:
        values = json.loads((folder / "config.json").read_text()) | {"input_features": inputs}
        (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(RobodiffError) as refused:
        lerobot_policy(folder, 10)
    assert problem in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 2


def test_processors_that_do_something_else(tmp_path: Path) -> None:
    folder, *_, stats = numbers(tmp_path)
    path = folder / "policy_preprocessor.json"
    whole = json.loads(path.read_text())
    for steps, problem in (
        (
            [*whole["steps"], {"registry_name": "relative_action_processor"}],
            "has the step relative_action_processor, which",
        ),
        (whole["steps"][:1], "has no normalizer_processor"),
        ([{**whole["steps"][1], "state_file": "../../elsewhere.safetensors"}], "elsewhere.safetensors: is missing"),
    ):
        path.write_text(json.dumps({"steps": steps}))
        with pytest.raises(RobodiffError, match=problem):
            lerobot_policy(folder, 10)
    path.write_text(json.dumps(whole))
    save_file({key: value for key, value in stats.items() if key != f"{STATE}.max"}, folder / "pre.safetensors")
    with pytest.raises(RobodiffError, match=r"MIN_MAX of observation\.state needs max, 3 finite numbers"):
        lerobot_policy(folder, 10)


def test_import_asks_for_the_rate(robodiff: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, *_ = numbers(tmp_path, n_action_steps=8)
    code, _, err = robodiff("import", folder, "--out", tmp_path / "policy")
    assert (code, "give --data with its folder, or --fps" in err, len(err.splitlines()) <= 2) == (2, True, True), err
    (tmp_path / "set" / "meta").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "fps": 30, "total_episodes": 1, "features": {}, "data_path": "data"}
    (tmp_path / "set" / "meta" / "info.json").write_text(json.dumps(info))
    code, text, err = robodiff("import", folder, "--out", tmp_path / "policy", "--data", tmp_path / "set")
    assert code == 0, err
    assert "observes 2 steps of observation.state (3), observation.environment_state (3)\n" in text
    assert "executes 7 actions (3) at 30 Hz" in text
    assert "samples with DDIM in 3 of the 10 steps" in text
    assert "n_action_steps reaches beyond the horizon; LeRobot executes 7 actions" in err
    assert load_policy(tmp_path / "policy").fps == 30
    code, _, err = robodiff("import", folder, "--out", tmp_path / "b", "--data", tmp_path / "set", "--fps", 3)
    assert (code, "--fps and --data both give the rate" in err) == (2, True)


def test_no_such_repository(robodiff: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    code, _, err = robodiff("import", "me/absent", "--out", tmp_path / "policy", "--fps", 10)
    assert (code, "me/absent: no such folder, and the Hugging Face hub says" in err) == (1, True), err
