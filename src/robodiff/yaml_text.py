"""YAML that people write: with numbers as YAML 1.2 has them, and no million values in ten lines."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from robodiff.errors import UsageError
from robodiff.files import check_file
from robodiff.text import brief

MOST_VALUES = 10_000
DEEPEST = 20
LONGEST_NUMBER = 30
"""Limits of a YAML document; every 100 characters of a text count as one more value."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Raises:
        UsageError: it cannot be read, is not YAML, or exceeds the limits; it says where.
    """
    check_file(path)
    try:
        return load_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def load_yaml(text: str) -> Any:
    """Return what a text says; numbers are read as YAML 1.2 has them, so that 1e-4 is one and 3:6 is none.

    Raises:
        yaml.YAMLError: it is not YAML.
        UsageError: it exceeds the limits, or a value is not what its tag says.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        if _size(root, {}) > MOST_VALUES:
            _refuse(root, f"and on: more than {MOST_VALUES} values, which is not a configuration")
        return loader.construct_document(root)
    except RecursionError:
        raise UsageError(f"is nested more than {DEEPEST} deep") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # what !!int x and the like come to
        raise UsageError(f"holds a value that is not what its tag says: {error}") from None


def dump_yaml(value: Any) -> str:
    """Return values as YAML that ``load_yaml`` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """YAML's safe types, with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}  # noqa: RUF012


_SCALARS = {  # in this order: the first that matches counts
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
for _tag, _pattern in _SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))  # pyright: ignore


def _size(node: yaml.Node, sizes: dict[int, int], depth: int = 0) -> int:
    """Return how many values a node holds with its aliases unfolded, which may be 10^9 in a file of ten lines."""
    if depth > DEEPEST:
        _refuse(node, f"is nested more than {DEEPEST} deep")
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST_NUMBER:
        _refuse(node, f"holds a number of more than {LONGEST_NUMBER} digits")
    if id(node) not in sizes:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.CollectionNode):
            children = [child for each in node.value for child in (each if isinstance(each, tuple) else (each,))]
        if isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value])
        own = 1 if children else 1 + len(node.value) // 100
        sizes[id(node)] = own + sum(_size(child, sizes, depth + 1) for child in children)
    return sizes[id(node)]


def _check_keys(keys: Sequence[yaml.Node]) -> None:
    """Refuse a mapping that says a key twice, of which YAML would take the last."""
    known = set()
    for key in keys:
        if (key.tag, str(key.value)) in known:
            _refuse(key, f"has the key {brief(key.value)} for the second time")
        known.add((key.tag, str(key.value)))


def _refuse(node: yaml.Node, reason: str) -> NoReturn:
    raise UsageError(f"line {node.start_mark.line + 1} {reason}")
