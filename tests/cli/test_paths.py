"""Paths that no system takes, and the home folder, in every option that names a file or a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robodiff.cli.collect import CollectOptions
from robodiff.cli.data import CheckOptions, ConvertOptions, InfoOptions, ViewOptions
from robodiff.cli.demo import DemoOptions
from robodiff.cli.eval_options import EvalOptions
from robodiff.cli.fit import FitOptions
from robodiff.cli.options import Options, read_options
from robodiff.cli.report import ReportOptions

Run = Callable[..., tuple[int, str, str]]
COMMANDS = [
    "fit --config pusht_keypoints --run PATH",
    "fit --config PATH",
    "fit --resume PATH",
    "fit --config pusht_keypoints --data PATH",
    "fit --config pusht_keypoints --data.path PATH --run RUN",
    "eval PATH --env pusht",
    "eval PATH",
    "report PATH",
    "report PATH PATH",
    "collect pusht --episodes 1 --out PATH",
    "data info PATH",
    "data convert builtin:pusht PATH",
    "data view builtin:pusht --data.episodes [0] --out PATH",
]
PATHS = {
    "long": "x" * 300,
    "long within": f"a/{'x' * 300}/b",
    "long in all": "a/" * 3000,
    "NUL": "a\0b",
    "NUL within": "a\0b/c",
    "circle": "circle/a",
}


@pytest.mark.kind("a path that the system does not take")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_paths_that_no_system_takes(
    robodiff: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    code, _, err = robodiff(*(PATHS[path] if word == "PATH" else word for word in command.split()))
    assert code in (1, 2), err
    assert "Traceback" not in err
    assert 1 <= len(err.strip().splitlines()) <= 2, err
    assert len(err) < 2000
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


@pytest.mark.kind("a path in the home folder")
@pytest.mark.parametrize(
    ("kind", "words", "field", "value"),
    [
        (FitOptions, ["--run=~/x"], "run", "HOME/x"),
        (FitOptions, ["--run", "~/x"], "run", "HOME/x"),
        (FitOptions, ["--resume", "~/x"], "resume", "HOME/x"),
        (FitOptions, ["--config=~/x.yaml"], "config", "HOME/x.yaml"),
        (DemoOptions, ["--run=~/"], "run", "HOME/"),
        (CollectOptions, ["pusht", "--episodes=1", "--out=~/x.zarr"], "out", "HOME/x.zarr"),
        (EvalOptions, ["~/run", "--out=~/x"], "policies", ["HOME/run"]),
        (EvalOptions, ["~/run", "--out=~/x"], "out", "HOME/x"),
        (EvalOptions, ["~/run", "--env=pusht", "--against=~/x"], "against", "HOME/x"),
        (ReportOptions, ["~/a", "~/b", "c~"], "runs", ["HOME/a", "HOME/b", "c~"]),
        (ReportOptions, ["~/a", "--out=~/x.html"], "out", "HOME/x.html"),
        (InfoOptions, ["~/x.zarr"], "path", "HOME/x.zarr"),
        (CheckOptions, ["~/x.zarr"], "path", "HOME/x.zarr"),
        (ViewOptions, ["~/x.zarr", "--out=~/x.html"], "out", "HOME/x.html"),
        (ConvertOptions, ["builtin:pusht", "~/x.zarr"], "out", "HOME/x.zarr"),
        (ConvertOptions, ["~/x", "./~nobody-of-this-name/x"], "out", "./~nobody-of-this-name/x"),
    ],
)
def test_the_home_folder_is_meant_everywhere(
    monkeypatch: pytest.MonkeyPatch, kind: type[Options], words: list[str], field: str, value: str | list[str]
) -> None:
    monkeypatch.setenv("HOME", "HOME")
    assert getattr(read_options(kind, "command", words), field) == value


@pytest.mark.kind("a path in the home folder")
def test_what_is_written_to_the_home_folder_is_there(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert robodiff("data", "convert", recording, "~/x.zarr")[0] == 0
    assert (tmp_path / "home" / "x.zarr").is_dir()
    assert not (tmp_path / "~").exists()
    assert robodiff("data", "info", "~/x.zarr")[0] == 0


@pytest.mark.kind("a path in the home folder")
@pytest.mark.parametrize(
    "words", [["data", "info", "~no-such-user/x.zarr"], ["data", "convert", "RECORDING", "~no-such-user/x.zarr"]]
)
def test_the_home_of_nobody_is_refused(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = robodiff(*(recording if word == "RECORDING" else word for word in words))
    assert (code, "~no-such-user/x.zarr: there is no such user; write ./~no-such-user/x.zarr if" in err) == (2, True), (
        err
    )
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "~no-such-user").exists()
