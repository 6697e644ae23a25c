"""Checkpoints of diffusion_policy: they act as its own networks and samplers do, and what cannot is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.foreign import pickles
from tests.policies.foreign.originals import IMAGENET, Transformer, Unet, VisualCore, resnet, sample
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.diffusion_policy import policy_of_diffusion_policy
from robodiff.policies.foreign.reader import read_checkpoint

STEPS = 6
SCHEDULER = {"_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler", "num_train_timesteps": STEPS,
             "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2", "clip_sample": True,
             "variance_type": "fixed_small", "prediction_type": "epsilon"}  # fmt: skip
DDIM = {"_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler", "num_train_timesteps": STEPS,
        "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2", "clip_sample": True,
        "set_alpha_to_one": True, "steps_offset": 0, "prediction_type": "epsilon"}  # fmt: skip
TIMES = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4, "num_inference_steps": STEPS}
UNET = {
    "diffusion_step_embed_dim": 8,
    "down_dims": [16, 32],
    "kernel_size": 3,
    "n_groups": 8,
    "cond_predict_scale": True,
}
TRANSFORMER = {"n_layer": 2, "n_head": 2, "n_emb": 16, "p_drop_emb": 0.0, "p_drop_attn": 0.1, "causal_attn": True}
SHAPES = {"wrist_image": {"shape": [3, 40, 40], "type": "rgb"}, "robot0_eef_pos": {"shape": [3], "type": "low_dim"},
          "agentview_image": {"shape": [3, 40, 40], "type": "rgb"}, "bag": {"shape": [2]}}  # fmt: skip
META = {"obs": SHAPES, "action": {"shape": [4]}}
PARITY = pytest.mark.kind("weights of another code base that act otherwise here")
WORKSPACE = "diffusion_policy.workspace.any.Workspace"


class Original(nn.Module):
    """A policy's parts by their names there; ``normalizer`` holds the fields' maps."""

    def __init__(self, model: nn.Module, ranges: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model, self.normalizer = model, nn.Module()
        self._dummy_variable = nn.Parameter(torch.zeros(0))
        fields = nn.ModuleDict()
        for key, (low, high) in ranges.items():
            fields[key] = nn.ParameterDict({"scale": 2 / (high - low), "offset": -1 - low * 2 / (high - low)})
            fields[key]["input_stats"] = nn.ParameterDict({"min": low, "max": high, "mean": low, "std": high})
        self.normalizer.params_dict = fields

    def normalize(self, key: str, value: Tensor) -> Tensor:
        field: Any = self.normalizer.params_dict[key]  # type: ignore[index, union-attr]
        return value * field["scale"] + field["offset"]

    def unnormalize(self, value: Tensor) -> Tensor:
        field: Any = self.normalizer.params_dict["action"]  # type: ignore[index, union-attr]
        return ((value - field["offset"]) / field["scale"]).detach()


def span(size: int) -> tuple[Tensor, Tensor]:
    low = torch.randn(size)
    return low, low + 0.5 + torch.rand(size)


def checkpoint(original: nn.Module, policy: dict[str, Any], path: Path, **cfg: Any) -> Path:
    """What ``save_checkpoint`` writes: with the average of the weights beside the last ones."""
    last = {} if hasattr(original, "obs_encoder") else original.state_dict()  # images are slow to write
    other = {key: torch.full_like(value, 7) for key, value in last.items()}
    states = {"model": other, "ema_model": original.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    values = {"_target_": WORKSPACE, "policy": policy, "training": {"use_ema": True}, "n_latency_steps": 0, **cfg}
    content = {"cfg": values, "state_dicts": states, "pickles": {"epoch": pickles.dumped(3)}}
    return pickles.save(content, path / "latest.ckpt")


def imported(path: Path, fps: float | None = 10) -> DiffusionPolicy:
    policy = policy_of_diffusion_policy(path, read_checkpoint(path), fps)
    if policy.cameras.encoders:
        return policy
    save_policy(policy, path.with_name("policy"))
    return load_policy(path.with_name("policy"))


def check_equal(policy: DiffusionPolicy, original: Original, found: Tensor, expected: Tensor) -> None:
    """In normalised units; ``expected`` is of the whole of what was denoised, normalised."""
    torch.testing.assert_close(original.normalize("action", found), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.2
    assert policy.config.n_action_steps == 4


@PARITY
@pytest.mark.parametrize(
    ("options", "scheduler"),
    [
        ({"obs_as_global_cond": True}, {}),
        ({"obs_as_global_cond": True, "pred_action_steps_only": True}, {"prediction_type": "sample"}),
        ({"obs_as_global_cond": True, "num_inference_steps": 2}, DDIM),
        ({"obs_as_global_cond": False}, DDIM),
        ({"obs_as_global_cond": False}, {"prediction_type": "sample", "clip_sample": False}),
    ],
)
def test_unet_of_numbers(options: dict[str, Any], scheduler: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    is_global, options = options["obs_as_global_cond"], {**TIMES, "oa_step_convention": True, **options}
    model = Unet(4 if is_global else 4 + 5, 2 * 5 if is_global else 0, UNET)
    original = Original(model, {"obs": span(5), "action": span(4)}).eval()
    scheduler = scheduler if "_target_" in scheduler else {**SCHEDULER, **scheduler}
    network = {"_target_": "diffusion_policy.model.diffusion.conditional_unet1d.ConditionalUnet1D", **UNET,
               "input_dim": 4, "local_cond_dim": None, "global_cond_dim": 10}  # fmt: skip
    target = "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy"
    config = {"_target_": target, **options, "model": network, "noise_scheduler": scheduler, "obs_dim": 5,
              "action_dim": 4, "obs_as_local_cond": False}  # fmt: skip
    policy = imported(checkpoint(original, config, tmp_path))
    observed, noise = torch.randn(3, 2, 5), torch.randn(policy.noise_shape(3))
    seen = original.normalize("obs", observed)
    expected = sampled(original, noise, seen, config, is_global)
    found = policy.predict_chunk({"observation.state": observed}, noise=noise).actions
    check_equal(policy, original, found, expected[..., :4])


@PARITY
@pytest.mark.parametrize(
    "options",
    [
        {"obs_as_cond": True},
        {"obs_as_cond": True, "n_cond_layers": 1, "causal_attn": False},
        {"obs_as_cond": True, "pred_action_steps_only": True},
        {"obs_as_cond": False},
        {"obs_as_cond": False, "time_as_cond": False},
    ],
)
def test_transformer_of_numbers(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    is_global, steps = options["obs_as_cond"], 4 if options.get("pred_action_steps_only") else 8
    network = {
        **TRANSFORMER,
        **{key: options[key] for key in options if key in ("n_cond_layers", "causal_attn", "time_as_cond")},
    }
    model = Transformer(4 if is_global else 9, steps, 2, 5 if is_global else 0, network)
    nn.init.normal_(model.head.weight, std=0.5)  # so that what processors round otherwise is not magnified
    original = Original(model, {"obs": span(5), "action": span(4)}).eval()
    target = "diffusion_policy.policy.diffusion_transformer_lowdim_policy.DiffusionTransformerLowdimPolicy"
    own = {key: value for key, value in options.items() if key not in network}
    config = {"_target_": target, **TIMES, **own, "model": {"_target_": "any.TransformerForDiffusion", **network,
              "input_dim": 9, "output_dim": 9, "horizon": 8, "n_obs_steps": 2, "cond_dim": 5}, "obs_dim": 5,
              "action_dim": 4, "noise_scheduler": SCHEDULER}  # fmt: skip
    policy = imported(checkpoint(original, config, tmp_path))
    observed, noise = torch.randn(3, 2, 5), torch.randn(policy.noise_shape(3))
    expected = sampled(original, noise, original.normalize("obs", observed), config, is_global)
    found = policy.predict_chunk({"observation.state": observed}, noise=noise).actions
    check_equal(policy, original, found, expected[..., :4])


def sampled(original: Original, noise: Tensor, seen: Tensor, config: dict[str, Any], is_global: bool) -> Tensor:
    """``predict_action`` of one vector, normalised."""
    scheduler = {key: value for key, value in config["noise_scheduler"].items() if key != "_target_"}
    name = config["noise_scheduler"]["_target_"].rpartition(".")[2].removesuffix("Scheduler")
    steps, known = config["num_inference_steps"], None
    if not is_global:
        values, mask = torch.zeros(noise.shape[1:]), torch.zeros(noise.shape[1:], dtype=torch.bool)
        values[:, : seen.shape[1], 4:], mask[:, : seen.shape[1], 4:] = seen, True
        known = values, mask
    return sample(
        lambda x, t: original.model(x, t, seen if is_global else None), noise, name, steps, known, **scheduler
    )


SLOW = pytest.mark.slow


@PARITY
@pytest.mark.parametrize(
    ("kind", "groups"),
    [("Unet", True), pytest.param("Unet", False, marks=SLOW), pytest.param("Transformer", True, marks=SLOW)],
)
def test_hybrid_of_images(kind: str, groups: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    obs_dim = 8 + 3 + 8 + 2
    network = {**(UNET if kind == "Unet" else TRANSFORMER)}
    model = Unet(4, 2 * obs_dim, UNET) if kind == "Unet" else Transformer(4, 8, 2, obs_dim, TRANSFORMER)
    ranges = {"robot0_eef_pos": span(3), "bag": span(2), "action": span(4)}
    images = {key: (torch.zeros(1), torch.ones(1)) for key in ("wrist_image", "agentview_image")}
    original = Original(model, {**ranges, **images})
    original.obs_encoder = nn.Module()
    original.obs_encoder.obs_nets = nn.ModuleDict({key: VisualCore(4, (2, 2), groups) for key in images})
    original.eval()
    target = f"diffusion_policy.policy.any.Diffusion{kind}HybridImagePolicy"
    config = {"_target_": target, **TIMES, **network, "noise_scheduler": SCHEDULER, "shape_meta": META,
              "crop_shape": [36, 36], "obs_encoder_group_norm": groups, "eval_fixed_crop": True,
              **({"obs_as_global_cond": True} if kind == "Unet" else {"obs_as_cond": True})}  # fmt: skip
    policy = imported(checkpoint(original, config, tmp_path))
    assert policy.observation_keys == ["observation.images.wrist", "observation.robot0_eef_pos",
                                       "observation.images.agentview", "observation.bag"]  # fmt: skip
    pictures = {key: torch.randint(0, 256, (3, 2, 3, 40, 40), dtype=torch.uint8) for key in images}
    vectors = {"robot0_eef_pos": torch.randn(3, 2, 3), "bag": torch.randn(3, 2, 2)}
    parts = []
    with torch.no_grad():
        for key in SHAPES:
            if key in vectors:
                parts.append(original.normalize(key, vectors[key]))
            else:
                cropped = center_crop(original.normalize(key, pictures[key].flatten(0, 1) / 255), [36, 36])
                parts.append(original.obs_encoder.obs_nets[key](cropped).unflatten(0, (3, 2)))  # type: ignore[index, union-attr, operator]
    noise = torch.randn(policy.noise_shape(3))
    expected = sampled(original, noise, torch.cat(parts, -1), config, is_global=True)
    observed = {f"observation.images.{key.removesuffix('_image')}": value for key, value in pictures.items()}
    observed |= {f"observation.{key}": value for key, value in vectors.items()}
    check_equal(policy, original, policy.predict_chunk(observed, noise=noise).actions, expected)


@PARITY
@pytest.mark.parametrize(
    "encoder",
    [
        {"imagenet_norm": True, "use_group_norm": True, "crop_shape": [36, 36]},
        pytest.param({"share_rgb_model": True, "use_group_norm": True, "resize_shape": [40, 40]}, marks=SLOW),
        pytest.param({"random_crop": False, "crop_shape": [36, 36]}, marks=SLOW),
    ],
)
def test_unet_of_several_images(encoder: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared, keys = encoder.get("share_rgb_model", False), ("agentview_image", "wrist_image")
    groups = encoder.get("use_group_norm", False) and not shared
    ranges = {"robot0_eef_pos": span(3), "bag": span(2), "action": span(4)}
    original = Original(
        Unet(4, 2 * (2 * 512 + 5), UNET), {**ranges, **{k: (torch.zeros(1), torch.ones(1)) for k in keys}}
    )
    networks = {key: resnet(groups) for key in (["rgb"] if shared else keys)}
    for network in networks.values():
        network.fc = nn.Identity()
    original.obs_encoder = nn.Module()
    original.obs_encoder.key_model_map = nn.ModuleDict(networks)
    original.eval()
    vision = {"_target_": "diffusion_policy.model.vision.multi_image_obs_encoder.MultiImageObsEncoder", **encoder,
              "rgb_model": {"_target_": "diffusion_policy.model.vision.model_getter.get_resnet", "name": "resnet18",
                            "weights": None}, "shape_meta": META}  # fmt: skip
    config = {"_target_": "any.DiffusionUnetImagePolicy", **TIMES, **UNET, "noise_scheduler": SCHEDULER,
              "shape_meta": META, "obs_encoder": vision, "obs_as_global_cond": True}  # fmt: skip
    policy = imported(checkpoint(original, config, tmp_path))
    pictures = {key: torch.randint(0, 256, (3, 2, 3, 40, 40), dtype=torch.uint8) for key in keys}
    vectors = {"bag": torch.randn(3, 2, 2), "robot0_eef_pos": torch.randn(3, 2, 3)}
    parts = []
    with torch.no_grad():
        for key, images in pictures.items():  # sorted by their names
            seen = original.normalize(key, images.flatten(0, 1) / 255)
            if "crop_shape" in encoder and encoder.get("random_crop", True):
                seen = center_crop(seen, encoder["crop_shape"])
            seen = (seen - IMAGENET[0]) / IMAGENET[1] if encoder.get("imagenet_norm") else seen
            parts.append(networks["rgb" if shared else key](seen).unflatten(0, (3, 2)))
        parts += [original.normalize(key, value) for key, value in vectors.items()]
    noise = torch.randn(policy.noise_shape(3))
    expected = sampled(original, noise, torch.cat(parts, -1), config, is_global=True)
    observed = {f"observation.images.{key.removesuffix('_image')}": value for key, value in pictures.items()}
    observed |= {f"observation.{key}": value for key, value in vectors.items()}
    check_equal(policy, original, policy.predict_chunk(observed, noise=noise).actions, expected)


PUSHT = {"env_runner": {"_target_": "diffusion_policy.env_runner.pusht_keypoints_runner.PushTKeypointsRunner"}}
CAN = {"env_runner": {"_target_": "diffusion_policy.env_runner.robomimic_lowdim_runner.RobomimicLowdimRunner"},
       "dataset": {"obs_keys": ["object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]}}  # fmt: skip


def small(path: Path, obs: int = 5, action: int = 4, policy: dict[str, Any] | None = None, **cfg: Any) -> Path:
    """The checkpoint of a U-Net of numbers, with some of its options changed."""
    torch.manual_seed(0)
    original = Original(Unet(action, 2 * obs, UNET), {"obs": span(obs), "action": span(action)})
    config = {"_target_": "any.DiffusionUnetLowdimPolicy", **TIMES, "oa_step_convention": True, **(policy or {})}
    config = {
        "model": {**UNET, "input_dim": action},
        "noise_scheduler": SCHEDULER,
        "obs_as_global_cond": True,
        **config,
    }
    return checkpoint(original, config, path, **cfg)


@pytest.mark.parametrize(
    ("obs", "action", "task", "expected"),
    [
        (20, 2, PUSHT, {"observation.keypoint": 18, "observation.state": 2, "action": 2}),
        (23, 10, {**CAN, "abs_action": True}, {"observation.object": 14, "observation.robot0_eef_pos": 3,
         "observation.robot0_eef_quat": 4, "observation.robot0_gripper_qpos": 2, "action": 7}),
        (20, 2, CAN["dataset"], {"observation.object": 11, "observation.robot0_eef_pos": 3,
         "observation.robot0_eef_quat": 4, "observation.robot0_gripper_qpos": 2, "action": 2}),
        (8, 2, {"obs_keys": ["a", "b"]}, {"observation.state": 8, "action": 2}),
    ],
)  # fmt: skip
def test_one_vector_becomes_the_keys_of_its_task(
    obs: int, action: int, task: dict[str, Any], expected: dict[str, int], tmp_path: Path
) -> None:
    is_known = "env_runner" in task
    policy = imported(small(tmp_path, obs, action, task=task), None if is_known else 30)
    assert {key: each.shape[0] for key, each in policy.features.items()} == expected
    assert policy.fps == (30 if not is_known else 10 if task is PUSHT else 20)
    assert policy.config.action_rotations == (["3:6"] if "abs_action" in task else [])
    whole = imported(small(tmp_path, obs, action), 30)
    observed, noise = torch.randn(2, 2, obs), torch.randn(policy.noise_shape(2))
    parts = observed.split([size for key, size in expected.items() if key != "action"], -1)
    found = policy.predict_chunk(dict(zip(expected, parts, strict=False)), noise=noise).actions
    if "abs_action" not in task:
        torch.testing.assert_close(found, whole.predict_chunk({"observation.state": observed}, noise=noise).actions)


@pytest.mark.parametrize(
    ("policy", "problems"),
    [
        (
            {"obs_as_local_cond": True, "oa_step_convention": False, "eta": 0.5},
            ["obs_as_local_cond", "oa_step_convention", "policy.eta 0.5 is not known"],
        ),
        ({"noise_scheduler": {**SCHEDULER, "_target_": "a.EulerDiscreteScheduler"}}, ["noise_scheduler EulerDiscrete"]),
        (
            {"noise_scheduler": {**DDIM, "set_alpha_to_one": False, "steps_offset": 1, "new": 3}},
            ["set_alpha_to_one false", "steps_offset 1", "noise_scheduler.new 3"],
        ),
        ({"num_inference_steps": 3}, ["num_inference_steps 3 of 6 with DDPM"]),
        ({"_target_": "os.system"}, ["a policy of system, which is none of DiffusionUnetLowdimPolicy, "]),
        ({"_target_": "any.BETLowdimPolicy"}, ["a policy of BETLowdimPolicy"]),
        ({"n_groups": 4}, ["n_groups 4, but the original's last block has 8"]),
        ({"horizon": 7}, ["horizon must be divisible by 2"]),
        ({"horizon": "${horizon}"}, ["horizon: expected int", "found '${horizon}'"]),
        ({"noise_scheduler": {**SCHEDULER, "prediction_type": "x"}}, ["prediction_type: expected one of epsilon"]),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(policy: dict[str, Any], problems: list[str], tmp_path: Path) -> None:
    path = small(tmp_path, policy=policy)
    with pytest.raises(UsageError) as refused:
        imported(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert all(problem in str(refused.value) for problem in problems), str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_other_contents_are_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    content = read_checkpoint(path)
    weights = content["state_dicts"]["ema_model"]
    for changes, problem in (
        ({"cfg": None}, "expected cfg, the configuration of diffusion_policy; found null"),
        ({"cfg": {}}, "holds a policy of None"),
        ({"state_dicts": {}}, "expected weights, tensors by their names; found a NoneType"),
        (
            {"state_dicts": {"ema_model": {**weights, "model.new": torch.zeros(1)}}},
            "model.new should be absent",
        ),
        ({"state_dicts": {"ema_model": {"model.x": torch.zeros(1)}}}, "does not hold how obs is normalised"),
    ):
        with pytest.raises(UsageError) as refused:
            policy_of_diffusion_policy(path, {**content, **changes}, 10)
        assert problem in str(refused.value)
    with pytest.raises(UsageError, match=r"does not say how many frames a second it was trained on; give --fps"):
        policy_of_diffusion_policy(path, content, None)
    with pytest.raises(UsageError, match=r"n_latency_steps 2 leaves out as many actions"):
        imported(small(tmp_path, n_latency_steps=2))


def test_broken_contents_are_told_in_a_line(tmp_path: Path) -> None:
    path = small(tmp_path)
    content = read_checkpoint(path)
    weights, scale = content["state_dicts"]["ema_model"], "normalizer.params_dict.obs.scale"
    cfg = {"policy": {"_target_": "any.DiffusionUnetImagePolicy", "shape_meta": {"obs": {"a": {"type": "rgb"}}}}}
    for changes in (
        {"state_dicts": {"ema_model": {**weights, scale: torch.zeros(2)}}},
        {"state_dicts": {"ema_model": {**weights, scale: torch.zeros(0)}}},
        {"cfg": cfg},
        {"cfg": {"policy": {"_target_": "any.DiffusionUnetLowdimPolicy"}}},
        {"cfg": {"policy": {"_target_": 3, "model": [1]}}},
    ):
        with pytest.raises(RobodiffError) as refused:
            policy_of_diffusion_policy(path, {**content, **changes}, 10)
        assert str(refused.value).startswith(f"{path}: ")
        assert len(str(refused.value).splitlines()) == 1


def test_the_last_weights_where_none_are_averaged(tmp_path: Path) -> None:
    path = small(tmp_path, training={"use_ema": False})
    read = policy_of_diffusion_policy(path, read_checkpoint(path), 10)
    assert all(value.eq(7).all() for value in read.denoiser.parameters())
