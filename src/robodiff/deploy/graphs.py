"""Export the parts of a policy as ONNX graphs: everything but the loop over the sampler's rows.

All have a dynamic batch size except the encoder, which takes one frame of each camera at a time: an embedding then
depends on no other frame, and can be cached.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION
from robodiff.errors import RobodiffError, first_line
from robodiff.networks.layers import in_parts
from robodiff.policies.diffusion import DiffusionPolicy

OPSET = 18
MOST_BYTES = 1_800_000_000
"""Limit of the weights inside an ONNX file, whose format ends at 2 GiB; larger ones go into a file beside it."""
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A module that takes tensors by name, with example inputs: two rows, or one frame.

    Each input is a separate tensor, because torch.export takes a tensor that is given twice for one input.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    has_batch: bool = True
    """Whether the batch size is dynamic, for every input but ``timestep``."""

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return sum(weight.nbytes for weight in self.module.parameters())


def parts(policy: DiffusionPolicy) -> dict[str, Part]:
    """Return the parts of a policy by name: ``encoder`` (where it has cameras), ``observe``, ``denoiser``, ``decode``
    and ``known``."""
    config, features, dim = policy.config, policy.features, policy.features[ACTION].shape[0]
    images = {key: torch.zeros(1, *features[key].shape, dtype=torch.uint8) for key in policy.cameras.dims}
    observed = {
        key: torch.zeros(2, config.n_obs_steps, policy.cameras.dims.get(key) or features[key].shape[0])
        for key in policy.observation_keys
    }
    reference = {key: torch.zeros(2, *features[key].shape) for key in policy.representation.reference_keys}
    trajectory = torch.zeros(2, config.denoised_steps, policy.trajectory_dim)
    actions = torch.zeros(2, config.denoised_steps, dim)
    evaluation = {"x": trajectory, "timestep": timestep_parts(policy)[:1]}
    if not policy.inpaints:
        evaluation["condition"] = _Observe(policy)(observed)
    if config.self_conditioning:
        evaluation["estimate"] = trajectory.clone()
    every = {
        "observe": Part(_Observe(policy), observed, ["condition"]),
        "denoiser": Part(_Denoise(policy), evaluation, ["prediction"]),
        "decode": Part(_Decode(policy), {"trajectory": trajectory, **reference}, ["actions"]),
        "known": Part(
            _Known(policy), {"actions": actions, "weights": actions.clone(), **reference}, ["values", "shares"]
        ),
    }
    if images:
        every["encoder"] = Part(_Encode(policy), images, [f"{key}.embedding" for key in images], has_batch=False)
    return every


@torch.no_grad()
def timestep_parts(policy: DiffusionPolicy) -> Tensor:
    """Return the denoiser's timestep conditioning for each of the sampler's rows, (R, ...)."""
    timesteps = policy.sampler.timesteps
    dtype = torch.int64 if isinstance(timesteps[0], int) else torch.float32
    return in_parts(policy.denoiser).timestep_part(torch.tensor(timesteps, dtype=dtype))


def write_onnx(part: Part, path: Path) -> None:
    """Write a part as an ONNX graph, whose inputs and outputs have the part's names.

    Raises:
        RobodiffError: it cannot be exported.
    """
    batch = torch.export.Dim("batch", min=1, max=65_536)
    axes = {name: {0: batch} if part.has_batch and name != "timestep" else {} for name in part.inputs}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                part.module.eval(),
                (),
                path,
                kwargs={"inputs": part.inputs},
                input_names=[*part.inputs],
                output_names=part.outputs,
                opset_version=OPSET,
                dynamo=True,
                external_data=part.bytes > MOST_BYTES,
                verbose=False,
                dynamic_shapes={"inputs": axes},
            )
        except Exception as error:  # torch raises many kinds
            problem = f"the {path.stem} cannot be written as an ONNX graph: {first_line(error)[:300]}"
            raise RobodiffError(f"{problem}\nits module must work with torch.export") from error
    if any(axes[each.name] and isinstance(each.shape[0], int) for each in program.model.graph.inputs):
        problem = f"the {path.stem} would take batches of one size only"
        raise RobodiffError(f"{problem}\nits module makes that size a constant, as len(x) does; write x.shape[0]")


class _OfPolicy(nn.Module):
    """A part that calls methods of the policy."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy


class _Encode(_OfPolicy):
    """Map a frame of each camera, (1, C, H, W) uint8, to its embedding (1, E)."""

    def forward(self, inputs: Inputs) -> list[Tensor]:
        encoded = self.policy.cameras({camera: frame.unsqueeze(1) for camera, frame in inputs.items()})
        return [encoded[camera].squeeze(1) for camera in inputs]


class _Observe(_OfPolicy):
    """Map observed vectors and camera embeddings (B, To, D) to the denoiser's conditioning; with inpainting, to the
    known part of the trajectory (B, To, D)."""

    def forward(self, inputs: Inputs) -> Tensor:
        normalize, cameras = self.policy.normalizer.normalize, self.policy.cameras.dims
        parts = [value if key in cameras else normalize(key, value) for key, value in inputs.items()]
        embedding = torch.cat(parts, dim=-1)
        return embedding if self.policy.inpaints else in_parts(self.policy.denoiser).condition_part(embedding)


class _Denoise(_OfPolicy):
    """Map a noisy trajectory ``x`` (B, n, W), and the conditioning, to the prediction (B, n, W)."""

    def forward(self, inputs: Inputs) -> Tensor:
        x, timestep, denoiser = inputs["x"], inputs["timestep"], in_parts(self.policy.denoiser)
        return self.policy.predict_target(
            x, timestep, inputs.get("condition"), inputs.get("estimate"), denoiser.denoise
        )


class _Decode(_OfPolicy):
    """Map a ``trajectory`` (B, n, W), and the references of relative actions, to recorded actions (B, n, Da)."""

    def forward(self, inputs: Inputs) -> Tensor:
        return self.policy.decode(inputs["trajectory"], inputs)


class _Known(_OfPolicy):
    """Map recorded ``actions`` and their ``weights`` (B, n, Da) to those of a trajectory, (B, n, W) each."""

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return self.policy.encode_known(inputs["actions"], inputs["weights"], inputs)
