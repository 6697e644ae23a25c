"""The table of names: built-in, entry points, plugins, and what is registered in Python."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import robodiff
from robodiff import registry
from robodiff.errors import RobodiffError, UsageError

PLUGIN = """
from dataclasses import dataclass
from robodiff.policies.denoisers import DiffusionConfig, DiffusionTransformerConfig

@dataclass(frozen=True, kw_only=True)
class Grandchild(DiffusionConfig):
    horizon: int = 32

OTHER = DiffusionTransformerConfig
"""


@pytest.fixture(autouse=True)
def empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", registry._Table())


class Thing:
    registry_kind, registry_name = "samplers", "Thing"


def test_register_and_find() -> None:
    thing = Thing()
    robodiff.register(thing)
    assert registry.find("samplers", "Thing") is thing
    assert "Thing" in registry.names("samplers")
    newer = Thing()
    robodiff.register(newer)  # a cell of a notebook that is run again
    assert registry.find("samplers", "Thing") is newer
    assert "register()" in registry.origin("samplers", "Thing").remedy  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="cannot register"):
        robodiff.register(object())
    with pytest.raises(UsageError, match=r"cannot register.*choose another"):
        robodiff.register(type("Clash", (), {"registry_kind": "envs", "registry_name": "pusht"})())


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'DiffusionConfg'.*DiffusionTransformerConfig.*Did you mean"):
        registry.find("models", "DiffusionConfg")


def test_former_names_and_modules() -> None:
    assert registry.find("models", "robodiff.policies.config.DiffusionConfig").__name__ == "DiffusionConfig"
    assert registry.short_name("robodiff.data.config.ZarrDataModule") == "ZarrConfig"


def test_a_plugin_file(tmp_path: Path) -> None:
    file = tmp_path / "numpy.py"  # its name is no reason to shadow a module
    file.write_text(PLUGIN)
    registry.load_plugin(str(file))
    registry.load_plugin(str(file))
    assert registry.find("models", "Grandchild")().horizon == 32
    assert registry.names("models") == [*registry.BUILTIN["models"], "Grandchild"]
    origin = registry.origin("models", "Grandchild")
    assert origin is not None
    assert f"--plugin {file}" in origin.remedy
    assert len(origin.sha256 or "") == 64
    assert registry.plugins() == [str(file)]
    assert registry.origin("models", "DiffusionConfig") is None


def test_plugin_files_of_one_name(tmp_path: Path) -> None:
    for name, kind in (("One", "int"), ("Two", "str")):
        file = tmp_path / name / "plugin.py"
        file.parent.mkdir()
        content = PLUGIN.replace("Grandchild", name).replace("horizon: int = 32", "extra: Kind | None = None")
        file.write_text(f"from __future__ import annotations\n{content}\nKind = {kind}\n")
        registry.load_plugin(str(file))
    assert registry.find("models", "One")(extra=3).extra == 3
    with pytest.raises(UsageError, match="expected int"):
        registry.find("models", "One")(extra="x")


def test_a_plugin_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_module.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.load_plugin("my_module")
    assert registry.find("models", "Grandchild").__module__ == "my_module"


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("x = 1", UsageError, "defines nothing"),
        ("import nowhere_at_all", RobodiffError, "ModuleNotFoundError"),
        ("def (", RobodiffError, "SyntaxError"),
        ("1 / 0", RobodiffError, "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", RobodiffError, "SystemExit"),
        (PLUGIN.replace("@dataclass(frozen=True, kw_only=True)", ""), UsageError, "broken.py.*Grandchild.*@dataclass"),
        (PLUGIN.replace("int", "'Missing'"), UsageError, "broken.py.*Grandchild.*'Missing' is not defined"),
        (PLUGIN.replace("int", "tuple[int, ...] | list[str]"), UsageError, "broken.py.*Grandchild"),
        (None, UsageError, "no such file"),
    ],
)
def test_broken_plugins(tmp_path: Path, content: str | None, error: type[Exception], words: str) -> None:
    file = tmp_path / "broken.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(error, match=words) as raised:
        registry.load_plugin(str(file))
    assert len(str(raised.value).splitlines()) == 1
    assert "broken.py" in str(raised.value)
    assert registry.plugins() == []


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no such module; install it"):
        registry.load_plugin("nowhere_at_all")


def test_what_is_missing_is_told_with_the_plugin_it_was_made_with() -> None:
    registry.mention(["my.py"], ["my-envs 1.2"])
    with pytest.raises(UsageError, match=r"pass --plugin my.py; .*pip install my-envs"):
        registry.find("envs", "reach")


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution that declares an environment and a broken one."""
    (tmp_path / "my_envs.py").write_text(
        "class Spec:\n    registry_kind, registry_name = 'envs', 'reach'\nSPEC = Spec()\n"
    )
    info = tmp_path / "my_envs-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-envs\nVersion: 1.2\n")
    points = "reach = my_envs:SPEC\nother = my_envs:SPEC\nbroken = my_envs:NOTHING\n"
    (info / "entry_points.txt").write_text(f"[robodiff.envs]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def test_entry_points(distribution: Path) -> None:
    assert registry.names("envs")[:1] == ["pusht"]
    assert "reach" in registry.names("envs")
    assert "my_envs" not in sys.modules  # listing imports nothing
    assert registry.find("envs", "reach").registry_name == "reach"
    origin = registry.origin("envs", "reach")
    assert origin is not None
    assert origin.remedy == "it came with my-envs 1.2: pip install my-envs"
    with pytest.raises(RobodiffError, match=r"'broken' of my-envs 1.2 cannot be imported: AttributeError"):
        registry.find("envs", "broken")
    with pytest.raises(RobodiffError, match=r"'other' of my-envs 1.2 is none, or has another name"):
        registry.find("envs", "other")
    assert registry.distributions() == ["my-envs 1.2"]


def test_nothing_heavy_is_imported_to_list_names() -> None:
    code = "import sys, robodiff.registry as r; [r.names(k) for k in r.KINDS]; print([m for m in sys.modules])"
    modules: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "numpy", "zarr", "lightning", "gymnasium"):
        assert f"'{heavy}'" not in modules
