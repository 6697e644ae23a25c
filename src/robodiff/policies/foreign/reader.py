"""Read files that ``torch.save`` wrote, with pickle or dill, without running anything that they name.

torch's restricted unpickler reads tensors and plain containers. Objects of a few listed classes become ``Inert``;
everything else is refused by name.
"""

import pickletools
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo, is_zipfile

import torch
from torch import Tensor

from robodiff.errors import UsageError
from robodiff.files import reading
from robodiff.yaml_text import DEEPEST, MOST_VALUES

AS_SAVED = "take the file as it was saved"


class Inert:
    """Stand-in for an object of another class in a pickle: keeps its state, and does nothing."""

    state: Any = None

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


INERT = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "dill._dill._load_type",  # a built-in type, by its name
    "typing.Any",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes")),
)
"""Classes in checkpoints besides tensors and plain values: records that hold the configuration."""


def _cache(*_: Any) -> dict[Any, Any]:
    return {}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that ``torch.save`` wrote: a dictionary of tensors, plain values and ``Inert`` objects. Run no code.

    Raises:
        UsageError: the file is compressed, names something that would have to be called, or is not a dictionary.
        RobodiffError: the file cannot be read.
    """
    known: list[Any] = [*((Inert, name) for name in INERT), (_cache, "collections.defaultdict")]  # OmegaConf's caches
    stand_ins = torch.serialization.safe_globals(known)
    with reading(path, "a checkpoint that torch.save wrote"), warnings.catch_warnings(action="ignore"), stand_ins:
        entries = _entries(path)
        if any(entry.compress_type != ZIP_STORED for entry in entries):  # torch would map the compressed bytes
            raise UsageError(f"{path}: was compressed after torch.save wrote it; {AS_SAVED}")
        try:
            content = torch.load(path, "cpu", weights_only=True, mmap=bool(entries))  # of any size
        except (UnpicklingError, RuntimeError) as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            if name := named[1] if named else _called(path, entries):
                problem = f"names {name}, which reading it would call; refused, and nothing of it was run"
                remedy = "save it anew with tensors and plain values alone: the weights, and options as a dictionary"
                raise UsageError(f"{path}: {problem}\n{remedy}") from None
            raise ValueError("torch cannot read it") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a dictionary of weights; found a {type(content).__name__}")
    return content


def check_weights(path: Path, weights: Any) -> dict[str, Tensor]:
    """Return the weights, a dictionary of tensors that are stored in the file.

    Raises:
        UsageError: they are not.
    """
    if not isinstance(weights, dict) or not weights or not all(map(_is_stored, weights.values())):
        raise UsageError(f"{path}: expected weights, tensors by their names; found a {type(weights).__name__}")
    if sum(value.nbytes for value in weights.values()) > 2 * path.stat().st_size:  # a weight may have two names
        raise UsageError(f"{path}: its tensors are larger than the file; copy it again")
    return {str(name): value for name, value in weights.items()}


def plain_values(path: Path, node: Any) -> Any:
    """Return the plain values of a configuration, OmegaConf's or argparse's, that was read as ``Inert`` objects.

    Raises:
        UsageError: it holds something else, or too much; a few bytes of a pickle can expand to 10^9 values.
    """
    count = 0

    def unfold(node: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > MOST_VALUES or depth > 2 * DEEPEST:
            problem = f"of more than {MOST_VALUES} values, or nested more than {DEEPEST} deep"
            raise UsageError(f"{path}: holds a configuration {problem}; {AS_SAVED}")
        if isinstance(node, Inert):
            state: Mapping[str, Any] = node.state if isinstance(node.state, dict) else {}
            return unfold(state.get("_content", state.get("_val", state)), depth + 1)
        if isinstance(node, dict):
            return {str(key): unfold(value, depth + 1) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [unfold(value, depth + 1) for value in node]
        if node is None or isinstance(node, bool | int | float | str):
            return node
        problem = f"holds a {type(node).__name__} in its configuration, which is no plain value"
        raise UsageError(f"{path}: {problem}; {AS_SAVED}")

    return unfold(node, 0)


def _is_stored(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _entries(path: Path) -> list[ZipInfo]:
    """Return what is in a file that torch writes today; nothing for its old format, or where it is neither."""
    if not is_zipfile(path):
        return []
    with ZipFile(path) as archive:
        return archive.infolist()


def _called(path: Path, entries: list[ZipInfo]) -> str | None:
    """Return what a pickle in opcodes that torch does not know names first, beside torch's own; none of it is run."""
    strings, known = ["", ""], ("torch.", "collections.", "_codecs.encode", *INERT)
    with path.open("rb") as file, ZipFile(path) if entries else nullcontext() as archive, suppress(Exception):  # broken
        pickled = archive.read(next(e for e in entries if e.filename.endswith("data.pkl"))) if archive else file
        for opcode, value, _ in pickletools.genops(pickled):
            name = ".".join(strings[-2:]) if opcode.name == "STACK_GLOBAL" else str(value).replace(" ", ".")
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not name.startswith(known):
                return name
            strings += [value] if isinstance(value, str) else []
    return None
