"""What dill makes of a checkpoint with OmegaConf's configuration, without either: the same names, the same opcodes."""

import io
import pickle
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

MODULES = ("omegaconf", "omegaconf.dictconfig", "omegaconf.listconfig", "omegaconf.nodes", "omegaconf.base", "dill",
           "dill._dill")  # fmt: skip
CLASSES = {name: type(name.rpartition(".")[2], (), {"__module__": name.rpartition(".")[0]})
           for name in ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
                        "omegaconf.base.Metadata", "omegaconf.base.ContainerMetadata")}  # fmt: skip


def _load_type(name: str) -> type:
    return {"dict": dict, "list": list}[name]


_load_type.__module__ = "dill._dill"


class Pickler(pickle.Pickler):
    """Writes built-in types as dill does."""

    def reducer_override(self, value: Any) -> Any:
        return (_load_type, (value.__name__,)) if value in (dict, list) and isinstance(value, type) else NotImplemented


def save(content: dict[str, Any], path: Path) -> Path:
    """Write a checkpoint as diffusion_policy does; its ``cfg`` is given as plain values."""
    made = {name: ModuleType(name) for name in MODULES}
    for name, kind in CLASSES.items():
        setattr(made[name.rpartition(".")[0]], name.rpartition(".")[2], kind)
    made["dill._dill"]._load_type = _load_type  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in MODULES}
    sys.modules.update(made)
    try:
        content = {**content, "cfg": node(content["cfg"])} if "cfg" in content else content
        torch.save(
            content, path, pickle_module=SimpleNamespace(__name__="as dill", Pickler=Pickler, dumps=pickle.dumps)
        )
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return path


def node(value: Any, parent: Any = None, key: Any = None) -> Any:
    """Return a value as OmegaConf keeps it, each with its parent."""
    kinds = {
        dict: ("omegaconf.dictconfig.DictConfig", "Container"),
        list: ("omegaconf.listconfig.ListConfig", "Container"),
    }
    name, prefix = kinds.get(type(value), ("omegaconf.nodes.AnyNode", ""))
    made, metadata = CLASSES[name](), CLASSES[f"omegaconf.base.{prefix}Metadata"]()
    state = {"ref_type": Any, "object_type": type(value) if prefix else None, "optional": True, "key": key, "flags": {}}
    if prefix:
        state |= {"resolver_cache": defaultdict(dict, {"now": {("%Y",): "2023"}}), "key_type": Any, "element_type": Any}
    metadata.__dict__.update(state)
    made.__dict__.update({"_metadata": metadata, "_parent": parent})
    if isinstance(value, dict):
        made._content = {each: node(inner, made, each) for each, inner in value.items()}
    elif isinstance(value, list):
        made._content = [node(inner, made, place) for place, inner in enumerate(value)]
    else:
        made._val = value
    return made


def dumped(value: Any) -> bytes:
    """Return the bytes that ``pickles`` holds."""
    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()
