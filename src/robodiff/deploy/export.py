"""Write a policy as a folder that runs without torch: its parts as graphs, the sampler's rows as data."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff import registry
from robodiff.deploy.artefact import (
    CONSTANTS_FILE,
    EXPORT_FILE,
    FORMAT_VERSION,
    Evaluation,
    ExportFile,
    Graph,
    sha256_of,
)
from robodiff.deploy.engines import Precision, first_failure
from robodiff.deploy.graphs import parts, timestep_parts, write_onnx
from robodiff.deploy.quantize import quantize
from robodiff.deploy.runtime import ExportedPolicy
from robodiff.documents import plain, write_json
from robodiff.errors import RobodiffError, UsageError
from robodiff.machine import cores
from robodiff.policies.diffusion import DiffusionPolicy

Engine = Literal["openvino", "onnx"]
NETWORKS = ("encoder", "denoiser")
"""Parts that run in the requested precision; all others run in fp32, because they cost next to nothing."""
PACKAGES = {
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}


def check_export(policy: Any, engine: Engine, precision: Precision) -> None:
    """Refuse what cannot be exported.

    Raises:
        UsageError: a policy of another kind, or a precision that the engine does not have.
        RobodiffError: a package is not installed.
    """
    if missing := [name for name in PACKAGES[engine] if find_spec(name) is None]:
        raise RobodiffError(f"export to {engine} needs {', '.join(missing)}: pip install 'robodiff[export]'")
    if not isinstance(policy, DiffusionPolicy):
        raise UsageError(f"expected a DiffusionPolicy; found a {type(policy).__name__}, which cannot be exported")
    if (engine, precision) == ("onnx", "bf16"):
        raise UsageError("ONNX Runtime does not compute in bf16 on a CPU; export --to openvino, or --precision int8")


def write_exported(
    policy: DiffusionPolicy,
    folder: Path,
    engine: Engine,
    precision: Precision,
    observations: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> ExportFile:
    """Write an exported policy to a folder that exists and is empty.

    A graph that OpenVINO cannot compile here falls back to ONNX Runtime, and ``Graph.fallback`` says why.

    Args:
        policy: on the CPU, in evaluation mode.
        folder: to write to.
        engine: that will run it.
        precision: of its networks.
        observations: with their noise, as for ``predict_chunk``, to calibrate int8; not read otherwise.

    Returns:
        The contents of ``export.json``.

    Raises:
        RobodiffError: a part cannot be written as a graph, or no engine can run it.
    """
    every = parts(policy)
    for name, part in every.items():
        write_onnx(part, folder / f"{name}.onnx")
    np.savez(folder / CONSTANTS_FILE, allow_pickle=False, **constants(policy))
    described = describe(policy, engine, precision, {name: Graph(file=f"{name}.onnx") for name in every})
    if precision == "int8":
        fp32 = ExportedPolicy(folder, described, policy.config)
        quantize(fp32, [name for name in NETWORKS if name in every], folder, observations)
    graphs = {
        name: Graph(
            file=to_openvino(folder / f"{name}.onnx") if engine == "openvino" else f"{name}.onnx",
            precision=precision if name in NETWORKS else "fp32",
        )
        for name in every
    }
    graphs = working(graphs, folder)
    used = [CONSTANTS_FILE]
    for graph in graphs.values():
        used += [graph.file, graph.file.replace(".xml", ".bin"), f"{graph.file}.data"]
    for path in folder.iterdir():
        if path.name not in used:
            path.unlink()
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    described = replace(described, graphs=graphs, files=files)
    write_json(folder / EXPORT_FILE, described)
    return described


def describe(policy: DiffusionPolicy, engine: Engine, precision: Precision, graphs: dict[str, Graph]) -> ExportFile:
    """Return the contents of ``export.json`` for a policy, without its files."""
    name, table = policy.config.registry_name, policy.sampler
    return ExportFile(
        format_version=FORMAT_VERSION,
        engine=engine,
        precision=precision,
        config={"class": name, **plain(policy.config)},
        features=policy.features,
        fps=policy.fps,
        policy=policy.policy_hash or "",
        graphs=graphs,
        rows=[
            Evaluation(
                **convert._asdict(), **{key: weight for key, weight in row._asdict().items() if key != "timestep"}
            )
            for row, convert in zip(table.rows, table.conversions, strict=True)
        ],
        trajectory_dim=policy.trajectory_dim,
        action_dim=policy.action_dim,
        reference_keys=policy.representation.reference_keys,
        discrete=[*policy.representation.classes],
        weights=sum(weight.numel() for weight in policy.denoiser.parameters()),
        files={},
        origin=registry.origin("models", name) or registry.origin("samplers", policy.config.noise_scheduler_type),
    )


def constants(policy: DiffusionPolicy) -> dict[str, np.ndarray]:
    """Return the arrays of an exported policy: ``timesteps`` (R, ...), ``clip`` (W,), and by key the ranges (2, D);
    with ``canonicalize`` also the numbers of ``Sides``."""
    clip = np.inf if policy.clip is None else np.asarray(policy.clip)
    limits = np.broadcast_to(np.asarray(clip, np.float32), policy.trajectory_dim)
    numbers = {} if policy.canonical is None else policy.canonical.arrays()
    return {"timesteps": timestep_parts(policy).numpy(), "clip": limits, **numbers, **policy.ranges}


def to_openvino(path: Path) -> str:
    """Convert an ONNX graph to OpenVINO's format, beside it; return the name of the file."""
    import openvino

    model = openvino.convert_model(path)
    openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    return f"{path.stem}.xml"


def working(graphs: dict[str, Graph], folder: Path) -> dict[str, Graph]:
    """Return graphs that run here: try each in a separate process; fall back to ONNX Runtime where OpenVINO fails.

    Raises:
        RobodiffError: ONNX Runtime fails, too.
    """
    while failure := _first_failure({folder / each.file: each.precision for each in graphs.values()}):
        path, reason = failure
        graph = graphs[path.stem]
        if path.suffix == ".onnx":
            raise RobodiffError(f"ONNX Runtime cannot run the {path.stem}: {reason}")
        precision: Precision = "int8" if graph.precision == "int8" else "fp32"
        fallback = f"OpenVINO in {graph.precision}: {reason}"
        graphs = {**graphs, path.stem: Graph(file=f"{path.stem}.onnx", precision=precision, fallback=fallback)}
    return graphs


def _first_failure(graphs: dict[Path, Precision]) -> tuple[Path, str] | None:
    """Return the first failure on one thread or on all: OpenVINO compiles differently for one."""
    return first_failure(graphs, 1) or (first_failure(graphs, cores()) if cores() > 1 else None)
