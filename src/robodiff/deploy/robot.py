"""The interface of a robot, and how to load one from a Python file."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from robodiff.errors import RobodiffError, UsageError, in_one_line
from robodiff.files import with_home
from robodiff.text import brief


class Robot(Protocol):
    """A robot, real or simulated. There is no base class; only ``observe`` and ``execute`` are required.

    Optional members: ``reset()``, called before each episode; ``stop()``, called once when an episode ends, for
    whatever reason, perhaps from another thread while ``observe`` hangs; ``close()``, called at the very
    end; ``ended``, true to end the episode; ``success``, true or false if the robot can tell.

    A killed process calls nothing, so the robot's own driver or controller must stop when no action has arrived for a
    few periods.
    """

    def observe(self) -> Mapping[str, Any]:
        """Return the current observation, with the names and units of the policy's recording: images uint8 (C, H, W),
        vectors (D,). It may wait for the next camera frame, for part of a period."""
        ...

    def execute(self, action: np.ndarray) -> None:
        """Start an action (Da,), float32, in the units of the recording, and return at once."""
        ...


class GuardedRobot:
    """A robot whose failures become one-line errors, and which is stopped only once.

    Args:
        robot: with ``observe`` and ``execute``.
        name: in messages.

    Raises:
        UsageError: one of the two is missing.
    """

    def __init__(self, robot: Any, name: str) -> None:
        if missing := [method for method in ("observe", "execute") if not callable(getattr(robot, method, None))]:
            raise UsageError(f"{name}: a robot needs observe() and execute(action); it has no {missing[0]}()")
        self._robot, self._name = robot, name
        self._lock, self._is_stopped = Lock(), True

    def reset(self) -> None:
        """Prepare for an episode, if the robot can."""
        self._is_stopped = False
        self._call("reset")

    def observe(self) -> Mapping[str, Any]:
        """Return the current observation."""
        observation = self._call("observe")
        if not isinstance(observation, Mapping):
            found = type(observation).__name__
            raise RobodiffError(f"{self._name}: observe() must return a dict of arrays by their keys; found {found}")
        return observation

    def execute(self, action: np.ndarray) -> None:
        """Do an action (Da,)."""
        self._call("execute", action)

    def stop(self) -> None:
        """Stop the robot, if it can and has not been stopped since ``reset``; any thread may call it."""
        with self._lock:
            was_stopped, self._is_stopped = self._is_stopped, True
        if not was_stopped:
            self._call("stop")

    def close(self) -> None:
        """Close the robot, if it has ``close``."""
        self._call("close")

    @property
    def can_reset(self) -> bool:
        """Whether the robot resets itself."""
        return hasattr(self._robot, "reset")

    @property
    def ended(self) -> bool:
        """Whether the robot wants the episode to end."""
        return bool(self._says("ended"))

    @property
    def success(self) -> bool | None:
        """Whether the episode succeeded; None if the robot cannot tell."""
        return self._says("success")

    def _says(self, name: str) -> bool | None:
        """Return a boolean attribute; None if the robot does not have it, or does not know."""
        with _naming(f"{self._name}: reading {name} failed"):
            value = getattr(self._robot, name, None)
            if value is not None and value not in (True, False):
                raise RobodiffError(f"{self._name}: {name} must be true, false or None; found {brief(value)}")
            return None if value is None else bool(value)

    def _call(self, method: str, *arguments: Any) -> Any:
        with _naming(f"{self._name}: {method}() failed"):
            return getattr(self._robot, method, lambda: None)(*arguments)


def load_robot(path: str) -> Any:
    """Return the robot of a Python file: what ``make_robot()`` makes or, without one, the module with its functions.

    The file is run: the user named it.

    Raises:
        UsageError: there is no such file, or no robot in it.
        RobodiffError: its code fails.
    """
    file = Path(with_home(path))
    if file.suffix != ".py" or not file.is_file():
        what = "no such file" if file.suffix == ".py" else "no robot"
        raise UsageError(f"--robot {path}: {what}; expected a Python file, env:NAME or ros2:FILE.yaml")
    with _naming(f"--robot {path}: cannot be imported"):
        module = _import(file)
    if not callable(make_robot := getattr(module, "make_robot", None)):
        if not hasattr(module, "observe"):
            expected = "make_robot() that returns the robot, or observe() and execute(action)"
            raise UsageError(f"--robot {path}: expected {expected}; found none")
        return module
    with _naming(f"--robot {path}: make_robot() failed"):
        return make_robot()


def _import(file: Path) -> ModuleType:
    """Import a file with its folder on the path, as ``python FILE`` does."""
    name = f"robodiff_robot_{file.stem}"
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    return module


@contextmanager
def _naming(failure: str) -> Iterator[None]:
    """Turn any exception of a robot's code into a one-line error."""
    try:
        yield
    except RobodiffError:
        raise
    except Exception as error:
        raise RobodiffError(f"{failure}: {in_one_line(error)}") from error
