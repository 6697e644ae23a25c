"""The command line: help without torch, errors without tracebacks."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robodiff.cli.main import COMMANDS

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_has_an_example_and_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys, contextlib\nfrom robodiff.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main({arguments!r})\n"
        "print('imported:', {'torch', 'lightning', 'gymnasium'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: set()"
    assert "xample" in done.stdout
    assert f"robodiff {arguments[0]} " in done.stdout or len(arguments) == 1


def test_help_of_model_and_data_lists_their_options(robodiff: Run) -> None:
    for kind, own in (("DiffusionConfig", "--model.down_dims"), ("DiffusionTransformerConfig", "--model.n_layer")):
        assert kind in " ".join(robodiff("fit", "--model.help")[1].split())
        code, out, _ = robodiff("fit", "--model.help", kind)
        assert code == 0
        assert "--model.horizon" in out
        assert "Time steps of a window, from the oldest observation's on" in " ".join(out.split())
        assert own in out
    assert "--data.help LeRobotConfig" in " ".join(robodiff("fit", "--data.help")[1].split())
    assert "--data.layout" in robodiff("fit", "--data.help", "ZarrDataModule")[1]
    assert "--data.repo_id" in robodiff("fit", "--data.help", "LeRobotDataModule")[1]
    assert "--data.val_filter_key" in robodiff("fit", "--data.help", "RobomimicDataModule")[1]


def test_no_command_and_unknown_commands(robodiff: Run) -> None:
    assert robodiff()[0] == 2
    code, _, err = robodiff("eva")
    assert code == 2
    known = "demo, collect, fit, eval, learning-curve, report, data, import, export, serve, run. Did you mean 'eval'?"
    assert err.strip() == f"robodiff eva: error: unknown command 'eva'; there is {known}"
    assert robodiff("--version")[1].startswith("robodiff 0.")


def test_a_missing_extra_is_named(robodiff: Run, monkeypatch: pytest.MonkeyPatch, recording: Path) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    monkeypatch.delitem(sys.modules, "robodiff.data.formats.zarr_reader", raising=False)
    code, _, err = robodiff("data", "info", recording)
    assert code == 1
    assert "pip install 'robodiff[train,sim]'" in err


def test_a_plugin_may_stand_before_the_command(robodiff: Run, tmp_path: Path) -> None:
    absent = tmp_path / "no.py"
    for arguments in (("--plugin", absent, "data", "info", "x"), ("data", f"--plugin={absent}")):
        code, _, err = robodiff(*arguments)
        assert (code, "no such file" in err) == (2, True), err
    assert "needs a value" in robodiff("fit", "--plugin")[2]
