"""One table of names: the models, data formats, environments and samplers that there are, and how others join.

What can be looked up by name is built in, or declared by an installed distribution as an entry point (groups
``robodiff.models``, ``robodiff.data``, ``robodiff.envs``), or comes with a plugin: a file or a
module that the person at the keyboard names with ``--plugin``, or an object handed to ``robodiff.register``. Nothing
else is ever imported: no text in a configuration, recording or policy is more than a key of this table.

An object that can be registered has two attributes: ``registry_kind``, one of ``KINDS``, and ``registry_name``; its
method ``on_register``, if it has one, is called.
"""

import hashlib
import importlib
import inspect
import sys
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from robodiff.documents import Document, check_fields
from robodiff.errors import RobodiffError, UsageError, in_one_line, nearest
from robodiff.files import with_home
from robodiff.text import brief

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILTIN: dict[str, dict[str, str]] = {
    "models": {
        "DiffusionConfig": "robodiff.policies.denoisers:DiffusionConfig",
        "DiffusionTransformerConfig": "robodiff.policies.denoisers:DiffusionTransformerConfig",
        "DiffusionMlpConfig": "robodiff.policies.denoisers:DiffusionMlpConfig",
        "HybridDiffusionConfig": "robodiff.policies.hybrid:HybridDiffusionConfig",
    },
    "data": {
        "AgentFilesConfig": "robodiff.data.formats.agents:FORMAT",  # first: by the path alone
        "MappedConfig": "robodiff.data.formats.mapped:FORMAT",  # before others: recording.yaml tells what a folder is
        "ZarrConfig": "robodiff.data.formats.zarr:FORMAT",
        "LeRobotConfig": "robodiff.data.formats.lerobot:FORMAT",
        "RobomimicConfig": "robodiff.data.formats.robomimic:FORMAT",
        "AlohaConfig": "robodiff.data.formats.aloha:FORMAT",
        "MycobotConfig": "robodiff.data.formats.mycobot:FORMAT",
        "ManiSkillConfig": "robodiff.data.formats.maniskill:FORMAT",
        "Rosbag2Config": "robodiff.data.formats.rosbag2:FORMAT",
        "NpzConfig": "robodiff.data.formats.npz:FORMAT",
        "TableConfig": "robodiff.data.formats.table:FORMAT",
        "MixtureConfig": "robodiff.data.mixture:FORMAT",
    },
    "envs": {
        "pusht": "robodiff.envs.pusht.spec:SPEC",
        "gymnasium": "robodiff.envs.gymnasium:read_spec",
        "team": "robodiff.envs.team:team_spec",
        "biped": "robodiff.envs.mujoco.walker:SPEC",
    },
    "samplers": {},
    "layouts": {"pusht": "robodiff.envs.pusht.layout:LAYOUT"},
    "recordings": {"pusht": "robodiff.envs.pusht.layout:DEMONSTRATIONS"},
}
"""By kind and name, where an object is."""
BUILTIN["envs"] |= {
    task: f"robodiff.envs.mujoco.spec:{task}"
    for task in (
        *("lift_cube", "stack_cube", "stack_cube_mycobot", "pick_meat", "strike_cube", "lift_barrier"),
        *("two_robots_stack_cube", "pass_shoe", "place_food", "three_robots_stack_cube", "camera_alignment"),
        *("take_photo", "long_pipeline_delivery"),
    )
}
KINDS = {
    "models": "model",
    "data": "data format",
    "envs": "environment",
    "samplers": "sampler",
    "layouts": "layout",
    "recordings": "built-in recording",
}
"""By kind, what messages call one."""
REGISTRABLE = "a configuration class, a Format, an EnvSpec or a Sampler"
FORMER = {
    "ZarrDataModule": "ZarrConfig",
    "LeRobotDataModule": "LeRobotConfig",
    "RobomimicDataModule": "RobomimicConfig",
}
"""Names that configurations of earlier versions have."""


@dataclass(frozen=True, kw_only=True)
class Origin(Document):
    """Where something that is not built in came from; kept with a policy and a run, so that its absence can be told."""

    distribution: str | None = None
    """The distribution that declares it, such as ``my-policies 1.2``."""
    plugin: str | None = None
    """The plugin that was named."""
    sha256: str | None = None
    """Of the plugin's file."""

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        if self.distribution is not None:
            return f"it came with {self.distribution}: pip install {self.distribution.partition(' ')[0]}"
        if self.plugin is not None:
            return f"it came with a plugin: pass --plugin {self.plugin}"
        return "it was registered in Python: call robodiff.register() there again"


@dataclass
class _Table:
    """What was registered in this process."""

    objects: dict[tuple[str, str], Any] = field(default_factory=dict)
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)
    plugins: dict[str, Origin] = field(default_factory=dict)
    """By file or module, those that were loaded."""
    distributions: list[str] = field(default_factory=list)
    """Of entry points, those that were looked up."""
    mentioned: list[Origin] = field(default_factory=list)
    """With what a run that is being read was made: plugins, by the words that were given to ``--plugin``, and
    distributions."""


_TABLE = _Table()


def register(*objects: Any) -> None:
    """Add models, data formats, environments or samplers, so that they can be named; the latest of a name counts.

    Raises:
        UsageError: an object that cannot be registered, or a name that is built in.
    """
    for each in objects:
        kind, name = getattr(each, "registry_kind", None), getattr(each, "registry_name", None)
        if kind not in KINDS or not isinstance(name, str):
            raise UsageError(f"cannot register {each!r}; expected {REGISTRABLE}")
        try:
            if name in BUILTIN[kind]:
                raise UsageError("robodiff has one of that name; choose another")
            for options in (each, getattr(each, "config", None)):
                if inspect.isclass(options) and issubclass(options, Document):
                    check_fields(options)
            getattr(each, "on_register", lambda: None)()
        except UsageError as error:
            raise UsageError(f"cannot register the {KINDS[kind]} {name!r}: {error}") from None
        _TABLE.objects[kind, name] = each
        _TABLE.origins[kind, name] = Origin()


def names(kind: str) -> list[str]:
    """Return every name of a kind, the built-in ones first; nothing is imported to list them."""
    registered = [name for of, name in _TABLE.objects if of == kind]
    return list(dict.fromkeys([*BUILTIN[kind], *_entry_points(kind), *registered]))


def find(kind: str, name: str) -> Any:
    """Return what is called ``name``.

    Raises:
        UsageError: there is nothing of that name; the message lists what there is.
    """
    short = short_name(name)
    if (kind, short) in _TABLE.objects:
        return _TABLE.objects[kind, short]
    if short in BUILTIN[kind]:
        module, _, attribute = BUILTIN[kind][short].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if short in (points := _entry_points(kind)):
        what = f"the {KINDS[kind]} {short!r} of {_distribution(points[short])}"
        try:
            entry = points[short].load()
        except (Exception, SystemExit) as error:  # whatever its code raises
            raise RobodiffError(f"{what} cannot be imported: {in_one_line(error)}") from error
        if (getattr(entry, "registry_kind", None), getattr(entry, "registry_name", None)) != (kind, short):
            raise RobodiffError(f"{what} is none, or has another name: {brief(entry)}")
        _TABLE.distributions.append(_distribution(points[short]))
        return entry
    known = names(kind)
    advice = absent_origin() or nearest(short, known)
    raise UsageError(f"unknown {KINDS[kind]} {name!r}; there is {', '.join(known)}.{advice}")


def short_name(name: str) -> str:
    """Return a name as it is today: earlier versions wrote it with its module, and some had another name."""
    short = name.rpartition(".")[2] if name.startswith("robodiff.") else name
    return FORMER.get(short, short)


def origin(kind: str, name: str) -> Origin | None:
    """Return where something came from; None for what is built in."""
    if (kind, name) in _TABLE.origins:
        return _TABLE.origins[kind, name]
    point = _entry_points(kind).get(name) if name not in BUILTIN[kind] else None
    return None if point is None else Origin(distribution=_distribution(point))


def load_plugin(word: str) -> None:
    """Import the file or module that ``--plugin`` names, and register what it defines.

    That is every configuration class (a subclass of ``PolicyConfig`` or of another one), ``Format``, ``EnvSpec`` and
    ``Sampler`` in it, and what it hands to ``robodiff.register`` itself, or to Gymnasium's registry.

    Raises:
        UsageError: there is no such file or module, or it defines nothing of these.
        RobodiffError: it cannot be imported.
    """
    if not word or word.startswith("--"):
        raise UsageError("--plugin needs a value: a Python file, or a module")
    file = Path(with_home(word))
    is_file = file.suffix == ".py" or file.is_file()
    key = str(file.resolve()) if is_file else word
    if key in _TABLE.plugins:
        return
    if is_file and not file.is_file():
        raise UsageError(f"--plugin {word}: no such file")
    before, known_environments = set(_TABLE.objects), _gymnasium_ids()
    module = _import(word, file if is_file else None)
    own = [each for each in vars(module).values() if _is_own(each, module) and each not in _TABLE.objects.values()]
    try:
        register(*own)
    except UsageError as error:
        raise UsageError(f"--plugin {word}: {error}") from None
    added = set(_TABLE.objects) - before
    if not added and _gymnasium_ids() <= known_environments:
        raise UsageError(f"--plugin {word}: defines nothing; expected {REGISTRABLE}, or a Gymnasium environment")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if is_file else None
    _TABLE.plugins[key] = Origin(plugin=word, sha256=sha256)
    _TABLE.origins |= dict.fromkeys(added, _TABLE.plugins[key])


def plugins() -> list[str]:
    """Return the plugins that were loaded, for processes that this one starts to load them, too."""
    return list(_TABLE.plugins)


def plugin_words() -> list[str]:
    """Return the plugins that were loaded, as they were named."""
    return [str(each.plugin) for each in _TABLE.plugins.values()]


def distributions() -> list[str]:
    """Return the distributions whose entry points were looked up, each with its version."""
    return list(dict.fromkeys(_TABLE.distributions))


def mention(plugins: list[str], distributions: list[str]) -> None:
    """Remember with what something was made: what is not found may be theirs."""
    _TABLE.mentioned = [Origin(plugin=word) for word in plugins]
    _TABLE.mentioned += [Origin(distribution=each) for each in distributions]


def absent_origin() -> str:
    """Return a line that says how to bring what was mentioned and is not here; nothing where all is."""
    absent = [each for each in _TABLE.mentioned if each.distribution or each.plugin not in plugin_words()]
    return f"\n{'; or '.join(each.remedy for each in absent)}" if absent else ""


def _entry_points(kind: str) -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points  # takes a fifth of the time that --help may take

    return {point.name: point for point in entry_points(group=f"robodiff.{kind}")}


def _distribution(point: "EntryPoint") -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _gymnasium_ids() -> set[str]:
    """Return the environments that Gymnasium knows, if it was imported: a package may add to its registry."""
    return set(getattr(sys.modules.get("gymnasium"), "registry", ()))


def _is_own(each: Any, module: ModuleType) -> bool:
    """Tell whether a module defines something that can be registered: what it imports from elsewhere is others'."""
    name = getattr(each, "registry_name", None)  # a configuration of data has none: its Format is what is named
    if getattr(each, "registry_kind", None) not in KINDS or not isinstance(name, str) or inspect.isabstract(each):
        return False
    if inspect.isclass(each):
        return each.__module__.partition(".")[0] == module.__name__.partition(".")[0]
    return name not in BUILTIN[each.registry_kind]


def _import(word: str, file: Path | None) -> ModuleType:
    """Import what ``--plugin`` names: a file, under a name that no installed module has, or a module."""
    name = word
    if file is not None:  # annotations are looked up in a module by its name: files of one name need two
        name = f"robodiff_plugin_{file.stem}_{hashlib.sha256(bytes(file.resolve())).hexdigest()[:8]}"
    try:
        if file is None:
            return importlib.import_module(name)
        loader = SourceFileLoader(name, str(file))
        sys.modules[name] = module = module_from_spec(spec_from_loader(name, loader))  # pyright: ignore
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if file is not None:
            sys.modules.pop(name, None)
        if isinstance(error, RobodiffError):
            raise
        if isinstance(error, ModuleNotFoundError) and file is None and f"{word}.".startswith(f"{error.name}."):
            raise UsageError(f"--plugin {word}: no such module; install it, or give the path of a file") from None
        raise RobodiffError(f"--plugin {word}: cannot be imported: {in_one_line(error)}") from error
    return module
