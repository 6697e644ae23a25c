"""YAML that others wrote, read within limits and as jsonargparse reads it."""

from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader

from robodiff.errors import UsageError

MOST_VALUES = 10_000
DEEPEST = 20
LONGEST_NUMBER = 30
"""Limits of a configuration; every 100 characters of a text count as one more value."""


def read(path: Path) -> tuple[str, Any]:
    """A file as text, and what it says.

    Raises:
        UsageError: it cannot be read, is no YAML, or exceeds the limits; it says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text, load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def load(text: str) -> Any:
    """What a text says.

    Raises:
        yaml.YAMLError: it is no YAML.
        UsageError: it exceeds the limits, or a value is not what its tag says.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _size(root, {}) > MOST_VALUES:
            _refuse(root, f"and on: more than {MOST_VALUES} values, which is not a configuration")
        return get_loader("yaml")(text)
    except RecursionError:
        raise UsageError(f"is nested more than {DEEPEST} deep") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # what !!int x and the like come to
        raise UsageError(f"holds a value that is not what its tag says: {error}") from None


def _size(node: yaml.Node, sizes: dict[int, int], depth: int = 0) -> int:
    """How many values a node holds with its aliases unfolded, which may be 10^9 in a file of ten lines."""
    if depth > DEEPEST:
        _refuse(node, f"is nested more than {DEEPEST} deep")
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST_NUMBER:
        _refuse(node, f"holds a number of more than {LONGEST_NUMBER} digits")
    if id(node) not in sizes:
        match node:
            case yaml.MappingNode():
                children = [child for pair in node.value for child in pair]
            case yaml.SequenceNode():
                children = node.value
            case _:
                children = []
        own = 1 if children else 1 + len(node.value) // 100
        sizes[id(node)] = own + sum(_size(child, sizes, depth + 1) for child in children)
    return sizes[id(node)]


def _refuse(node: yaml.Node, reason: str) -> NoReturn:
    raise UsageError(f"line {node.start_mark.line + 1} {reason}")
