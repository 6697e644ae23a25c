"""Exported policies at work: the actions of the policy in torch, without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import CAMERAS, PUSHT_FEATURES, SMALL, SMALL_MODEL, STATE, TOP, VISION
from tests.policies.test_diffusion import FLOW, seeing_batch

from robodiff.data.normalize import Statistics
from robodiff.deploy.artefact import EXPORT_FILE, read_export
from robodiff.deploy.export import write_exported
from robodiff.deploy.opening import open_runtime
from robodiff.deploy.runtime import load_exported
from robodiff.envs.pusht.symmetry import MIRROR
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner
from robodiff.policies.runtime import draw_noise

STOCHASTIC = {"num_train_timesteps": 20, "num_inference_steps": 3}


def seeing() -> DiffusionPolicy:
    torch.manual_seed(0)
    policy = DiffusionConfig(**{**SMALL_MODEL, **VISION, **STOCHASTIC}, backbone_stride=8).make_policy(
        CAMERAS, fps=10.0
    )
    ends = Statistics(np.zeros(2), np.full(2, 512.0), np.full(2, 256.0), np.full(2, 100.0))
    policy.normalizer.fit({STATE: ends, "action": ends})
    return policy.eval()


def acting_on_pusht(kind: type = DiffusionConfig, **changes: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    small: dict[str, Any] = SMALL[kind] | {"num_train_timesteps": 20} | changes
    policy = kind(**small).make_policy(PUSHT_FEATURES, fps=10.0).eval()
    sizes = {key: spans[-1][1] for key, spans in policy.normalizer.modes.items()}
    ends = {
        key: Statistics(np.zeros(d), np.full(d, 512.0), np.full(d, 256.0), np.full(d, 100.0))
        for key, d in sizes.items()
    }
    policy.normalizer.fit(ends)
    if policy.canonical is not None:
        policy.canonical.fit(MIRROR, {})
    return policy


def on_both_sides(policy: DiffusionPolicy, rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        key: random.uniform(0, 512, (rows, policy.config.n_obs_steps, *policy.features[key].shape)).astype(np.float32)
        for key in policy.observation_keys
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that sees two cameras and a vector, by ONNX Runtime."""
    out = tmp_path_factory.mktemp("exported")
    write_exported(seeing(), out, "onnx", "fp32", ())
    return out


def observed(rows: int) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in seeing_batch(rows).items() if key.startswith("observation")}


def noise_for(policy: Any, rows: int) -> np.ndarray:
    return np.concatenate([draw_noise(policy.noise_shape(1), row) for row in range(rows)], axis=1)


def test_acts_as_the_policy_in_torch(folder: Path) -> None:
    policy, exported = seeing(), load_exported(folder)
    assert exported.noise_shape(3) == policy.noise_shape(3) == (4, 3, 16, 2)
    assert (exported.timing, exported.fps, exported.features) == (policy.timing, policy.fps, policy.features)
    assert exported.config == policy.config
    for rows in (3, 1):
        noise, observation = noise_for(policy, rows), observed(rows)
        chunk, same = policy.predict_chunk(observation, noise=noise), exported.predict_chunk(observation, noise=noise)
        np.testing.assert_allclose(same.actions, chunk.actions, atol=2e-3)  # of 512
        assert (same.actions.dtype, same.first_step) == (np.float32, chunk.first_step)
        assert same.ranges.keys() == chunk.ranges.keys()
        for key, range_ in chunk.ranges.items():
            np.testing.assert_array_equal(same.ranges[key], range_)


def test_draws_several_chunks_of_an_observation_as_the_policy_in_torch(folder: Path) -> None:
    policy, exported = seeing(), load_exported(folder)
    observation, noise = observed(2), noise_for(policy, 6)
    own, same = (each.predict_chunk(observation, noise=noise).actions for each in (policy, exported))
    assert len(same) == 6
    np.testing.assert_allclose(same, own, atol=2e-3)
    other = exported.acting(n_action_steps=4, best_of=3)
    assert (other.timing.n_action_steps, other.timing.best_of) == (4, 3)
    assert exported.timing == policy.timing


def test_draws_towards_known_actions_as_the_policy_in_torch(folder: Path) -> None:
    policy, exported = seeing(), load_exported(folder)
    observation, noise = observed(2), noise_for(policy, 2)
    weights = np.linspace(1.5, 0, 16, dtype=np.float32).clip(max=1)[None, :, None].repeat(2, 0).repeat(2, 2)
    known = np.full((2, 16, 2), 300, np.float32), weights
    own, same = (each.predict_chunk(observation, noise=noise, known=known).actions for each in (policy, exported))
    np.testing.assert_allclose(same, own, atol=2e-3)
    np.testing.assert_allclose(same[weights == 1], 300, atol=1e-3)
    is_given = exported.predict_chunk(observation, noise=noise, known=(known[0], weights == 1)).actions
    np.testing.assert_allclose(is_given[weights == 1], 300, atol=1e-3)


def test_turns_scenes_as_the_policy_in_torch(tmp_path: Path) -> None:
    policy = acting_on_pusht(canonicalize="pusht", action_relative_to={"0:2": "observation.state"}, **FLOW)
    write_exported(policy, tmp_path, "onnx", "fp32", ())
    exported, seen = load_exported(tmp_path), on_both_sides(policy, 6)
    far = seen["observation.environment_state"][:, -1].mean(-1) > 256
    assert 0 < far.sum() < 6
    weights = np.linspace(1.5, 0, 16, dtype=np.float32).clip(max=1)[None, :, None].repeat(12, 0).repeat(2, 2)
    weights[..., 1] = 0
    for known in (None, (np.random.default_rng(1).uniform(0, 512, weights.shape).astype(np.float32), weights)):
        noise = noise_for(policy, 12)  # two chunks of each
        own, same = (each.predict_chunk(seen, noise=noise, known=known) for each in (policy, exported))
        np.testing.assert_allclose(same.actions, own.actions, atol=5e-3)
        assert (same.actions.dtype, same.ranges.keys()) == (np.float32, own.ranges.keys())
    assert known is not None
    np.testing.assert_allclose(same.actions[weights == 1], known[0][weights == 1], atol=1e-3)


def test_encodes_each_frame_once_and_remembers_it_by_its_bytes(folder: Path) -> None:
    exported, noise = load_exported(folder), noise_for(seeing(), 1)
    calls, encode = list[int](), exported.run["encoder"]
    exported.run["encoder"] = lambda inputs: (calls.append(1), encode(inputs))[1]
    first = observed(1)
    later = {key: np.concatenate([value[:, 1:], np.roll(value[:, :1], 1)], 1) for key, value in first.items()}
    exported.predict_chunk(first, noise=noise)
    assert len(calls) == 2
    remembered = exported.predict_chunk(later, noise=noise).actions
    assert len(calls) == 3  # the older frame was seen before
    np.testing.assert_array_equal(load_exported(folder).predict_chunk(later, noise=noise).actions, remembered)
    changed = {**later, TOP: later[TOP] ^ 1}
    assert not np.array_equal(exported.predict_chunk(changed, noise=noise).actions, remembered)


def test_acts_where_there_is_no_torch(folder: Path) -> None:
    code = f"""
import sys
class Forbid:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("torch", "torchvision", "safetensors", "lightning"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Forbid())
import numpy as np
from robodiff.deploy.opening import open_runtime
from robodiff.policies.runner import PolicyRunner
policy = open_runtime({str(folder)!r})
seen = {{key: np.zeros(each.shape, each.dtype) for key, each in policy.features.items() if key != "action"}}
print(PolicyRunner(policy).act(seen).tolist())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    zeros = {key: np.zeros(each.shape, each.dtype) for key, each in CAMERAS.items() if key != "action"}
    np.testing.assert_allclose(json.loads(ended.stdout), PolicyRunner(seeing()).act(zeros), atol=2e-3)


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    def damaged(change: Callable[[Path], object]) -> str:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(RobodiffError) as caught:
            load_exported(copy)
        return str(caught.value)

    def edit(old: str, new: str) -> Callable[[Path], object]:
        return lambda copy: (copy / EXPORT_FILE).write_text((copy / EXPORT_FILE).read_text().replace(old, new))

    assert "another sha256" in damaged(lambda copy: (copy / "decode.onnx").write_bytes(b"nothing"))
    assert "constants.npz" in damaged(lambda copy: (copy / "constants.npz").unlink())
    assert EXPORT_FILE in damaged(lambda copy: (copy / EXPORT_FILE).unlink())
    assert "cannot be read as JSON" in damaged(lambda copy: (copy / EXPORT_FILE).write_text("{"))
    assert "update it" in damaged(edit('"format_version": 1', '"format_version": 2'))
    assert "not the name of a file" in damaged(edit("decode.onnx", "../decode.onnx"))
    assert "does not describe a policy" in damaged(edit('"n_obs_steps": 2', '"n_obs_steps": 99'))
    assert "do not go together: KeyError: 'denoiser'" in damaged(edit('"denoiser": {', '"other": {'))
    assert "do not go together" in damaged(edit('"file": "decode.onnx"', '"file": "denoiser.onnx"'))
    assert "pip install other" in damaged(
        lambda copy: (
            edit('"class": "DiffusionConfig"', '"class": "OtherConfig"')(copy)
            and edit('"verified": null', '"verified": null, "origin": {"distribution": "other 1"}')(copy)
            and edit('"origin": null,', "")(copy)
        )
    )


def test_another_sampler_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="exported with DDPM, 3 steps; export its run again"):
        open_runtime(folder, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (DiffusionConfig, {"conditioning": "inpaint", "num_inference_steps": 4}),
        (DiffusionConfig, {**FLOW, "pred_action_steps_only": True, "use_film_scale_modulation": False}),
        (DiffusionConfig, {"noise_scheduler_type": "DPMSolver++", "num_inference_steps": 5, "clip_sample": False}),
        (DiffusionTransformerConfig, {**FLOW, "noise_scheduler_type": "FlowHeun", "n_cond_layers": 1}),
        (DiffusionTransformerConfig, {"conditioning": "inpaint", "time_as_cond": False, "num_inference_steps": 3}),
        (DiffusionMlpConfig, {"noise_scheduler_type": "DDIM", "ddim_eta": 0.5, "num_inference_steps": 4}),
        (DiffusionConfig, {"action_discrete": {"1:2": [0, 256, 512]}, "self_conditioning": True, **FLOW}),
        (DiffusionConfig, {"action_relative_to": {"0:2": "observation.state"}, "conditioning": "inpaint", **FLOW}),
        (DiffusionConfig, {"canonicalize": "pusht", "conditioning": "inpaint", **FLOW}),
        (DiffusionTransformerConfig, {"canonicalize": "pusht", **FLOW}),
    ],
    ids=lambda each: "-".join(map(str, each.values())) if isinstance(each, dict) else each.__name__,
)
def test_every_kind_of_policy_acts_as_in_torch(
    tmp_path: Path, engine: Any, kind: type, changes: dict[str, Any]
) -> None:
    policy = acting_on_pusht(kind, **changes)
    write_exported(policy, tmp_path, engine, "fp32", ())
    exported = load_exported(tmp_path)
    observation = on_both_sides(policy, 2)
    noise, n = noise_for(policy, 2), policy.config.denoised_steps
    known = np.full((2, n, 2), 256, np.float32), np.linspace(1, 0, n, dtype=np.float32)[None, :, None].repeat(2, 2)
    for given in (None, (known[0], known[1].repeat(2, 0))):
        own, same = (each.predict_chunk(observation, noise=noise, known=given).actions for each in (policy, exported))
        largest = float(np.abs(own).max())  # untrained, some samplers go far beyond what was recorded
        np.testing.assert_allclose(same, own, rtol=1e-5, atol=max(5e-3, 1e-6 * largest))


def test_what_is_exported_says_its_hash(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    own = load_exported(folder, threads=2).policy_hash
    assert own == load_exported(copy).policy_hash
    (copy / EXPORT_FILE).write_text(json.dumps(json.loads((copy / EXPORT_FILE).read_text()) | {"policy": "another"}))
    assert read_export(copy)[1] != own
