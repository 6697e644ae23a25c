"""A virtual environment with LeRobot, which cannot share one with the torch of the tests; made once, and kept.

It has no robodiff: that and the plugin are installed beside it for each test, as they stand here.
"""

import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from filelock import FileLock

from robodiff.data.cache import cache_folder

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "lerobot_policy_robodiff"
LEROBOT = "lerobot[dataset,diffusion,training]==0.6.1"
GIGABYTES = 10
"""What the disk needs to have free to make it."""


def environment() -> Path:
    """Return the environment's folder of programs; without Python 3.12, room or packages the test is skipped."""
    needed = sorted({LEROBOT, "hatchling>=1.26", *_dependencies(ROOT), *_dependencies(PLUGIN)})
    folder = cache_folder() / f"lerobot-{hashlib.sha256(' '.join(needed).encode()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, needed)
            (folder / "complete").touch()
    return folder / "bin"


def install(programs: Path, site: Path) -> None:
    """Install robodiff and the plugin into ``site``, from wheels that are made of this checkout."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([programs / "python", "-m", "pip", "install", *options, ROOT, PLUGIN], check=True)


def _make(folder: Path, needed: list[str]) -> None:
    python = _python()
    if python is None:
        pytest.skip("no Python 3.12, which LeRobot 0.6.1 needs")
    if shutil.disk_usage(folder.parent).free < GIGABYTES * 1e9:
        pytest.skip(f"LeRobot's environment needs {GIGABYTES} GB in {folder.parent}")
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *needed]
    if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
        shutil.rmtree(folder)
        pytest.skip(f"LeRobot's packages cannot be had: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def _python() -> Path | None:
    """Return a Python 3.12: on the path, or one of pyenv's, whose programs on the path may lead to none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [Path(shutil.which("python3.12") or "python3.12"), *sorted(pyenv.glob("3.12*/bin/python3.12"))]
    return next((each for each in candidates if _runs(each)), None)


def _runs(python: Path) -> bool:
    try:
        return subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode == 0
    except OSError:
        return False


def _dependencies(project: Path) -> list[str]:
    """Return what a project needs beside LeRobot and robodiff, for which it is made."""
    listed = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    return [each for each in listed if not each.startswith(("lerobot", "robodiff"))]
