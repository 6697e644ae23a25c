"""How a policy is exported: what is refused, what a crashing compiler leads to, and eight bits."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.policies.test_diffusion import FLOW
from torch import Tensor, cat, nn

from robodiff.deploy import export
from robodiff.deploy.engines import first_failure
from robodiff.deploy.export import check_export, write_exported
from robodiff.deploy.graphs import parts, write_onnx
from robodiff.deploy.runtime import load_exported
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runtime import draw_noise

Make = Callable[..., DiffusionPolicy]


def sample(policy: Any, rows: int = 2, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What might be observed, and noise."""
    random = np.random.default_rng(seed)
    observation = {
        key: random.uniform(0, 512, (rows, policy.config.n_obs_steps, *policy.features[key].shape)).astype(np.float32)
        for key in policy.observation_keys
    }
    return observation, np.concatenate([draw_noise(policy.noise_shape(1), seed, row) for row in range(rows)], axis=1)


def chunk(policy: Any) -> np.ndarray:
    observation, noise = sample(policy)
    return policy.predict_chunk(observation, noise=noise).actions


class Plain(nn.Module):
    """A denoiser of a user: nothing but ``forward``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 + dim + 1, 2)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        time = (timestep / 10).float()[:, None, None].expand(-1, x.shape[1], 1)
        told = condition.flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return self.layer(cat([x, told, time], -1))


@pytest.mark.slow
def test_openvino_acts_as_torch_and_survives_a_compiler_that_crashes(
    small_policy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(**FLOW)

    def crashing(graphs: dict[Path, Any], threads: int) -> tuple[Path, str] | None:
        failed = [path for path in graphs if path.name == "denoiser.xml"]
        return (failed[0], "its compiler crashed (signal 11)") if failed else first_failure(graphs, threads)

    monkeypatch.setattr(export, "first_failure", crashing)
    described = write_exported(policy, tmp_path, "openvino", "bf16", ())
    assert described.graphs["denoiser"].file == "denoiser.onnx"
    assert described.graphs["denoiser"].fallback == "OpenVINO in bf16: its compiler crashed (signal 11)"
    assert described.graphs["observe"].file == "observe.xml"
    names = {path.name for path in tmp_path.iterdir()}
    assert {"denoiser.onnx", "observe.xml", "observe.bin"} <= names
    assert not names & {"denoiser.xml", "denoiser.bin", "observe.onnx"}
    np.testing.assert_allclose(chunk(load_exported(tmp_path)), chunk(policy), atol=2e-3)


def test_a_denoiser_that_has_no_parts_is_exported_whole(small_policy: Make, tmp_path: Path) -> None:
    policy = small_policy(num_inference_steps=3)
    policy.denoiser = Plain(2 * policy.embedding_dim)
    write_exported(policy, tmp_path, "onnx", "fp32", ())
    np.testing.assert_allclose(chunk(load_exported(tmp_path)), chunk(policy), atol=2e-3)


def test_a_denoiser_of_one_batch_size_is_refused(small_policy: Make, tmp_path: Path) -> None:
    class Fixed(Plain):
        def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
            return super().forward(x, timestep, condition) + len(x)

    policy = small_policy()
    policy.denoiser = Fixed(2 * policy.embedding_dim)
    with pytest.raises(RobodiffError, match=r"batches of one size only\n.* write x.shape\[0\]"):
        write_onnx(parts(policy)["denoiser"], tmp_path / "denoiser.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_eight_bits_are_near(small_policy: Make, tmp_path: Path, engine: Any) -> None:
    policy = small_policy(**FLOW)
    described = write_exported(policy, tmp_path, engine, "int8", [sample(policy, 4, seed) for seed in range(4)])
    assert logging.getLogger("a program's own").isEnabledFor(logging.WARNING)  # quantising silences its own alone
    assert {name: graph.precision for name, graph in described.graphs.items()} == {
        "observe": "fp32", "denoiser": "int8", "decode": "fp32", "known": "fp32"
    }  # fmt: skip
    difference = np.abs(chunk(load_exported(tmp_path)) - chunk(policy)) / 256
    assert 0 < difference.mean() < 0.05


def test_a_graph_that_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "decode.onnx"
    broken.write_bytes(b"no graph")
    failure = first_failure({broken: "fp32"}, 1)
    assert failure is not None
    assert failure[0] == broken
    assert "cannot compile it" in failure[1]


def test_what_cannot_be_exported_is_refused(small_policy: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    with pytest.raises(UsageError, match="bf16 on a CPU; export --to openvino, or --precision int8"):
        check_export(policy, "onnx", "bf16")
    with pytest.raises(UsageError, match="expected a DiffusionPolicy; found a Plain"):
        check_export(Plain(1), "onnx", "fp32")
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(RobodiffError, match=r"needs onnxscript: pip install 'robodiff\[export\]'"):
        check_export(policy, "onnx", "fp32")
