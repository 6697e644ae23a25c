"""Configurations as they are given, in files and on the command line, before jsonargparse sees any of them.

jsonargparse imports what a ``class_path`` names, and may call it. So there is one rule for all of them: ``model`` and
``data`` name one of their known classes, and nothing else names a class (``refuse_classes``).
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from robodiff import documents
from robodiff.cli.foreign import translate
from robodiff.data.config import DataModule
from robodiff.errors import UsageError, nearest
from robodiff.policies.config import PolicyConfig  # and with it every policy, which can then be named
from robodiff.training.config import RolloutConfig, TrainerConfig

PARTS = {"model": PolicyConfig, "data": DataModule, "trainer": TrainerConfig, "rollout": RolloutConfig}
CLASSES = {
    part: {kind.__name__: f"{kind.__module__}.{kind.__name__}" for kind in PARTS[part].__subclasses__()}
    for part in ("model", "data")
}
"""Per part of a configuration the classes that it may name: by their short names the full ones."""


def read(path: Path) -> str:
    """A configuration file that may be parsed, as text in robodiff's own words.

    Raises:
        UsageError: it is no configuration, or names a class that it may not name.
    """
    text, content = documents.read(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected options, each with its name; found {str(content)[:80]}")
    try:
        foreign = translate(content)
        refuse_classes(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return yaml.safe_dump(content, sort_keys=False) if foreign else text


def check_options(arguments: list[str]) -> None:
    """Hold the options of a command line, each followed by its value, against the rule for files."""
    for option, value in pairwise(arguments):
        if option.startswith("--") and option != "--config" and (" " in value or not value.startswith("--")):
            refuse_classes({option.removeprefix("--"): value})


def refuse_classes(given: Any, *place: str) -> None:
    """Refuse every class but the known ones, each named directly in its part. Nothing is imported to tell.

    Args:
        given: what a configuration says, or a part of it. Texts within it are read, too, since the parser reads
            ``"{shape: [3]}"`` as it reads ``{shape: [3]}``.
        place: the keys that lead to it.

    Raises:
        UsageError: a class, and where it is named; or another file, which would be read unchecked.
    """
    part, *within = place or ("",)
    names_class = part in CLASSES and within in ([], ["class_path"], ["help"])
    if part == "config" or (part in PARTS.keys() - CLASSES and not within and isinstance(given, str)):
        raise UsageError(f"{part}: a configuration is one file; write out what {str(given)[:80]!r} says")
    if "class_path" in place and not names_class:
        raise UsageError(f"{'.'.join(place)}: only {' and '.join(CLASSES)} are of a class; found {str(given)[:80]!r}")
    if isinstance(given, str):
        inner = _load(given, place)
        if not isinstance(inner, str):
            refuse_classes(inner, *place)
        elif names_class:
            _check_class(part, given)
    elif names_class and within:
        _check_class(part, str(given))
    elif isinstance(given, dict):
        for key, value in given.items():
            refuse_classes(value, *place, *(name.rstrip("+") for name in str(key).split(".")))
    elif isinstance(given, list | tuple | set):
        for value in given:
            refuse_classes(value, *place, "[]")


def _load(text: str, place: tuple[str, ...]) -> Any:
    try:
        return documents.load(text)
    except yaml.YAMLError:  # no YAML for the parser, either
        return text
    except UsageError as error:
        raise UsageError(f"{'.'.join(place)}: {error}") from None


def _check_class(part: str, name: str) -> None:
    known = CLASSES[part]
    if name not in [*known, *known.values()]:
        raise UsageError(f"{part}: unknown class {name!r}; there is {', '.join(known)}.{nearest(name, [*known])}")
