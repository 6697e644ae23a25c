"""A virtual environment with openpi's client, whose numpy is older than that of the tests; made once, and kept."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from robodiff.data.cache import cache_folder

CLIENT = ("openpi-client==0.1.2", "typing_extensions")  # the second it uses, and does not ask for


def openpi_python() -> Path:
    """Return the environment's Python; without its packages the test is skipped."""
    folder = cache_folder() / f"{CLIENT[0].replace('==', '-')}-python{sys.version_info.minor}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *CLIENT]
            if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
                shutil.rmtree(folder)
                pytest.skip(f"{CLIENT[0]} cannot be had: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            (folder / "complete").touch()
    return folder / "bin" / "python"
