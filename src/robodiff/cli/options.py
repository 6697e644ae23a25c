"""The options of a command: a dataclass, whose annotations are checked and whose docstrings are the help texts."""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from textwrap import wrap
from typing import Any, ClassVar, TypeVar

from robodiff.documents import Document, field_docs, hints, in_words, parse, plain, typed
from robodiff.errors import UsageError, nearest

T = TypeVar("T", bound="Options")
WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Options(Document):
    """Options of one command; the class's docstring is the command's description, with examples."""

    positional: ClassVar[tuple[str, ...]] = ()
    """Fields that are given without their names, in this order; a list takes all words that are left."""


def read_options(kind: type[T], command: str, arguments: Sequence[str]) -> T:
    """Read a command line; ``--help`` prints the options and exits.

    Raises:
        UsageError: an unknown or missing option, or a value that does not fit.
    """
    if "-h" in arguments or "--help" in arguments:
        print(help_text(kind, command))
        raise SystemExit(0)
    annotations, given, words = hints(kind), {}, []
    for option, value in split(arguments):
        if option is None:
            words.append(value)
        elif option not in annotations:
            raise unknown_option(option, annotations)
        else:
            given[option] = read_value(option, value, annotations[option])
    for name in kind.positional:
        if in_words(annotations[name]).startswith("list"):
            given[name], words = words, []
        elif words:
            given[name] = read_value(name, words.pop(0), annotations[name])
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}; options are written --name value")
    for field in fields(kind):
        if field.default is MISSING and field.default_factory is MISSING and given.get(field.name) in (None, []):
            name = field.name.upper() if field.name in kind.positional else f"--{field.name}"
            raise UsageError(f"{name} is missing; {usage(kind, command)}")
    try:
        return typed(kind, given)
    except UsageError as error:
        raise UsageError(f"--{error}" if str(error).split(":")[0] in annotations else str(error)) from None


def split(arguments: Sequence[str]) -> Iterator[tuple[str | None, Any]]:
    """Yield the options of a command line, each with its value; None in place of what is not given.

    ``--name=value`` is ``--name value``. A value starts with two dashes only where it holds a blank.
    """
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            yield None, word
            continue
        name, sign, value = word.removeprefix("--").partition("=")
        if not sign:
            follows = bool(rest) and (" " in rest[0] or not rest[0].startswith("--"))
            value = rest.pop(0) if follows else None
        yield name, value


def read_value(option: str, text: str | None, kind: Any) -> Any:
    """Return the value of an option, of its annotation; an option that is true or false may stand alone.

    Raises:
        UsageError: it does not fit.
    """
    if text is None and kind is bool:
        return True
    if text is None:
        raise UsageError(f"--{option} needs a value: {in_words(kind)}")
    try:
        return parse(text, kind)
    except ValueError as error:
        raise UsageError(f"--{option}: {error}") from None
    except UsageError as error:
        raise UsageError(f"--{option} {error}") from None


def unknown_option(option: str, known: Any) -> UsageError:
    """Return the error that an option is unknown, with the nearest known one."""
    return UsageError(f"unknown option --{option}.{nearest(option, list(known), prefix='--')}")


def usage(kind: type[Options], command: str) -> str:
    """Return how a command is written, in a line."""
    required = [field.name for field in fields(kind)
                if field.default is MISSING and field.default_factory is MISSING]  # fmt: skip
    words = [name.upper() if name in required else f"[{name.upper()}]" for name in kind.positional]
    words += [f"--{name} {name.upper()}" for name in required if name not in kind.positional]
    return " ".join(["usage: robodiff", command, *words, "[options]"])


def help_text(kind: type[Options], command: str) -> str:
    """Return the help of a command."""
    named = [name for name in hints(kind) if name not in kind.positional]
    lines = [usage(kind, command), "", *description(kind), ""]
    lines += [line for name in kind.positional for line in describe(name.upper(), kind, name)]
    return "\n".join([*lines, *(line for name in named for line in describe(f"--{name}", kind, name))])


def description(kind: type) -> list[str]:
    """Return the docstring of a class, with its blank lines."""
    lines = (kind.__doc__ or "").strip().splitlines()
    return [line.removeprefix("    ") for line in lines]


def describe(title: str, kind: type, name: str) -> list[str]:
    """Return the help of one field: its type and its default, and below what it is."""
    field = next(field for field in fields(kind) if field.name == name)
    default = "" if field.default in (MISSING, None) else f"; {plain(field.default)}"
    text = wrap(field_docs(kind).get(name, ""), WIDTH, initial_indent="      ", subsequent_indent="      ")
    return [f"  {title} ({in_words(hints(kind)[name])}{default})", *text]
