"""The parser that all commands share: jsonargparse, with short errors that name the nearest known option."""

import argparse
import dataclasses
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

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
        known = [option.lstrip("-") for action in self._actions for option in action.option_strings]
        for action in self._actions:
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
        return f"unknown option {path}.{nearest(path, known)}"
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        path = unknown[1].lstrip("-").partition("=")[0]
        return f"unknown option {unknown[1]}.{nearest(path, known)}"
    if wrong := re.search(r"Expected an? (.+?)\. Got value: (.+)", message, re.DOTALL):
        found = wrong[2].strip().splitlines()[0]
        return f"{'.'.join(keys)}: expected {_plain(wrong[1])}; found {found[:80]}"
    if wrong := re.search(r"(Unexpected|Missing required) keys: \{(.+?)\}", message):
        return f"{'.'.join(keys)}: {wrong[1].lower()} {wrong[2]}"
    if wrong := re.search(r"Subtypes: \[([^\n]+)\]\n.*Given value: ([^\n]+)", message, re.DOTALL):
        kinds = _plain(wrong[1]).replace("Literal[None], ", "").replace(", NoneType", " or null")
        return f"{'.'.join(keys)}: expected {kinds.replace('NoneType', 'null')}; found {wrong[2][:80]}"
    if 'Invalid option "comments"' in message:
        return "--print_config=comments needs ruamel.yaml: pip install ruamel.yaml"
    if "is abstract" in message:
        kind = PolicyConfig if keys[:1] == ["model"] else DataModule
        classes = ", ".join(each.__name__ for each in kind.__subclasses__())
        return f"{'.'.join(keys)}: nothing says of which class it is; there is {classes}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]


def _plain(kind: str) -> str:
    """A type without Python's decoration."""
    return " ".join(re.sub(r"<class '(\w+)'>|typing\.", lambda m: m[1] or "", kind).split())
