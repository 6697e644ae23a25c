"""The parser that all commands share: jsonargparse, with short errors that name the nearest known option."""

import argparse
import dataclasses
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from robodiff.cli.foreign import ELSEWHERE
from robodiff.data.config import DataModule, recording
from robodiff.errors import UsageError, nearest
from robodiff.policies.config import PolicyConfig

set_parsing_settings(
    subclasses_enabled=[PolicyConfig, DataModule],
    docstring_parse_attribute_docstrings=True,
    # Should anything get past configuration.py, it is still not imported, let alone called.
    import_path_denylist=["*"],
    import_path_allowlist=[
        f"{kind.__module__}.{kind.__name__}"
        for base in (PolicyConfig, DataModule)
        for kind in (base, *base.__subclasses__())
    ],
    instantiate_subclass_spec_in_any=False,
)

RECORDING = ("layout", "key_map", "fps", "revision")
"""Options that tell of a recording what it does not say itself."""
WORDS = (
    (r"typing\.", ""),
    (r"Literal\[None\], ", ""),
    (r"<class '(\w+)'>", r"\1"),
    (r"<class '[\w.]+\.ShapeMeta'>", "mapping of obs and action"),
    ("NoneType", "null"),
    (r"tuple\[(\w+), \1\]", r"list of two \1"),
    (r"(?:list|tuple)\[(\w+)(?:, \.\.\.)?\]", r"list of \1"),
    (r"dict\[str, ([^][]+)\]", r"mapping of names to \1"),
    (r"\btuple\b", "list"),
    (r"\bdict\b", "mapping"),
    (r"\bAny\b", "anything"),
)
"""How jsonargparse writes types, and how they are told, from the inside out."""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, the examples among them."""


class Parser(ArgumentParser):
    """A parser of one command.

    Args:
        command: its name.
        usage: what follows the name on the command line.
        description: what it does, and an example.
    """

    def __init__(self, command: str = "", usage: str = "", description: str = "", **kwargs: Any) -> None:
        if command:
            kwargs.update(
                formatter_class=_HelpFormatter,
                prog=f"robodiff {command}",
                usage=f"robodiff {command} {usage}",
                description=description,
            )
        super().__init__(allow_abbrev=False, **kwargs)
        self._command = command

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # pyright: ignore
        """Raise ``UsageError`` with what was wrong, in one line."""
        if not self._command:  # jsonargparse's parser of one part, whose account goes into that of the whole
            super().error(message, ex)
        raise UsageError(shorten(message, self.known_options()))

    def known_options(self) -> list[str]:
        """Every option there is, those within model and data included."""
        actions = [action for action in self._actions if not action.dest.endswith(".help")]
        known = [option.lstrip("-") for action in actions for option in action.option_strings]
        for action in actions:
            kind = getattr(action, "_typehint", None)
            if kind in (PolicyConfig, DataModule):
                classes = [kind, *kind.__subclasses__()]
                known += [f"{action.dest}.{field.name}" for each in classes for field in dataclasses.fields(each)]
        return known


def add_recording(parser: Parser) -> None:
    """Add the options of ``RECORDING``."""
    parser.add_argument("--layout", type=str | None, help="What the file's keys are, if it does not say it itself.")
    parser.add_argument("--key_map", type=dict[str, str] | None, help="Key in the file -> name here, in its place.")
    parser.add_argument("--fps", type=float | None, help="Frames per second, if the file does not say it itself.")
    parser.add_argument("--revision", type=str | None, help="Branch, tag or commit on the hub.")


def recording_of(path: str, options: Any) -> DataModule:
    """The recording at a path, of which the options of ``RECORDING`` tell more."""
    return recording(path, **{name: options[name] for name in RECORDING})


def shorten(message: str, known: list[str]) -> str:
    """Make one line of jsonargparse's account of a mistake, and name the nearest known option."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        path = ".".join([*keys, unknown[1]])
        if path in known:
            part = path.partition(".")[0]
            return f"{path} is an option of another class than that of {part} here; set the class with --{part} CLASS"
        return f"unknown option {path}{_instead(path, known)}"
    if unknown := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        path = f"{unknown[1]}.{unknown[2]}"
        return f"unknown option {path}{_instead(path, known)}"
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        path = unknown[1].lstrip("-").partition("=")[0]
        return f"unknown option {unknown[1]}{_instead(path, known)}"
    if wrong := re.search(r"(Unexpected|Missing required) keys: \{(.+?)\}", message):
        return f"{'.'.join(keys)}: {wrong[1].lower()} {wrong[2]}"
    if wrong := re.search(r"Subtypes: \[([^\n]+)\]\n.*Given value: (.+)", message, re.DOTALL):
        return f"{'.'.join(keys)}: expected {_in_words(wrong[1])}; found {wrong[2].splitlines()[0][:80]}"
    if wrong := re.search(r"Expected an? (.+?)\. Got value: (.+)", message, re.DOTALL):
        expected, found = _in_words(wrong[1]), wrong[2].strip().splitlines()[0]
        quote = " (YAML reads 3:6 as a number; quote it, as in '[\"3:6\"]')" if expected == "str" else ""
        return f"{'.'.join(keys)}: expected {expected}; found {found[:80]}{quote if found.isdigit() else ''}"
    if 'Invalid option "comments"' in message:
        return "--print_config=comments needs ruamel.yaml: pip install ruamel.yaml"
    if "is abstract" in message:
        kind = PolicyConfig if keys[:1] == ["model"] else DataModule
        classes = ", ".join(each.__name__ for each in kind.__subclasses__())
        return f"{'.'.join(keys)}: nothing says of which class it is; there is {classes}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]


def _instead(path: str, known: list[str]) -> str:
    """What to write in place of an option that there is not, as far as that can be told."""
    here = ELSEWHERE.get(path.rpartition(".")[2], "")
    return f"; it is {here} here" if here.partition(" ")[0] in known else f".{nearest(path, known)}"


def _in_words(types: str) -> str:
    """Types as jsonargparse writes them, in words."""
    for written, told in WORDS:
        types = re.sub(written, told, " ".join(types.split()))
    choices = re.split(r", (?![^\[]*\])", types)
    return " or ".join(re.sub(r"Literal\[(.+)\]", r"one of \1", choice).replace("'", "") for choice in choices)
