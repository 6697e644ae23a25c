"""Configurations: a file, the options of a command line over it, and the typed ``FitConfig`` that comes of both.

``model`` and ``data`` name a class (``class_path``, a name of the registry) and its options (``init_args``). Nothing is
imported because a file names it: ``registry.find`` knows what there is.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from robodiff import registry
from robodiff.cli.foreign import CLASSES, check_origin, explained, translate
from robodiff.cli.options import read_value, unknown_option
from robodiff.data.mixture import MixtureConfig
from robodiff.data.recordings import DataConfig, open_path
from robodiff.documents import UNKNOWN, Document, FieldErrors, field_docs, hints, plain, typed
from robodiff.errors import UsageError, nearest, notice
from robodiff.evaluation.runs import config_file
from robodiff.policies.config import PolicyConfig
from robodiff.text import brief
from robodiff.training.config import FitConfig, RolloutConfig, TrainerConfig
from robodiff.yaml_text import dump_yaml, load_yaml, read_yaml

PARTS = {"model": PolicyConfig, "data": DataConfig, "trainer": TrainerConfig, "rollout": RolloutConfig}
KINDS = {"model": "models", "data": "data"}
"""The parts that are of a class, each with the kind of the registry that has it."""
LENGTHS = ("max_epochs", "max_steps", "max_time")
PLACES = {"path", "root", "repo_id", "recordings"}
"""Options that say where a recording is."""
OF_A_RECORDING = (
    *("path", "root", "repo_id", "revision", "layout", "key_map", "fps", "agent", "episodes", "val_episodes"),
    *("symmetries", "filter_key", "val_filter_key", "shape_meta", "weights"),
)
"""Options that say where a recording is and what is in it; where another is given in its place they go."""


@dataclass(frozen=True, kw_only=True)
class PartOptions(Document):
    """What a document says of a part that is of a class."""

    class_path: str = ""
    init_args: dict[str, Any] | None = None


@dataclass
class Draft:
    """A configuration that is not whole yet.

    Args:
        source: the file that it was read from, for messages; empty for a preset.
    """

    source: str = ""
    classes: dict[str, type] = field(default_factory=dict)
    """Per part its class: that of ``model`` and ``data`` is to be chosen."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per part its options."""
    top: dict[str, Any] = field(default_factory=dict)
    """What belongs to no part."""
    given: set[str] = field(default_factory=set)
    """Options of the command line, ``part.field``."""
    foreign: list[str] = field(default_factory=list)
    """The parts that named a class of getiaction."""

    @classmethod
    def of(cls, content: Any, source: str = "") -> "Draft":
        """Return the draft that a document describes."""
        check_origin(options := _options(content))
        brought = [options.get(name) for name in ("plugins", "distributions")]
        registry.mention(*([str(each) for each in some] if isinstance(some, list) else [] for some in brought))
        draft = cls(source, {"trainer": TrainerConfig, "rollout": RolloutConfig})
        for name, value in options.items():
            if name in KINDS:
                draft.set_part(name, value)
            elif name in PARTS and value is not None:
                draft.values[name] = _options(value, f"{name}: ")
            else:
                draft.top[str(name)] = value
        if draft.foreign:
            translate(draft.values, draft.top, draft.foreign)
        return draft

    def set_part(self, part: str, value: Any) -> None:
        """Take what says which class a part is of, and maybe its options: a name, a path, or a mapping of both; of a
        recording also a mapping of its path and options."""
        value = _read(part, value) if isinstance(value, str) else value
        if value is None:
            return
        if isinstance(value, str):
            self.choose(part, value)
            return
        if part == "data" and isinstance(value, dict) and isinstance(value.get("path"), str):
            self.open({str(name): option for name, option in value.items()})
            return
        if not isinstance(value, dict) or not value.keys() <= hints(PartOptions).keys():
            expected = "class_path and init_args" + ", or path and options of a recording" * (part == "data")
            raise UsageError(f"{part}: expected {expected}; found {brief(value)}")
        given = typed(PartOptions, value, part)
        self._leave(part, given.init_args or {})
        if name := given.class_path:
            self.foreign += [part] if name in CLASSES else []
            self.choose(part, CLASSES.get(name, name), path=False)
        self.values.setdefault(part, {}).update(given.init_args or {})

    def choose(self, part: str, word: str, path: bool = True) -> None:
        """Set the class of a part by its name or, of ``data``, by the path of a recording; options that it shares with
        the class before stay."""
        if path and part == "data" and registry.short_name(word) not in registry.names("data"):
            self.open({"path": word})
        else:
            self._become(part, find_class(part, word), self.values.get(part, {}))

    def open(self, named: dict[str, Any]) -> None:
        """Take a recording, by its path and options of it, in place of the one before; what else that said stays."""
        recording = open_path(**named)
        values = ((each, getattr(recording, each.name)) for each in fields(recording))
        options = {each.name: value for each, value in values if value != each.default or each.name in named}
        kept = {name: value for name, value in self.values.get("data", {}).items() if name not in OF_A_RECORDING}
        self._become("data", type(recording), kept)
        self.values["data"].update(options)

    def _become(self, part: str, kind: type, kept: dict[str, Any]) -> None:
        """Set the class of a part, and of its options those that are kept and known to it."""
        if self.classes.get(part) not in (None, kind):
            kept = {name: value for name, value in kept.items() if name in hints(kind)}
        self.classes[part], self.values[part] = kind, {**kept}

    def mix(self, recordings: Sequence[str]) -> None:
        """Take several recordings, each a path or a mapping of its path and options, in place of the one before."""
        kept = {name: value for name, value in self.values.get("data", {}).items() if name not in OF_A_RECORDING}
        self.values["data"] = {name: value for name, value in kept.items() if name in hints(MixtureConfig)}
        read = [_read("data", each) for each in recordings]
        self.values["data"]["recordings"] = read
        self.classes["data"] = MixtureConfig
        _ = MixtureConfig(recordings=read).parts  # refuses what is no recording

    def override(self, option: str, text: str | None) -> None:
        """Take an option of the command line: ``model.horizon``, ``model.init_args.horizon``, or a key of a mapping.

        Raises:
            UsageError: an unknown part, or a value that does not fit.
        """
        part, *path = option.split(".")
        path = path[1:] if path[:1] == ["init_args"] else path
        if part not in PARTS or not path:
            known = [f"{known}.{name}" for known, kind in self.classes.items() for name in hints(kind)]
            raise unknown_option(option, known)
        if path == ["class_path"] and part in KINDS:
            self.choose(part, read_value(option, text, str), path=False)
            return
        if (kind := self.classes.get(part)) is None:
            raise UsageError(f"--{option}: {self._missing(part)}")
        values = self.values.setdefault(part, {})
        self.given.add(f"{part}.{path[0]}")
        for key in path[:-1]:  # --model.normalization.action X: a key of a mapping
            inner = values.get(key)
            values[key] = dict(inner) if isinstance(inner, dict) else {}
            values = values[key]
        self._leave(part, path[:1])
        annotation = hints(kind).get(path[0]) if len(path) == 1 else Any
        # An unknown option is told with all others that do not fit.
        values[path[-1]] = text if annotation is None else read_value(option, text, annotation)

    def _leave(self, part: str, options: Collection[str]) -> None:
        """Drop the choice of episodes where the options name another recording: it was made of the one before."""
        own, given = self.values.get(part, {}), "data.episodes" in self.given or "episodes" in options
        if part == "data" and PLACES & {*options} and not given and own.pop("episodes", None) is not None:
            notice("data.episodes of the configuration was for its own recording; all episodes of this one are used")

    def clear_length(self) -> None:
        """Drop the length of the run: another comes in its place."""
        for name in LENGTHS:
            self.values.get("trainer", {}).pop(name, None)

    def build(self) -> FitConfig:
        """Return the whole configuration.

        Raises:
            UsageError: a part is missing, or options that are unknown, do not fit, or do not go together.
        """
        for part in KINDS:
            if part not in self.classes:
                raise UsageError(self._located(self._missing(part)))
        parts = {part: self._typed(kind, self.values.get(part, {}), part) for part, kind in self.classes.items()}
        return self._typed(FitConfig, {**self.top, **parts}, "")

    def _typed(self, kind: type, values: Any, part: str) -> Any:
        try:
            return typed(kind, values, part)
        except FieldErrors as errors:
            problems = {name: _explained(kind, name, problem) for name, problem in errors.problems.items()}
            message, own = str(FieldErrors(problems)), problems.keys() <= self.given
        except UsageError as error:
            message, own = str(error), bool(self.given)
        raise UsageError((message if own else self._located(message)) + registry.absent_origin())

    def _missing(self, part: str) -> str:
        """Say that a part has no class, and what gives it one."""
        remedy = "give --data PATH"
        if part == "model":
            remedy = "give --model CLASS" if self.source else f"give a --config: {', '.join(presets())}, or a file"
        return f"nothing says what {part} is; {remedy}"

    def _located(self, message: str) -> str:
        return f"{self.source}: {message}" if self.source else message


def find_class(part: str, name: str) -> type:
    """Return the class of ``model`` or ``data`` that is called ``name``."""
    found = registry.find(KINDS[part], name)
    return found if part == "model" else found.config


def read_config(path: Path, source: str | None = None) -> Draft:
    """Return the draft that a configuration file describes.

    Raises:
        UsageError: it is no configuration; the message names the file.
    """
    content = read_yaml(path)
    try:
        return Draft.of(content, str(path) if source is None else source)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_run_config(run: Path) -> FitConfig:
    """Return what a run was configured with.

    Raises:
        UsageError: it is not a run, or its config.yaml names a class of a plugin that is not loaded.
    """
    return read_config(config_file(run)).build()


def find_config(name: str) -> Draft:
    """Return the draft of a file, or of a preset by its name."""
    if Path(name).is_file():
        return read_config(Path(name))
    if name in presets():
        return read_config(Path(str(files("robodiff.configs") / f"{name}.yaml")), source="")
    known = presets()
    raise UsageError(f"--config {name}: no such file or preset; there is {', '.join(known)}.{nearest(name, known)}")


def presets() -> list[str]:
    """Return the names of the configurations inside the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("robodiff.configs").iterdir() if f.name.endswith(".yaml"))


def to_yaml(config: FitConfig, style: str = "") -> str:
    """Return a configuration as a document that says all of it.

    Args:
        config: the configuration.
        style: ``skip_null`` leaves out what is null, ``comments`` writes each option's help above it.
    """
    content = plain(config)
    for part in KINDS:
        content[part] = {"class_path": type(getattr(config, part)).__name__, "init_args": content[part]}
    for name in ("plugins", "distributions"):
        if not content[name]:
            del content[name]
    if style == "skip_null":
        return dump_yaml(_without_null(content))
    return _commented(content, config) if style == "comments" else dump_yaml(content)


def _read(option: str, text: str) -> Any:
    """Return what an option says: a mapping or another document, or a name or a path as it is."""
    if not text.lstrip().startswith(("{", "[", "---")):
        return text
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--{option} {text}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from None


def _options(values: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UsageError(f"{where}expected options, each with its name; found {brief(values)}")
    return dict(values)


def _explained(kind: type, option: str, problem: str) -> str:
    """Say of an unknown option which class has it, or what it is called here."""
    part, _, name = option.rpartition(".")
    if not problem.startswith(UNKNOWN):
        return problem
    others = [find_class(part, other) for other in registry.names(KINDS[part])] if part in KINDS else []
    if owners := [other.__name__ for other in others if name in hints(other)]:
        return f"{UNKNOWN} of {kind.__name__}; known to {', '.join(owners)}"
    told = explained(name)
    return f"{UNKNOWN}; {told}" if told else problem


def _without_null(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_null(inner) for name, inner in value.items() if inner is not None}


def _commented(content: dict[str, Any], config: FitConfig) -> str:
    """Return a document with each option's help above it."""
    lines: list[str] = []
    for part, value in content.items():
        docs = field_docs(type(getattr(config, part)) if part in PARTS else FitConfig)
        indent = " " * (4 if part in KINDS else 2 if part in PARTS else 0)
        for line in dump_yaml({part: value}).splitlines():
            name = line.removeprefix(indent).partition(":")[0]
            lines += [f"{indent}# {docs[name]}", line] if name in docs else [line]
    return "\n".join(lines) + "\n"
