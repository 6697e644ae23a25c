"""The parser that all commands share: jsonargparse, with short errors that name the nearest known option."""

import argparse
import dataclasses
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from robodiff.data.config import DataModule
from robodiff.errors import UsageError, nearest
from robodiff.policies.config import DiffusionConfig

set_parsing_settings(subclasses_enabled=[DiffusionConfig, DataModule], docstring_parse_attribute_docstrings=True)


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
            if kind in (DiffusionConfig, DataModule):
                classes = [kind, *kind.__subclasses__()]
                known += [f"{action.dest}.{field.name}" for each in classes for field in dataclasses.fields(each)]
        return known


def shorten(message: str, known: list[str]) -> str:
    """Make one line of jsonargparse's account of a mistake, and name the nearest known option."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        path = ".".join([*keys, unknown[1]])
        return f"unknown option {path}.{nearest(path, known)}"
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        path = unknown[1].lstrip("-").partition("=")[0]
        return f"unknown option {unknown[1]}.{nearest(path, known)}"
    if wrong := re.search(r"Expected an? (.+?)\. Got value: (.+)", message, re.DOTALL):
        expected = re.sub(r"<class '(\w+)'>|typing\.", lambda m: m[1] or "", wrong[1])
        found = wrong[2].strip().splitlines()[0]
        return f"{'.'.join(keys)}: expected {' '.join(expected.split())}; found {found[:80]}"
    if "is abstract" in message:
        classes = ", ".join(each.__name__ for each in DataModule.__subclasses__())
        return f"{'.'.join(keys)}: nothing says of which class it is; there is {classes}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]
