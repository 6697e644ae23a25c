"""``robodiff COMMAND``: find the command, run it, and turn a user's mistakes into one or two lines."""

import errno
import importlib
import os
import sys
import time
from typing import NoReturn

from robodiff import __version__
from robodiff.errors import RobodiffError, UsageError, nearest
from robodiff.text import for_terminal

COMMANDS = {
    "demo": "Train and measure a Push-T policy on the demonstrations inside the package.",
    "collect": "Record demonstrations of a scripted expert, or episodes that it takes over from a policy.",
    "fit": "Train a policy from a configuration, or resume a run.",
    "eval": "Measure a policy: success in an environment, or the error of its actions on recorded episodes.",
    "improve": "Make a policy better where it fails: the expert takes over, the policy trains on.",
    "learning-curve": "Train on fewer and more demonstrations, and tell what still more would bring.",
    "report": "One page about a run, a learning curve or a trial, or one that compares several runs.",
    "data": "Look into a recording, check or convert it: info, check, view, convert.",
    "import": "Convert another code base's checkpoint to a policy.",
    "export": "Write a policy that runs without torch (OpenVINO, ONNX), checked and timed; or for LeRobot.",
    "serve": "Serve a policy to robots and simulators over the network.",
    "run": "Run a policy on a real or simulated robot, at a fixed rate.",
    "play": "Act in an environment with the mouse, in the browser: demonstrate, or take over from a policy.",
    "trial": "Find out which of two policies succeeds more often on a robot, without telling which one acts.",
}
"""Each is a module of this package with ``run(arguments)``."""
MODULES = {"import": "import_", "learning-curve": "learning_curve"}
"""What modules are called whose command is no name of Python's."""

EXTRAS = {
    "websockets": "serve",
    **dict.fromkeys(("onnx", "onnxruntime", "openvino"), "export"),
    **dict.fromkeys(("cyclonedds", "rosbags"), "ros2"),
}
"""Which extra has a module that is missing; train and sim have the others."""

UNUSABLE = {
    os.strerror(errno.ENAMETOOLONG): "a path is too long; choose a shorter one",
    os.strerror(errno.ELOOP): "the links of a path lead in a circle; remove one of them",
    "Symlink loop": "the links of a path lead in a circle; remove one of them",
    "null byte": "a path holds a NUL character, which no path may; choose another one",
}
"""What Python says of a path that no system takes, and what is told of it."""

UNWRITABLE = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EFBIG: "allow larger files there (ulimit -f, or another file system)",
    errno.EIO: "look after that disk (the system's log tells more)",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "get the permission or choose another place"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "choose another path: something else is there"),
}
"""What to do where the operating system refuses to write."""

ALONE_AFTER = 5.0
"""Seconds after which a process that trains with others takes itself for the only one that fails."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit with 0, with 1 for a failure, with 2 for a mistake in what was asked for."""
    arguments, plugins = _split_plugins(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(_help())
        sys.exit(0 if arguments else 2)
    if command == "--version":
        print(f"robodiff {__version__}")
        return
    try:
        if command not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise UsageError(f"unknown command {command!r}; there is {known}.{nearest(command, COMMANDS)}")
        for word in plugins:  # before anything is looked up
            from robodiff.registry import load_plugin

            load_plugin(word)
        importlib.import_module(f"robodiff.cli.{MODULES.get(command, command)}").run(arguments[1:])
    except RobodiffError as error:
        _fail(f"robodiff {command}: error: {error}", 2 if isinstance(error, UsageError) else 1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "robodiff":
            raise
        extra = EXTRAS.get(error.name.partition(".")[0], "train,sim")
        _fail(f"robodiff {command}: error: needs {error.name}, which is not installed: pip install 'robodiff[{extra}]'")
    except KeyboardInterrupt:
        print(f"robodiff {command}: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
    except (OSError, ValueError, RuntimeError) as error:
        if (unusable := next((words for text, words in UNUSABLE.items() if text in str(error)), None)) is not None:
            name = "" if getattr(error, "filename", None) is None else f"{str(error.filename)[:80]}: "  # pyright: ignore
            _fail(f"robodiff {command}: error: {name}{unusable}", 2)
        if not isinstance(error, OSError) or error.errno not in UNWRITABLE:
            raise
        again = "robodiff fit --resume and the run's folder" if command in ("fit", "demo") else "the same command"
        failure = f"{error.filename or 'a file'}: {os.strerror(error.errno)}; what was finished before stays"
        _fail(f"robodiff {command}: error: {failure}\n{UNWRITABLE[error.errno]}, then go on with {again}")


def _split_plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--plugin``, and what that names, wherever it stands."""
    rest, plugins, words = [], [], iter(arguments)
    for word in words:
        if word == "--plugin":
            plugins.append(next(words, ""))
        elif word.startswith("--plugin="):
            plugins.append(word.partition("=")[2])
        else:
            rest.append(word)
    return rest, plugins


def _fail(message: str, code: int = 1) -> NoReturn:
    """Say what went wrong and exit; of processes that train together only one says it."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        # The first of them mostly fails in the same way. Then torchrun ends this one, or its parent is the first.
        parent, end = os.getppid(), time.monotonic() + ALONE_AFTER
        while os.getppid() == parent and time.monotonic() < end:
            time.sleep(0.1)
        message = message if os.getppid() == parent else ""
    if message:
        print(for_terminal(message), file=sys.stderr)
    sys.exit(code)


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: robodiff COMMAND [options]\n\n"
        f"From recorded robot demonstrations to a measured diffusion policy.\n\n{commands}\n\n"
        "robodiff COMMAND --help tells more. --plugin FILE_OR_MODULE, with any command, adds models, data formats,\n"
        "environments and samplers of your own. Example: robodiff demo --minutes 5"
    )
