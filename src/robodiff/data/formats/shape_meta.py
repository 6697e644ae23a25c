"""Diffusion Policy's ``shape_meta``: which keys of a file to read, and of what shape and type they must be."""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from robodiff.data.episodes import Feature
from robodiff.errors import RobodiffError, UsageError


class Described(TypedDict):
    """What one frame of a key is."""

    shape: list[int]
    type: NotRequired[Literal["rgb", "low_dim"]]


class ShapeMeta(TypedDict):
    """The whole description."""

    obs: dict[str, Described]
    action: NotRequired[Described]


TYPES = {"rgb": "image", "low_dim": "vector"}


def check_form(shape_meta: Any) -> None:
    """Raise ``UsageError`` unless it is written as such a description is."""
    expected = "data.shape_meta must be {obs: {<key>: {shape: [...], type: rgb or low_dim}}, action: {shape: [...]}}"
    if not isinstance(shape_meta, Mapping) or not isinstance(shape_meta.get("obs"), Mapping) or not shape_meta["obs"]:
        raise UsageError(f"{expected}; found {str(shape_meta)[:80]}")
    if unknown := [key for key in shape_meta if key not in ("obs", "action")]:
        raise UsageError(f"{expected}; found {unknown[0]!r}")
    for key, said in _described(shape_meta).items():
        shape = said.get("shape") if isinstance(said, Mapping) else None
        whole = isinstance(shape, list | tuple) and shape and all(type(n) is int and n > 0 for n in shape)
        if not whole or not {*said} <= {"shape", "type"} or said.get("type", "low_dim") not in [*TYPES]:
            raise UsageError(f"{expected}; found {key}: {str(said)[:80]}")


def check_features(source: str, shape_meta: Mapping[str, Any], there: Mapping[str, Feature | str]) -> None:
    """Compare the description with what a file holds.

    Args:
        source: the file, for messages.
        shape_meta: as ``check_form`` lets it pass.
        there: per key of the file (``obs/<key>``, ``actions``) what one frame of it is, images (C, H, W), or in words
            what it is instead.

    Raises:
        RobodiffError: a key that is missing, or of another shape or type; it says which, and what there is.
    """
    kinds = {kind: name for name, kind in TYPES.items()}
    for key, said in _described(shape_meta).items():
        expected = f"{said.get('type', 'low_dim')} of shape {list(said['shape'])}"
        if key not in there:
            raise RobodiffError(f"{source}: has no {key}, which shape_meta says is {expected}; "
                                f"it has {', '.join(there)}")  # fmt: skip
        feature = there[key]
        found = feature if isinstance(feature, str) else f"{kinds[feature.kind]} of shape {list(feature.shape)}"
        if found != expected:
            raise RobodiffError(f"{source}: {key} is {found}, but shape_meta says {expected}")


def _described(shape_meta: Mapping[str, Any]) -> dict[str, Any]:
    """By their places in a file."""
    action = {"actions": shape_meta["action"]} if "action" in shape_meta else {}
    return {**{f"obs/{key}": said for key, said in shape_meta["obs"].items()}, **action}


def named(shape_meta: Mapping[str, Any]) -> set[str]:
    """The places in a file that are to be read: those of the observations, and ``actions``."""
    return {*_described(shape_meta), "actions"}
