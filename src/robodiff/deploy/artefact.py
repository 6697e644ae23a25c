"""An exported policy on disk: a folder with ``export.json``, graphs, and a file of constants. Imports no torch."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from robodiff.data.episodes import Feature
from robodiff.deploy.engines import SUFFIXES, Precision
from robodiff.documents import Above, AtLeast, Between, Document, NotEmpty, decode_json
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.policies.options import NotNegative
from robodiff.policies.runtime import Latency
from robodiff.registry import Origin

FORMAT_VERSION = 1
EXPORT_FILE = "export.json"
CONSTANTS_FILE = "constants.npz"
Share = Annotated[float, Between(0, 1)]
Count = Annotated[int, AtLeast(0)]
REMEDY = "copy the whole folder again from where it comes from, or export again"


@dataclass(frozen=True, kw_only=True)
class Graph(Document):
    """One part of the policy as a graph."""

    file: str
    """Beside ``export.json``; its suffix says which engine runs it: .xml OpenVINO, .onnx ONNX Runtime."""
    precision: Precision = "fp32"
    """The arithmetic of its layers."""
    fallback: str | None = None
    """Why it runs on another engine, or in another precision, than requested."""

    @property
    def engine(self) -> str:
        """The engine that runs it."""
        return SUFFIXES[Path(self.file).suffix]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One row of the sampler, as ``diffusion.samplers.Row``, and how to convert the prediction at its noise level.

    x_0 and eps are linear combinations of x_t and the prediction.
    """

    x0_from_x: float
    x0_from_prediction: float
    eps_from_x: float
    eps_from_prediction: float
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Successes(Document):
    """Success rates of the exported policy and the one in torch, on the same episodes."""

    env: str
    episodes: Count
    exported: Share
    """Share of the episodes in which the exported policy succeeded."""
    torch: Share
    conclusion: str


@dataclass(frozen=True, kw_only=True)
class Verified(Document):
    """How an exported policy differs from the original, at the same observations with the same noise."""

    windows: Count
    """Number of recorded observations compared, evenly spread."""
    data: str
    mean_error: NotNegative
    """Mean absolute difference of normalised actions; normalised by limits, their range is 2."""
    max_error: NotNegative
    tolerance: NotNegative
    """Bound of the largest error in fp32, and of the mean error in other precisions."""
    latency_ms: Latency
    torch_latency_ms: Latency
    threads: Count
    machine: str
    megabytes: NotNegative
    """Size of all files."""
    success: Successes | None = None


@dataclass(frozen=True, kw_only=True)
class ExportFile(Document):
    """The contents of ``export.json``."""

    format_version: int
    engine: Literal["openvino", "onnx"]
    precision: Precision = "fp32"
    config: dict[str, Any]
    """The fields of the policy's configuration, and its ``class``."""
    features: dict[str, Feature]
    fps: Annotated[float, Above(0)]
    policy: str
    """Hash of the original policy."""
    graphs: dict[str, Graph]
    """``encoder`` (where there are cameras), ``observe``, ``denoiser``, ``decode`` and ``known``."""
    rows: Annotated[list[Evaluation], NotEmpty()]
    """The sampler's rows, in order."""
    trajectory_dim: Annotated[int, AtLeast(1)]
    """Numbers in each time step of what is denoised."""
    action_dim: Annotated[int, AtLeast(1)]
    """How many of them, from the first, are the action; with inpainting, the rest are the observation."""
    reference_keys: list[str]
    """Observations that actions are relative to."""
    discrete: list[Count]
    """Dimensions of a recorded action that hold classes."""
    weights: Count
    """Number of weights in the denoiser."""
    files: dict[str, str]
    """The sha256 of every other file, by name."""
    origin: Origin | None = None
    """Where the configuration's class came from; None for those of robodiff."""
    verified: Verified | None = None


def is_exported(path: str | Path) -> bool:
    """Tell whether a path is the folder of an exported policy."""
    return (Path(path) / EXPORT_FILE).is_file()


def read_export(folder: Path) -> tuple[ExportFile, str]:
    """Return the contents of ``export.json``, and a short fingerprint of the whole folder.

    Raises:
        RobodiffError: ``export.json`` is missing or broken, or a file is not the one that was exported with it.
    """
    path = folder / EXPORT_FILE
    with reading(path, "an exported policy"):
        content = path.read_bytes()
    version = decode_json(path, content, dict[str, Any], REMEDY).get("format_version")
    if version != FORMAT_VERSION:
        raise RobodiffError(f"{path}: format_version {version!r}, this robodiff reads {FORMAT_VERSION}; update it")
    described = decode_json(path, content, ExportFile, REMEDY)
    needed = {graph.file for graph in described.graphs.values()} | {CONSTANTS_FILE}
    if strange := [name for name in needed | {*described.files} if not re.fullmatch(r"\w[\w.]*", name)]:
        raise RobodiffError(f"{path}: {strange[0]!r} is not the name of a file beside it; {REMEDY}")
    if missing := needed - described.files.keys():
        raise RobodiffError(f"{path}: has no hash of {missing.pop()}; {REMEDY}")
    for name, sha256 in described.files.items():
        if sha256_of(folder / name) != sha256:
            raise RobodiffError(f"{folder / name}: is not the file that was exported: another sha256; {REMEDY}")
    return described, hashlib.sha256(content).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with reading(path, "a file of an exported policy"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
