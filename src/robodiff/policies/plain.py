"""Dataclasses out of the plain values of JSON, every field checked against its annotation."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from robodiff.errors import UsageError, nearest

T = TypeVar("T")


def from_plain(kind: type[T], values: Any, name: str) -> T:
    """Make a dataclass of what ``dataclasses.asdict`` and JSON made of one; lists become tuples where it has those.

    Args:
        kind: the dataclass.
        values: its fields.
        name: what messages call it.

    Raises:
        UsageError: a field that is unknown (of a newer version, or misspelt), missing, or of the wrong type.
    """
    values = checked(values, dict, name)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise UsageError(f"{name} has no field {', '.join(map(repr, unknown))}.{nearest(unknown[0], list(fields))}")
    for field in fields.values():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise UsageError(f"{name}.{field.name} is missing")
    return kind(**{key: checked(value, fields[key].type, f"{name}.{key}") for key, value in values.items()})


def checked(value: Any, kind: Any, name: str) -> Any:
    """``value``, a list as a tuple where ``kind`` is one; UsageError unless it is of that kind."""
    if not _fits(value, kind):
        expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise UsageError(f"{name}: expected {expected}, found {value!r:.60}")
    return tuple(value) if isinstance(value, list) and _has_tuple(kind) else value


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple):
        fixed = origin is tuple and inner[-1] is not Ellipsis
        return (
            isinstance(value, list | tuple)
            and (not fixed or len(value) == len(inner))
            and all(_fits(item, inner[0]) for item in value)
        )
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(item, inner[1]) for item in value.values())
    if kind in (int, float):  # a bool is an int to Python, and JSON may write 1.0 as 1
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _has_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple or any(get_origin(one) is tuple for one in get_args(kind))
