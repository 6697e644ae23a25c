"""One typed reader for every document: files that people write, JSON that runs keep, options of a command line.

A document is a dataclass. Its annotations say what a field may be, bounds included (``Annotated[int, AtLeast(1)]``),
and its field docstrings are the help texts. Whatever makes one (a file, a command line, Python) is held against the
annotations in one place, ``Document.__post_init__``, so nobody checks a bound again. A document holds values; no name
in it is ever imported or called.
"""

import ast
import codecs
import functools
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from robodiff.errors import RobodiffError, UsageError, first_line, nearest
from robodiff.files import check_file, replacing, with_home
from robodiff.text import brief
from robodiff.yaml_text import load_yaml

T = TypeVar("T")

MOST_PROBLEMS = 3
"""Problems of one document that are told together."""
UNKNOWN, MISSES = "unknown option", "is missing"
"""How problems are told that are not of a value."""


def AtLeast(least: float) -> msgspec.Meta:
    """Bound a number from below."""
    return msgspec.Meta(ge=least)


def Above(bound: float) -> msgspec.Meta:
    """Bound a number from below, the bound itself excluded."""
    return msgspec.Meta(gt=bound)


def AtMost(most: float) -> msgspec.Meta:
    """Bound a number from above."""
    return msgspec.Meta(le=most)


def Between(least: float, most: float, step: int | None = None) -> msgspec.Meta:
    """Bound a number from both sides; with a step it is a multiple of that."""
    return msgspec.Meta(ge=least, le=most, multiple_of=step)


def FromTo(least: float, end: float) -> msgspec.Meta:
    """Bound a number from both sides, the end excluded."""
    return msgspec.Meta(ge=least, lt=end)


def NotEmpty(most: int | None = None) -> msgspec.Meta:
    """Ask for at least one value, and at most so many."""
    return msgspec.Meta(min_length=1, max_length=most)


def Matching(pattern: str, words: str) -> msgspec.Meta:
    """Ask for a text that a regular expression matches, which errors tell in words."""
    return msgspec.Meta(pattern=pattern, description=words)


_PATH = msgspec.Meta(extra={"path": True}, min_length=1, description="a path")
FilePath = Annotated[str, _PATH]
"""The path of a file or folder: ``~`` in it is the home folder, however it is written and whatever reads it."""


class FieldErrors(UsageError):
    """Some fields of a document are not what their annotations say.

    Args:
        problems: by field, in words.
        where: the keys that lead to the document.
    """

    def __init__(self, problems: dict[str, str], where: str = "") -> None:
        self.problems = {f"{where}.{name}" if where else name: problem for name, problem in problems.items()}
        texts = [
            problem.replace(UNKNOWN, f"{UNKNOWN} {name}", 1)
            if problem.startswith(UNKNOWN)
            else f"{name}{'' if problem == MISSES else ':'} {problem}"
            for name, problem in self.problems.items()
        ]
        more = f"; and {len(texts) - MOST_PROBLEMS} more" if len(texts) > MOST_PROBLEMS else ""
        super().__init__("; ".join(texts[:MOST_PROBLEMS]) + more)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A dataclass whose fields are converted to, and checked against, their annotations when one is made.

    Raises:
        FieldErrors: values of another type, or out of bounds; all of them together.
        UsageError: values that do not go together.
    """

    def __post_init__(self) -> None:
        converted, problems = _converted(type(self), vars(self))
        if problems:
            raise FieldErrors(problems)
        vars(self).update(converted)
        if conflicts := [*self.conflicts()]:
            raise UsageError("; ".join(conflicts[:MOST_PROBLEMS]))

    def conflicts(self) -> Iterator[str]:
        """Yield in words which fields do not go together, although each fits by itself."""
        yield from ()


def typed(kind: type[T], values: Any, where: str = "") -> T:
    """Make a ``Document`` of a mapping.

    Args:
        kind: the class.
        values: by field; unknown ones are refused, with the nearest known name.
        where: the keys that lead here, for messages.

    Raises:
        UsageError: no mapping, unknown or missing fields, or values that do not fit.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{where or kind.__name__}: expected options, each with its name; found {brief(values)}")
    known = {field.name: field for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    unknown = [str(name) for name in values if name not in known]
    missing = [name for name, field in known.items() if name not in values and _is_required(field)]
    problems = {name: f"{UNKNOWN}.{nearest(name, known)}" for name in unknown}
    problems |= dict.fromkeys(missing, MISSES) | _converted(kind, values)[1]
    if problems:
        raise FieldErrors(problems, where)
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from None


def _converted(kind: type, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return by field the values as annotations have them, and what is wrong with those that do not fit."""
    converted, problems = {}, {}
    for name, annotation in hints(kind).items():
        if name in values:
            try:
                converted[name] = convert(values[name], annotation)
            except ValueError as error:
                problems[name] = str(error)
    return converted, problems


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def convert(value: Any, kind: Any) -> Any:
    """Return ``value`` as an annotation has it: lists as tuples, whole numbers as floats.

    Raises:
        ValueError: it does not fit; the message says what was expected, and what was found.
    """
    if is_dataclass(kind) and isinstance(value, kind):  # pyright: ignore[reportArgumentType]
        return value
    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _convert_values(value, kind)  # says in which key of a mapping it is
        raise ValueError(_reworded(str(error), value, kind)) from None
    if not _finite(converted):
        raise ValueError(f"expected {in_words(kind)}, finite and within 64 bits; found {brief(value)}")
    return _expanded(converted) if _is_path(kind) else converted


def _convert_values(value: Any, kind: Any) -> None:
    for each in (kind, *get_args(kind)):  # of dict[str, X] | None, too
        if get_origin(each) is dict and isinstance(value, dict):
            for key, inner in value.items():
                try:
                    convert(inner, get_args(each)[1])
                except ValueError as error:
                    raise ValueError(f"{key}: {error}") from None


def parse(text: str, kind: Any) -> Any:
    """Return what a word of a command line says, read as YAML, or as it is where an annotation takes texts.

    Raises:
        ValueError: it does not fit.
        UsageError: it exceeds the limits of a document.
    """
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        value = text
    try:
        return convert(value, kind)
    except ValueError:
        with suppress(ValueError):
            return convert(text, kind)
        raise


def _finite(value: Any) -> bool:
    """Tell whether all numbers in a value are finite and, as whole ones, within 64 bits."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float | int) or abs(value) < 2**63


def _is_path(kind: Any) -> bool:
    """Tell whether an annotation is ``FilePath``, or has it among others."""
    return _PATH in getattr(kind, "__metadata__", ()) or any(map(_is_path, get_args(kind)))


def _expanded(value: Any) -> Any:
    """Return a path, or each of several, with the home folder in place of ``~``."""
    return [*map(_expanded, value)] if isinstance(value, list) else with_home(value) if value else value


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """Return the annotation of each field, bounds included."""
    every = get_type_hints(kind, include_extras=True)
    return {field.name: every[field.name] for field in fields(kind)}


def check_fields(kind: type) -> None:
    """Check that the fields of a document of others can be read.

    Raises:
        UsageError: annotations that make no field, that are unknown, or that cannot be told apart in a document.
    """
    if "__dataclass_fields__" not in vars(kind) and inspect.get_annotations(kind):
        raise UsageError("its options are no fields; write @dataclass(frozen=True, kw_only=True) above the class")
    try:
        for annotation in hints(kind).values():
            with suppress(msgspec.ValidationError):
                msgspec.convert(None, annotation)
    except (NameError, TypeError) as error:
        raise UsageError(first_line(error)) from None


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is object or not hasattr(base, "__dataclass_fields__"):
            continue
        try:
            body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base))).body[0].body  # pyright: ignore
        except (OSError, SyntaxError):  # a class that was typed into an interpreter
            continue
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[field.target.id] = " ".join(str(text.value.value).split())  # pyright: ignore
    return docs


def plain(document: Any) -> Any:
    """Return a document as values of JSON and YAML: mappings, lists, texts, numbers."""
    return msgspec.to_builtins(document)


def read_json(path: Path, kind: type[T], advice: str) -> T:
    """Read a JSON file into a type; keys that the type does not have are ignored.

    Raises:
        RobodiffError: it cannot be read, or is not of that type; the message names the place and ends with ``advice``.
    """
    check_file(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise RobodiffError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; {advice}") from None
    return decode_json(path, content, kind, advice)


def decode_json(path: Path, content: bytes, kind: type[T], advice: str) -> T:
    """Return what a JSON file holds, as ``read_json`` does, where its bytes were read already."""
    value = None
    try:
        value = msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8))
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RobodiffError(f"{path}: {_reworded(str(error), value)}; {advice}") from None
    except UsageError as error:
        raise RobodiffError(f"{path}: {error}; {advice}") from None
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        place = re.search(r"\(byte (\d+)\)", str(error))
        near = f" at {brief(content[int(place[1]) :][:20].decode(errors='replace'))}" if place else ""
        raise RobodiffError(f"{path}: cannot be read as JSON: {error}{near}; {advice}") from None


def write_json(target: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all; NaN and infinity are refused (they are not JSON)."""
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def _reworded(message: str, value: Any, kind: Any = None) -> str:
    """Tell msgspec's account of a mistake in the words of a document, with what was found there."""
    reason, _, path = message.partition(" - at ")
    place = path.strip("`").removeprefix("$")
    for index, key in re.findall(r"\[(\d+|\.\.\.)\]|\.(\w+)", place):
        try:
            value = value[key] if key else value[int(index)]
        except (LookupError, TypeError, ValueError):
            value = None
    reason = reason.partition(", got ")[0].replace("`", "").replace(" | ", " or ").replace("Expected", "expected")
    reason = reason.replace("array", "list").replace("object", "mapping").replace("Invalid enum value", "unexpected")
    if kind is not None and not place and not reason.startswith("Object "):
        reason = f"expected {in_words(kind)}"
    reason = reason.removeprefix("Object ")  # contains unknown field x, missing required field x
    found = "" if value is None and place else f"; found {brief(value)}"
    return f"{place.lstrip('.')}: {reason}{found}" if place else f"{reason}{found}"


def in_words(kind: Any) -> str:
    """Return an annotation in words: ``int or null``, ``list of str``, ``one of ddp, auto``."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (None, NoneType):
        return "null"
    if origin is Annotated:
        if (words := getattr(inner[1], "description", None)) is not None:
            return words
        return in_words(inner[0]) + " and".join(map(_bounds, inner[1:]))
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else brief(*inner)
    if origin in (list, tuple):
        count = "two " if origin is tuple and len(inner) == 2 and Ellipsis not in inner else ""
        return f"list of {count}{in_words(inner[0])}"
    if origin is dict:
        return f"mapping of names to {in_words(inner[1])}"
    return getattr(kind, "__name__", str(kind))


def _bounds(meta: Any) -> str:
    signs = {
        "ge": ">=",
        "gt": ">",
        "le": "<=",
        "lt": "<",
        "multiple_of": "a multiple of",
        "min_length": "of length >=",
        "max_length": "of length <=",
    }
    given = [f"{sign} {getattr(meta, name)}" for name, sign in signs.items() if getattr(meta, name, None) is not None]
    return f" {' and '.join(given)}" if given else ""
