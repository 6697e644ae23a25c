"""Configurations: a file, the options of a command line over it, and the typed ``FitConfig`` that comes of both.

``model`` and ``data`` name a class (``class_path``, a name of the registry) and its options (``init_args``). Nothing is
imported because a file names it: ``registry.find`` knows what there is.
"""

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from robodiff import documents, registry
from robodiff.cli.foreign import ELSEWHERE, translate
from robodiff.cli.options import read_value, unknown_option
from robodiff.data.recordings import DataConfig, open_path
from robodiff.documents import UNKNOWN, FieldErrors, brief, dump_yaml, field_docs, hints, plain, typed
from robodiff.errors import UsageError, nearest
from robodiff.policies.config import PolicyConfig
from robodiff.training.config import FitConfig, RolloutConfig, TrainerConfig

PARTS = {"model": PolicyConfig, "data": DataConfig, "trainer": TrainerConfig, "rollout": RolloutConfig}
KINDS = {"model": "models", "data": "data"}
"""The parts that are of a class, each with the kind of the registry that has it."""
LENGTHS = ("max_epochs", "max_steps", "max_time")
OF_A_RECORDING = ("key_map", "fps", "agent", "episodes")
"""Options that say something of one recording; they do not outlive it where another is given in its place."""


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

    @classmethod
    def of(cls, content: Any, source: str = "") -> "Draft":
        """Return the draft that a document describes."""
        if not isinstance(content, dict):
            raise UsageError(f"expected options, each with its name; found {brief(content)}")
        translate(content)
        if isinstance(plugins := content.get("plugins"), list):
            registry.mention([str(plugin) for plugin in plugins])
        draft = cls(source, {"trainer": TrainerConfig, "rollout": RolloutConfig})
        for name, value in content.items():
            if name in KINDS:
                draft.set_part(name, value)
            elif name in PARTS and value is not None:
                draft.values[name] = _options(value, name)
            else:
                draft.top[str(name)] = value
        return draft

    def set_part(self, part: str, value: Any) -> None:
        """Take what says which class a part is of, and maybe its options: a name, a path, or a mapping of both."""
        if value is None:
            return
        if isinstance(value, str) and value.lstrip().startswith(("{", "[", "---")):
            value = documents.load_yaml(value)
        if isinstance(value, str):
            self.choose(part, value)
            return
        if not isinstance(value, dict) or (unknown := value.keys() - {"class_path", "init_args"}):
            extra = f"unknown {min(map(str, unknown))!r}; " if isinstance(value, dict) else ""
            raise UsageError(f"{part}: {extra}expected class_path and init_args; found {brief(value)}")
        if "class_path" in value:
            if not isinstance(value["class_path"], str):
                raise UsageError(f"{part}: unknown class {brief(value['class_path'])}; "
                                 f"there is {', '.join(registry.names(KINDS[part]))}")  # fmt: skip
            self.choose(part, value["class_path"], path=False)
        self.values.setdefault(part, {}).update(_options(value.get("init_args") or {}, f"{part}.init_args"))

    def choose(self, part: str, word: str, path: bool = True) -> None:
        """Set the class of a part by its name or, of ``data``, by the path of a recording; options that it shares with
        the class before stay."""
        kept, options = self.values.get(part, {}), {}
        if path and part == "data" and registry.short_name(word) not in registry.names("data"):
            recording = open_path(word)
            kind = type(recording)
            options = dict(_changed(recording))
            kept = {name: value for name, value in kept.items() if name not in OF_A_RECORDING}
        else:
            kind = registry.find(KINDS[part], word)
            kind = kind if part == "model" else kind.config
        same = self.classes.get(part) is kind and not options
        shared = kept if same or part not in self.classes else _shared(kept, kind)
        self.classes[part], self.values[part] = kind, {**shared, **options}

    def override(self, option: str, text: str | None) -> None:
        """Take an option of the command line: ``model.horizon``, ``model.init_args.horizon``, or a key of a mapping.

        Raises:
            UsageError: an unknown option, or a value that does not fit.
        """
        part, *path = option.split(".")
        path = path[1:] if path[:1] == ["init_args"] else path
        if part not in PARTS or not path:
            self.top[option] = read_value(option, text, self._top_kind(option))
            return
        if path == ["class_path"] and part in KINDS:
            self.choose(part, read_value(option, text, str), path=False)
            return
        kind, name = self.classes.get(part), path[0]
        if kind is None:
            raise UsageError(f"--{option}: nothing says what {part} is; give --{part} or a --config")
        if name not in hints(kind):
            raise self._unknown(option, part, ".".join([part, *path]))
        values = self.values.setdefault(part, {})
        self.given.add(f"{part}.{name}")
        for key in path[:-1]:  # --model.normalization.action X: a key of a mapping
            inner = values.get(key)
            values[key] = dict(inner) if isinstance(inner, dict) else {}
            values = values[key]
        values[path[-1]] = read_value(option, text, hints(kind)[name] if len(path) == 1 else Any)

    def clear_length(self) -> None:
        """Drop the length of the run: another comes in its place."""
        self.values["trainer"] = {
            name: value for name, value in self.values.get("trainer", {}).items() if name not in LENGTHS
        }

    def build(self) -> FitConfig:
        """Return the whole configuration.

        Raises:
            UsageError: a part is missing, or options that are unknown, do not fit, or do not go together.
        """
        for part in KINDS:
            if part not in self.classes:
                remedy = "give --data PATH" if part == "data" else f"give a --config: {', '.join(presets())}, or a file"
                raise UsageError(self._located(f"nothing says what {part} is; {remedy}"))
        parts = {part: self._typed(kind, self.values.get(part, {}), part) for part, kind in self.classes.items()}
        return self._typed(FitConfig, {**self.top, **parts}, "")

    def _typed(self, kind: type, values: Any, part: str) -> Any:
        try:
            return typed(kind, values, part)
        except FieldErrors as errors:
            told = FieldErrors({name: _elsewhere(name, text) for name, text in errors.problems.items()})
            raise UsageError(str(told) if errors.problems.keys() <= self.given else self._located(str(told))) from None
        except UsageError as error:
            raise UsageError(str(error) if self.given else self._located(str(error))) from None

    def _located(self, message: str) -> str:
        return f"{self.source}: {message}" if self.source else message

    def _top_kind(self, option: str) -> Any:
        if option not in ("seed_everything", "plugins"):
            raise unknown_option(option, known_options())
        return hints(FitConfig)[option]

    def _unknown(self, option: str, part: str, path: str) -> UsageError:
        """Return the error for an option that the class of a part does not have."""
        if path in known_options():
            name = self.classes[part].__name__
            return UsageError(f"{path} is an option of another class than {name}, which {part} is here; set the class "
                              f"with --{part} CLASS")  # fmt: skip
        if here := ELSEWHERE.get(path.rpartition(".")[2]):
            return UsageError(f"unknown option --{option}; it is {here} here")
        return unknown_option(option, known_options())


def read_config(path: Path, source: str | None = None) -> Draft:
    """Return the draft that a configuration file describes.

    Raises:
        UsageError: it is no configuration; the message names the file.
    """
    content = documents.read_yaml(path)
    try:
        return Draft.of(content, str(path) if source is None else source)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_run_config(run: Path) -> FitConfig:
    """Return what a run was configured with.

    Raises:
        UsageError: its config.yaml is no configuration, or names a class of a plugin that is not loaded.
    """
    return read_config(run / "config.yaml").build()


def find_config(name: str) -> Draft:
    """Return the draft of a file, or of a preset by its name."""
    if Path(name).is_file():
        return read_config(Path(name))
    if name in presets():
        return read_config(Path(str(files("robodiff.configs") / f"{name}.yaml")), source="")
    raise UsageError(f"--config {name}: no such file, and no preset; there is {', '.join(presets())}."
                     f"{nearest(name, presets())}")  # fmt: skip


def presets() -> list[str]:
    """Return the names of the configurations inside the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("robodiff.configs").iterdir() if f.name.endswith(".yaml"))


def to_yaml(config: FitConfig, style: str = "") -> str:
    """Return a configuration as a document that says all of it.

    Args:
        config: the configuration.
        style: ``skip_null`` leaves out what is null, ``comments`` writes each option's help above it.
    """
    content = {
        part: {"class_path": type(value).__name__, "init_args": plain(value)} if part in KINDS else plain(value)
        for part, value in ((part, getattr(config, part)) for part in PARTS)
    }
    content["seed_everything"] = config.seed_everything
    if config.plugins:
        content["plugins"] = config.plugins
    if style == "skip_null":
        return dump_yaml(_without_null(content))
    return _commented(content, config) if style == "comments" else dump_yaml(content)


def known_options() -> list[str]:
    """Return every option of a configuration, as a command line writes it; those of all classes that there are."""
    classes = [(part, kind) for part, kind in PARTS.items() if part not in KINDS]
    classes += [("model", registry.find("models", name)) for name in registry.names("models")]
    classes += [("data", registry.find("data", name).config) for name in registry.names("data")]
    known = ["seed_everything", "model", "data", "config", "run", "resume", "minutes", "print_config"]
    return list(dict.fromkeys([*known, *(f"{part}.{name}" for part, kind in classes for name in hints(kind))]))


def _options(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected options, each with its name; found {brief(values)}")
    return dict(values)


def _elsewhere(name: str, problem: str) -> str:
    """Say of an option that other code bases have what it is called here."""
    here = ELSEWHERE.get(name.rpartition(".")[2]) if problem.startswith(UNKNOWN) else None
    return problem if here is None else f"{UNKNOWN}; it is {here} here"


def _shared(values: dict[str, Any], kind: type) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in hints(kind)}


def _changed(config: DataConfig) -> Iterator[tuple[str, Any]]:
    """Yield the options that are not their defaults."""
    for each in fields(config):
        if (value := getattr(config, each.name)) != _default(each):
            yield each.name, value


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


def _without_null(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_null(inner) for name, inner in value.items() if inner is not None}


def _commented(content: dict[str, Any], config: FitConfig) -> str:
    """Return a document with each option's help above it."""
    lines: list[str] = []

    def write(values: dict[str, Any], docs: dict[str, str], indent: str) -> None:
        for name, value in values.items():
            lines.extend([f"{indent}# {docs[name]}"] if name in docs else [])
            lines.extend(f"{indent}{line}" for line in dump_yaml({name: value}).splitlines())

    for part, value in content.items():
        if part not in PARTS:
            write({part: value}, field_docs(FitConfig), "")
            continue
        lines.append(f"{part}:")
        docs = field_docs(type(getattr(config, part)))
        if part in KINDS:
            lines += [f"  class_path: {value['class_path']}", "  init_args:"]
        write(value["init_args"] if part in KINDS else value, docs, "    " if part in KINDS else "  ")
    return "\n".join(lines) + "\n"
