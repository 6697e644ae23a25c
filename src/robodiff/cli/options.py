"""The options of a command: a dataclass, whose annotations are checked and whose docstrings are the help texts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from textwrap import wrap
from typing import Annotated, Any, ClassVar, TypeVar

from robodiff.documents import (
    Between,
    Document,
    FieldErrors,
    FilePath,
    field_docs,
    hints,
    in_words,
    parse,
    plain,
    typed,
)
from robodiff.errors import UsageError, nearest

T = TypeVar("T", bound="Options")
WIDTH = 100
_PLACE = re.compile(r"^[^.]*(\.[^.]*)?")
"""The part of the configuration and the option; what follows is keys of a mapping."""


@dataclass(frozen=True, kw_only=True)
class Options(Document):
    """Options of one command; the class's docstring is the command's description, with examples."""

    positional: ClassVar[tuple[str, ...]] = ()
    """Fields that are given without their names, in this order; a list takes all words that are left."""
    further: ClassVar[str] = ""
    """What is in the name of an option that a configuration or a recording has beside them."""
    repeated: ClassVar[tuple[str, ...]] = ()
    """Lists of texts that are given one by one, as the same option several times."""
    alone: ClassVar[Mapping[str, str]] = {}
    """What options are that stand without a value."""

    @staticmethod
    def explain(option: str) -> str | None:
        """Say of an option that is unknown what it is here, where that is known."""
        return None


@dataclass(frozen=True, kw_only=True)
class ActingOptions(Options):
    """Options of the commands that run a policy."""

    positional = ("policy",)

    policy: FilePath
    """A run, a policy's folder, an exported policy, a repository of the Hugging Face hub, or a server's address."""
    device: str = "cpu"
    """Device that computes the policy: cpu, cuda, ..."""
    sampler: str | None = None
    """ddpm, ddim, dpmsolver++, flow or flowheun, in place of the policy's own."""
    steps: Annotated[int, Between(1, 10_000)] | None = None
    """Denoising steps, in place of the policy's own number."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""

    def open_runtime(self) -> Any:
        """Return the policy; see ``robodiff.deploy.opening``."""
        from robodiff.deploy.opening import open_runtime

        how = {"sampler": self.sampler, "steps": self.steps, "revision": self.revision}
        return open_runtime(self.policy, self.device, **how)


def read_options(kind: type[T], command: str, arguments: Sequence[str], extra: dict[str, Any] | None = None) -> T:
    """Read a command line; ``--help`` prints the options and exits.

    Args:
        kind: of the options.
        command: as it is typed.
        arguments: what follows it.
        extra: where ``further`` options go, each with its text; None refuses them.

    Raises:
        UsageError: an unknown or missing option, or a value that does not fit.
    """
    if "-h" in arguments or "--help" in arguments:
        print(help_text(kind, command))
        raise SystemExit(0)
    annotations, given, words = hints(kind), {}, []
    for option, text in split(arguments):
        if option is None:
            words.append(text)
        elif option in kind.repeated:
            given.setdefault(option, []).append(read_value(option, text, str))
        elif option in annotations:
            given[option] = read_value(option, kind.alone.get(option) if text is None else text, annotations[option])
        elif extra is not None and kind.further in option:
            extra[option] = text
        else:
            raise unknown_option(option, annotations, kind.explain(option))
    for name in kind.positional:
        if words and in_words(annotations[name]).startswith("list"):
            given[name], words = words, []
        elif words:
            given[name] = read_value(name, words.pop(0), annotations[name])
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}; options are written --name value")
    try:
        return typed(kind, given)
    except FieldErrors as errors:
        names = {name: name.upper() if name in kind.positional else f"--{name}" for name in errors.problems}
        problems = {names[name]: problem for name, problem in errors.problems.items()}
        raise UsageError(f"{FieldErrors(problems)}; {usage(kind, command)}") from None


def split(arguments: Sequence[str]) -> Iterator[tuple[str | None, Any]]:
    """Yield the options of a command line, each with its value; None in place of what is not given.

    ``--name=value`` is ``--name value``, and ``--until-decided`` is ``--until_decided``; keys of a mapping are left as
    they are. A value starts with two dashes only where it holds a blank.
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
        yield _PLACE.sub(lambda place: place[0].replace("-", "_"), name), value


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
    except (ValueError, UsageError) as error:
        raise UsageError(f"--{option}: {error}") from None


def unknown_option(option: str, known: Any, told: str | None = None) -> UsageError:
    """Return the error that an option is unknown, with what is told of it or the nearest known one."""
    more = f"; {told}" if told else f".{nearest(option, list(known), prefix='--')}"
    return UsageError(f"unknown option --{option}{more}")


def name_with(env: str, options: Mapping[str, Any]) -> str:
    """Return the name of an environment with further options of it."""
    query = "&".join(f"{option}={value}" for option, value in options.items())
    return f"{env}{'&' if '?' in env else '?'}{query}" if query else env


def usage(kind: type[Options], command: str) -> str:
    """Return how a command is written, in a line."""
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    words = [name.upper() if name in required else f"[{name.upper()}]" for name in kind.positional]
    words += [f"--{name} {name.upper()}" for name in required if name not in kind.positional]
    return " ".join(["usage: robodiff", command, *words, "[options]"])


def help_text(kind: type[Options], command: str) -> str:
    """Return the help of a command."""
    return "\n".join([usage(kind, command), "", *description(kind), "", *options_help(kind, "", kind.positional)])


def description(kind: type) -> list[str]:
    """Return the docstring of a class, with its blank lines; its name where ``dataclass`` alone wrote one."""
    text = (kind.__doc__ or "").strip()
    text = kind.__name__ if text.startswith(f"{kind.__name__}(") else text
    return [line.removeprefix("    ") for line in text.splitlines()]


def options_help(kind: type, part: str, positional: Sequence[str] = ()) -> list[str]:
    """Return the help of all fields of a class, those that are given without their names first."""
    prefix = f"--{part}." if part else "--"
    titles = {name: name.upper() for name in positional}
    titles |= {name: f"{prefix}{name}" for name in hints(kind) if name not in positional}
    return [line for name, title in titles.items() for line in describe(title, kind, name)]


def describe(title: str, kind: type, name: str) -> list[str]:
    """Return the help of one field: its type and its default, and below what it is."""
    field = next(field for field in fields(kind) if field.name == name)
    default = "" if field.default in (MISSING, None) else f"; {plain(field.default)}"
    text = wrap(field_docs(kind).get(name, ""), WIDTH, initial_indent="      ", subsequent_indent="      ")
    return [f"  {title} ({in_words(hints(kind)[name])}{default})", *text]
