"""What a machine needs to draw, and what is said where it is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robodiff.envs.mujoco import library

PROGRAM = """
from robodiff.envs.spec import get_env_spec
from robodiff.errors import RobodiffError
try:
    spec = get_env_spec("lift_cube?size=24x32")
    print(*spec.make(["observation.state"]).reset(seed=0)[0]["observation.state"].shape)
    print(spec.make(["observation.images.agentview"]).reset(seed=0)[0]["observation.images.agentview"].sum())
except RobodiffError as error:
    print(error)
"""


def drawn(tmp_path: Path, program: str = PROGRAM, **environment: str) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={**clean, **environment}
    )
    assert (done.returncode, done.stderr) == (0, "")  # nor is anything said at the end
    return done.stdout.splitlines()


@pytest.fixture
def without_libraries(tmp_path: Path) -> Path:
    """A folder whose EGL and OSMesa are found first and cannot be loaded."""
    for name in ("libEGL.so.1", "libEGL.so", "libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6"):
        (tmp_path / name).write_text("no library")
    return tmp_path


def test_without_egl_and_osmesa_only_images_are_missing(without_libraries: Path) -> None:
    shape, error = drawn(without_libraries, LD_LIBRARY_PATH=str(without_libraries))
    assert shape == "8"
    assert "libegl1" in error
    assert "libgl1-mesa-dri" in error
    assert "libosmesa6" in error


@pytest.mark.parametrize("choice", ["osmesa", "nonsense"])
def test_a_choice_that_cannot_be_had_is_told(without_libraries: Path, choice: str) -> None:
    (error,) = drawn(without_libraries, LD_LIBRARY_PATH=str(without_libraries), MUJOCO_GL=choice)
    assert f"unset MUJOCO_GL, which is {choice}, and apt install" in error


def test_a_choice_is_not_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "CHOSEN", "egl")
    monkeypatch.setattr(library, "_has_egl", lambda: pytest.fail("it is chosen already"))
    library.prepare_drawing.__wrapped__()


def test_torchs_compiler_can_be_loaded_after_a_picture(tmp_path: Path, drawing: None) -> None:
    pytest.importorskip("triton")
    choice = {"MUJOCO_GL": "egl"} if library._has_egl() else {}
    assert drawn(tmp_path, f"{PROGRAM}\nimport triton", **choice) == drawn(tmp_path)  # its own choice is the same
